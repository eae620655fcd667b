"""A CLIP byte-pair tokenizer whose merges are learnt from the world's captions."""

import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
from transformers import CLIPTokenizer

from training.world import caption, sample_scene

MAX_LENGTH = 32


def _words(world: dict) -> Counter[str]:
    rng = np.random.default_rng(0)
    words: Counter[str] = Counter()
    for i in range(20000):
        words.update(caption(world, sample_scene(world, rng, motion=i % 3 == 0), rng).replace(",", " , ").split())
    for entry in world["concepts"].values():
        words.update(" ".join(entry["wordings"]).split())
    return words


def build(folder: Path, world: dict) -> CLIPTokenizer:
    """Write vocab.json, merges.txt and the configuration into `folder` and load them."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    words = {(*tuple(word[:-1]), word[-1] + "</w>"): count for word, count in sorted(_words(world).items())}
    merges: list[tuple[str, str]] = []
    while True:
        pairs: Counter[tuple[str, str]] = Counter()
        for symbols, count in words.items():
            for pair in itertools.pairwise(symbols):
                pairs[pair] += count
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        merged = {}
        for symbols, count in words.items():
            out, i = [], 0
            while i < len(symbols):
                if symbols[i : i + 2] == best:
                    out.append("".join(best))
                    i += 2
                else:
                    out.append(symbols[i])
                    i += 1
            merged[tuple(out)] = count
        words = merged
    alphabet = list(bytes_to_unicode().values())
    vocabulary = alphabet + [letter + "</w>" for letter in alphabet] + ["".join(pair) for pair in merges]
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in merges) + "\n")
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": MAX_LENGTH,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2))
    return CLIPTokenizer.from_pretrained(folder)
