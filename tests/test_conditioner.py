import copy
import logging

import diffusers
import pytest
import torch
import transformers
from pipelines import PIPELINES
from readers import bert, bytes_tokenizer, llama, t5, words_tokenizer

from unreel import Concept, UnreelError, unlearn
from unreel.methods.text_ablation import TextAblationConfig
from unreel.models.adapter import mapped
from unreel.models.conditioner import Conditioner
from unreel.models.pair import Pair
from unreel.models.pipelines import TextModel
from unreel.models.tokenizer import require_known, whole_words
from unreel.models.tokens import Tokens

PROMPTS = ["a cat next to Tokyo Tower", "", "word " * 50]


def test_embeddings_are_the_pipelines_own(pair):
    ours = Conditioner.of(pair.t2i).encode(PROMPTS)
    for pipeline in (pair.t2i, pair.t2v):
        theirs, _ = pipeline.encode_prompt(PROMPTS, "cpu", 1, do_classifier_free_guidance=False)
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        ("mlp", lambda n: ".mlp." in n),
        ("mlp-final-attn", lambda n: ".mlp." in n or "layers.2.self_attn." in n),
        ("attn", lambda n: ".self_attn." in n),
        ("mlp-attn", lambda n: ".mlp." in n or ".self_attn." in n),
        ("all", lambda n: True),
    ],
)
def test_gradients_reach_exactly_the_chosen_parameters(pair, which, expected):
    conditioner = Conditioner.of(pair.t2i)
    conditioner.text_encoder.requires_grad_(False)
    chosen = conditioner.trainable(which)
    for parameter in chosen.values():
        parameter.requires_grad_()
    conditioner.encode(["a cat"]).square().sum().backward()
    reached = {name for name, p in conditioner.text_encoder.named_parameters() if p.grad is not None}
    assert reached == {name for name, _ in conditioner.text_encoder.named_parameters() if expected(name)}
    assert reached == set(chosen)


def test_no_other_text_encoder_is_asked_for_what_this_one_reads():
    """HunyuanVideo has its large one read every prompt before CLIP gets to see it."""
    pipeline = PIPELINES["HunyuanVideoPipeline"]()
    pipeline.set_progress_bar_config(disable=True)
    conditioner, calls = Conditioner.of(pipeline, "text_encoder_2"), []
    pipeline.text_encoder.layers[0].register_forward_hook(lambda *_: calls.append(1))
    alone = [Conditioner.of(pipeline, "text_encoder_2").tokenize([text]).ids for text in ("a cat", "a dog")]
    before = len(calls)
    assert [conditioner.tokenize([text]).ids.tolist() for text in ("a cat", "a dog")] == [ids.tolist() for ids in alone]
    conditioner.tokenize(["a cat", "a dog", "a much longer prompt"])
    assert before == 2 and len(calls) == 3  # once for each conditioner, to see what it writes
    assert "forward" not in vars(pipeline.text_encoder)


def test_a_copy_of_a_tokenizer_has_the_same_words(pair):
    words = whole_words(pair.t2i.tokenizer)
    assert len(words) > 400 and whole_words(copy.deepcopy(pair.t2i.tokenizer)) == words


def test_a_prompt_that_would_be_cut_off_is_refused(pair):
    conditioner = Conditioner.of(pair.t2i)
    conditioner.require_room_for(["a photo of Tokyo Tower"])
    with pytest.raises(UnreelError, match="cut off"):
        conditioner.require_room_for(["xylophone " * 20])


def test_an_unknown_trainable_set_is_refused(pair):
    with pytest.raises(UnreelError, match="choose one of mlp-final-attn"):
        Conditioner.of(pair.t2i).trainable("everything")


def test_prompts_that_are_too_long_are_cut_off_without_a_word(pair):
    """Retained sentences may be; a user's own are refused by `require_room_for`."""
    conditioner, long = Conditioner.of(pair.t2i), "a photo of " + "a very " * 40 + "big cat"
    libraries, heard = (diffusers.logging, transformers.logging), []
    handler = logging.Handler()
    handler.emit = heard.append
    before = [library.get_verbosity() for library in libraries]
    for library in libraries:
        library.set_verbosity_warning()
        library.add_handler(handler)
    try:
        pair.t2i.encode_prompt([long], "cpu", 1, do_classifier_free_guidance=False)
        assert heard  # what the pipeline says on its own
        heard.clear()
        assert not conditioner.has_room_for(long)
        assert conditioner.encode([long, "a cat"]).shape[0] == 2
        assert not heard
        assert [library.get_verbosity() for library in libraries] == [logging.WARNING] * 2
    finally:
        for library, verbosity in zip(libraries, before, strict=True):
            library.set_verbosity(verbosity)
            library.remove_handler(handler)


NAMES = ["a photo of a cat", "Tokyo Tower", "", "a cat next to a dog and a castle by night"]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("make", "tokenizer"), [(llama, bytes_tokenizer), (bert, words_tokenizer)])
def test_a_prompt_reads_the_same_alone_and_beside_longer_ones(make, tokenizer, side):
    conditioner = make(tokenizer(padding_side=side))
    assert conditioner.masked
    tokens, states = conditioner.tokenize(NAMES), conditioner.encode(NAMES)
    assert tokens.ids.shape == states.shape[:2] and tokens.mask.all(1).any()  # no wider than the longest
    for name, seen, together in zip(NAMES, tokens.mask, states, strict=True):
        (single,) = conditioner.encode([name])
        assert seen.tolist() == [True] * len(single) + [False] * (len(seen) - len(single))
        torch.testing.assert_close(together[seen], single, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_tokenizer_without_padding_and_its_encoder_stay_as_they_are(side):
    tokenizer = bytes_tokenizer(padding_side=side)
    conditioner = llama(tokenizer)
    before, table = tokenizer.get_vocab(), conditioner.token_table.weight.shape
    assert conditioner.tokenize(NAMES).ids.max() < len(tokenizer)
    assert (tokenizer.pad_token, tokenizer.padding_side) == (None, side)
    assert tokenizer.get_vocab() == before and conditioner.token_table.weight.shape == table
    assert tokenizer(["a cat"]).input_ids == [tokenizer.convert_tokens_to_ids(["a", "\u0120", "c", "a", "t"])]


def test_an_empty_prompt_is_something_even_where_the_tokenizer_makes_nothing_of_it():
    conditioner = llama(bytes_tokenizer())
    tokens = conditioner.tokenize([""])
    assert tokens.ids.tolist() == [[conditioner.tokenizer.eos_token_id]] and tokens.mask.all()
    assert conditioner.encode([""]).isfinite().all()


@pytest.mark.parametrize(("length", "places", "room"), [(None, 64, 64), (24, 64, 24), (96, 64, 64), (24, None, 24)])
def test_the_room_is_the_smaller_of_what_tokenizer_and_model_take(length, places, room):
    tokenizer = bytes_tokenizer(**({"model_max_length": length} if length else {}))
    conditioner = llama(tokenizer, max_position_embeddings=places) if places else t5(tokenizer)
    assert conditioner.has_room_for("x" * room) and not conditioner.has_room_for("x" * (room + 1))
    assert conditioner.encode(["x" * 200]).shape[1] == room
    with pytest.raises(UnreelError, match=f"reads {room}, so the concept would be cut off"):
        conditioner.require_room_for(["x" * (room + 1)])


def test_without_any_limit_there_is_room_for_everything():
    conditioner = t5(bytes_tokenizer())
    assert conditioner.has_room_for("x" * 5000) and conditioner.tokenize(["x" * 5000, "y"]).ids.shape == (2, 5000)


@pytest.mark.parametrize(("length", "width"), [({}, 11), ({"model_max_length": 24}, 24)])
def test_padding_that_counts_fills_the_length_that_a_tokenizer_has(length, width):
    conditioner = Conditioner(bytes_tokenizer(**length), llama(bytes_tokenizer()).text_encoder)
    tokens = conditioner.tokenize(["Tokyo Tower", "cat"])
    assert tokens.ids.shape == (2, width) and tokens.mask.all()


def test_no_chat_template_is_put_around_a_prompt():
    plain, chat = (
        bytes_tokenizer(),
        bytes_tokenizer(chat_template="{% for m in messages %}User: {{ m.content }}{% endfor %}"),
    )
    assert chat.apply_chat_template([{"role": "user", "content": "a cat"}], tokenize=False) == "User: a cat"
    assert torch.equal(llama(chat).tokenize(NAMES).ids, llama(plain).tokenize(NAMES).ids)


def test_columns_that_no_prompt_fills_are_cut_at_the_end_only():
    """Pipelines may pad on the left, and places are counted from there."""
    ids = torch.arange(12).reshape(2, 6)
    mask = torch.tensor([[0, 0, 1, 1, 1, 0], [0, 1, 1, 1, 0, 0]])
    trimmed = Tokens(ids, {"attention_mask": mask}).trimmed()
    assert torch.equal(trimmed.ids, ids[:, :5]) and torch.equal(trimmed.call["attention_mask"], mask[:, :5])
    left = torch.tensor([[0, 0, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1]])
    kept = Tokens(ids, {"attention_mask": left}).trimmed()
    assert torch.equal(kept.ids, ids) and torch.equal(kept.mask, left.bool())


def test_bert_has_layers_a_matrix_to_edit_in_each_and_takes_token_embeddings():
    conditioner = bert(words_tokenizer())
    layers = list(conditioner.text_encoder.encoder.layer)
    assert conditioner.layers == layers
    assert [conditioner.mlp_output(layer) for layer in layers] == [layer.output.dense for layer in layers]
    tokens = conditioner.tokenize(NAMES)
    rows = conditioner.token_table.weight[tokens.ids].detach().requires_grad_()
    hook = conditioner.token_table.register_forward_hook(lambda *_: rows)
    states = conditioner.encode_tokens(tokens)
    hook.remove()
    assert torch.equal(states, conditioner.encode_tokens(tokens))
    states[tokens.mask].square().sum().backward()
    assert rows.grad[tokens.mask].abs().sum(1).all() and not rows.grad[~tokens.mask].any()


@pytest.mark.parametrize("unknown", ["[UNK]", "[SEP]", "[PAD]"])
def test_a_name_that_becomes_the_unknown_token_is_refused_and_the_word_is_named(unknown):
    tokenizer = words_tokenizer(unknown)
    require_known(tokenizer, ["tokyo tower", "a cat", ""])
    with pytest.raises(UnreelError, match="vocabulary cannot spell '東京': write it in letters that the encoder") as raised:
        require_known(tokenizer, ["tokyo tower", "東京 tower"])
    assert "\n" not in str(raised.value)


def test_what_is_spelled_in_bytes_is_never_unknown():
    require_known(bytes_tokenizer(), ["東京タワー", "Dalí", "\U0001f5fc", "c++"])
    require_known(bytes_tokenizer(unk_token="<|endoftext|>"), ["東京タワー", "Dalí"])


def test_an_encoder_that_cannot_read_a_name_a_synonym_or_what_to_make_instead_does_not_learn():
    conditioner = bert(words_tokenizer())
    model = TextModel(conditioner.tokenizer, conditioner.text_encoder)
    pair = Pair(model, model, "words", "words")
    for concept in (Concept("東京"), Concept("tower", synonyms=("塔",)), Concept("tower", anchor="城")):
        with pytest.raises(UnreelError, match="cannot spell"):
            unlearn(concept, pair, TextAblationConfig(steps=20, forget=20, retain=30, solve_retain=30))


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_language_model_forgets_whatever_its_tokenizer_lacks(side):
    conditioner = llama(bytes_tokenizer(padding_side=side), max_position_embeddings=512)
    model = TextModel(conditioner.tokenizer, conditioner.text_encoder)
    erasure = unlearn(
        Concept("castle", anchor="dog"),
        Pair(model, model, "llama", "llama"),
        TextAblationConfig(steps=20, forget=20, retain=30, solve_retain=30),
    )
    assert 0 < erasure.provenance["check"]["residual"] < 0.95


def test_while_brisk_large_matrices_multiply_in_bfloat16_and_are_then_as_they_were(pair, monkeypatch):
    monkeypatch.setattr("unreel.models.precision.LARGE", 100)
    conditioner = Conditioner.of(copy.deepcopy(pair.t2i))
    encoder = conditioner.text_encoder
    before = {name: weight.clone() for name, weight in encoder.state_dict().items()}
    exact = conditioner.encode(PROMPTS)
    for able in (True, False):
        monkeypatch.setattr("unreel.models.precision.multiplies_bfloat16", lambda able=able: able)
        with pytest.raises(RuntimeError), conditioner.brisk():
            half = {name for name, weight in encoder.state_dict().items() if weight.dtype == torch.bfloat16}
            whole = {name for name in before if ".layers." in name and "norm" not in name}
            assert half == (whole if able else set())
            brisk = conditioner.encode(PROMPTS)
            assert brisk.dtype == torch.float32 and torch.equal(brisk, exact) != able
            assert (brisk - exact).norm() < 0.03 * exact.norm()
            raise RuntimeError
        assert all(torch.equal(weight, before[name]) for name, weight in encoder.state_dict().items())
        assert torch.equal(conditioner.encode(PROMPTS), exact)


@pytest.mark.parametrize("family", ["Wan", "LTX", "HunyuanVideo", "HunyuanVideo15", "SanaVideo", "Kandinsky5T2V"])
def test_tokens_that_the_network_is_given_nothing_of_are_not_seen(family):
    """Templates around prompts are cropped, and padding is masked, in each pipeline its own way."""
    conditioner, prompts = Conditioner.of(PIPELINES[f"{family}Pipeline"]()), ["a photo of a cat on a table", "a dog"]
    tokens = conditioner.tokenize(prompts)
    seen = conditioner.seen(prompts, tokens)
    with torch.no_grad():
        written = conditioner.write(tokens)

    def given(changed):
        return conditioner.network_inputs(
            prompts, written, lambda states: torch.where(changed[..., None], states + 1, states)
        )

    before = given(torch.zeros_like(seen))
    assert seen.any(1).all() and not (seen & ~tokens.mask).any()
    assert torch.equal(given(tokens.mask & ~seen), before)
    for column in seen.any(0).nonzero().flatten():
        only = torch.zeros_like(seen)
        only[:, column] = seen[:, column]
        assert torch.equal((given(only) != before).any(1), seen[:, column])


@pytest.mark.parametrize("family", ["Kandinsky5T2V", "HunyuanImage"])
def test_no_guess_is_made_at_what_comes_after_a_prompt(family):
    """One for every token would be a number for each word of a vocabulary: gigabytes, of large models."""
    conditioner, guessed = Conditioner.of(PIPELINES[f"{family}Pipeline"]()), []
    head = conditioner.called.get_output_embeddings()
    tokens = conditioner.tokenize(PROMPTS)
    with torch.no_grad():
        wanted = conditioner.called(tokens.ids, **tokens.call).hidden_states
        with head.register_forward_hook(lambda *call: guessed.append(call[-1].shape)):
            written = conditioner.write(tokens)
    assert all(shape[1] == 1 < tokens.ids.shape[1] for shape in guessed) and guessed
    assert "logits" not in written and all(map(torch.equal, written.hidden_states, wanted))


POOLED = [
    ("HunyuanVideoPipeline", "text_encoder_2"),
    ("Kandinsky5T2VPipeline", "text_encoder_2"),
    ("FluxPipeline", "text_encoder"),
]


@pytest.mark.parametrize(("family", "component"), POOLED)
def test_where_one_state_stands_for_a_prompt_all_that_it_is_made_of_is_seen_and_that_is_tried_once(
    family, component, monkeypatch
):
    """The network is given no token of a prompt of any length: there is nothing to find out of each."""
    conditioner, tried, own = Conditioner.of(PIPELINES[family](), component), [], Conditioner._tried
    monkeypatch.setattr(Conditioner, "_tried", lambda *args: tried.append(args) or own(*args))
    for text in ("a", "a dog", "a photo of a cat next to a dog on a table"):
        tokens = conditioner.tokenize([text, *PROMPTS])
        assert torch.equal(conditioner.seen([text, *PROMPTS], tokens), tokens.mask)
    assert len(tried) == 1


def test_where_what_is_given_mixes_tokens_all_that_is_attended_to_is_seen(monkeypatch):
    conditioner, tokens_only = Conditioner.of(PIPELINES["HunyuanVideoPipeline"]()), Conditioner._network_inputs_of
    tokens = conditioner.tokenize(PROMPTS)
    assert not torch.equal(conditioner.seen(PROMPTS, tokens), tokens.mask)
    mixing = Conditioner.of(PIPELINES["HunyuanVideoPipeline"]())
    monkeypatch.setattr(Conditioner, "_network_inputs_of", lambda *args: tokens_only(*args) + args[2].mean((1, 2))[:, None])
    assert torch.equal(mixing.seen(PROMPTS, tokens), tokens.mask)


def test_nothing_that_was_written_is_kept_to_find_out_what_is_seen():
    """Of a large encoder, the hidden states of one prompt are megabytes, and a template makes it a long one."""
    conditioner = Conditioner.of(PIPELINES["HunyuanVideoPipeline"]())
    tokens = conditioner.tokenize(["a photo of a cat"])
    assert not conditioner.seen(["a photo of a cat"], tokens).all()
    kept, own = [], [value for name, value in vars(conditioner).items() if name.startswith("_")]
    mapped([list(value.values()) if type(value) is dict else value for value in own], kept.append)
    assert len(kept) > 2 and all(part.is_meta or part.dtype == torch.bool for part in kept)


@pytest.mark.parametrize("written", [False, True])
def test_what_is_given_without_a_pipeline_takes_words_to_pieces_once(written, monkeypatch):
    conditioner, asked, own = bert(words_tokenizer()), [], Conditioner.tokenize
    states = conditioner.write(conditioner.tokenize(NAMES)) if written else None
    monkeypatch.setattr(Conditioner, "tokenize", lambda *args: asked.append(args) or own(*args))
    assert conditioner.network_inputs(NAMES, states).any() and len(asked) == 1


@pytest.mark.parametrize("name", ["Kandinsky5T2VPipeline", "Kandinsky5T2IPipeline"])
def test_there_is_room_for_a_prompt_behind_a_template_where_padding_goes_to_the_longest(name):
    conditioner = Conditioner.of(PIPELINES[name]())
    words = 1
    while conditioner.has_room_for(" ".join(["a"] * (words + 1))):
        words += 1
    longest, longer = (" ".join(["a"] * count) for count in (words, words + 30))
    assert conditioner.tokenize([longest]).ids.shape[1] - conditioner.tokenize(["a"]).ids.shape[1] == words - 1
    assert conditioner.tokenize([longer]).ids.shape[1] < conditioner.tokenize(["a"]).ids.shape[1] + words + 29


def test_to_find_the_layers_of_one_encoder_no_other_reads_again():
    pipeline, calls = PIPELINES["HunyuanVideoPipeline"](), []
    conditioner = Conditioner.of(pipeline, "text_encoder_2")
    pipeline.text_encoder.layers[0].register_forward_hook(lambda *_: calls.append(1))
    assert conditioner.layers and len(calls) == 1  # once, to see what it writes
