"""What must be kept is computed once for an encoder, exactly, and whatever becomes of the file."""

import copy

import pytest
import safetensors.torch
import torch
from conftest import make_pair
from safetensors import SafetensorError

from unreel import ClosedFormConfig, Concept, UnreelError, unlearn
from unreel.conditioner import Conditioner
from unreel.corpus import Corpus
from unreel.methods.closed_form import moments
from unreel.retain import cache_folder, retained
from unreel.vocabulary import EVERYDAY

CONFIG = ClosedFormConfig(layers=2, forget=20, retain=90)
CORPUS = Corpus(EVERYDAY, ("lovely", "zebra"))
CASTLE = Concept("castle", synonyms=("tent",))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "unreel"


@pytest.fixture(scope="module")
def tiny():
    return make_pair()


@pytest.fixture
def conditioner(tiny):
    return Conditioner(tiny.t2i.tokenizer, copy.deepcopy(tiny.t2i.text_encoder))


@pytest.fixture
def read(conditioner):
    """How many sentences the text encoder has read so far."""
    counts = []
    conditioner.text_encoder.register_forward_hook(lambda _, inputs, __: counts.append(len(inputs[0])))
    return lambda: sum(counts)


def equal(a, b):
    return a.tokens == b.tokens and all(torch.equal(a.sums[name], b.sums[name]) for name in a.sums | b.sums)


def assert_close(a, b):
    assert a.tokens == b.tokens and a.sums.keys() == b.sums.keys()
    for name, total in a.sums.items():
        torch.testing.assert_close(total, b.sums[name], rtol=1e-4, atol=1e-4 * total.abs().max().item())


def test_moments_are_the_sums_over_all_tokens_whatever_the_batches(conditioner):
    sentences = CORPUS.retain(90)[:70]  # more than one batch
    found = moments(conditioner, sentences, CONFIG)
    mlps = [layer.mlp for layer in conditioner.layers[-2:]]
    for (name, total), mlp in zip(found.sums.items(), mlps, strict=True):
        assert dict(conditioner.text_encoder.named_parameters())[name] is mlp.fc2.weight
        entering = []
        hook = mlp.fc2.register_forward_pre_hook(lambda _, inputs, to=entering: to.append(inputs[0]))
        for sentence in sentences:
            conditioner.encode([sentence])
        hook.remove()
        k = torch.cat(entering).flatten(0, 1).double()
        torch.testing.assert_close(total.double(), k.T @ k, rtol=1e-4, atol=1e-3)
    assert found.tokens == 32 * len(sentences)


def test_the_second_time_nothing_is_read_but_what_names_the_concepts(conditioner, cache, read):
    first = retained(conditioner, CORPUS, [], CONFIG)
    assert read() == len(CORPUS.retain(90)) and len(list(cache.iterdir())) == 1
    assert cache_folder() == cache
    assert equal(retained(conditioner, CORPUS, [], CONFIG), first)
    assert read() == len(CORPUS.retain(90))
    retained(conditioner, CORPUS, [CASTLE], CONFIG)
    naming = sum(CASTLE.is_named_in(sentence) for sentence in CORPUS.retain(90))
    assert read() == len(CORPUS.retain(90)) + naming and naming >= 4


def test_sentences_that_name_a_concept_are_taken_out_exactly(conditioner):
    concepts = [CASTLE, Concept("running", "motion")]
    others = [text for text in CORPUS.retain(90) if not any(concept.is_named_in(text) for concept in concepts)]
    expected = moments(conditioner, others, CONFIG)
    for _ in range(2):  # computed, and read from the cache
        assert_close(retained(conditioner, CORPUS, concepts, CONFIG), expected)


def test_what_is_to_be_kept_besides_adds_to_it(conditioner):
    concepts = [Concept("unicorn")]  # which the corpus does not speak of
    total = retained(conditioner, CORPUS, concepts, CONFIG)
    more = retained(conditioner, CORPUS, concepts, CONFIG, keep=["garden gnome", "harp"])
    about = CORPUS.about(["garden gnome", "harp"], CONFIG.forget)
    assert_close(more, total + moments(conditioner, about, CONFIG))


def test_no_sentence_about_what_is_to_be_kept_names_what_is_to_be_forgotten(conditioner):
    small = Corpus({"concept": ["castle", "owl"], "style": ["ink"], "motion": ["running"]})
    about = small.about(["garden gnome"], CONFIG.forget)
    kept = [text for text in about if not CASTLE.is_named_in(text)]
    assert 0 < len(kept) < len(about)
    without = retained(conditioner, small, [CASTLE], CONFIG)
    assert_close(
        retained(conditioner, small, [CASTLE], CONFIG, keep=["garden gnome"]), without + moments(conditioner, kept, CONFIG)
    )


def test_another_encoder_another_corpus_other_layers_and_a_worn_erasure_have_files_of_their_own(pair, cache):
    erasure = unlearn("cat", pair, CONFIG)
    (cache / next(cache.iterdir())).unlink()
    conditioner, other = Conditioner.of(pair.t2i), Conditioner.of(make_pair(seed=1).t2i)

    def files(conditioner, corpus=CORPUS, config=CONFIG):
        retained(conditioner, corpus, [], config)
        return len(list(cache.iterdir()))

    assert [files(conditioner), files(other), files(conditioner, Corpus(EVERYDAY, seed=1))] == [1, 2, 3]
    assert files(conditioner, config=ClosedFormConfig(layers=1, retain=90)) == 4
    bare = retained(conditioner, CORPUS, [], CONFIG)
    erasure.apply(pair.t2i)
    assert files(conditioner) == 5
    assert equal(retained(conditioner, CORPUS, [], CONFIG), moments(conditioner, CORPUS.retain(90), CONFIG))
    erasure.remove(pair.t2i)
    assert files(conditioner) == 5 and equal(retained(conditioner, CORPUS, [], CONFIG), bare)
    shorter = Conditioner(copy.deepcopy(conditioner.tokenizer), conditioner.text_encoder)
    shorter.tokenizer.model_max_length -= 4
    assert files(shorter) == 6


@pytest.mark.parametrize("broken", [b"", b"\0" * 7, b"no such thing", 100, 0.5, -1])
def test_a_broken_file_is_made_again(conditioner, cache, broken):
    first = retained(conditioner, CORPUS, [CASTLE], CONFIG)
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    cut = int(len(whole) * broken) if isinstance(broken, float) else broken
    file.write_bytes(broken if isinstance(broken, bytes) else whole[:cut])
    assert equal(retained(conditioner, CORPUS, [CASTLE], CONFIG), first)
    assert [file.read_bytes() for file in cache.iterdir()] == [whole]


def test_a_file_that_says_nothing_about_tokens_is_made_again(conditioner, cache):
    first = retained(conditioner, CORPUS, [], CONFIG)
    (file,) = cache.iterdir()
    safetensors.torch.save_file({"x": torch.zeros(1)}, file)
    assert equal(retained(conditioner, CORPUS, [], CONFIG), first)


@pytest.mark.parametrize("error", [SafetensorError("IoError"), OSError(28, "No space left on device")])
def test_a_full_disk_costs_time_and_leaves_nothing(conditioner, cache, monkeypatch, error):
    def save_file(tensors, file, metadata):
        file.write_bytes(b"half")
        raise error

    monkeypatch.setattr(safetensors.torch, "save_file", save_file)
    assert equal(retained(conditioner, CORPUS, [], CONFIG), moments(conditioner, CORPUS.retain(90), CONFIG))
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(
    "where",
    ["/proc/nowhere", "file"],
)
def test_a_cache_that_cannot_be_written_to_does_not_fail(conditioner, tmp_path, monkeypatch, where):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / where))  # an absolute path stays as it is
    assert equal(retained(conditioner, CORPUS, [], CONFIG), moments(conditioner, CORPUS.retain(90), CONFIG))


def test_what_is_to_be_kept_and_forgotten_is_refused_before_anything_is_computed(tiny, cache):
    with pytest.raises(UnreelError, match="'black cat' is both to be forgotten and to be kept"):
        unlearn("Cat", tiny, CONFIG, keep=["owl", "black cat"])
    assert not cache.exists()
