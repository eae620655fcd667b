import copy
import logging

import diffusers
import pytest
import torch
import transformers

from unreel import UnreelError
from unreel.conditioner import Conditioner, whole_words

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
