"""Tokenizers that read as their files say, whatever class a model names for them.

Knows tokenizers' files; knows no text encoders.
"""

from pathlib import Path
from typing import Any

from unreel.errors import UnreelError
from unreel.files import short_digest
from unreel.models.loading import loading

FILE = "tokenizer.json"
PARTS = ("normalizer", "pre_tokenizer", "model", "decoder")  # of a tokenizer, which decide how a text is cut
# What tells two of them apart: spaces and lines, letters and marks that are one or two, rare and unknown ones.
SAMPLES = (
    "a photo of Tokyo Tower",
    "Don't: 1,234 cafés_東京 🗼",
    " two  spaces\nand a line",
    "e\u0301 \ufb01 \uff11 \u0436 \U00010380",
)


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer that lies in a folder. Raises UnreelError for what is none, or comes with code of its own."""
    from transformers import AutoTokenizer

    with loading(str(folder)):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    read_as_stored(tokenizer, folder)
    return tokenizer


def read_as_stored(tokenizer: Any, folder: Path) -> None:
    """Let a tokenizer that was loaded from a folder cut texts as its file there says, where its class cuts them otherwise.

    Many classes of transformers from 5 on take nothing but the vocabulary from the file. All that is called
    LlamaTokenizerFast marks spaces as Llama 2 did, HunyuanVideo's Llama 3 too, whose vocabulary has no such mark: words
    would run together in silence (transformers #45488).
    """
    from tokenizers import Tokenizer

    file, backend = folder / FILE, getattr(tokenizer, "backend_tokenizer", None)
    if not file.is_file() or backend is None:
        return
    with loading(str(folder)):
        described = Tokenizer.from_file(str(file))
    described.no_truncation()
    described.no_padding()
    meant = [described.encode(text, add_special_tokens=False).ids for text in SAMPLES]
    read = [tokenizer(text, add_special_tokens=False).input_ids for text in SAMPLES]
    if read != meant:
        for part in PARTS:
            setattr(backend, part, getattr(described, part))


def reading_of(tokenizer: Any) -> str:
    """A short name for how a tokenizer takes texts to pieces."""
    samples = [tokenizer(text, add_special_tokens=False).input_ids for text in SAMPLES]
    return short_digest([sorted(tokenizer.get_vocab().items()), samples])


def require_spaces(tokenizer: Any) -> None:
    """Raises UnreelError for a tokenizer that runs words together, as `read_as_stored` tells."""
    apart, together = (tokenizer(text, add_special_tokens=False).input_ids for text in ("a photo", "aphoto"))
    if apart == together:
        raise UnreelError(
            "the pipeline's tokenizer runs words together (transformers from 5 on does so to Llama 3's): put "
            "PreTrainedTokenizerFast.from_pretrained(FOLDER_OF_THE_TOKENIZER) in its place"
        )
