"""The closed form is least squares, does what it says to the text encoder it is for, and nothing else."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from conftest import make_pair, same, weights

from unreel import ClosedFormConfig, Concept, FewShotConfig, UnreelError, unlearn
from unreel.conditioner import Conditioner
from unreel.corpus import Corpus
from unreel.judges import load_judge
from unreel.methods import closed_form as module
from unreel.methods.closed_form import Pass, align, closed_form, moments
from unreel.prompts import UNSAFE_COMPANIONS, ask
from unreel.unlearning import anchor_for
from unreel.video import generate_images
from unreel.vocabulary import EVERYDAY, nearest

CONFIG = ClosedFormConfig(layers=2, forget=30, retain=60)
EXACT = ClosedFormConfig(layers=2, tolerance=0)
CASTLE = Concept("castle")
CORPUS = Corpus(EVERYDAY)
TWINS = CORPUS.forget(CASTLE, {"castle": "house"}, 60)
OTHERS = [sentence for sentence in CORPUS.retain(60) if not CASTLE.is_named_in(sentence)][-100:]
# Pairs of as many tokens each, so that every token's twin stands at its own place.
SWAPS = [(text.format("castle"), text.format("house")) for text in ("a {}", "{}", "the {} is running", "a dog and a {}")]
LAST = "encoder.layers.2.mlp.fc2.weight"


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def tiny():
    return make_pair()


@pytest.fixture
def conditioner(tiny):
    return Conditioner(tiny.t2i.tokenizer, copy.deepcopy(tiny.t2i.text_encoder))


def solve(conditioner, twins=TWINS, others=OTHERS, config=EXACT, **options):
    return closed_form(conditioner, twins, moments(conditioner, others, config), config, **options)


@torch.no_grad()
def states(conditioner, sentences, number=-1):
    """What enters the matrix through which the MLP of a layer writes, and what leaves the layer: float64, on all tokens."""
    layer, seen = conditioner.layers[number], {}
    hooks = [
        conditioner.mlp_output(layer).register_forward_hook(lambda _, inputs, __: seen.update(k=inputs[0])),
        layer.register_forward_hook(lambda _, __, out: seen.update(h=out[0] if isinstance(out, tuple) else out)),
    ]
    conditioner.encode(list(sentences))
    for hook in hooks:
        hook.remove()
    return seen["k"].double(), seen["h"].double()


def square(tensor):
    return tensor.double().square().sum().item()


def like(conditioner, twins):
    """Those that fit and differ in one token only, which thus stands at the same place."""
    sentences, goals = (conditioner.tokenize([pair[side] for pair in twins]).ids for side in (0, 1))
    found = [pair for pair, count in zip(twins, (sentences != goals).sum(1).tolist(), strict=True) if count == 1]
    assert len(found) > len(twins) / 2
    return found


def changed(conditioner, changes):
    """A copy of the encoder with the changes on."""
    encoder = copy.deepcopy(conditioner.text_encoder)
    parameters = dict(encoder.named_parameters())
    with torch.no_grad():
        for name, change in changes.items():
            parameters[name] += change.dense().to(parameters[name].dtype)
    return Conditioner(conditioner.tokenizer, encoder)


def stacked(conditioner, config):
    """The equations for the last layer on SWAPS, a row for every token, weighted by the root of what it counts: float64."""
    (k, h), (_, goal) = (states(conditioner, [pair[side] for pair in SWAPS]) for side in (0, 1))
    k, way, q = k.flatten(0, 1), (goal - h).flatten(0, 1), states(conditioner, OTHERS)[0].flatten(0, 1)
    shrink = (config.ridge * k.square().mean()).sqrt() * torch.eye(k.shape[1])
    rows = torch.cat([k / len(k) ** 0.5, (config.retain_weight / len(q)) ** 0.5 * q, shrink])
    aims = torch.cat([way / len(k) ** 0.5, torch.zeros(len(q) + len(shrink), way.shape[1])])
    return rows.numpy(), aims.numpy(), len(k)


@pytest.mark.parametrize(("retain_weight", "ridge"), [(3.0, 0.01), (0.5, 0.3), (0.0, 0.05)])
def test_the_change_is_the_least_squares_solution_computed_independently(conditioner, retain_weight, ridge):
    config = ClosedFormConfig(layers=1, retain_weight=retain_weight, ridge=ridge, tolerance=0)
    changes, record = solve(conditioner, SWAPS, config=config)
    rows, aims, n = stacked(conditioner, config)
    expected = np.linalg.lstsq(rows, aims, rcond=None)[0].T
    assert list(changes) == [LAST]
    np.testing.assert_allclose(changes[LAST].dense().numpy(), expected, rtol=1e-4, atol=1e-4 * abs(expected).max())
    left = np.square(aims[:n] - rows[:n] @ expected.T).sum() / np.square(aims).sum()
    assert record["left"] == pytest.approx(left, rel=1e-3)
    assert record["sentences"] == len(SWAPS)


@pytest.mark.parametrize("tolerance", [0.3, 0.05, 0.001])
def test_a_tolerance_lowers_the_rank_as_far_as_that_share_of_the_effect_allows(conditioner, tolerance):
    config = ClosedFormConfig(layers=1, tolerance=tolerance)
    full = solve(conditioner, SWAPS, config=ClosedFormConfig(layers=1, tolerance=0))[0][LAST].dense().numpy()
    changes, record = solve(conditioner, SWAPS, config=config)
    rows, _, _ = stacked(conditioner, config)
    effect = np.square(rows @ full.T).sum()
    lost = np.square(rows @ (full - changes[LAST].dense().numpy()).T).sum()
    (rank,) = record["ranks"]
    assert rank == changes[LAST].up.shape[1] < 16
    assert lost <= tolerance * effect * 1.001
    best = np.square(np.linalg.svd(rows @ full.T, compute_uv=False))
    assert best[rank - 1 :].sum() > tolerance * effect  # one rank less would lose more


def test_what_is_left_is_what_the_changed_encoder_shows_over_several_layers(conditioner):
    changes, record = solve(conditioner, SWAPS)
    (_, before), (_, goal) = (states(conditioner, [pair[side] for pair in SWAPS]) for side in (0, 1))
    _, after = states(changed(conditioner, changes), [pair[0] for pair in SWAPS])
    assert list(changes) == [f"encoder.layers.{number}.mlp.fc2.weight" for number in (1, 2)]
    assert record["left"] == pytest.approx(square(after - goal) / square(before - goal), rel=1e-4)
    assert record["left"] < solve(conditioner, SWAPS, config=ClosedFormConfig(layers=1, tolerance=0))[1]["left"] < 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_weights_stay_as_they_were_in_any_precision(conditioner, dtype):
    conditioner.text_encoder.to(dtype)
    before = weights(conditioner.text_encoder)
    changes, record = solve(conditioner)
    assert same(before, weights(conditioner.text_encoder))
    assert all(change.up.dtype == change.down.dtype == torch.float32 for change in changes.values())
    assert 0 < record["left"] < 0.9


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError("out of memory")])
@pytest.mark.parametrize("call", range(8))
def test_an_interruption_leaves_the_weights_and_no_hooks(conditioner, monkeypatch, call, error):
    """A layer is gone through twice for each batch, first to solve, then with its change on."""
    calls, through = [], Pass.through

    def interrupted(self, index, layer):
        calls.append(index)
        if len(calls) > call:
            raise error
        return through(self, index, layer)

    before = weights(conditioner.text_encoder)
    monkeypatch.setattr(Pass, "through", interrupted)
    monkeypatch.setattr(module, "BATCH", 32)
    with pytest.raises((KeyboardInterrupt, RuntimeError)):
        solve(conditioner, TWINS[:40])
    assert calls == [0, 0, 0, 0, 1, 1, 1, 1][: call + 1]
    assert same(before, weights(conditioner.text_encoder))
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in conditioner.text_encoder.modules())


def test_equations_without_a_finite_solution_are_refused_and_change_nothing(conditioner):
    retained = moments(conditioner, OTHERS, EXACT)
    with torch.no_grad():
        conditioner.token_table.weight[5:] = float("nan")
    before = weights(conditioner.text_encoder)
    with pytest.raises(UnreelError, match="no finite solution"):
        closed_form(conditioner, TWINS, retained, EXACT)
    for name, weight in weights(conditioner.text_encoder).items():
        torch.testing.assert_close(weight, before[name], rtol=0, atol=0, equal_nan=True)


def test_more_layers_than_the_encoder_has_are_all_its_layers(conditioner):
    every, more = (solve(conditioner, config=ClosedFormConfig(layers=layers))[0] for layers in (3, 12))
    assert list(every) == list(more) == [f"encoder.layers.{number}.mlp.fc2.weight" for number in range(3)]
    assert all(torch.equal(every[name].dense(), more[name].dense()) for name in every)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"layers": 0}, "layers must be greater than zero, not 0"),
        ({"ridge": 0.0}, "ridge must be greater than zero"),
        ({"ridge": float("nan")}, "ridge must be greater than zero"),
        ({"forget": -1}, "forget must be greater than zero"),
        ({"retain": 0}, "retain must be greater than zero"),
        ({"retain_weight": -0.1}, "retain weight must be zero or more"),
        ({"retain_weight": float("inf")}, "retain weight must be zero or more"),
        ({"tolerance": 1.0}, "tolerance is a share from 0 to below 1, not 1.0"),
        ({"tolerance": -0.1}, "tolerance is a share"),
        ({"tolerance": float("nan")}, "tolerance is a share"),
        ({"seed": -1}, "seed must be zero or more"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(bad, message):
    with pytest.raises(UnreelError, match=message):
        ClosedFormConfig(**bad)


def test_several_concepts_weigh_as_much_against_the_rest_as_each_alone(conditioner):
    """Two concepts weigh double what one does, which is as if the rest weighed half."""
    retained = moments(conditioner, OTHERS, EXACT)
    two = closed_form(conditioner, TWINS, retained, EXACT, concepts=2)[0]
    half = closed_form(conditioner, TWINS, retained, ClosedFormConfig(layers=2, tolerance=0, retain_weight=1.5))[0]
    for name in two:
        torch.testing.assert_close(two[name].dense(), half[name].dense(), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(
    ("source", "target", "places"),
    [
        ([1, 5, 7, 2, 0], [1, 5, 8, 2, 0], [0, 1, 2, 3, 4]),  # as long
        ([1, 5, 7, 8, 9, 2, 0], [1, 5, 6, 2, 0, 0, 0], [0, 1, 2, 2, 2, 3, 4]),  # a shorter anchor
        ([1, 7, 2, 0, 0, 0], [1, 5, 6, 8, 2, 0], [0, 3, 4, 5, 5, 5]),  # a longer one: its last token says it all
        ([1, 7, 3, 2, 0, 0], [1, 5, 6, 3, 2, 0], [0, 2, 3, 4, 5, 5]),
        ([1, 7, 8, 9, 2, 0], [1, 5, 6, 2, 0, 0], [0, 1, 1, 2, 3, 4]),  # several for several, from the last backwards
        ([1, 7, 8, 2, 0, 0, 0], [1, 4, 5, 6, 2, 0, 0], [0, 2, 3, 4, 5, 6, 6]),
        ([1, 5, 7, 2, 0], [1, 5, 2, 0, 0], [0, 1, 1, 2, 3]),  # left out: what stood before
        ([1, 7, 2, 0], [1, 2, 0, 0], [0, 0, 1, 2]),
        ([1, 7, 2, 2, 2], [1, 2, 2, 2, 2], [0, 0, 1, 2, 3]),  # padded with the token that ends
        ([1, 5, 2, 0], [1, 5, 2, 0], [0, 1, 2, 3]),
    ],
)
def test_every_token_takes_on_the_meaning_that_corresponds(source, target, places):
    assert align(source, target) == places


@pytest.mark.parametrize(
    ("source", "target", "places"),
    [
        ([7, 5, 2, 0], [5, 2, 0, 0], [0, 0, 1, 2]),
        ([7, 2, 0], [2, 0, 0], [0, 0, 1]),
        ([0, 0, 1, 7, 2], [0, 1, 5, 6, 2], [0, 0, 1, 3, 4]),  # padded on the left
    ],
)
def test_what_is_left_out_at_the_very_start_takes_on_the_first_tokens_meaning(source, target, places):
    assert align(source, target) == places


def test_places_lie_in_the_other_sentence_and_never_go_back(conditioner):
    pairs = [*TWINS, *CORPUS.forget(CASTLE, {"castle": ""}, 60), *CORPUS.forget(CASTLE, {"castle": "very old tree"}, 60)]
    for pair in pairs:
        source, target = conditioner.tokenize(list(pair)).ids.tolist()
        places = align(source, target)
        assert len(places) == len(source) and places[0] >= 0 and places[-1] < len(target)
        assert places == sorted(places)


class Plain:
    """A tokenizer in the manner of T5: no token to begin with, one to end with, then padding."""

    model_max_length = 24

    def __init__(self, tokenizer):
        self.clip = tokenizer

    def __call__(self, prompts, **_):
        rows = [ids[1:] for ids in self.clip(prompts, truncation=True, max_length=25).input_ids]
        return SimpleNamespace(input_ids=torch.tensor([row + [0] * (24 - len(row)) for row in rows]))


def other_encoder(name, size):
    torch.manual_seed(0)
    t5 = {"vocab_size": size, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 3, "num_heads": 2}
    llama = {"vocab_size": size, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3}
    llama |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "pad_token_id": 0, "bos_token_id": 1}
    made = {
        "T5": lambda: transformers.T5EncoderModel(transformers.T5Config(**t5)),
        "UMT5": lambda: transformers.UMT5EncoderModel(transformers.UMT5Config(**t5, feed_forward_proj="gated-gelu")),
        "Llama": lambda: transformers.LlamaModel(transformers.LlamaConfig(**llama)),
        "Gemma": lambda: transformers.GemmaModel(transformers.GemmaConfig(**llama)),
        "Gemma 2": lambda: transformers.Gemma2Model(transformers.Gemma2Config(**llama)),
    }
    return made[name]().eval()


@pytest.fixture
def other(conditioner, request):
    """Another text encoder, which reads sentences without a token to begin with."""
    return Conditioner(Plain(conditioner.tokenizer), other_encoder(request.param, len(conditioner.tokenizer)))


@pytest.mark.parametrize("other", ["T5", "UMT5", "Llama", "Gemma", "Gemma 2"], indirect=True)
def test_other_encoders_forget_too_and_retain_more_than_they_forget(other):
    before = weights(other.text_encoder)
    twins = like(other, TWINS)
    changes, record = solve(other, twins)
    assert same(before, weights(other.text_encoder))
    after = changed(other, changes)
    forget, goals = zip(*twins, strict=True)
    (_, h0), (_, h1), (_, goal) = states(other, forget), states(after, forget), states(other, goals)
    (_, q0), (_, q1) = states(other, OTHERS), states(after, OTHERS)
    assert square(h1 - goal) < 0.8 * square(h0 - goal) and record["left"] < 0.8
    # Measured: 0.56 of it for UMT5, 0.42 for T5, 0.15 for the decoders.
    assert square(q1 - q0) / square(q0) < 0.8 * square(h1 - h0) / square(h0)


@pytest.mark.parametrize("other", ["T5", "UMT5", "Llama", "Gemma", "Gemma 2"], indirect=True)
def test_what_other_encoders_show_is_what_is_recorded(other):
    changes, record = solve(other, SWAPS)
    forget, goals = ([pair[side] for pair in SWAPS] for side in (0, 1))
    (_, h0), (_, goal), (_, h1) = states(other, forget), states(other, goals), states(changed(other, changes), forget)
    assert record["left"] == pytest.approx(square(h1 - goal) / square(h0 - goal), rel=1e-4)


@pytest.mark.parametrize("other", ["Llama"], indirect=True)
def test_an_encoder_that_turns_around_what_its_mlps_write_is_refused(other):
    before = weights(other.text_encoder)
    for layer in other.layers:
        layer.register_forward_hook(lambda _, __, output: -output)
    with pytest.raises(UnreelError, match="does not pass on what its MLP writes"):
        solve(other, SWAPS)
    assert same(before, weights(other.text_encoder))


@pytest.mark.parametrize("other", ["T5"], indirect=True)
def test_an_encoder_without_a_first_token_may_leave_out_the_first_word(other):
    _, record = solve(other, [("running", ""), ("running horse", "horse")])
    assert record["left"] < 1


@pytest.fixture(scope="module")
def forgotten(embedded):
    return unlearn(CASTLE, embedded, ClosedFormConfig())


@pytest.fixture
def held_out(embedded, forgotten):
    """Sentences that were not learned from: pairs of as many tokens, and others that do not name the concept."""
    conditioner = Conditioner.of(embedded.t2i)
    corpus, (part,) = Corpus(embedded.vocabulary, seed=77), forgotten.provenance["parts"]
    twins = corpus.forget(CASTLE, {"castle": part["anchor"]}, 80)
    learned = set(Corpus(embedded.vocabulary, seed=0).retain(900))
    others = [text for text in corpus.retain(200) if not CASTLE.is_named_in(text) and text not in learned]
    assert len(others) > 100
    return [*zip(*like(conditioner, twins), strict=True)], others


def test_the_embedded_encoder_forgets_in_sentences_it_never_saw_and_keeps_the_rest(embedded, forgotten, held_out):
    (forget, goals), others = held_out
    conditioner = Conditioner.of(embedded.t2i)

    def encode():
        with torch.no_grad():
            return conditioner.encode(list(forget)), conditioner.encode(others), states(conditioner, forget)[1]

    with torch.no_grad():
        goal = conditioner.encode(list(goals))
    before = weights(conditioner.text_encoder)
    way = states(conditioner, goals)[1]
    said, kept, state = encode()
    forgotten.apply(embedded.t2i)
    said_now, kept_now, state_now = encode()
    forgotten.remove(embedded.t2i)
    assert same(before, weights(conditioner.text_encoder))
    (part,) = forgotten.provenance["parts"]
    # Measured: 0.20 of the way left on what was learned, 0.23 on these, 0.20 of it after the last norm; 0.3 % kept moved.
    assert part["left"] < 0.3
    assert square(state_now - way) < 0.35 * square(state - way)
    assert square(said_now - goal) < 0.35 * square(said - goal)
    assert square(kept_now - kept) < 0.02 * square(kept)
    assert square(kept_now - kept) / len(others) < 0.1 * square(goal - said) / len(forget)


def test_the_embedded_encoder_forgets_two_concepts_at_once_almost_as_well_as_each_alone(embedded):
    concepts = [Concept("castle", anchor="house"), Concept("cat", anchor="dog")]
    conditioner, both = Conditioner.of(embedded.t2i), unlearn(concepts, embedded, ClosedFormConfig())
    for concept in concepts:
        twins = Corpus(embedded.vocabulary, seed=77).forget(concept, {concept.name: concept.anchor}, 60)
        forget, goals = zip(*like(conditioner, twins), strict=True)
        (_, before), (_, goal) = states(conditioner, forget), states(conditioner, goals)
        both.apply(embedded.t2i)
        _, after = states(conditioner, forget)
        both.remove(embedded.t2i)
        # Measured: 0.14 and 0.10 of the way left; each alone 0.11 and 0.09.
        assert square(after - goal) < 0.25 * square(before - goal)


def test_the_embedded_image_model_makes_something_else_instead_and_all_else_as_before(embedded, forgotten):
    prompts, judge = ["a castle", "a photo of a castle", "a cat", "a house"], load_judge("embedded")
    before = generate_images(embedded.t2i, prompts, [1, 2, 3, 4], embedded.settings)
    forgotten.apply(embedded.t2i)
    after = generate_images(embedded.t2i, prompts, [1, 2, 3, 4], embedded.settings)
    forgotten.remove(embedded.t2i)
    found, now = (judge.probabilities(it[:, None], ["castle", "cat", "house"])[:, 0] > 0.5 for it in (before, after))
    assert found.tolist() == [[True, False, False], [True, False, False], [False, True, False], [False, False, True]]
    assert now.tolist() == [[False] * 3, [False] * 3, [False, True, False], [False, False, True]]


def test_what_is_said_without_an_article_like_what_is_unsafe_goes_and_companions_stay(embedded):
    """Nothing in the embedded world is unsafe; what unsafe things are asked for with works for a ghost too."""
    ghost, judge = Concept("ghost", "unsafe"), load_judge("embedded")
    others = ("cat", "castle", "owl", "pizza", "unicorn")
    companions = [(text.format("ghost", other=other), other) for text in UNSAFE_COMPANIONS[1:] for other in others]
    prompts = ask(ghost) * 2 + [text for text, _ in companions]

    def found() -> tuple[float, float]:
        images = generate_images(embedded.t2i, prompts, list(range(len(prompts))), embedded.settings)
        shown = judge.probabilities(images[:, None], ["ghost", *others])[:, 0] >= judge.threshold
        rows = zip(shown[-len(companions) :], companions, strict=True)
        return shown[: -len(companions), 0].mean(), np.mean([row[1 + others.index(other)] for row, (_, other) in rows])

    plain, kept = found()
    erasure = unlearn(ghost, embedded, ClosedFormConfig())
    assert erasure.provenance["parts"][0]["anchor"] == "everyday life"
    erasure.apply(embedded.t2i)
    plain_now, kept_now = found()
    erasure.remove(embedded.t2i)
    assert plain >= 0.8 and plain_now == 0  # measured: 1 and 0
    assert kept_now >= kept and kept_now >= 0.9  # measured: 0.6 and 1


def test_what_unlearn_does_in_closed_form_and_what_it_says_of_it(pair):
    before = weights(pair.t2i.text_encoder)
    erasure = unlearn("castle", pair, ClosedFormConfig())
    assert same(before, weights(pair.t2i.text_encoder))
    (part,) = erasure.provenance["parts"]
    assert (part["concept"], part["kind"], part["method"]) == ("castle", "object", "closed-form")
    assert part["settings"] == vars(ClosedFormConfig())
    assert 0 < part["left"] < 1 and part["seconds"] > 0
    assert erasure.nbytes < sum(4 * layer.mlp.fc2.weight.numel() for layer in Conditioner.of(pair.t2i).layers) * 1.5


def test_the_same_seed_gives_the_same_bytes_with_and_without_a_cache_and_another_seed_others(pair, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def made(seed, folder):
        erasure = unlearn(CASTLE, pair, ClosedFormConfig(layers=2, forget=30, retain=60, seed=seed))
        return (erasure.save_pretrained(tmp_path / folder) / "erasure.safetensors").read_bytes()

    first, cached = made(1, "a"), made(1, "b")
    for file in (tmp_path / "unreel").iterdir():
        file.unlink()
    assert first == cached == made(1, "c") != made(2, "d")


def test_several_concepts_make_one_erasure_with_a_part_for_each(pair):
    concepts = [CASTLE, "owl", Concept("running", "motion"), Concept("anime", "style", ("manga",), "watercolor")]
    erasure = unlearn(concepts, pair, CONFIG)
    assert erasure.concepts == ["castle", "owl", "running", "anime"]
    parts = erasure.provenance["parts"]
    assert [part["kind"] for part in parts] == ["object", "object", "motion", "style"]
    assert [part["synonyms"] for part in parts] == [[], [], [], ["manga"]]
    assert [part["anchor"] for part in parts][2:] == ["standing", "watercolor"]
    assert not {"castle", "owl"} & {part["anchor"] for part in parts}
    assert len(erasure.changes) == 2 and len({part["seconds"] for part in parts}) == 1
    apart = [unlearn(concept, pair, CONFIG) for concept in concepts]
    assert erasure.nbytes < sum(each.nbytes for each in apart)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], None, {}), "at least one concept"),
        (("cat", None, {"images": "anywhere"}), "learns from text alone"),
        (("cat", None, {"keep": ["a black cat"]}), "'a black cat' is both to be forgotten and to be kept"),
        ((Concept("dog", synonyms=("puppy",)), None, {"keep": ["owl", "Puppy"]}), "'Puppy' is both"),
        (("cat", FewShotConfig(), {"keep": ["dog"]}), "keep nothing by name"),
        ((["cat", "dog"], FewShotConfig(), {}), "unlearn one concept and keep nothing"),
        ((["cat", "xylophone " * 12], None, {}), "cut off"),
    ],
)
def test_what_a_method_cannot_do_is_refused_and_changes_nothing(tiny, arguments, message):
    concepts, config, options = arguments
    before = weights(tiny.t2i.text_encoder)
    with pytest.raises(UnreelError, match=message):
        unlearn(concepts, tiny, config, **options)
    assert same(before, weights(tiny.t2i.text_encoder))


def test_an_anchor_that_is_too_long_is_refused_as_such(tiny):
    with pytest.raises(UnreelError, match="cut off"):
        unlearn(Concept("castle", anchor="word " * 40), tiny, CONFIG)


def test_an_anchor_that_the_tokenizer_reads_as_the_concept_is_refused(tiny):
    with pytest.raises(UnreelError):
        unlearn(Concept("tokyo-tower", anchor="tokyo - tower"), tiny, CONFIG)


def test_an_anchor_that_is_to_be_forgotten_too_is_refused(tiny):
    with pytest.raises(UnreelError, match="dog"):
        unlearn([Concept("cat", anchor="a dog"), Concept("dog")], tiny, CONFIG)


def test_the_anchor_is_the_one_given_standing_for_a_motion_or_near_but_not_too_near(conditioner):
    def anchor(*concepts, vocabulary=EVERYDAY):
        return anchor_for(concepts[0], concepts, conditioner, vocabulary)

    order = nearest(conditioner, "castle", [name for name in EVERYDAY["concept"] if name != "castle"])
    assert anchor(Concept("castle", anchor="a tent")) == "a tent"
    assert anchor(Concept("castle", anchor="")) == ""
    running, standing = Concept("running", "motion"), Concept("standing", "motion")
    assert anchor(running) == "standing" and anchor(standing) == anchor(running, standing) == ""
    world = {"concept": ["castle"], "motion": ["running", "spinning"]}  # whose captions leave out what stands still
    assert anchor(running, vocabulary=world) == ""
    assert anchor(Concept("nudity", "unsafe")) == "everyday life"
    tenth = len(order) // 10
    assert tenth > 2 and anchor(CASTLE) == order[tenth]
    left = [name for name in order if name not in (order[0], order[tenth])]
    near = nearest(conditioner, "castle", left)[len(left) // 10]
    assert anchor(CASTLE, Concept(order[0].title()), Concept("x", synonyms=(order[tenth],))) == near
    few = order[:9]  # none of so few is too near
    assert anchor(CASTLE, vocabulary={"concept": few}) == nearest(conditioner, "castle", few)[0]
    assert anchor(Concept("anime", "style")) in {*EVERYDAY["style"]} - {"anime"}
    assert anchor(Concept("Ada Lovelace", "face")) in EVERYDAY["person"]
    assert anchor(Concept("Totoro", "character"), vocabulary={"concept": ["castle"]}) == "castle"
    with pytest.raises(UnreelError, match="nothing left to make instead of 'castle'"):
        anchor(CASTLE, vocabulary={"concept": ["castle", "old castle"]})


def test_an_erasure_that_is_on_stays_on_while_learning_and_the_next_adds_to_it(pair):
    first = unlearn("castle", pair, CONFIG)
    first.apply(pair.t2i)
    dressed = weights(pair.t2i.text_encoder)
    second = unlearn("owl", pair, CONFIG)
    assert same(dressed, weights(pair.t2i.text_encoder))
    first.remove(pair.t2i)
    assert second.fingerprint.matches(first.fingerprint)
    assert same(weights(make_pair().t2i.text_encoder), weights(pair.t2i.text_encoder))
