"""The adversarial closed form finds sentences that revive the concept, and what it finds revives it less afterwards."""

import copy
import random

import pytest
import torch
from conftest import make_pair, same, weights

from unreel import AdversarialConfig, ClosedFormConfig, Concept, UnreelError, evaluate, load_pair, unlearn
from unreel.conditioner import Conditioner, whole_words
from unreel.corpus import Corpus
from unreel.erasure import LowRank
from unreel.methods import adversarial as module
from unreel.methods.adversarial import adversarial, remaining
from unreel.methods.closed_form import closed_form
from unreel.report import write_report
from unreel.retain import retained

CONFIG = AdversarialConfig(layers=2, forget=30, retain=60, rounds=2, generations=2, tries=24, hardest=8)
OCTOPUS = Concept("octopus")


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def embedded_pair():
    return load_pair()


@pytest.fixture(scope="module")
def solved(embedded_pair):
    """The conditioner, the twins, what is retained and the words, for an octopus that becomes a whale."""
    conditioner = Conditioner.of(embedded_pair.t2i)
    words = list(whole_words(conditioner.tokenizer))
    corpus = Corpus(embedded_pair.vocabulary, words)
    twins = [twin for twin in corpus.forget(OCTOPUS, {"octopus": "whale"}, 120) if all(map(conditioner.has_room_for, twin))]
    kept = retained(conditioner, corpus, [OCTOPUS], AdversarialConfig())
    others = [word for word in words if not OCTOPUS.is_named_in(word)]
    return conditioner, twins, kept, others


def prefixed(conditioner, words, count, seed):
    """Sentences with words drawn at random in front, and their twins."""
    rng = random.Random(seed)
    drawn = [(" ".join(rng.choices(words, k=3)), rng.choice(OCTOPUS.forget_prompts)) for _ in range(count)]
    pairs = [(f"{front} {text}", f"{front} {text.replace('octopus', 'whale')}") for front, text in drawn]
    return [pair for pair in pairs if all(map(conditioner.has_room_for, pair))]


def run(solved, config, usable=None):
    conditioner, twins, kept, words = solved
    return adversarial(conditioner, twins, kept, config, words=words, usable=usable or everything_that_fits(conditioner))


def everything_that_fits(conditioner):
    return lambda twin: all(map(conditioner.has_room_for, twin))


def test_the_hardest_prefixes_revive_less_than_they_do_after_the_plain_closed_form(solved):
    conditioner, twins, kept, words = solved
    plain = closed_form(conditioner, twins, kept, AdversarialConfig())[0]
    hardened, record = run(solved, AdversarialConfig(generations=3, tries=128))
    unseen = prefixed(conditioner, words, 2000, seed=99)
    before, after = (remaining(conditioner, unseen, changes) for changes in (plain, hardened))
    assert after.topk(20).values.mean() < 0.9 * before.topk(20).values.mean()
    assert len(record["revived"]) == 3 and record["revived"][-1] < record["revived"][0]


def test_a_change_of_nothing_leaves_all_of_the_way_and_no_trace(solved):
    conditioner, twins, *_ = solved
    before = weights(conditioner.text_encoder)
    name = next(name for name, weight in conditioner.text_encoder.named_parameters() if name.endswith("fc2.weight"))
    rows, columns = conditioner.text_encoder.get_parameter(name).shape
    nothing = LowRank(torch.zeros(rows, 1), torch.zeros(1, columns))
    some = LowRank(torch.ones(rows, 1), torch.ones(1, columns))
    way = remaining(conditioner, twins[:8], {})
    assert torch.equal(remaining(conditioner, twins[:8], {name: nothing}), way) and bool((way > 0).all())
    assert not torch.equal(remaining(conditioner, twins[:8], {name: some}), way)
    assert same(weights(conditioner.text_encoder), before)


def test_words_that_go_with_the_concept_are_not_searched_with(embedded_pair):
    """Their twins keep them, so they would come to mean the concept again, as "martian" did for "alien"."""
    seen = set()
    alien = Concept("alien", anchor="cactus")
    conditioner = Conditioner.of(embedded_pair.t2i)
    words = list(whole_words(conditioner.tokenizer))
    corpus = Corpus(embedded_pair.vocabulary)  # whose noise is of letters, not of words
    twins = [twin for twin in corpus.forget(alien, {"alien": "cactus"}, 120) if all(map(conditioner.has_room_for, twin))]
    kept = retained(conditioner, corpus, [alien], AdversarialConfig())

    def usable(twin):
        seen.update(set(twin[0].split()) - {word for pair in twins for word in pair[0].split()})
        return all(map(conditioner.has_room_for, twin))

    plain = closed_form(conditioner, twins, kept, AdversarialConfig())[0]
    hardened = adversarial(conditioner, twins, kept, AdversarialConfig(), words=words, usable=usable)[0]
    assert len(seen) > 50 and not seen & {"alien", "martian", "extraterrestrial"}
    synonyms = [("a photo of a martian", "a photo of a cactus"), ("an extraterrestrial", "a cactus")]
    way, before, after = (remaining(conditioner, synonyms, changes).mean() for changes in ({}, plain, hardened))
    assert before < 0.3 * way and after < 0.3 * way


def test_only_usable_pairs_are_forgotten_and_the_same_seed_finds_the_same(solved):
    seen = []

    def usable(twin):
        fits = everything_that_fits(solved[0])(twin) and "castle" not in twin[0]
        seen.append((twin, fits))
        return fits

    config = AdversarialConfig(rounds=1, generations=1, tries=32, hardest=8)
    first, record = run(solved, config, usable)
    again, _ = run(solved, config, usable)
    assert record["sentences"] == len(solved[1]) + 8
    assert all(torch.equal(first[name].up, again[name].up) for name in first)
    allowed = {twin for twin, fits in seen if fits}
    assert allowed and len(allowed) < len({twin for twin, _ in seen})
    # With nothing usable there is nothing to add, and the closed form remains.
    bare, record = run(solved, config, lambda twin: False)
    plain, _ = closed_form(solved[0], solved[1], solved[2], config)
    assert record["revived"] == [0] and record["sentences"] == len(solved[1])
    assert all(torch.equal(bare[name].up, plain[name].up) for name in plain)


def test_of_a_large_vocabulary_some_words_are_searched_with(solved, monkeypatch):
    monkeypatch.setattr(module, "MOST_WORDS", 5)
    named = {word for twin in solved[1] for word in twin[0].split()}
    seen = set()

    def usable(twin):
        seen.update(set(twin[0].split()) - named)
        return everything_that_fits(solved[0])(twin)

    config = AdversarialConfig(rounds=1, generations=2, tries=32, hardest=8)
    run((*solved[:3], [f"zz{letter}" for letter in "abcdefghijklmnop"]), config, usable)
    assert 0 < len(seen) <= 5


def test_unlearn_leaves_the_weights_and_says_how(tmp_path):
    tiny = copy.copy(make_pair())
    before = weights(tiny.t2i.text_encoder)
    erasure = unlearn(Concept("castle", anchor="house"), tiny, CONFIG)
    part = erasure.provenance["parts"][0]
    assert part["method"] == "adversarial" and part["anchor"] == "house"
    assert part["settings"]["rounds"] == 2 and len(part["revived"]) == 2
    assert same(weights(tiny.t2i.text_encoder), before)
    assert "adversarial" in (erasure.save_pretrained(tmp_path / "run") / "README.md").read_text()
    page = write_report(tmp_path / "run", evaluate(tiny.video, erasure, None, videos=1, groups=["explicit"]))
    first, second = (f"{100 * share:.0f}" for share in part["revived"])
    assert f"kept\n{first}, {second} % of it" in page.read_text()
    assert unlearn("castle", tiny, ClosedFormConfig(layers=2, forget=30, retain=60)).provenance["parts"][0]["method"] == (
        "closed-form"
    )


@pytest.mark.parametrize("name", ["rounds", "generations", "tries", "hardest", "surround"])
def test_settings_that_make_no_sense_are_refused(name):
    with pytest.raises(UnreelError, match=f"{name} must be greater than zero, not 0"):
        AdversarialConfig(**{name: 0})


def test_more_hardest_than_tries_are_refused():
    with pytest.raises(UnreelError, match="of 8 tries there are no 9 hardest: raise tries"):
        AdversarialConfig(tries=8, hardest=9)
