"""Erasures and exports do not depend on which release of transformers made them.

The other release, which `make test` installs beside this one, has `CLIPTextModel.text_model`, and so other names for
all weights.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import same, weights
from other_release import CONFIG, PROMPTS
from safetensors.torch import load_file
from transformers import CLIPTextModel

from unreel import Erasure, load_pair, unlearn
from unreel.models.conditioner import Conditioner

OTHER = Path(sys.prefix) / "transformers-5.5"
needs_other = pytest.mark.skipif(
    not (OTHER / ".ready").is_file(), reason="no other release of transformers here: make test installs it"
)


def elsewhere(what: str, folder: Path) -> str:
    """Do it under the other release; what it said last."""
    paths = [str(OTHER), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, str(Path(__file__).parent / "other_release.py"), what, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def pair():
    return load_pair()


@torch.no_grad()
def encoded(pair) -> torch.Tensor:
    return Conditioner.of(pair.t2v).encode(PROMPTS)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """The folder of what the other release makes."""
    folder = tmp_path_factory.mktemp("theirs")
    assert elsewhere("make", folder).startswith("5.5.0 text_model.")
    return folder


@needs_other
def test_what_another_release_made_fits_here(pair, theirs):
    expected = load_file(theirs / "embeddings.safetensors")["embeddings"]
    before, plain = weights(pair.t2v.text_encoder), encoded(pair)
    erasure = Erasure.from_pretrained(theirs / "erasure")
    with erasure.on(pair.t2v):
        torch.testing.assert_close(encoded(pair), expected, rtol=1e-4, atol=1e-5)
        erased = weights(pair.t2v.text_encoder)
    assert same(before, weights(pair.t2v.text_encoder))
    assert not torch.allclose(plain, expected, rtol=1e-3, atol=1e-3)
    whole = CLIPTextModel.from_pretrained(theirs / "text-encoder" / "text_encoder")
    assert same(erased, weights(whole))
    pair.t2v.load_lora_weights(theirs / "lora")
    try:
        torch.testing.assert_close(encoded(pair), expected, rtol=1e-3, atol=1e-3)
    finally:
        pair.t2v.unload_lora_weights()


@needs_other
def test_what_is_made_here_fits_another_release(pair, tmp_path):
    erasure = unlearn("castle", pair, CONFIG)
    erasure.save_pretrained(tmp_path / "erasure")
    with erasure.on(pair.t2v):
        expected = encoded(pair)
    assert elsewhere("read", tmp_path).startswith("5.5.0 text_model.")
    torch.testing.assert_close(load_file(tmp_path / "embeddings.safetensors")["embeddings"], expected, rtol=1e-4, atol=1e-5)


@needs_other
def test_both_releases_learn_the_same(pair, theirs):
    made, ours = Erasure.from_pretrained(theirs / "erasure"), unlearn("castle", pair, CONFIG)
    assert made.components[0].deltas.keys() == ours.components[0].deltas.keys()
    for name, change in ours.components[0].deltas.items():
        torch.testing.assert_close(made.components[0].deltas[name].dense(), change.dense(), rtol=1e-3, atol=1e-6)
