import json
from dataclasses import replace

import pytest
import torch
from conftest import make_pair, same, weights

from unreel import Concept, UnreelError
from unreel.methods import Task
from unreel.methods._shots import latents_of
from unreel.methods.concept_ablation import ConceptAblationConfig, ablate
from unreel.methods.few_shot import FewShotConfig
from unreel.models.conditioner import Conditioner
from unreel.models.denoiser import Denoiser
from unreel.models.tokenizer import whole_words
from unreel.prompts.corpus import Corpus

PAIRS = [
    (text.format("castle"), text.format("house")) for text in ("a {}", "the {} is red", "one {}, blue", "my {} at home")
]
RETAIN = ["", "a cat", "a dog", "a red car", "two owls", "the sea"]
FAST = ConceptAblationConfig(
    steps=8, batch_size=2, learning_rate=1e-4, retain_batch=2, check=2, stop=0.0, bound=9.0, seed=5
)
# For the embedded encoder, which is a hundred times smaller than usual (benchmarks/experiments/concept-ablation-scan.json).
EMBEDDED = {
    "steps": 24,
    "batch_size": 2,
    "learning_rate": 3e-3,
    "betas": (0.5, 0.98),
    "retain_weight": 3.0,
    "retain_batch": 4,
    "stop": 0.4,
    "bound": 0.2,
    "check": 4,
}


def latents(dtype=torch.float32):
    return torch.randn(2, 2, 4, 4, 4, generator=torch.Generator().manual_seed(3)).to(dtype)


def parts(pair):
    return [Conditioner.of(pair.t2i)], Denoiser.of(pair.t2i)


def ablated(pair, *rest):
    """The changes of a pair's one text encoder, and the record."""
    (deltas,), record = ablate(*parts(pair), *rest)
    return deltas, record


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_one_step_equals_the_formula_computed_independently(prediction_type):
    """Both terms, then Adam's first step written out, in float64. Of two sentences one is trained on."""
    pair = make_pair(prediction_type)
    pipeline = pair.t2i
    for module in (pipeline.text_encoder, pipeline.unet, pipeline.vae):
        module.double()
    pairs, retain, z = PAIRS[:2], RETAIN[1:3], latents(torch.float64)
    config = replace(FAST, steps=1, batch_size=1, retain_batch=1, learning_rate=1e-3, retain_weight=7.0)
    deltas, record = ablated(pair, pairs, retain, config, z)

    draws = torch.Generator().manual_seed(5)
    (held, i), (kept, j) = torch.randperm(2, generator=draws).tolist(), torch.randperm(2, generator=draws).tolist()

    def shown(level):
        shown = z[torch.randint(2, (1,), generator=draws), torch.randint(2, (1,), generator=draws)]
        noise = torch.randn(shown.shape, generator=draws).double()
        t = torch.tensor([500 + int(500 * level)])
        a = torch.cumprod(1 - pipeline.scheduler.betas, 0).double()[t].reshape(1, 1, 1, 1)
        return a**0.5 * shown + (1 - a) ** 0.5 * noise, t

    def embed(prompt):
        tokens = pipeline.tokenizer([prompt], padding="max_length", max_length=32, return_tensors="pt").input_ids
        return pipeline.text_encoder(tokens).last_hidden_state

    def distance(view, prompt, anchor):
        return (pipeline.unet(*view, embed(prompt)).sample - pipeline.unet(*view, anchor).sample).pow(2).mean()

    asked, view = shown(0.5), shown(torch.rand(1, generator=draws).item())
    names = [n for n, _ in pipeline.text_encoder.named_parameters() if ".mlp." in n or "layers.2.self_attn." in n]
    theta = dict(pipeline.text_encoder.named_parameters())
    theta = {name: theta[name].requires_grad_() for name in names}
    anchor, place = embed(pairs[i][1]).detach(), embed(retain[j]).detach()
    asked_anchor, asked_place = embed(pairs[held][1]).detach(), embed(retain[kept]).detach()
    effect = distance(asked, pairs[held][0], asked_anchor)
    denoising = distance(view, pairs[i][0], anchor)
    loss = denoising + 7.0 * (embed(retain[j]) - place).pow(2).sum() / place.pow(2).sum()
    gradients = torch.autograd.grad(loss, list(theta.values()))

    assert record["losses"] == pytest.approx([denoising.item()], rel=1e-6)
    assert list(deltas) == names
    for name, gradient in zip(names, gradients, strict=True):
        expected = -1e-3 * gradient / (gradient.abs() + 1e-6)  # Adam's means of one step are that step's
        torch.testing.assert_close(deltas[name], expected, rtol=1e-4, atol=1e-9)
    with torch.no_grad():
        for name in names:
            theta[name] += deltas[name]
        left = distance(asked, pairs[held][0], asked_anchor) / effect
        shift = (embed(retain[kept]) - asked_place).norm() / asked_place.norm()
    assert record["measured"] == [[1, pytest.approx(left.item(), rel=1e-6), pytest.approx(shift.item(), rel=1e-6)]]


def test_it_stops_when_the_concept_is_gone(pair):
    deltas, record = ablated(pair, PAIRS, RETAIN, replace(FAST, stop=0.6, retain_weight=0.0), latents())
    last, left, _ = record["measured"][-1]
    assert record["stopped"] == "the concept is gone"
    assert left <= 0.6 < min(row[1] for row in record["measured"][:-1])
    assert record["kept"] == last == len(record["losses"]) < 8
    assert any(change.any() for change in deltas.values())


def test_it_says_when_the_steps_ran_out(pair):
    _, record = ablated(pair, PAIRS, RETAIN, replace(FAST, steps=5), latents())
    assert record["stopped"] == "the steps ran out"
    assert [row[0] for row in record["measured"]] == [2, 4, 5]
    assert record["kept"] == len(record["losses"]) == 5
    assert json.loads(json.dumps(record)) == record


def test_it_goes_back_to_the_last_state_within_the_bound(pair):
    free = ablated(pair, PAIRS, RETAIN, replace(FAST, retain_weight=0.0), latents())[1]["measured"]
    bound = (free[1][2] + free[2][2]) / 2  # reached between the second and the third check
    assert free[0][2] < free[1][2] < bound < free[2][2]
    config = replace(FAST, retain_weight=0.0, bound=bound)
    deltas, record = ablated(pair, PAIRS, RETAIN, config, latents())
    assert record["stopped"] == "other prompts moved too far: went back to step 4"
    assert (record["kept"], len(record["losses"])) == (4, 6)
    assert {row[0]: row[2] for row in record["measured"]}[4] <= bound
    # Not only the record went back: these are the weights after four steps.
    assert same(deltas, ablated(pair, PAIRS, RETAIN, replace(config, steps=4), latents())[0])


def test_with_no_state_within_the_bound_nothing_is_changed(pair):
    deltas, record = ablated(pair, PAIRS, RETAIN, replace(FAST, bound=1e-9), latents())
    assert record["stopped"] == "other prompts moved too far: went back to step 0"
    assert record["kept"] == 0
    assert deltas and not any(change.any() for change in deltas.values())


def test_the_brake_holds_other_prompts_back(pair):
    shifts = [
        ablated(pair, PAIRS, RETAIN, replace(FAST, retain_weight=weight), latents())[1]["measured"][-1][2]
        for weight in (0.0, 1000.0)
    ]
    assert shifts[1] < shifts[0] / 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_pair_is_left_as_it_was(pair, dtype):
    pair.t2i.to(dtype)
    before = {name: weights(part) for name, part in pair.t2i.components.items() if hasattr(part, "state_dict")}
    deltas, _ = ablated(pair, PAIRS, RETAIN, replace(FAST, learning_rate=1e-5), latents(dtype))
    assert all(same(before[name], weights(getattr(pair.t2i, name))) for name in before)
    assert all(change.dtype == torch.float32 for change in deltas.values())
    # Steps of 1e-5 are lost when added to bfloat16 weights one by one; here every one of them counts.
    assert torch.cat([change.flatten().abs() for change in deltas.values()]).median() > 2e-6


def test_a_broken_loss_keeps_nothing_and_restores_the_encoder(pair):
    before = weights(pair.t2i.text_encoder)
    with pytest.raises(UnreelError, match="nothing was kept"):
        ablated(pair, PAIRS, RETAIN, replace(FAST, learning_rate=1e30, check=8), latents())
    assert same(before, weights(pair.t2i.text_encoder))
    assert not any(parameter.requires_grad for parameter in pair.t2i.text_encoder.parameters())


def test_the_same_seed_gives_the_same_result_and_another_seed_another(pair):
    first, second, other = (ablated(pair, PAIRS, RETAIN, replace(FAST, seed=seed), latents()) for seed in (1, 1, 2))
    assert first[1] == second[1]
    assert same(first[0], second[0])
    assert not same(first[0], other[0])


def test_what_cannot_be_trained_on_is_refused(pair):
    with pytest.raises(UnreelError, match="too few prompts fit"):
        ablated(pair, PAIRS[:1], RETAIN, FAST, latents())
    with pytest.raises(UnreelError, match="too few prompts fit"):
        ablated(pair, PAIRS, RETAIN[:1], FAST, latents())
    with pytest.raises(UnreelError, match="choose another anchor"):
        ablated(pair, [(said, said) for said, _ in PAIRS], RETAIN, FAST, latents())


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ({"shots": 0}, "must be greater than zero"),
        ({"steps": -1}, "must be greater than zero"),
        ({"learning_rate": float("nan")}, "must be greater than zero"),
        ({"bound": 0.0}, "must be greater than zero"),
        ({"check": 0}, "must be greater than zero"),
        ({"forget": 0}, "must be greater than zero"),
        ({"retain_weight": -1.0}, "must be zero or more"),
        ({"retain_weight": float("inf")}, "must be zero or more"),
        ({"stop": 1.0}, "from 0 to below 1"),
        ({"stop": -0.1}, "from 0 to below 1"),
        ({"seed": -1}, "seed must be zero or more"),
    ],
)
def test_settings_that_make_no_sense_are_refused(bad, why):
    with pytest.raises(UnreelError, match=why):
        ConceptAblationConfig(**bad)


def test_the_embedded_pair_forgets_a_castle_before_the_steps_run_out(embedded):
    (conditioner,), _ = parts(embedded)
    config, concept = ConceptAblationConfig(**EMBEDDED), Concept("castle")
    corpus = Corpus(embedded.vocabulary, list(whole_words(conditioner.tokenizer)), config.seed)
    pairs = corpus.forget(concept, {"castle": "house"}, config.forget)
    retain = [sentence for sentence in corpus.retain(config.retain) if not concept.is_named_in(sentence)]
    _, _, shots = latents_of(Task([concept], embedded), FewShotConfig(shots=config.shots))
    before = weights(embedded.t2i.text_encoder)
    deltas, record = ablated(embedded, pairs, retain, config, shots)
    assert record["stopped"] == "the concept is gone"
    assert record["measured"][-1][1] <= config.stop and record["measured"][-1][2] <= config.bound
    assert all(change.isfinite().all() for change in deltas.values())
    assert same(before, weights(embedded.t2i.text_encoder))
