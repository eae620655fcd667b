"""Tokenizers that read as their files say, whatever class a model names for them.

Knows tokenizers' files; knows no text encoders.
"""

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from unreel.errors import UnreelError
from unreel.files import short_digest
from unreel.models.loading import loading

NO_LENGTH = 10**20  # what transformers takes for no length at all: it says 10^30 where a tokenizer has none
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


def require_known(tokenizer: Any, names: Iterable[str]) -> None:
    """Raises UnreelError if a name has letters that no token has, since all such words are one to the text encoder, if
    it is read as nothing at all, or as what ends, pads or divides texts, and if words are read without the spaces
    between them.
    """
    require_spaces(tokenizer)
    for name in names:
        ids = tokenizer(name, add_special_tokens=False).input_ids
        if name.strip() and not ids:
            raise UnreelError(f"the text encoder reads {name!r} as nothing: write it in letters that it reads")
        special = [token for token in tokenizer.all_special_tokens if len(token) > 1 and token in name]
        if special:
            raise UnreelError(
                f"{special[0]!r} in {name!r} is a mark that the text encoder's tokenizer uses itself: leave it out"
            )
        if _is_unknown(tokenizer, name):
            word = next((word for word in name.split() if _is_unknown(tokenizer, word)), name)
            raise UnreelError(
                f"the text encoder's vocabulary cannot spell {word!r}: write it in letters that the encoder reads; "
                "spelled so, no prompt can name it there anyhow"
            )


def _is_unknown(tokenizer: Any, text: str) -> bool:
    # Without special tokens, since the one that ends texts may stand for what is unknown too.
    return tokenizer.unk_token_id in tokenizer(text, add_special_tokens=False).input_ids


@lru_cache(maxsize=8)  # a full CLIP vocabulary takes a second
def whole_words(tokenizer: Any) -> dict[str, int]:
    """The words that one can type, are one token each and are read back as that token: text -> id."""
    end, starts = "</w>", ("\N{LOWER ONE EIGHTH BLOCK}", "\N{LATIN CAPITAL LETTER G WITH DOT ABOVE}")  # CLIP; T5 and BPE
    vocabulary = tokenizer.get_vocab()
    ids = sorted(i for token, i in vocabulary.items() if token.endswith(end) or token.startswith(starts))
    if not ids:  # BERT marks those that go on with a word
        ids = sorted(i for token, i in vocabulary.items() if not token.startswith("##"))
    # A copy of a CLIP tokenizer leaves the end in.
    words = [text.strip().removesuffix(end) for text in tokenizer.batch_decode([[i] for i in ids])]
    # As they stand inside a sentence: after a space.
    read_back = tokenizer([f" {word}" for word in words], add_special_tokens=False).input_ids
    rows = zip(words, ids, read_back, strict=True)
    return {word: i for word, i, back in rows if back == [i] and word and word.isprintable()}
