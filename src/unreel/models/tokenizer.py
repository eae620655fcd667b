"""Tokenizers that read as their files say, whatever class a model names for them.

Knows tokenizers' files; knows no text encoders.
"""

from pathlib import Path
from typing import Any

from unreel.errors import UnreelError
from unreel.models.loading import loading

FILE = "tokenizer.json"
SAMPLES = ("a photo of Tokyo Tower", "Don't: 1,234 cafés_東京 🗼")  # that tell apart how texts are cut into tokens


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer that lies in a folder. Raises UnreelError for what is none, or comes with code of its own."""
    from transformers import AutoTokenizer

    with loading(str(folder)):
        return as_stored(AutoTokenizer.from_pretrained(folder, trust_remote_code=False), folder)


def as_stored(tokenizer: Any, folder: Path) -> Any:
    """The tokenizer that was loaded from a folder, or what its file describes where the class cuts texts otherwise.

    Many classes of transformers from 5 on take nothing but the vocabulary from the file. All that is called
    LlamaTokenizerFast marks spaces as Llama 2 did, HunyuanVideo's Llama 3 too, whose vocabulary has no such mark: words
    would run together in silence (transformers #45488).
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    file = folder / FILE
    if not file.is_file() or not hasattr(tokenizer, "backend_tokenizer"):
        return tokenizer
    with loading(str(folder)):
        described = Tokenizer.from_file(str(file))
        described.no_truncation()
        described.no_padding()
        meant = [described.encode(text, add_special_tokens=False).ids for text in SAMPLES]
        read = [tokenizer(text, add_special_tokens=False).input_ids for text in SAMPLES]
        return tokenizer if read == meant else PreTrainedTokenizerFast.from_pretrained(folder)


def require_spaces(tokenizer: Any) -> None:
    """Raises UnreelError for a tokenizer that runs words together, as `as_stored` tells."""
    apart, together = (tokenizer(text, add_special_tokens=False).input_ids for text in ("a photo", "aphoto"))
    if apart == together:
        raise UnreelError(
            "the pipeline's tokenizer runs words together (transformers from 5 on does so to Llama 3's): put "
            "PreTrainedTokenizerFast.from_pretrained(FOLDER_OF_THE_TOKENIZER) in its place"
        )
