"""Concept ablation in text space: what it changes and what it leaves, and that it works on encoders of every sort."""

import copy
import dataclasses
from contextlib import ExitStack

import pytest
import torch
import transformers
from conftest import make_pair, same, weights

from unreel import Concept, Pair, TextAblationConfig, UnreelError, unlearn
from unreel.interventions.record import CHECK
from unreel.methods import text_ablation as module
from unreel.methods._low_rank import Factors
from unreel.methods.refusal_vector import RefusalVectorConfig
from unreel.methods.t2v_unlearning import T2VUnlearningConfig
from unreel.methods.text_ablation import text_ablation
from unreel.models import anchors
from unreel.models.anchors import words_to_keep
from unreel.models.conditioner import Conditioner
from unreel.models.deltas import LowRank
from unreel.models.pipelines import TextModel
from unreel.models.reading import SPARE, Aim
from unreel.prompts.pairs import PromptPair

QUICK = TextAblationConfig(layers=2, rank=3, steps=4, forget=20, retain=20, solve_retain=30, forget_batch=5)
TEMPLATES = ("a photo of a {}", "{}", "a {} next to a dog", "a small {}", "the {}", "a {} and a tree", "a big {}", "one {}")
PAIRS = [PromptPair(text.format("castle"), text.format("house"), "castle") for text in TEMPLATES]
OTHERS = ["", "a cat", "a photo of a dog", "a robot", "a tree next to a car", "an owl"]
NEAR = ["a tower", "a church next to a tree", "a photo of a bridge"]


@pytest.fixture
def conditioner():
    pipeline = make_pair().t2i
    return Conditioner(pipeline.tokenizer, pipeline.text_encoder)


def learn(conditioner, config=QUICK, pairs=PAIRS, others=OTHERS, near=NEAR):
    return text_ablation(conditioner, pairs, others, near, config)


def untouched(encoder, before):
    """Weights as they were, no gradient and no hook left; which weights take gradients is for `unlearn` to put back."""
    assert same(before, weights(encoder))
    assert all(parameter.grad is None for parameter in encoder.parameters())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in encoder.modules())


def test_the_weights_are_as_found_afterwards(conditioner):
    before = weights(conditioner.text_encoder)
    deltas, record = learn(conditioner)
    assert any(change.dense().any() for change in deltas.values()) and len(record["losses"]) == QUICK.steps
    untouched(conditioner.text_encoder, before)


def test_the_weights_are_as_found_when_it_is_interrupted(conditioner, monkeypatch):
    before, done = weights(conditioner.text_encoder), []

    def interrupted(*arguments):
        done.append(backward(*arguments))
        if len(done) == 3:
            raise KeyboardInterrupt
        return done[-1]

    backward = module._backward
    monkeypatch.setattr(module, "_backward", interrupted)
    with pytest.raises(KeyboardInterrupt):
        learn(conditioner)
    untouched(conditioner.text_encoder, before)


def test_a_loss_that_is_no_number_is_refused_and_the_weights_are_as_found(conditioner):
    before = weights(conditioner.text_encoder)
    with pytest.raises(UnreelError, match=r"the loss became nan at step \d: nothing was kept; lower the learning rate"):
        learn(conditioner, TextAblationConfig(learning_rate=1e30))
    untouched(conditioner.text_encoder, before)


def test_a_change_that_is_no_number_is_refused_though_no_loss_says_so(conditioner, monkeypatch):
    """The last step is followed by no loss."""
    monkeypatch.setattr(module, "_rate", lambda step, steps: float("inf"))
    with pytest.raises(UnreelError, match="stopped being a number: nothing was kept"):
        learn(conditioner, TextAblationConfig(steps=1))


@pytest.mark.parametrize(("layers", "rank"), [(1, 2), (2, 5), (9, 1)])
def test_every_matrix_of_the_first_layers_changes_by_that_rank_and_nothing_else(conditioner, layers, rank):
    deltas, _ = learn(conditioner, TextAblationConfig(layers=layers, rank=rank, steps=3))
    first = conditioner.layers[:layers]
    expected = {
        f"encoder.layers.{i}.{name}.weight": part
        for i, layer in enumerate(first)
        for name, part in layer.named_modules()
        if isinstance(part, torch.nn.Linear)
    }
    assert deltas.keys() == expected.keys() and len(expected) == 6 * min(layers, 3)
    for name, change in deltas.items():
        assert isinstance(change, LowRank) and change.up.shape[1] == change.down.shape[0] == rank
        assert change.dense().shape == expected[name].weight.shape
        # The last of those that are read changes nothing but what is read.
        assert torch.linalg.matrix_rank(change.dense()) == rank, name


@pytest.mark.parametrize(("concepts", "rank"), [(1, 3), (4, 6), (20, 13), (1_000, None)])
def test_several_concepts_have_a_higher_rank_as_far_as_matrices_have_one(conditioner, concepts, rank):
    deltas, _ = text_ablation(conditioner, PAIRS, OTHERS, NEAR, dataclasses.replace(QUICK, steps=1), concepts=concepts)
    for change in deltas.values():
        assert change.up.shape[1] == change.down.shape[0] == (rank or min(len(change.up), change.down.shape[1]))


def test_by_default_three_fifths_of_the_layers_change_and_at_least_four(monkeypatch):
    monkeypatch.setattr(module, "STEPS", 10)
    encoders = {}
    for count in (3, 15):
        torch.manual_seed(0)
        tokenizer = make_pair().t2i.tokenizer
        config = transformers.CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=8, intermediate_size=16, num_hidden_layers=count, num_attention_heads=2
        )
        encoders[count] = Conditioner(tokenizer, transformers.CLIPTextModel(config).eval())
    for count, expected in ((3, 3), (15, 9)):
        deltas, _ = learn(encoders[count], TextAblationConfig(steps=1))
        assert {int(name.split("layers.")[1].split(".")[0]) for name in deltas} == set(range(expected))
    # The fewer layers there are, the more steps are taken, unless one says how many.
    for count, expected in ((3, 2 * module.STEPS), (15, module.STEPS)):
        _, record = learn(encoders[count], TextAblationConfig(forget=20, retain=20, solve_retain=30))
        assert len(record["losses"]) == expected


def test_the_loss_is_the_share_of_the_way_that_is_left(conditioner):
    """Before anything has changed it is all of it, up to what batches differ by; then it falls."""
    _, record = learn(
        conditioner, TextAblationConfig(steps=60, forget_batch=len(PAIRS), retain_weight=0.0, solve_weight=0.0)
    )
    assert record["losses"][0] == pytest.approx(1.0, rel=1e-4) and record["losses"][-1] < 0.05


def test_the_first_gradient_is_that_of_the_formula(conditioner):
    """With factors of which one is zero; by finite differences through the encoder itself, on the whole of the loss."""
    encoder = conditioner.text_encoder.double()
    config = TextAblationConfig(
        layers=1, rank=2, steps=1, forget_batch=99, retain_weight=7.0, near_weight=3.5, solve_weight=0.0, seed=3
    )
    seen = {}

    def step(self, *_):
        seen["ups"] = [group.clone() for group in self.param_groups[0]["params"]]
        seen["gradients"] = [group.grad.clone() for group in self.param_groups[0]["params"]]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", step)
        learn(conditioner, config)
    matrices = conditioner.first_matrices(1)
    name, matrix = list(matrices.items())[-1]
    gradient = seen["gradients"][-2]  # of the last matrix's `up`, as it is moved by one direction
    down = seen["ups"][-1]
    assert gradient.shape == (matrix.out_features, 2) and not seen["ups"][-2].any()
    direction = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(0))
    plain = copy.deepcopy(encoder)

    def width(texts):
        """Of what is learned from: some of the padding."""
        return conditioner.tokenize(texts).shortened(SPARE).ids.shape[1]

    @torch.no_grad()
    def loss(size):
        edited = Conditioner(conditioner.tokenizer, copy.deepcopy(plain))
        edited.text_encoder.get_parameter(name).add_(size * (direction @ down.detach()).double())
        before = Conditioner(conditioner.tokenizer, plain)
        left = way = 0.0
        for pair in PAIRS:  # castle and house are one token each, so that places are the same
            place = conditioner.tokenizer(pair.prompt).input_ids
            place = place.index(conditioner.tokenizer("castle", add_special_tokens=False).input_ids[0])
            end = width([one.prompt for one in PAIRS])
            now, own, goal = edited.encode([pair.prompt]), before.encode([pair.prompt]), before.encode([pair.anchor])
            left += (now - goal)[0, place:end].square().sum()
            way += (own - goal)[0, place:end].square().sum()
        total = left / way
        for weight, texts in ((7.0, OTHERS), (3.5, NEAR)):
            now, own = (reader.encode(texts)[:, : width(texts)] for reader in (edited, before))
            total += weight * (now - own).square().sum() / own.square().sum()
        return float(total)

    slope = (loss(1e-4) - loss(-1e-4)) / 2e-4
    assert float((gradient * direction).sum()) == pytest.approx(slope, rel=2e-2)


def test_the_same_seed_gives_the_same_erasure_and_another_a_different_one(pair):
    first, again, other = (
        unlearn("cat", pair, TextAblationConfig(steps=3, forget=20, retain=20, solve_retain=30, seed=seed))
        for seed in (1, 1, 2)
    )
    assert first.identity == again.identity != other.identity
    assert first.provenance[CHECK] == again.provenance[CHECK]


def test_it_is_what_unlearn_does_unless_told_otherwise_and_says_what_it_did(pair, monkeypatch):
    monkeypatch.setattr(module, "STEPS", 10)
    before = weights(pair.t2i.text_encoder)
    erasure = unlearn("castle", pair)
    untouched(pair.t2i.text_encoder, before)
    (part,) = erasure.provenance["parts"]
    assert (part["concept"], part["kind"], part["method"]) == ("castle", "object", "text-ablation")
    assert part["settings"] == {**vars(TextAblationConfig())}
    assert len(part["losses"]) == 2 * module.STEPS and part["losses"][-1] < part["losses"][0]
    assert part["anchor"] and part["seconds"] > 0 and not erasure.provenance[CHECK]["residual"] > 1


def test_for_several_concepts_there_are_more_steps_but_fewer_than_each_would_take(pair):
    config = TextAblationConfig(steps=4, forget=20, retain=20, solve_retain=30)
    erasure = unlearn([Concept("castle"), Concept("cat"), Concept("robot")], pair, config)
    losses, *others = (part.get("losses") for part in erasure.provenance["parts"])
    assert not any(others)  # those of all together are told once
    assert erasure.concepts == ["castle", "cat", "robot"] and 4 < len(losses) < 12


def test_the_way_of_each_concept_counts_as_much_as_any_other(conditioner):
    """Were they added up, the longest would be most of what is learned. Of one that is where it is to be, and one that is
    not, the share of their tokens is left, however far either has to go.
    """
    turned = [dataclasses.replace(pair, prompt=pair.anchor, anchor=pair.prompt, wording="house") for pair in PAIRS]
    pairs = [dataclasses.replace(pair, concept=pair.wording) for pair in (*PAIRS, *turned)]
    (lesson,) = module._lessons(conditioner, pairs, [], [], dataclasses.replace(QUICK, forget_batch=len(pairs)))
    about = torch.tensor([name == "castle" for name in lesson.concepts])
    with torch.no_grad():
        written = conditioner.token_states(lesson.tokens)
    far = torch.where(about[:, None, None], written + 30 * (lesson.states - written), lesson.states)
    there = torch.where(about[:, None, None], written, lesson.states)
    initial = module._initial_distances(conditioner, [dataclasses.replace(lesson, states=far)])
    left = module._backward(conditioner, dataclasses.replace(lesson, states=there), initial, (0.0, 0.0))
    tokens = lesson.forget.sum(1)
    assert initial["castle"] > 100 * initial["house"]
    assert left == pytest.approx(float(tokens[~about].sum() / tokens.sum()))


def test_of_several_concepts_each_has_something_to_be_learned_from(pair, monkeypatch):
    """A prompt that a text encoder has room for may still be too long to learn from."""
    monkeypatch.setattr(anchors, "LONGEST", 12)
    for config in (QUICK, T2VUnlearningConfig(steps=1), RefusalVectorConfig(pairs=2, neutral=1)):
        with pytest.raises(UnreelError, match=r"^no prompt that names 'cat cat .* fits .*: name it in fewer words"):
            unlearn([Concept("castle"), Concept("cat " * 12)], pair, config)


def test_it_is_refused_where_there_is_nothing_to_learn_from_or_nothing_to_learn(conditioner):
    with pytest.raises(UnreelError, match="name it in fewer words"):
        learn(conditioner, pairs=[])
    with pytest.raises(UnreelError, match="say the same to this text encoder: choose another anchor"):
        learn(conditioner, pairs=[PromptPair("a castle", "a castle", "castle")])


@pytest.mark.parametrize("others", [OTHERS[:1], []])
def test_with_fewer_prompts_to_keep_than_lessons_it_learns_too(conditioner, others):
    """As with many concepts, of whose prompts there are more than of those to keep."""
    config = dataclasses.replace(QUICK, forget_batch=1)
    deltas, record = text_ablation(conditioner, PAIRS, others, [], config)
    assert deltas and len(record["losses"]) == QUICK.steps


def test_without_anything_near_it_learns_too(conditioner):
    deltas, record = learn(conditioner, near=[])
    assert deltas and len(record["losses"]) == QUICK.steps


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *[(name, 0) for name in ("rank", "learning_rate", "forget_batch", "forget", "retain")],
        *[("learning_rate", float("nan")), ("retain_weight", -1.0), ("retain_weight", float("inf"))],
        *[("layers", -1), ("steps", -1), ("seed", -1)],
    ],
)
def test_settings_that_make_no_sense_are_refused(setting, value):
    with pytest.raises(UnreelError, match=setting.replace("_", " ")):
        TextAblationConfig(**{setting: value})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_learns_in_full_and_stays_as_it_was(dtype):
    pair = make_pair()
    pair.t2i.to(dtype)
    before = weights(pair.t2i.text_encoder)
    erasure = unlearn("castle", pair, TextAblationConfig(steps=20, forget=40, retain=40, solve_retain=30))
    untouched(pair.t2i.text_encoder, before)
    assert all(change.up.dtype == change.down.dtype == torch.float32 for change in erasure.components[0].deltas.values())
    losses = erasure.provenance["parts"][0]["losses"]
    assert losses[-1] < losses[0]


def test_factors_do_what_their_product_does_and_nothing_when_gone():
    matrix = torch.nn.Linear(64, 32, bias=False).requires_grad_(False)
    inputs = torch.randn(1000, 64, generator=torch.Generator().manual_seed(0))
    plain = matrix(inputs)
    with ExitStack() as stack, torch.no_grad():
        factors = Factors({"it.weight": matrix}, 2, 0, torch.device("cpu"), stack)
        assert torch.equal(matrix(inputs), plain)  # `up` is zero at first
        factors.factors["it.weight"][0].fill_(1.0)
        change = factors.deltas()["it.weight"]
        assert change.up.shape == (32, 2) and change.down.shape == (2, 64)
        torch.testing.assert_close(matrix(inputs), plain + inputs @ change.dense().float().T)
    assert torch.equal(matrix(inputs), plain)  # its hook is gone


def test_factors_add_nothing_to_what_they_are_blind_to():
    draw = torch.Generator().manual_seed(0)
    matrix = torch.nn.Linear(64, 32, bias=False).requires_grad_(False)
    few = torch.randn(3, 64, generator=draw) * torch.tensor([[1000.0], [1.0], [0.01]])  # as first tokens drown others
    other = torch.randn(5, 64, generator=draw)
    with ExitStack() as stack, torch.no_grad():
        factors = Factors({"it.weight": matrix}, 2, 0, torch.device("cpu"), stack)
        factors.be_blind_to({"it.weight": few})
        for factor in factors.parameters():
            factor += torch.randn(factor.shape, generator=draw)
        factors.blinded()
        change = factors.deltas()["it.weight"].dense().float()
    written = few @ matrix.weight.T
    assert ((few @ change.T).norm(dim=1) <= 1e-5 * written.norm(dim=1)).all()
    assert ((other @ change.T).norm(dim=1) > 0.1).all()


def test_a_token_that_moves_far_does_not_count_for_all_others():
    states, counted = torch.ones(1, 4, 16), torch.tensor([[True, True, True, False]])
    aim = Aim(None, states, counted)
    small, large = states.clone(), states.clone()
    small[0, 0] += 0.01
    small[0, 3] += 9  # counts for nothing
    assert float(module._moved(aim, small)) == pytest.approx(1e-4 / 3, rel=1e-2)
    large[0, 0] += 2.0
    assert float(module._moved(aim, large)) == pytest.approx(module.FAR * 8**0.5 / 3, rel=0.05)  # not 4 / 3


SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 6, "num_attention_heads": 4}


def llama(words):
    """Its first token drowns all others inside, as in every language model of some size (arXiv 2309.17453)."""
    config = transformers.LlamaConfig(vocab_size=len(words), max_position_embeddings=64, num_key_value_heads=2, **SHAPE)
    encoder = transformers.LlamaModel(config).eval()
    with torch.no_grad():
        encoder.embed_tokens.weight[words.bos_token_id] *= 3000
    return encoder


def bert(words):
    """Norms stand behind what is added up. Its weights are larger than at birth, where words hardly notice each other."""
    config = transformers.BertConfig(vocab_size=len(words), max_position_embeddings=64, initializer_range=0.1, **SHAPE)
    return transformers.BertModel(config, add_pooling_layer=False).eval()


def t5(words):
    config = transformers.T5Config(vocab_size=len(words), d_model=32, d_kv=8, d_ff=64, num_layers=6, num_heads=4)
    return transformers.T5EncoderModel(config).eval()


@pytest.mark.parametrize("make", [llama, bert, t5])
def test_it_works_on_encoders_of_every_sort(make):
    torch.manual_seed(0)
    tokenizer = make_pair().t2i.tokenizer
    model = TextModel(tokenizer, make(tokenizer))
    conditioner = Conditioner.of(model)
    assert conditioner.causal == (make is llama)
    if make is llama:
        with torch.no_grad():  # of a copy, because transformers leaves its own hooks
            states = copy.deepcopy(model.text_encoder)(
                **tokenizer("a castle", return_tensors="pt"), output_hidden_states=True
            )
        sizes = states.hidden_states[3][0].norm(dim=-1)
        assert sizes[0] > 50 * sizes[1:].max()
    before = weights(model.text_encoder)
    config = TextAblationConfig(forget=100, retain=100, solve_retain=30, steps=60)
    erasure = unlearn(Concept("castle", anchor="a house"), Pair(model, model, "alone", "alone"), config)
    untouched(model.text_encoder, before)
    found = erasure.provenance[CHECK]
    # Networks with random weights cannot tell a name from all else as trained ones do.
    assert found["residual"] < 0.75 and found["everyday"] < 0.1 and found["moved"] > found["everyday"]
    assert all(change.dense().isfinite().all() for change in erasure.components[0].deltas.values())


def test_a_word_of_the_name_that_the_encoder_takes_for_the_concept_is_not_kept(embedded):
    """The embedded world has one tower."""
    conditioner = Conditioner.of(embedded.t2i)
    assert words_to_keep(Concept("Tokyo Tower", anchor="sailboat"), conditioner) == ["Tokyo"]
    assert words_to_keep(Concept("castle", anchor="house"), conditioner) == []


def test_in_float16_it_learns_from_gradients_that_float16_has_no_numbers_for(conditioner, monkeypatch):
    """As those of thousands of tokens of a wide encoder are. Adam takes them by their signs."""
    own = module._initial_distances

    def longer(*asked):
        return {name: 2.0**24 * distance for name, distance in own(*asked).items()}

    monkeypatch.setattr(module, "_initial_distances", longer)
    conditioner.text_encoder.half()
    settings = dataclasses.replace(QUICK, steps=40, solve_weight=0.0, retain_weight=0.0, near_weight=0.0)
    losses = learn(conditioner, settings)[1]["losses"]
    assert sum(losses[-4:]) < 0.7 * sum(losses[:4])
