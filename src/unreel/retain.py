"""What must be kept when a text encoder is edited: moments of a large set of sentences, computed once for every encoder.

Knows sentences and where finished statistics lie; knows nothing about the concepts to come.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from unreel.concept import Concept
from unreel.conditioner import Conditioner
from unreel.corpus import Corpus
from unreel.erasure import Fingerprint, worn_on
from unreel.methods.closed_form import ClosedFormConfig, Moments, edited, moments


def cache_folder() -> Path:
    """Where statistics are kept: `$XDG_CACHE_HOME/unreel`, by default `~/.cache/unreel`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unreel"


def retained(
    conditioner: Conditioner,
    corpus: Corpus,
    concepts: Sequence[Concept],
    config: ClosedFormConfig,
    *,
    keep: Sequence[str] = (),
) -> Moments:
    """The moments of everything the corpus says but the sentences that name one of `concepts`, and of `keep` besides.

    All of the corpus is read from the cache, or computed and left there; what names a concept is then taken out again,
    which is exact, because moments are sums.
    """

    def names(sentence: str) -> bool:
        return any(concept.is_named_in(sentence) for concept in concepts)

    sentences = corpus.retain(config.retain)
    total = _cached(conditioner, sentences, config)
    naming = [sentence for sentence in sentences if names(sentence)]
    if naming:
        total = total - moments(conditioner, naming, config)
    about = [sentence for sentence in corpus.about(keep, config.forget) if not names(sentence)]
    return total + moments(conditioner, about, config) if about else total


def _cached(conditioner: Conditioner, sentences: Sequence[str], config: ClosedFormConfig) -> Moments:
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save_file

    encoder = conditioner.text_encoder
    said: list[Any] = [Fingerprint.of(encoder).identity, [erasure.identity for erasure in worn_on(encoder)], sentences]
    said += [[name for name, _ in edited(conditioner, config.layers)], str(encoder.dtype)]
    few = conditioner.tokenize(
        list(sentences[:3])
    )  # pipelines may pad, mask and introduce the same words in their own ways
    said += [len(conditioner.tokenizer), few.ids.tolist(), few.seen.tolist()]
    key = hashlib.sha256(json.dumps(said).encode()).hexdigest()[:24]
    file = cache_folder() / f"moments-{key}.safetensors"
    try:
        with safe_open(file, "pt", device=str(conditioner.device)) as stored:
            sums = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
            return Moments(sums, int(stored.metadata()["tokens"]))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        pass  # not there, or broken: make it
    found = moments(conditioner, sentences, config)
    partial = file.with_name(f".{os.getpid()}-{file.name}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(
            {name: total.cpu() for name, total in found.sums.items()}, partial, metadata={"tokens": str(found.tokens)}
        )
        partial.replace(file)
    except (OSError, SafetensorError):  # a full or read-only disk costs time, not the result
        with suppress(OSError):
            partial.unlink()
    return found
