"""Rivals as others published them: each does what its equations say and no more, and comes off without a trace."""

import json
from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest
import torch
from conftest import FakeJudge, make_pair, same, weights
from pipelines import FRAMES, build, size

from benchmarks.common import RESULTS
from unreel import Concept, UnreelError, attack, evaluate, generate, unlearn
from unreel.interventions import active_interventions, load_intervention
from unreel.interventions.projection import Projection
from unreel.interventions.safree import _Guidance
from unreel.methods import adv_unlearn, configure, refusal_vector
from unreel.methods.adv_unlearn import _attacked
from unreel.methods.diff_quick_fix import SENTENCES
from unreel.methods.t2v_unlearning import _of_tokens, _seen
from unreel.models.adapter import cross_attention, encode_prompt, made_by, network_of, set_up
from unreel.models.conditioner import Conditioner, unused_word
from unreel.models.deltas import dense
from unreel.models.denoiser import Denoiser
from unreel.models.families import FAMILIES
from unreel.models.pair import Pair, Settings
from unreel.models.tokens import Tokens
from unreel.unlearning import was_asked_for

pytestmark = pytest.mark.usefixtures("hasty", "few_kept")
CASTLE = Concept("castle", synonyms=("fortress",))
PROMPTS, SEEDS = ["a castle", "a bouncing cat"], [1, 2]
ON_ENCODERS = {
    "diff-quick-fix": {},
    "hirm": {"towards": "anchor"},
    "hirm at random": {"towards": "random"},
    "adv-unlearn": {"shots": 1, "steps": 2, "warm_up": 1, "attack_steps": 2, "retain_batch": 2, "learning_rate": 1e-3},
}
ON_NETWORKS = {
    "esd": {"steps": 2, "learning_rate": 1e-2},
    "esd of u": {"steps": 2, "learning_rate": 1e-3, "weights": "u"},
    "refusal-vector": {"pairs": 2, "neutral": 2, "rank": 4},
    "t2v-unlearning": {"steps": 2, "learning_rate": 1e-2, "rank": 4},
}
ELSEWHERE = ON_NETWORKS | {"safree": {}, "video-eraser": {}}
ALL = ON_ENCODERS | ELSEWHERE


@pytest.fixture
def few_kept(monkeypatch):
    """Images of few prompts to keep: two are taken at a time."""
    monkeypatch.setattr(adv_unlearn, "KEPT", 4)


def make(pair, name, concept=CASTLE, **settings):
    return unlearn(concept, pair, configure(name.split()[0], ALL[name] | settings))


@cache
def rival_of(name):
    """On what `pair` is."""
    return make(make_pair(), name)


@pytest.mark.parametrize("name", ALL)
def test_they_change_videos_and_come_off_bit_for_bit(pair, name):
    before = generate(pair.t2v, PROMPTS, SEEDS, pair.settings)
    network, encoder = weights(pair.t2v.unet), weights(pair.t2v.text_encoder)
    hooks = [len(part._forward_hooks) for part in (pair.t2v.unet, pair.t2v.text_encoder)]
    rival = make(pair, name)
    assert rival == rival_of(name), "the same seed is the same rival"
    assert same(network, weights(pair.t2v.unet)) and same(encoder, weights(pair.t2v.text_encoder))
    if name in ("esd", "esd of u", "t2v-unlearning"):  # which learn
        assert all(weight.requires_grad and weight.grad is None for weight in pair.t2v.unet.parameters()), "as it was found"
    rival.apply(pair.t2v)
    made = generate(pair.t2v, PROMPTS, SEEDS, pair.settings)
    assert (made != before).any()
    assert (generate(pair.t2v, PROMPTS, SEEDS, pair.settings) == made).all()  # nothing is remembered from the last time
    assert same(encoder, weights(pair.t2v.text_encoder)) is (name in ELSEWHERE)
    assert same(network, weights(pair.t2v.unet)) is (name not in ON_NETWORKS)
    assert active_interventions(pair.t2v) == [rival]
    with pytest.raises(UnreelError, match="already"):
        rival.apply(pair.t2v)
    rival.remove(pair.t2v)
    assert same(network, weights(pair.t2v.unet)) and same(encoder, weights(pair.t2v.text_encoder))
    assert hooks == [len(part._forward_hooks) for part in (pair.t2v.unet, pair.t2v.text_encoder)]
    assert (generate(pair.t2v, PROMPTS, SEEDS, pair.settings) == before).all()


@pytest.mark.parametrize("name", ALL)
def test_they_are_saved_and_loaded_as_they_were(pair, name, tmp_path):
    rival = rival_of(name)
    loaded = load_intervention(rival.save_pretrained(tmp_path / "rival"))
    assert type(loaded) is type(rival) and loaded == rival and loaded.matches(pair.t2v)
    assert loaded.provenance == json.loads(json.dumps(rival.provenance))
    assert "castle" in (tmp_path / "rival" / "README.md").read_text()
    with rival.on(pair.t2v):
        made = generate(pair.t2v, PROMPTS, SEEDS, pair.settings)
    with loaded.on(pair.t2v):
        assert (generate(pair.t2v, PROMPTS, SEEDS, pair.settings) == made).all()


@pytest.mark.parametrize("name", ["diff-quick-fix", "refusal-vector", "safree", "video-eraser"])  # one of each kind
def test_they_are_evaluated_and_attacked_like_erasures(pair, name, tmp_path):
    concept = Concept("cat")
    rival = make(pair, name, concept)
    run = evaluate(pair.video, rival, FakeJudge(), concept=concept, videos=2, groups=["explicit"], folder=tmp_path)
    assert run.metrics()["explicit"]["concept_found"]["edited"]["n"] == 2
    found = attack(pair, rival, FakeJudge(), attacks=["typos"], concept=concept, cases=1, budgets=[1], steps=1)
    assert {outcome.arm for outcome in found.outcomes} == {"edited", "original"}


@pytest.mark.parametrize("name", ["hirm at random", "esd", "esd of u", "t2v-unlearning", "adv-unlearn"])  # which draw
def test_another_seed_is_another_rival(pair, name):
    assert make(pair, name, seed=1) != rival_of(name)


@pytest.mark.parametrize(
    ("name", "asked", "message"),
    [
        ("diff-quick-fix", {"keep": ["cat"]}, "keeps nothing by name"),
        ("hirm", {"keep": ["cat"]}, "keeps nothing by name"),
        ("esd", {"keep": ["cat"]}, "keeps nothing by name"),
        ("refusal-vector", {"keep": ["cat"]}, "keeps nothing by name"),
        ("t2v-unlearning", {"keep": ["cat"]}, "keeps nothing by name"),
        ("safree", {"keep": ["cat"]}, "keeps nothing by name"),
        ("video-eraser", {"keep": ["cat"]}, "keeps nothing by name"),
    ],
)
def test_what_they_make_no_use_of_is_refused(pair, name, asked, message):
    with pytest.raises(UnreelError, match=message):
        unlearn(CASTLE, pair, configure(name, {}), **asked)


@pytest.mark.parametrize("name", ["esd", "t2v-unlearning", "adv-unlearn", "safree", "video-eraser"])
def test_those_that_make_nothing_instead_refuse_an_anchor(pair, name):
    with pytest.raises(UnreelError, match="makes nothing in particular instead"):
        unlearn(Concept("castle", anchor="house"), pair, configure(name, {}))


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("diff-quick-fix", {"lamb": 0.0}),
        ("hirm", {"learning_rate": -1.0}),
        ("esd", {"eta": 0.0}),
        ("esd", {"weights": "all"}),
        ("esd", {"start_guidance": 0.0}),
        ("adv-unlearn", {"attack_rate": 0.0}),
        ("refusal-vector", {"pairs": 0}),
        ("t2v-unlearning", {"rank": 0}),
        ("safree", {"alpha": -0.1}),
        ("video-eraser", {"guidance_weight": 0.0}),
    ],
)
def test_settings_that_make_no_sense_are_refused(name, setting):
    with pytest.raises(UnreelError, match="must be"):
        configure(name, setting)


@torch.no_grad()
def test_diff_quick_fix_has_one_matrix_write_for_the_name_what_it_wrote_for_the_anchor(pair):
    rival = make(pair, "diff-quick-fix", Concept("castle", anchor="house"), lamb=1e-9)
    conditioner = Conditioner.of(pair.t2v)
    matrix = conditioner.attention_output(conditioner.layers[0])
    names = {module: name for name, module in conditioner.text_encoder.named_modules()}
    assert set(rival.components[0].deltas) == {f"{names[matrix]}.weight"} and names[matrix].endswith("0.self_attn.out_proj")
    written = []
    hook = matrix.register_forward_hook(lambda _, __, output: written.append(output))
    sentences = [SENTENCES[1].format(name) for name in ("castle", "house")]
    conditioner.encode(sentences)
    with rival.on(pair.t2v):
        conditioner.encode(sentences)
    hook.remove()
    at = len(conditioner.tokenizer(sentences[0]).input_ids) - 2
    before, house, after = written[0][0, at:], written[0][1, at:], written[1][0, at:]
    assert (after - house).norm() < 0.3 * (before - house).norm()


@pytest.mark.parametrize("name", ["CogVideoXPipeline", "LattePipeline", "SanaPipeline", "WanPipeline"])
def test_diff_quick_fix_makes_nothing_instead_whether_padding_is_read_or_not(name):
    """Of an anchor of no words, nothing may stand behind it that is read."""
    model = build(name)
    erasure = unlearn(Concept("cat", anchor=""), Pair(model, model, "tiny", "tiny"), configure("diff-quick-fix", {}))
    (change,) = (change for component in erasure.components for change in component.deltas.values())
    assert change.isfinite().all() and change.any()


def test_diff_quick_fix_is_the_closed_form(pair):
    """Of the published equation, computed here for one pair of names by itself."""
    rival = make(pair, "diff-quick-fix", Concept("castle", anchor="house"), lamb=0.3)
    conditioner = Conditioner.of(pair.t2v)
    matrix = conditioner.attention_output(conditioner.layers[0])
    entering = []
    hook = matrix.register_forward_pre_hook(lambda _, args: entering.append(args[0]))
    keys, goals = [], []
    with torch.no_grad():
        for sentence in SENTENCES:
            conditioner.encode([sentence.format("castle"), sentence.format("house")])
            at = len(conditioner.tokenizer(sentence.format("castle")).input_ids) - 2
            keys.append(entering[-1][0, at:].double()), goals.append(entering[-1][1, at:].double())
    hook.remove()
    k, old = torch.cat(keys), matrix.weight.detach().double()
    v = torch.cat(goals) @ old.T
    new = (0.3 * old + v.T @ k) @ torch.linalg.inv(0.3 * torch.eye(k.shape[1]).double() + k.T @ k)
    (delta,) = rival.components[0].deltas.values()
    torch.testing.assert_close(old + dense(delta).double(), new, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("towards", ["anchor", "random"])
def test_hirm_changes_matrices_of_the_first_layer_and_its_loss_falls(pair, towards):
    rival = make(pair, "hirm", towards=towards, steps=20, learning_rate=1e-3)
    conditioner = Conditioner.of(pair.t2v)
    first = {id(module) for module in conditioner.layers[0].modules() if isinstance(module, torch.nn.Linear)}
    names = {name for name, module in conditioner.text_encoder.named_modules() if id(module) in first}
    assert {name.rpartition(".")[0] for name in rival.components[0].deltas} == names
    losses = rival.provenance["parts"][0]["losses"]
    assert len(losses) == 20 and losses[-1] < losses[0]
    assert ("anchor" in rival.provenance["parts"][0]) is (towards == "anchor")


def test_hirm_takes_as_many_steps_as_its_authors_do_for_a_kind(pair):
    steps = {
        kind: len(make(pair, "hirm", Concept("ink", kind)).provenance["parts"][0]["losses"]) for kind in ("object", "style")
    }
    assert steps == {"object": 15, "style": 30}


def test_adv_unlearn_changes_the_first_layer_and_its_attack_lowers_what_the_attacker_wants(pair):
    rival = make(pair, "adv-unlearn", Concept("castle"))
    conditioner, denoiser = Conditioner.of(pair.t2i), Denoiser.of(pair.t2i)
    names = {
        name for name, module in conditioner.text_encoder.named_modules() if module in [*conditioner.layers[0].modules()]
    }
    deltas = rival.components[0].deltas
    assert {name.rpartition(".")[0] for name in deltas} <= names and len(deltas) == 12
    conditioner.text_encoder.requires_grad_(False)
    asked = denoiser.conditioning(["a photo of an owl"])
    z, t = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([700])
    wanted = denoiser.predict(z, t, asked)
    losses = []
    for steps in (1, 60):
        rounds = iter([(z, t)] * steps)
        draws = torch.Generator().manual_seed(0)
        said = partial(unused_word, conditioner, "")
        with _attacked(conditioner, denoiser, said, "a photo of a castle", asked, rounds, 0.02, draws) as read:
            losses.append(float((denoiser.predict(z, t, read()) - wanted).square().mean()))
    assert losses[1] < losses[0]
    assert not conditioner.token_table._forward_hooks


@pytest.mark.parametrize(("name", "scale"), [("SanaPipeline", 32**0.5), ("StableDiffusionPipeline", 1.0)])
def test_adv_unlearn_attacks_with_a_token_as_large_as_those_of_the_vocabulary(name, scale, monkeypatch):
    learned, rates, adam = [], [], torch.optim.Adam
    monkeypatch.setattr(
        torch.optim, "Adam", lambda v, lr: learned.append(v[0].detach().clone()) or rates.append(lr) or adam(v, lr=lr)
    )
    model = build(name)
    conditioner, denoiser = Conditioner.of(model), Denoiser.of(model, size(model))
    asked = denoiser.conditioning(["a photo of an owl"])
    z, t = torch.randn(1, *asked.arguments[asked.latents].shape[1:]), torch.tensor([700])
    said, draws = partial(unused_word, conditioner, ""), torch.Generator().manual_seed(0)
    with _attacked(conditioner, denoiser, said, "a photo of a castle", asked, iter([(z, t)]), 1e-3, draws):
        pass
    table = conditioner.token_table.weight.detach()
    rows = conditioner.token_table(torch.arange(len(table))).detach()
    assert (rows == learned[0]).all(1).any() and rates == [pytest.approx(1e-3 * float(rows.std()), rel=1e-3)]
    assert rates == [pytest.approx(1e-3 * scale * float(table.std()), rel=1e-3)]


def test_esd_changes_nothing_but_attention_to_the_text_and_comes_nearer_to_its_teacher(pair):
    rival = make(pair, "esd", Concept("castle"), steps=12, learning_rate=2e-3)
    matrices = cross_attention(pair.t2v.unet)
    assert set(rival.components[0].deltas) == {
        f"{name}.{own}" for name, m in matrices.items() for own, _ in m.named_parameters()
    }
    assert all(".attn2." in name for name in rival.components[0].deltas)
    losses = rival.provenance["parts"][0]["losses"]
    assert len(losses) == 12 and np.mean(losses[-4:]) < np.mean(losses[:4])


def test_esd_learns_on_videos_that_are_guided_as_its_authors_do_whatever_the_pairs_guidance(pair):
    def learned(guidance, **settings):
        return make(replace(pair, settings=replace(pair.settings, guidance=guidance)), "esd", **settings)

    assert learned(7.5) == learned(3.0) != learned(3.0, start_guidance=7.5)


def test_esd_u_changes_what_esd_x_leaves_and_comes_nearer_to_its_teacher(pair):
    rival = make(pair, "esd of u", Concept("castle"), steps=12, learning_rate=5e-4)
    network, reading = pair.t2v.unet, cross_attention(pair.t2v.unet)
    layers = {name for name, part in network.named_modules() if isinstance(part, (torch.nn.Linear, torch.nn.Conv2d))}
    assert {name.rpartition(".")[0] for name in rival.components[0].deltas} == layers - reading.keys()
    assert {delta.ndim for delta in rival.components[0].deltas.values()} == {1, 2, 4}
    assert all(delta.any() for name, delta in rival.components[0].deltas.items() if not name.endswith("to_k.bias"))
    losses = rival.provenance["parts"][0]["losses"]
    assert len(losses) == 12 and np.mean(losses[-4:]) < np.mean(losses[:4])


def test_esd_u_needs_no_attention_to_the_text_which_esd_x_does():
    pipeline = build("CogVideoXPipeline")
    pair = Pair(pipeline, pipeline, "tiny", "tiny", Settings(steps=2, frames=5, guidance=3.0, size=size(pipeline)))
    with pytest.raises(UnreelError, match="ESD-u, the weights u, needs none"):
        make(pair, "esd")
    rival = make(pair, "esd of u", Concept("castle"))
    assert all(delta.isfinite().all() for delta in rival.components[0].deltas.values())
    with rival.on(pipeline):
        generate(pipeline, ["a castle"], [1], pair.settings)


def test_esd_is_refused_where_it_cannot_learn(pair):
    pair.t2v.unet.to(torch.bfloat16)
    with pytest.raises(UnreelError, match="learns in float32"):
        make(pair, "esd")


def test_a_refusal_vector_takes_one_direction_out_of_what_attention_to_the_text_writes_from(pair):
    rival = make(pair, "refusal-vector", Concept("castle"))
    writers = {f"{name}.weight": m for name, m in cross_attention(pair.t2v.unet).items() if ".to_out." in name}
    assert set(rival.components[0].deltas) == set(writers)
    for name, delta in rival.components[0].deltas.items():
        assert delta.down.shape == (1, writers[name].in_features)
        direction = delta.down[0].double()
        torch.testing.assert_close(direction.norm(), torch.tensor(1.0).double(), rtol=0, atol=1e-5)
        edited = writers[name].weight.double() + dense(delta)
        torch.testing.assert_close(edited @ direction, torch.zeros(len(edited)).double(), rtol=0, atol=1e-5)
        across = torch.linalg.svd(direction[None]).Vh[1:]
        torch.testing.assert_close(edited @ across.T, writers[name].weight.double() @ across.T, rtol=0, atol=1e-5)
    last = make(pair, "refusal-vector", Concept("castle"), last=1)
    entered = []
    for name, matrix in writers.items():
        matrix.register_forward_hook(lambda *_, name=name: entered.append(name))
    generate(pair.t2v, ["a cat"], [0], replace(pair.settings, steps=1), what="")
    assert list(last.components[0].deltas) == entered[-1:]


@pytest.mark.parametrize("anchor", [None, "", "boat"])
def test_a_refusal_vector_sets_prompts_apart_from_the_same_without_the_concept_unless_something_takes_its_place(
    pair, monkeypatch, anchor
):
    seen, own = [], refusal_vector._seen
    monkeypatch.setattr(refusal_vector, "_seen", lambda *args: seen.append(args[2]) or own(*args))
    concept = Concept("castle", anchor=anchor)
    rival = make(pair, "refusal-vector", concept)
    for asked, instead in seen[0]:
        assert "castle" in asked and "castle" not in instead and ("boat" in instead) == bool(anchor)
    assert rival.provenance["parts"][0].get("anchor") == anchor
    assert was_asked_for(rival, [concept], pair, [configure("refusal-vector", ALL["refusal-vector"])])


def test_adapters_of_t2v_unlearning_are_low_rank_beside_attention_to_the_text_and_their_loss_falls(pair):
    rival = make(pair, "t2v-unlearning", Concept("castle"), steps=16, learning_rate=5e-3)
    writers = {f"{name}.weight" for name in cross_attention(pair.t2v.unet) if ".to_out." in name}
    deltas = rival.components[0].deltas
    assert set(deltas) == writers and all(delta.down.shape[0] == 4 for delta in deltas.values())
    losses = rival.provenance["parts"][0]["losses"]
    assert len(losses) == 16 and np.mean(losses[-4:]) < np.mean(losses[:4])


def test_where_a_concept_is_seen_is_told_for_layers_that_see_less():
    difference = torch.zeros(1, 2, 3, 4, 4)
    difference[:, :, 1, :2, :2], difference[:, :, 2, 0, 0] = 1.0, 1.0
    mask = _seen(difference)
    assert mask.shape == (3, 4, 4) and mask[1].sum() == 4 and mask[2].sum() == 1
    aside = 1 - mask
    fine, coarse, whole = torch.zeros(3, 16, 8), torch.zeros(3, 4, 8), torch.zeros(1, 48, 8)
    assert torch.equal(_of_tokens(aside, fine)[..., 0], aside.flatten(1))
    assert torch.equal(_of_tokens(aside, whole)[0, :, 0], aside.flatten())
    assert _of_tokens(aside, coarse)[1, :, 0].tolist() == [0, 1, 1, 1]
    assert _of_tokens(aside, coarse)[2, :, 0].tolist() == [0, 1, 1, 1]


def projection_of(pair, *phrases, alpha=0.01):
    return Projection.of(pair.t2v, phrases, alpha)


@torch.no_grad()
def test_safree_leaves_nothing_of_the_concept_in_the_tokens_it_projects_and_all_others_as_they_were(pair):
    projection = projection_of(pair, "castle", "fortress")
    tokens = projection.conditioner.tokenize(["a photo of a castle at night", "a bouncing cat"])
    states = projection.conditioner.encode_tokens(tokens)
    made = projection.projected(tokens, states)
    phrases = projection.phrases
    concept = projection.vectors(phrases, [projection.words(phrases, row) for row in range(2)], [None, None])
    changed = (made != states).any(-1)
    for row in range(2):
        words = projection.words(tokens, row)
        assert not changed[row, [i for i in range(states.shape[1]) if i not in words]].any()
    assert changed.any()
    for state in made[changed]:
        torch.testing.assert_close(concept @ state, torch.zeros(2), rtol=0, atol=1e-3)


@torch.no_grad()
def test_safree_projects_every_token_at_a_low_bar_and_none_at_a_high_one(pair):
    for alpha, share in ((-1.0, 1.0), (1e6, 0.0)):
        projection = projection_of(pair, "castle", alpha=alpha)
        tokens = projection.conditioner.tokenize(["a photo of a castle"])
        states = projection.conditioner.encode_tokens(tokens)
        words = projection.words(tokens, 0)
        changed = (projection.projected(tokens, states) != states).any(-1)[0, words]
        assert len(words) == 5 and changed.float().mean() == share


@torch.no_grad()
def test_safree_reads_prompts_otherwise_and_the_concept_itself_as_what_to_lead_away_from(pair):
    rival = make(pair, "safree", alpha=0.0)
    free = encode_prompt(pair.t2v, ["castle, fortress"])[0]
    with rival.on(pair.t2v):
        read = pair.t2v.encode_prompt(["a castle"], "cpu", 1, True)
        assert not torch.equal(read[0], Conditioner.of(make_unedited(pair)).encode(["a castle"]))
        assert torch.equal(read[1], free)
        own = torch.randn_like(read[0])
        assert torch.equal(pair.t2v.encode_prompt(None, "cpu", 1, True, prompt_embeds=own)[0], own)


def make_unedited(pair):
    """The image model of the pair, which nothing is on and which shares the encoder."""
    return pair.t2i


@pytest.mark.parametrize("family", ["SanaVideoPipeline", "CogVideoXPipeline", "WanPipeline", "TextToVideoSDPipeline"])
def test_the_words_of_a_prompt_are_found_in_what_a_pipeline_puts_around_it(family):
    projection = Projection.of(build(family), ["a cat"], 0.01)
    prompts = ["two cats in the rain", "a dog"]
    tokens = projection.conditioner.tokenize(prompts)
    for row, prompt in enumerate(prompts):
        said = projection.conditioner.tokenizer.decode(tokens.ids[row, projection.words(tokens, row)])
        assert said.strip() == prompt


def test_the_words_of_a_prompt_are_found_where_the_pipeline_is_told_to_put_nothing_around_it():
    projection = Projection.of(build("SanaVideoPipeline"), ["a cat"], 0.01)
    tokenizer = projection.conditioner.tokenizer
    bare = Tokens(tokenizer(["two cats in the rain"], return_tensors="pt")["input_ids"], {})
    assert tokenizer.decode(bare.ids[0, projection.words(bare, 0)]).strip() == "two cats in the rain"
    assert projection.begins and len(projection.words(bare, 0)) < len(projection.begins)


@torch.no_grad()
def test_video_eraser_leads_away_from_the_concept_as_its_equations_say():
    class Network(torch.nn.Module):
        def forward(self, sample, timestep, encoder_hidden_states):
            return (sample * encoder_hidden_states.mean((1, 2)).view(-1, 1, 1),)

    torch.manual_seed(0)
    network, concept = Network(), torch.randn(1, 3, 4)
    guidance = _Guidance({"encoder_hidden_states": concept}, 1, 0.2, 0.5, 0.5, 0.7)
    network.register_forward_hook(guidance, with_kwargs=True)
    sample, words = torch.randn(2, 5, 6), torch.randn(4, 3, 4)
    guidance.begin(2)
    memory = 0.0
    for _ in range(3):
        z = torch.cat([sample, sample])
        free, asked = (sample * words[half].mean((1, 2)).view(-1, 1, 1) for half in (slice(2), slice(2, 4)))
        aside = sample * concept.mean()
        mu = torch.where(asked - aside < 0.5, (0.2 * (asked - aside).abs()).clamp(max=1), 0.0)
        away = mu * (aside - free) + 0.5 * memory
        memory = 0.7 * memory + 0.3 * away.mean(1, keepdim=True)
        made = network(z, 0, encoder_hidden_states=words)[0]
        torch.testing.assert_close(made, torch.cat([free, asked - away]))
    unguided = network(sample, 0, encoder_hidden_states=words[:2])[0]
    torch.testing.assert_close(unguided, sample * words[:2].mean((1, 2)).view(-1, 1, 1))


@pytest.mark.parametrize("broken", [{"alpha": "much"}, {}])
def test_a_record_without_sound_settings_is_broken(pair, tmp_path, broken):
    folder = make(pair, "safree").save_pretrained(tmp_path / "rival")
    record = json.loads((folder / "erasure.json").read_text())
    record["parts"][0]["settings"] = broken
    (folder / "erasure.json").write_text(json.dumps(record))
    with pytest.raises(UnreelError, match="is broken"):
        load_intervention(folder)


@pytest.mark.parametrize("family", [name for family in FAMILIES for name in family.t2v])
def test_every_family_takes_them_or_says_why_not(family):
    """As docs/families.md says. What goes on has an effect; everything else is refused before anything is changed."""
    pipeline = build(family)
    frames = FRAMES.get(family, 5)  # as many as the table is of: some refuse several alone
    pair = Pair(pipeline, pipeline, "tiny", "tiny", Settings(steps=2, frames=frames, size=size(pipeline), guidance=3.0))

    def latents():
        with set_up(pipeline, 3.0, frames, size(pipeline), False) as options:
            options |= {"num_inference_steps": 2, "output_type": "latent", "generator": torch.Generator().manual_seed(1)}
            return made_by(pipeline, prompt=["a castle"], **options)[0]

    before, network = latents(), weights(network_of(pipeline))
    published = json.loads((RESULTS / "reach.json").read_text())[family]
    for name in sorted(ALL.keys() - {"hirm at random"}):  # which goes on wherever the other does
        refused = published[{"esd of u": "esd --weights u"}.get(name, name)]
        try:
            rival = make(pair, name, Concept("castle"))
            rival.apply(pipeline)
        except UnreelError as error:
            assert refused and len(str(error)) > 40 and not active_interventions(pipeline)
        else:
            assert not refused
            assert (latents() - before).norm() > 1e-7 * before.norm()
            rival.remove(pipeline)
        assert same(network, weights(network_of(pipeline)))
    torch.testing.assert_close(latents(), before)  # some round otherwise from one call to the next
