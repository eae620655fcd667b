"""Where changes begin: that the equations are solved, in which encoders, and that the weights are left as they were."""

from itertools import pairwise

import pytest
import torch
import transformers
from conftest import make_pair, same, weights

from unreel import UnreelError
from unreel.methods import _least_squares as module
from unreel.methods._least_squares import least_squares
from unreel.models.conditioner import Conditioner
from unreel.models.deltas import changed
from unreel.models.reading import as_anchors, as_read
from unreel.prompts.pairs import PromptPair

TEMPLATES = ("a photo of a {}", "{}", "a {} next to a dog", "a small {}", "the {}", "a {} and a tree", "a big {}", "one {}")
PAIRS = [PromptPair(text.format("castle"), text.format("house"), "castle") for text in TEMPLATES]
OTHERS = ["", "a cat", "a photo of a dog", "a robot", "a tree next to a car", "an owl"]
SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 6, "num_attention_heads": 4}


@pytest.fixture
def conditioner():
    pipeline = make_pair().t2i
    return Conditioner(pipeline.tokenizer, pipeline.text_encoder)


def solved(conditioner, layers=2, weight=10.0, rank=6, pairs=PAIRS, kept=OTHERS):
    return least_squares(conditioner, conditioner.layers[:layers], pairs, {1.0: kept, 0.5: ["a tower"]}, weight, rank, 0)


@torch.no_grad()
def left(conditioner, deltas):
    aim = as_anchors(conditioner, PAIRS)
    way = aim.distances(conditioner.encode_tokens(aim.tokens)).sum()
    with changed(conditioner.text_encoder, deltas):
        return float(aim.distances(conditioner.encode_tokens(aim.tokens)).sum() / way)


@torch.no_grad()
def moved(conditioner, deltas):
    aim = as_read(conditioner, OTHERS)
    with changed(conditioner.text_encoder, deltas):
        return float(aim.distances(conditioner.encode_tokens(aim.tokens)).sum())


def test_the_weights_are_as_found_and_no_hook_is_left(conditioner):
    before = weights(conditioner.text_encoder)
    assert solved(conditioner)
    assert same(before, weights(conditioner.text_encoder))
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in conditioner.text_encoder.modules())


def test_what_writes_of_the_layers_changes_by_that_rank_and_nothing_else(conditioner):
    deltas = solved(conditioner, layers=2, rank=3)
    assert [name.split("layers.")[-1] for name in deltas] == [
        f"{layer}.{matrix}.weight" for layer in (0, 1) for matrix in ("self_attn.out_proj", "mlp.fc2")
    ]
    assert all(change.up.shape[1] == len(change.down) == 3 for change in deltas.values())


def test_prompts_are_read_more_like_their_anchors_with_every_layer(conditioner):
    shares = [1.0, *(left(conditioner, solved(conditioner, layers, weight=0.1)) for layers in (1, 2, 9))]
    assert all(more > less for more, less in pairwise(shares)) and shares[-1] < 0.3


def test_the_more_it_weighs_the_less_moves_what_is_kept(conditioner):
    distances = [moved(conditioner, solved(conditioner, weight=weight)) for weight in (0.1, 10.0, 1000.0)]
    assert all(more > less for more, less in pairwise(distances))


def solution(given, missing, kept, rank, random):
    """Of rows that came in two batches."""
    covariances = module._Covariances()
    for some in (slice(0, 3), slice(3, None)):
        covariances.add(given[some], missing[some])
    return module._solution(*covariances.means(), kept, rank, random)


def test_it_is_the_minimum_of_the_formula():
    """No change of the matrix, small or large, costs less than the one found, where its rank is not cut."""
    random = torch.Generator().manual_seed(0)
    given, missing = torch.randn(50, 12, generator=random), torch.randn(50, 5, generator=random)
    rows = torch.randn(80, 12, generator=random)
    kept = 3.0 * rows.T @ rows / len(rows)
    found = solution(given, missing, kept.clone(), 5, random).dense().float()

    def cost(change):
        own = (given @ change.T - missing).square().sum(1).mean() + torch.trace(change @ kept @ change.T)
        return own + module.RIDGE * (given.T @ given / len(given)).diagonal().mean() * change.square().sum()

    for size in (1e-3, 1e-1, 1.0):
        for _ in range(20):
            assert cost(found) < cost(found + size * torch.randn(5, 12, generator=random))


def test_what_is_cut_of_the_rank_is_what_does_least_to_what_is_given():
    random = torch.Generator().manual_seed(0)
    given, missing = torch.randn(400, 20, generator=random), torch.randn(400, 12, generator=random)
    given = given * torch.linspace(0.1, 3, 20)
    kept = torch.eye(20)
    whole, cut = (solution(given, missing, kept.clone(), rank, random).dense().float() for rank in (12, 3))
    metric = given.T @ given / len(given) + kept
    metric.diagonal().add_(module.RIDGE * (given.T @ given / len(given)).diagonal().mean())
    root = torch.linalg.cholesky(metric)
    best = torch.linalg.svdvals(whole @ root)[3:].square().sum()
    assert float(((whole - cut) @ root).square().sum()) == pytest.approx(float(best), rel=0.02)


@pytest.mark.parametrize("shape", [(12, 3), (3, 12), (1, 1)])
def test_it_is_found_though_there_are_fewer_directions_than_ranks(shape):
    width, out = shape
    change = solution(torch.ones(4, width), torch.ones(4, out), torch.eye(width), 5, torch.Generator())
    assert change.up.isfinite().all() and change.down.isfinite().all()


def test_it_is_found_where_one_direction_drowns_all_others():
    """So it is at T5 XXL's size, where thousands of padding tokens are read alike: sums in float32 are off by more than the
    ridge adds.
    """
    random = torch.Generator().manual_seed(0)
    given = 1 + 1e-4 * torch.randn(512, 256, generator=random)
    own = given.T @ given / len(given)
    noise = torch.randn(own.shape, generator=random)
    kept = 250 * (own + 2e-6 * (noise + noise.T))
    assert float(torch.linalg.eigvalsh((own + kept).double())[0]) < -module.RIDGE * float(own.diagonal().mean())
    change = solution(given, torch.ones(512, 4), kept, 3, random)
    assert float((given @ change.dense().float().T - 1 / 251).norm()) < 0.05 * (512 * 4) ** 0.5 / 251


def test_what_is_no_number_is_refused():
    with pytest.raises(UnreelError, match="float32"):
        solution(torch.full((4, 3), torch.nan), torch.ones(4, 2), torch.eye(3), 2, torch.Generator())


def reader(kind):
    """An encoder of the sort with random weights, whose padding counts."""
    tokenizer = make_pair().t2i.tokenizer
    shape = {**SHAPE, "vocab_size": len(tokenizer)}
    encoders = {
        "llama": lambda: transformers.LlamaModel(transformers.LlamaConfig(**shape)),
        "bert": lambda: transformers.BertModel(transformers.BertConfig(**shape), add_pooling_layer=False),
        "gemma2": lambda: transformers.Gemma2Model(
            transformers.Gemma2Config(**shape, num_key_value_heads=2, head_dim=8, query_pre_attn_scalar=8)
        ),
        "t5": lambda: transformers.T5EncoderModel(
            transformers.T5Config(d_model=32, d_ff=64, d_kv=8, num_layers=6, num_heads=4, vocab_size=len(tokenizer))
        ),
    }
    torch.manual_seed(0)
    return Conditioner(tokenizer, encoders[kind]().eval())


@pytest.mark.parametrize("kind", ["llama", "t5", "bert", "gemma2"])
def test_only_layers_that_add_what_their_matrices_write_are_solved_for(kind):
    """BERT and Gemma 2 put norms behind: what is to be added there is not what is missing."""
    deltas = solved(reader(kind), layers=3)
    assert len(deltas) == (6 if kind in ("llama", "t5") else 0)


@pytest.mark.parametrize("kind", ["llama", "t5"])
@pytest.mark.parametrize("bound", [1, 70, module.TOKENS])
def test_no_more_tokens_are_read_at_once_than_the_bound_says_and_what_is_found_is_the_same(kind, bound, monkeypatch):
    """Of a large encoder behind a long template, all prompts at once would take most of a card's memory."""
    conditioner, sizes = reader(kind), []
    whole = solved(conditioner, layers=3)
    hook = conditioner.token_table.register_forward_hook(lambda _, args, __: sizes.append(args[0].shape))
    monkeypatch.setattr(module, "TOKENS", bound)
    parts = solved(conditioner, layers=3)
    hook.remove()
    assert all(prompts * tokens <= bound or prompts == 1 for prompts, tokens in sizes)
    assert (len(PAIRS) in {prompts for prompts, _ in sizes}) == (bound > 70)
    assert list(parts) == list(whole)
    for name, change in whole.items():  # least squares make more of how sums are rounded
        assert (parts[name].dense() - change.dense()).norm() < 5e-3 * change.dense().norm()
    assert left(conditioner, parts) == pytest.approx(left(conditioner, whole), rel=5e-3)


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_in_several_batches_no_layer_is_read_again_for_those_above_it(kind, monkeypatch):
    conditioner, calls = reader(kind), []
    monkeypatch.setattr(module, "TOKENS", 70)
    conditioner.mlp_output(conditioner.layers[0]).register_forward_hook(lambda *_: calls.append(len(calls)))
    counts = []
    for layers in (2, 2, 6):  # the first looks at how the encoder reads, too
        calls.clear()
        solved(conditioner, layers=layers)
        counts.append(len(calls))
    assert counts[1] == counts[2] > 0
