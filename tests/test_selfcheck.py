"""What a self-check says of no change, of a perfect one and of any other, and what falls short."""

import copy
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from conftest import make_pair, same, weights
from pipelines import build
from readers import bert, words_tokenizer

from unreel import Concept, FewShotConfig, TextAblationConfig, UnreelError, unlearn
from unreel.checking import check, require_strong
from unreel.evaluation import selfcheck
from unreel.evaluation.selfcheck import Exam, SelfCheck
from unreel.interventions.erasure import Erasure
from unreel.interventions.record import CHECK
from unreel.models.adapter import encode_prompt
from unreel.models.conditioner import Conditioner
from unreel.models.deltas import LowRank, changed
from unreel.prompts.pairs import PromptPair

QUICK = TextAblationConfig(layers=2, rank=3, steps=4, forget=20, retain=20, solve_retain=30)
TEMPLATES = ("a photo of a {}", "{}", "a {} next to a dog", "a small {} by night", "the {}", "a {} and a tree")
PAIRS = [PromptPair(text.format("castle"), text.format("house"), "castle") for text in TEMPLATES]


class Sentences:
    """Prompts that are written down."""

    concepts = ("castle",)

    def __init__(self, pairs=PAIRS, near=("a tower", "a church"), everyday=("", "a cat", "a photo of a dog in a park")):
        self.given = list(pairs), list(near), list(everyday)

    def pairs(self, count):
        return self.given[0]

    def neighbours(self, names, count, keep=()):
        return self.given[1]

    def everyday(self, count):
        return self.given[2]


@pytest.fixture
def conditioner():
    """Reads from left to right; the padding counts."""
    pipeline = make_pair().t2i
    return Conditioner(pipeline.tokenizer, pipeline.text_encoder)


def table(conditioner):
    """The name of the weight that holds a row for every token."""
    return next(name for name, it in conditioner.text_encoder.named_parameters() if it is conditioner.token_table.weight)


def swapped(conditioner, word="castle", other="house"):
    """The change that makes the encoder read one word as another."""
    row, instead = (conditioner.tokenizer(it, add_special_tokens=False).input_ids for it in (word, other))
    assert len(row) == len(instead) == 1
    rows = conditioner.token_table.weight.detach()
    change = torch.zeros_like(rows)
    change[row[0]] = rows[instead[0]] - rows[row[0]]
    return {table(conditioner): change}


def test_no_change_leaves_the_whole_way_and_moves_nothing(conditioner):
    found = Exam(conditioner, Sentences(), []).grade({})
    assert found == SelfCheck(residual=1.0, residual_worst=1.0, moved=0.0, neighbours=0.0, everyday=0.0)
    assert found.shortfalls == [
        "100 % of the way to the anchor is left (bar: 50 %)",
        "100 % of the way is left on the worst tenth of prompts (bar: 90 %)",
    ]


def test_a_perfect_change_leaves_nothing_of_the_way_and_moves_nothing_else(conditioner):
    found = Exam(conditioner, Sentences(), []).grade(swapped(conditioner))
    assert found.residual == pytest.approx(0, abs=1e-9) and found.residual_worst == pytest.approx(0, abs=1e-9)
    assert found.moved > 0.01 and (found.neighbours, found.everyday) == (0.0, 0.0)
    assert found.shortfalls == []


def test_a_change_of_what_is_near_shows_there_only(conditioner):
    found = Exam(conditioner, Sentences(), []).grade(swapped(conditioner, "tower", "dog"))
    assert (found.residual, found.moved, found.everyday) == (1.0, 0.0, 0.0) and found.neighbours > 0


@torch.no_grad()
def by_hand(conditioner, deltas, sentences):
    """The figures, each prompt on its own and in float64, with another way to put the changes on."""
    edited = copy.deepcopy(conditioner.text_encoder)
    for name, change in deltas.items():
        weight = dict(edited.named_parameters())[name]
        weight += change.dense().to(weight.dtype) if isinstance(change, LowRank) else change
    after = Conditioner(conditioner.tokenizer, edited, masked=conditioner.masked)

    def states(reader, text):
        return reader.encode([text])[0].double().numpy()

    left, way = [], []
    for pair in sentences.pairs(0):
        goal, before, now = states(conditioner, pair.anchor), states(conditioner, pair.prompt), states(after, pair.prompt)
        ids = conditioner.tokenizer(pair.prompt).input_ids
        (name,) = conditioner.tokenizer(pair.wording, add_special_tokens=False).input_ids
        first = ids.index(name) if conditioner.causal else 0
        left.append(np.square((now - goal)[first:]).sum())
        way.append(np.square((before - goal)[first:]).sum())

    def moved(texts):
        both = [(states(conditioner, text), states(after, text)) for text in texts]
        return float(np.median([np.linalg.norm(b - a) / np.linalg.norm(a) for a, b in both]))

    named = [pair.prompt for pair in sentences.pairs(0)]
    worst = max(d / max(w, np.median(way) / 2) for d, w in zip(left, way, strict=True))
    return sum(left) / sum(way), worst, moved(named), moved(sentences.neighbours((), 0)), moved(sentences.everyday(0))


@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_figures_are_those_that_one_computes_by_hand(conditioner, bidirectional):
    sentences = Sentences(near=("a dog", "night"), everyday=("a cat", "a photo of a dog"))
    if bidirectional:
        conditioner = bert(words_tokenizer())
        pairs = [PromptPair(f"a {tail}".format("castle"), f"a {tail}".format("cat"), "castle") for tail in ("{}", "dog {}")]
        sentences = Sentences(pairs, ("a dog", "night"), ("a photo", "a photo of a dog"))
    generator = torch.Generator().manual_seed(1)
    names = list(conditioner.first_matrices(2))[:3]
    shapes = {name: conditioner.text_encoder.get_parameter(name).shape for name in names}
    deltas = {
        name: LowRank(torch.randn(out, 2, generator=generator) / 4, torch.randn(2, into, generator=generator) / 4)
        for name, (out, into) in shapes.items()
    }
    deltas[table(conditioner)] = torch.randn(conditioner.token_table.weight.shape, generator=generator) / 50
    before = weights(conditioner.text_encoder)
    found = Exam(conditioner, sentences, []).grade(deltas)
    expected = by_hand(conditioner, deltas, sentences)
    # Of so few prompts, the worst tenth is one.
    figures = (found.residual, found.residual_worst, found.moved, found.neighbours, found.everyday)
    assert figures == pytest.approx(expected, rel=1e-3)
    assert all(figure > 0.001 for figure in figures) and found.residual_worst > found.residual
    assert same(before, weights(conditioner.text_encoder))


def test_the_worst_tenth_is_a_tenth(conditioner):
    nouns = ("dog", "cat", "tree", "car", "owl", "tower", "church", "robot", "ghost", "pizza")
    pairs = [PromptPair(f"a {noun} {word}", f"a {noun} house", word) for noun in nouns for word in ("castle", "boat")]
    deltas = swapped(conditioner)
    found = Exam(conditioner, Sentences(pairs), []).grade(deltas)
    # Half of them are left, and two of these are the worst.
    assert found.residual == pytest.approx(0.5, abs=0.15) and found.residual_worst == pytest.approx(1.0)
    assert found.residual == pytest.approx(by_hand(conditioner, deltas, Sentences(pairs))[0], rel=1e-3)


TWO = [PromptPair(text.format(word), text.format("house"), word, word) for text in TEMPLATES for word in ("castle", "cat")]


def test_of_several_concepts_one_that_stays_falls_short_whatever_becomes_of_the_others(conditioner):
    found = Exam(conditioner, Sentences(TWO), []).grade(swapped(conditioner))
    assert found.by_concept == {"castle": pytest.approx(0, abs=1e-9), "cat": pytest.approx(1)}
    assert found.residual == pytest.approx(0.5)  # each counts the same, whatever their ways
    assert "1 of 2 concepts keep too much of the way to their anchors (bar: 50 %): cat 100 %" in found.shortfalls
    assert found.document()["by_concept"] == {"castle": 0.0, "cat": 1.0}


def test_several_concepts_are_asked_about_in_so_many_prompts_that_each_has_some(conditioner):
    asked = []

    class Many(Sentences):
        concepts = tuple(f"concept {i}" for i in range(100))

        def pairs(self, count):
            asked.append(count)
            return TWO

    Exam(conditioner, Many(), [])
    assert asked == [100 * selfcheck.EACH]


def test_of_many_prompts_few_batches_are_kept_at_once_to_the_same_result(conditioner, monkeypatch):
    """Each without the changes and then with them, however they are cut."""
    deltas, sentences = swapped(conditioner), Sentences(TWO, ("a tower", "a dog"), ("", "a cat", "a castle in a park"))
    monkeypatch.setattr(selfcheck, "BATCH", 2)
    expected, kept, most = Exam(conditioner, sentences, []).grade(deltas), [], []

    class Watched(selfcheck.Question):
        def marks(self, inputs):
            most.append(len(kept))
            kept.remove(self)
            return super().marks(inputs)

    def watched(ask):
        question = ask()
        if question is not None:
            kept.append(Watched(question.network_inputs, question.original, question.goal, question.concepts))
            return kept[-1]

    monkeypatch.setattr(selfcheck, "AT_ONCE", 3)
    exam = Exam(conditioner, sentences, [])
    exam.asks = [[partial(watched, ask) for ask in batches] for batches in exam.asks]
    assert exam.grade(deltas) == expected and max(most) == 3 and not kept


def test_of_many_concepts_that_stay_the_worst_are_named():
    left = {f"concept {i}": i / 10 for i in range(10)} | {"broken": math.nan}
    (shortfall,) = SelfCheck(0.2, 0.3, 0.5, None, 0.01, by_concept=left).shortfalls
    assert shortfall.startswith("5 of 11 concepts keep too much of the way to their anchors (bar: 50 %)")
    assert ": broken nan %, concept 9 90 %, concept 8 80 %" in shortfall


def test_a_prompt_that_was_nearly_there_is_not_the_worst_for_what_little_it_moved(conditioner):
    """Its own way is next to nothing, so that any distance is a multiple of it."""
    exam = Exam(conditioner, Sentences(), [])
    first = exam.asks[0][0]()
    near = first.original[1].lerp(first.goal, 1e-3)
    exam.asks[0][0] = lambda: replace(first, goal=torch.cat([near[:1], first.goal[1:]]))
    found = exam.grade(swapped(conditioner))
    assert 1 < found.residual_worst < 100  # though it is a million times its own way


def test_a_method_without_anchors_is_asked_for_no_way(conditioner):
    found = Exam(conditioner, Sentences(), [], anchored=False).grade(swapped(conditioner))
    assert found.residual is found.residual_worst is None and found.moved > 0
    assert found.shortfalls == [] and "prompts for the concept moved by" in str(found)


def test_where_nothing_is_near_nothing_is_said_of_it(conditioner):
    found = Exam(conditioner, Sentences(near=()), []).grade({})
    assert found.neighbours is None and "near" not in str(found)


@pytest.mark.parametrize("component", ["text_encoder", "text_encoder_2"])
def test_of_what_guidance_leads_away_from_only_what_the_network_is_given_is_measured(component):
    """Of one encoder no template, of the other one state for all of it."""
    pipeline = build("Kandinsky5T2VPipeline")
    reader = Conditioner.of(pipeline, component)

    @torch.no_grad()
    def given():
        return encode_prompt(pipeline, [reader.negative_prompt])[component == "text_encoder_2"]

    change = torch.randn(reader.token_table.weight.shape, generator=torch.Generator().manual_seed(0)) / 50
    before, exam = given(), Exam(reader, Sentences(), [])
    found = exam.grade({table(reader): change})
    with changed(reader.text_encoder, {table(reader): change}):
        assert found.away == pytest.approx(float((given() - before).norm() / before.norm()), rel=1e-4)
    assert found.away > 0.01


BARS = {
    "residual": selfcheck.MOST_RESIDUAL,
    "residual_worst": selfcheck.MOST_RESIDUAL_OF_WORST,
    "neighbours": selfcheck.MOST_NEIGHBOURS_MOVED,
    "everyday": selfcheck.MOST_EVERYDAY_MOVED,
    "away": selfcheck.MOST_EVERYDAY_MOVED,
}
AT_THE_BARS = SelfCheck(moved=0.0, **BARS)


def test_what_just_reaches_the_bars_does_not_fall_short():
    assert AT_THE_BARS.shortfalls == []
    assert SelfCheck(None, None, 0.0, None, BARS["everyday"]).shortfalls == []


@pytest.mark.parametrize("name", BARS)
@pytest.mark.parametrize("value", ["above", math.nan, math.inf])
def test_each_figure_that_misses_its_bar_and_what_is_no_number_falls_short(name, value):
    value = BARS[name] + 1e-6 if value == "above" else value
    weak = replace(AT_THE_BARS, **{name: value})
    (shortfall,) = weak.shortfalls
    assert f"(bar: {100 * BARS[name]:.0f} %)" in shortfall
    assert weak.document()["shortfalls"] == [shortfall]


@pytest.mark.parametrize("turned", [False, True])
def test_of_several_encoders_the_worst_of_each_figure_counts(turned):
    checks = [SelfCheck(0.2, 0.9, 0.5, None, 0.01, 0.03), SelfCheck(0.3, 0.4, 0.1, 0.2, 0.02)]
    checks = checks[::-1] if turned else checks
    assert SelfCheck.worst_of(checks) == SelfCheck(0.3, 0.9, 0.1, 0.2, 0.02, 0.03)
    several = [replace(check, by_concept={"castle": left}) for check, left in zip(checks, (0.3, 0.1), strict=True)]
    assert SelfCheck.worst_of(several).by_concept == {"castle": 0.3}
    broken = SelfCheck.worst_of([*checks, SelfCheck(math.nan, math.nan, math.nan, math.nan, math.nan, math.nan)])
    assert len(broken.shortfalls) == 5
    plain = SelfCheck(None, None, 0.5, None, 0.01)
    assert SelfCheck.worst_of([plain, plain]) == plain


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_changes_come_off_bit_for_bit_also_when_interrupted(conditioner, dtype):
    encoder = conditioner.text_encoder.to(dtype)
    before = weights(encoder)
    change = {table(conditioner): torch.full(conditioner.token_table.weight.shape, 1e-3)}
    with pytest.raises(KeyboardInterrupt), changed(encoder, change):
        assert not same(before, weights(encoder))
        raise KeyboardInterrupt
    assert same(before, weights(encoder))


@pytest.mark.parametrize("config", [QUICK, FewShotConfig(learning_rate=1e-2)])
def test_every_erasure_is_checked_and_again_the_same(pair, tmp_path, config):
    erasure = unlearn("cat", pair, config)
    found = erasure.provenance[CHECK]
    assert found == check(erasure, pair).document()
    assert found["moved"] > 0 and found["everyday"] > 0 and found["summary"]
    assert (found["residual"] is None) == isinstance(config, FewShotConfig)  # which aims at no anchor
    folder = erasure.save_pretrained(tmp_path / "made")
    assert Erasure.from_pretrained(folder).provenance[CHECK] == found
    assert found["summary"] in (folder / "README.md").read_text()
    other = unlearn("dog", pair, config)
    assert CHECK not in (erasure + other).provenance  # what was said of each does not hold for both


def test_a_check_on_another_encoder_is_refused(pair):
    erasure = unlearn("cat", pair, QUICK)
    with pytest.raises(UnreelError, match="another text encoder"):
        check(erasure, make_pair(seed=3))


def test_only_what_was_checked_and_falls_short_in_nothing_is_strong(pair):
    erasure = unlearn(Concept("cat"), pair, QUICK)

    def saying(*shortfalls):
        said = {**erasure.provenance[CHECK], "shortfalls": list(shortfalls)}
        return replace(erasure, provenance={**erasure.provenance, CHECK: said})

    require_strong(saying())
    with pytest.raises(UnreelError, match=r"of cat falls short on held-out prompts: this; that$"):  # with no options
        require_strong(saying("this", "that"))
    unchecked = {name: value for name, value in erasure.provenance.items() if name != CHECK}
    with pytest.raises(UnreelError, match=r"has no self-check$"):
        require_strong(replace(erasure, provenance=unchecked))
