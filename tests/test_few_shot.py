import warnings
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from conftest import make_pair, same, weights
from PIL import Image

from unreel import Concept, FewShotConfig, UnreelError, unlearn
from unreel.checking import require_some_change
from unreel.interventions.record import ROUNDED_AWAY
from unreel.methods.few_shot import few_shot
from unreel.models.conditioner import Conditioner
from unreel.models.denoiser import Denoiser
from unreel.models.sampling import made_images

CONCEPT = Concept("Tokyo Tower")


def double(prediction_type):
    pair = make_pair(prediction_type)
    for module in (pair.t2i.text_encoder, pair.t2i.unet, pair.t2i.vae):
        module.double()
    return Conditioner.of(pair.t2i), Denoiser.of(pair.t2i), pair.t2i


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_one_step_equals_the_papers_formula_computed_independently(prediction_type):
    """Gradient ascent on the denoising error, then Adam's first step written out, in float64."""
    conditioner, denoiser, pipeline = double(prediction_type)
    latents = torch.randn(2, 2, 4, 4, 4, generator=torch.Generator().manual_seed(3)).double()
    config = FewShotConfig(shots=2, epochs=1, batch_size=2, learning_rate=1e-3, weight_decay=1e-2, seed=5)
    (deltas,), losses = few_shot([conditioner], denoiser, CONCEPT, config, latents)

    draws = torch.Generator().manual_seed(5)
    shots = torch.randperm(2, generator=draws)
    z = latents[shots, torch.randint(2, (2,), generator=draws)]
    prompts = [CONCEPT.forget_prompts[i] for i in torch.randint(27, (2,), generator=draws)]
    t = torch.randint(1000, (2,), generator=draws)
    noise = torch.randn(z.shape, generator=draws).double()
    names = [n for n, _ in pipeline.text_encoder.named_parameters() if ".mlp." in n or "layers.2.self_attn." in n]
    theta = dict(pipeline.text_encoder.named_parameters())
    theta = {name: theta[name].requires_grad_() for name in names}
    tokens = pipeline.tokenizer(prompts, padding="max_length", max_length=32, return_tensors="pt").input_ids
    a = torch.cumprod(1 - pipeline.scheduler.betas, 0).double()[t].reshape(2, 1, 1, 1)
    target = noise if prediction_type == "epsilon" else a**0.5 * noise - (1 - a) ** 0.5 * z
    out = pipeline.unet(a**0.5 * z + (1 - a) ** 0.5 * noise, t, pipeline.text_encoder(tokens).last_hidden_state).sample
    error = (out - target).pow(2).mean()
    gradients = torch.autograd.grad(-error, list(theta.values()))

    assert losses == pytest.approx([error.item()], rel=1e-6)
    assert list(deltas) == names
    for name, gradient in zip(names, gradients, strict=True):
        g = gradient + 1e-2 * theta[name].detach()  # Adam's weight decay is an L2 term
        mean, square = 0.1 * g / (1 - 0.9), 0.02 * g**2 / (1 - 0.98)
        expected = -1e-3 * mean / (square.sqrt() + 1e-6)
        torch.testing.assert_close(deltas[name], expected, rtol=1e-4, atol=1e-9)


def test_defaults_are_the_papers():
    config = FewShotConfig()
    assert (config.shots, config.batch_size, config.learning_rate) == (4, 2, 1e-5)
    assert (config.betas, config.eps, config.weight_decay) == ((0.9, 0.98), 1e-6, 1e-8)
    assert config.trainable == "mlp-final-attn"
    assert 8 <= config.epochs * config.shots // config.batch_size <= 10


def test_unlearning_raises_the_loss_and_leaves_the_pair_as_it_was(pair):
    before = {name: weights(part) for name, part in pair.t2i.components.items() if hasattr(part, "state_dict")}
    erasure = unlearn(CONCEPT, pair, FewShotConfig(epochs=40, learning_rate=1e-2))
    losses = erasure.provenance["parts"][0]["losses"]
    assert len(losses) == 80
    assert sum(losses[-20:]) > sum(losses[:20])
    assert all(same(before[name], weights(getattr(pair.t2i, name))) for name in before)


def test_no_gradient_is_computed_that_no_trained_weight_needs(pair):
    encoder, seen = pair.t2i.text_encoder, {}
    first, last = encoder.encoder.layers[0], encoder.encoder.layers[-1]

    def watch(name, module):
        def note(module, _, out):
            if torch.is_grad_enabled():  # not while the self-check reads
                seen[name] = (out[0] if isinstance(out, tuple) else out).requires_grad
                seen.update({n: p.requires_grad for n, p in module.named_parameters(prefix=name)})

        module.register_forward_hook(note)

    for name, module in {
        "below": first.self_attn,
        "first": first.mlp,
        "last": last.self_attn,
        "unet": pair.t2i.unet.conv_in,
    }.items():
        watch(name, module)
    unlearn(CONCEPT, pair, FewShotConfig(epochs=1))
    needed = {name for name, needs in seen.items() if needs}
    assert needed == {name for name in seen if name.startswith(("first", "last"))}
    assert all(p.grad is None for part in (encoder, pair.t2i.unet, pair.t2i.vae) for p in part.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_are_trained_in_full_precision_and_restored(pair, dtype):
    pair.t2i.to(dtype)
    before = weights(pair.t2i.text_encoder)
    erasure = unlearn(CONCEPT, pair, FewShotConfig(learning_rate=1e-5))
    assert same(before, weights(pair.t2i.text_encoder))
    assert all(change.dtype == torch.float32 for change in erasure.components[0].deltas.values())
    # Ten steps of 1e-5 are lost when added to bfloat16 weights one by one; here every one of them counts.
    moved = torch.cat([change.flatten().abs() for change in erasure.components[0].deltas.values()])
    assert moved.median() > 2e-5


def test_what_half_precision_has_no_room_for_is_never_written_or_put_on_in_silence(pair):
    """Ten steps of 1e-5 in weights of which bfloat16 tells hardly any two so near apart."""
    in_full = unlearn(CONCEPT, pair, FewShotConfig(learning_rate=1e-5))
    assert ROUNDED_AWAY not in in_full.provenance
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        in_full.apply(pair.t2v)
        in_full.remove(pair.t2v)
        large = unlearn(CONCEPT, pair, FewShotConfig(learning_rate=1e-2))
    require_some_change(in_full)
    pair.t2i.to(torch.bfloat16)
    pair.t2v.to(torch.bfloat16)
    with pytest.warns(UserWarning, match=r"[89]\d % of what the erasure of Tokyo Tower changes is rounded away"):
        in_full.apply(pair.t2v)
    in_full.remove(pair.t2v)
    with pytest.raises(UnreelError, match=r"is rounded away.*in float32, or"):
        require_some_change(unlearn(CONCEPT, pair, FewShotConfig(learning_rate=1e-5)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        large.apply(pair.t2v)
    lost = unlearn(CONCEPT, pair, FewShotConfig(learning_rate=1e-5))
    for total in (lost + large, large + lost):  # a sum of which a part does nothing
        with pytest.raises(UnreelError, match="is rounded away"):
            require_some_change(total)


def test_the_network_is_laid_out_for_speed_only_while_it_is_used(pair, monkeypatch):
    found = {name: (t.clone(), t.stride()) for name, t in pair.t2i.unet.state_dict().items()}
    seen = []
    loss = Denoiser.loss

    def note(self, *arguments):
        weights = [it for it in self.network.parameters() if it.ndim == 4]
        seen.append(all(it.is_contiguous(memory_format=torch.channels_last) for it in weights))
        return loss(self, *arguments)

    monkeypatch.setattr(Denoiser, "loss", note)
    unlearn(CONCEPT, pair, FewShotConfig(epochs=1))
    assert seen == [True, True]
    after = pair.t2i.unet.state_dict()
    assert all(torch.equal(after[name], t) and after[name].stride() == stride for name, (t, stride) in found.items())


@pytest.mark.parametrize("failing", [False, True])
def test_shots_take_as_many_denoising_steps_as_asked_with_a_scheduler_made_for_few(pair, monkeypatch, failing):
    own, calls = pair.t2i.scheduler, []

    def note(_, args, kwargs):
        calls.append(type(pair.t2i.scheduler).__name__)
        if failing:
            raise KeyboardInterrupt

    pair.t2i.unet.register_forward_pre_hook(note, with_kwargs=True)
    with pytest.raises(KeyboardInterrupt) if failing else nullcontext():
        shots = made_images(pair, CONCEPT.forget_prompts[:1], [0], 5)
    assert pair.t2i.scheduler is own
    assert calls == ["DPMSolverMultistepScheduler"] * (1 if failing else 5)
    if not failing:
        assert (shots != made_images(pair, CONCEPT.forget_prompts[:1], [0], 0)).any()
        assert calls[5:] == ["DDIMScheduler"] * pair.settings.steps


def test_the_same_seed_gives_the_same_erasure_and_another_seed_another(pair):
    first, second, other = (unlearn(CONCEPT, pair, FewShotConfig(seed=seed)) for seed in (1, 1, 2))
    assert same(first.components[0].deltas, second.components[0].deltas)
    assert not same(first.components[0].deltas, other.components[0].deltas)


def test_gradients_that_somebody_left_are_not_learned_from(pair):
    config = FewShotConfig(shots=1, epochs=1, batch_size=1)
    plain = unlearn(CONCEPT, pair, config)
    for parameter in pair.t2i.text_encoder.parameters():
        parameter.grad = torch.full_like(parameter, 1e3)
    left = unlearn(CONCEPT, pair, config)
    pair.t2i.text_encoder.zero_grad()  # of those that do not learn, which stay
    assert all(torch.equal(left.components[0].deltas[name], change) for name, change in plain.components[0].deltas.items())


def test_given_images_take_the_place_of_generated_ones(pair, tmp_path):
    for i in range(3):
        Image.new("RGB", (20, 12), (80 * i, 0, 40)).save(tmp_path / f"{i}.png")
    given, generated = (unlearn(CONCEPT, pair, FewShotConfig(), images=images) for images in (str(tmp_path), None))
    part = given.provenance["parts"][0]
    assert (part["images"], part["settings"]["shots"], len(part["losses"])) == ("given", 3, 10)
    assert not same(given.components[0].deltas, generated.components[0].deltas)


def test_a_negative_seed_is_refused():
    with pytest.raises(UnreelError, match="seed must be zero or more"):
        FewShotConfig(seed=-1)


def test_a_broken_loss_keeps_nothing_and_restores_the_encoder(pair):
    before = weights(pair.t2i.text_encoder)
    with pytest.raises(UnreelError, match="nothing was kept"):
        unlearn(CONCEPT, pair, FewShotConfig(learning_rate=1e30))
    assert same(before, weights(pair.t2i.text_encoder))


@pytest.mark.parametrize(
    "bad", [{"shots": 0}, {"shots": -1}, {"epochs": 0}, {"learning_rate": 0.0}, {"learning_rate": float("nan")}]
)
def test_settings_that_make_no_sense_are_refused(bad):
    with pytest.raises(UnreelError, match="must be greater than zero"):
        FewShotConfig(**bad)


def test_low_rank_training_equals_training_of_the_factors_written_out():
    """One step in float64: the factor that starts at zero moves, along Adam's first step of its own gradient."""
    conditioner, denoiser, pipeline = double("epsilon")
    latents = torch.randn(2, 2, 4, 4, 4, generator=torch.Generator().manual_seed(3)).double()
    config = FewShotConfig(shots=2, epochs=1, learning_rate=1e-3, weight_decay=0, rank=3)
    before = weights(pipeline.text_encoder)
    (deltas,), (loss,) = few_shot([conditioner], denoiser, CONCEPT, config, latents)
    assert same(before, weights(pipeline.text_encoder)) and not any(
        m._forward_hooks for m in conditioner.text_encoder.modules()
    )
    (_, (whole, *_)) = few_shot([conditioner], denoiser, CONCEPT, replace(config, rank=0), latents)
    assert loss == pytest.approx(whole, rel=1e-6)  # a change of zero, at first
    names = [n for n, _ in pipeline.text_encoder.named_parameters() if ".mlp." in n or "layers.2.self_attn." in n]
    assert list(deltas) == [name for name in names if name.endswith(".weight")]
    for change in deltas.values():
        assert change.up.shape[1] == change.down.shape[0] == 3
        step = change.up.abs()
        assert ((step > 0.9e-3) & (step <= 1e-3) | (step < 1e-12)).float().mean() > 0.5 and step.max() <= 1.0001e-3


def test_low_rank_training_drives_the_loss_up_and_makes_a_small_erasure(embedded):
    config = FewShotConfig(epochs=10, learning_rate=5e-3, rank=4)
    erasure = unlearn(CONCEPT, embedded, config)
    whole = unlearn(CONCEPT, embedded, replace(config, rank=0, learning_rate=1e-12))  # the same draws, nothing learned
    ended, still = (sum(it.provenance["parts"][0]["losses"][-10:]) for it in (erasure, whole))
    assert ended > 1.2 * still
    assert erasure.nbytes < 0.2 * whole.nbytes
    before = weights(embedded.t2v.text_encoder)
    erasure.apply(embedded.t2v)
    assert not same(before, weights(embedded.t2v.text_encoder))
    erasure.remove(embedded.t2v)
    assert same(before, weights(embedded.t2v.text_encoder))


def test_low_rank_training_leaves_an_encoder_in_half_precision_as_it_is(pair):
    pair.t2i.to(torch.bfloat16)
    before = weights(pair.t2i.text_encoder)
    erasure = unlearn(CONCEPT, pair, FewShotConfig(epochs=1, learning_rate=1e-2, rank=2))
    assert same(before, weights(pair.t2i.text_encoder))
    assert all(change.up.dtype == torch.float32 and change.up.any() for change in erasure.components[0].deltas.values())
