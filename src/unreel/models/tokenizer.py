"""Tokenizers that read as their files say, whatever class a model names for them.

Knows tokenizers' files; knows no text encoders.
"""

import json
from pathlib import Path
from typing import Any

from unreel.errors import UnreelError
from unreel.models.loading import loading

FILE = "tokenizer.json"
BYTES = "ByteLevel"  # how GPT-2, Llama 3 and Qwen mark spaces, in tokenizer.json


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer that lies in a folder. Raises UnreelError for what is none, or comes with code of its own."""
    from transformers import AutoTokenizer

    with loading(str(folder)):
        return as_stored(AutoTokenizer.from_pretrained(folder, trust_remote_code=False), folder)


def as_stored(tokenizer: Any, folder: Path) -> Any:
    """The tokenizer that was loaded from a folder, or what its file describes where the class makes something else of it.

    transformers from 5 on marks spaces as Llama 2 did in all that is called LlamaTokenizerFast, HunyuanVideo's Llama 3
    among it. Such vocabularies have no such mark, and words would run together in silence (transformers #45488).
    """
    from transformers import PreTrainedTokenizerFast

    file = folder / FILE
    if not file.is_file() or not hasattr(tokenizer, "backend_tokenizer"):
        return tokenizer
    if _marks_bytes(file.read_text(encoding="utf-8")) and not _marks_bytes(tokenizer.backend_tokenizer.to_str()):
        with loading(str(folder)):
            return PreTrainedTokenizerFast.from_pretrained(folder)
    return tokenizer


def require_spaces(tokenizer: Any) -> None:
    """Raises UnreelError for a tokenizer that runs words together, as `as_stored` tells."""
    apart, together = (tokenizer(text, add_special_tokens=False).input_ids for text in ("a photo", "aphoto"))
    if apart == together:
        raise UnreelError(
            "the pipeline's tokenizer runs words together (transformers from 5 on does so to Llama 3's): put "
            "PreTrainedTokenizerFast.from_pretrained(FOLDER_OF_THE_TOKENIZER) in its place"
        )


def _marks_bytes(described: str) -> bool:
    return BYTES in json.dumps(json.loads(described).get("pre_tokenizer"))
