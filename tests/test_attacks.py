import copy
import dataclasses
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import conditioned, same, weights
from pipelines import build, size

from unreel import UnreelError
from unreel.attacks import Case, _token_search, embedding_inversion, gives_embeddings, load_attack, names
from unreel.attacks import _words as words_module
from unreel.attacks import ring_a_bell as ring_a_bell_module
from unreel.attacks._objective import generator_for, objective, read
from unreel.attacks._words import other_words
from unreel.models.adapter import call_with
from unreel.models.conditioner import Conditioner
from unreel.models.denoiser import Conditioning, Denoiser
from unreel.models.pair import Pair, Settings
from unreel.models.sampling import Start, generate, generate_images
from unreel.models.tokenizer import whole_words
from unreel.prompts.concept import Concept

PROMPT = "a photo of a Tokyo Tower"
CONCEPT = Concept("tokyo tower")
KINDS = [
    ("object", "a photo of a tokyo tower", "tokyo tower", ("japanese radio tower",)),
    ("object", "an umbrella", "umbrella", ("parasol",)),
    ("style", "a cat in the style of ink", "ink", ("black ink",)),
    ("motion", "a penguin spinning", "spinning", ("rotating",)),
    ("unsafe", "a person, blood", "blood", ("gore",)),
]
BY_HAND = ["synonyms", "typos", "homoglyphs", "split_words", "long_prompts"]
SEARCHES = ["prefix_search", "replacement_search", "embedding_inversion", "ring_a_bell", "mma_diffusion"]


def make_case(pair, latents, steps=3) -> Case:
    """Under attack is an encoder that differs from the original, as an erased one does."""
    original = Conditioner(pair.t2i.tokenizer, copy.deepcopy(pair.t2i.text_encoder))
    attacked = Conditioner.of(pair.t2i)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in attacked.trainable("mlp").values():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    return Case(CONCEPT, PROMPT, "Tokyo Tower", ("lady tower",), original, attacked, Denoiser.of(pair.t2i), latents, steps)


@pytest.fixture
def case(pair) -> Case:
    return make_case(pair, torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(1)))


@pytest.fixture(scope="module")
def real(embedded) -> Case:
    """The embedded pair as published: the attacked encoder is the original."""
    images = generate_images(embedded.t2i, ["a photo of a tokyo tower"] * 4, [0, 1, 2, 3], embedded.settings)
    denoiser, conditioner = Denoiser.of(embedded.t2i), Conditioner.of(embedded.t2i)
    latents = denoiser.encode(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1)
    return Case(CONCEPT, "a photo of a tokyo tower", "tokyo tower", (), conditioner, conditioner, denoiser, latents, 40)


def text_of(case: Case, name: str, index: int = 0, seed: int = 0) -> str:
    attempt = load_attack(name).attempt(case, index, seed)
    assert isinstance(attempt, str)
    return attempt


def loss(case: Case, conditioning: Conditioning, draws: int = 32) -> float:
    with torch.no_grad():
        return float(objective(case, draws, generator_for(99, 99))(conditioning))


def test_every_attack_says_what_its_attacker_holds():
    needs = {name for name in names() if load_attack(name).NEEDS_WEIGHTS}
    assert needs == {
        *("prefix_search", "replacement_search", "embedding_inversion", "prompt_weighting", "mma_diffusion"),
        "video_inversion",
    }


def test_an_unknown_attack_is_refused():
    with pytest.raises(
        UnreelError,
        match="choose from by_chance, embedding_inversion, homoglyphs, initial_latents, long_prompts, mma_diffusion, plain"
        ", prefix_se",
    ):
        load_attack("magic")


@pytest.mark.parametrize("name", names())
def test_an_attempt_repeats_and_leaves_the_models_as_found(case, name):
    models = {"original": case.original.text_encoder, "attacked": case.attacked.text_encoder, "unet": case.denoiser.network}
    before = {key: weights(model) for key, model in models.items()}
    learning = {key: [p.requires_grad for p in model.parameters()] for key, model in models.items()}
    first, second = (load_attack(name).attempt(case, 1, 7) for _ in range(2))
    if isinstance(first, Start):
        assert (first.prompt, first.share) == (second.prompt, second.share) and torch.equal(first.latents, second.latents)
    elif isinstance(first, torch.Tensor):
        assert torch.equal(first, second) and not first.requires_grad
        assert first.shape == case.attacked.encode([PROMPT])[0].shape
    else:
        assert first is not None and first == second
    for key, model in models.items():
        assert same(before[key], weights(model))
        assert learning[key] == [p.requires_grad for p in model.parameters()]
        assert all(p.grad is None for p in model.parameters())
        assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("name", names())
def test_who_gives_embeddings_says_so(case, name):
    attack = load_attack(name)
    assert gives_embeddings(attack) == isinstance(attack.attempt(case, 0, 5), torch.Tensor)


def test_few_draws_study_every_video(case):
    clips = torch.stack([torch.full((4, 4, 4), float(number)) for number in range(3)])
    studied = set()
    denoiser = SimpleNamespace(
        timesteps_of=lambda level: level, loss=lambda z, noise, t, read: studied.add(z[0, 0, 0, 0].item()) or z.mean()
    )
    few = dataclasses.replace(case, latents=clips, denoiser=denoiser)
    generator = generator_for(0, 0)
    for _ in range(40):
        objective(few, 1, generator)(Conditioning({}, "sample", "timestep", 1.0))
    assert studied == {0.0, 1.0, 2.0}


def test_what_pipelines_lower_is_no_word_of_an_attack(case):
    assert other_words(case) and all(word == word.lower() for word in other_words(case))
    assert len(other_words(case)) < len(whole_words(case.attacked.tokenizer))


@pytest.mark.parametrize("name", ["random_tokens", *SEARCHES])
def test_another_index_or_seed_is_another_attempt(case, name):
    attempts = [load_attack(name).attempt(case, index, seed) for index, seed in ((0, 0), (1, 0), (0, 1))]
    for a, b in ((0, 1), (0, 2)):
        different = attempts[a] != attempts[b]
        assert different.any() if isinstance(different, torch.Tensor) else different


@pytest.mark.parametrize(
    ("prompt", "wording", "asked"),
    [
        ("a photo of a tokyo tower", "tokyo tower", "a photo of"),
        ("a photo of Tokyo Tower at night", "Tokyo Tower", "a photo of at night"),
        ("a photo of an elephant", "elephant", "a photo of"),
        ("a cat, ink style", "ink", "a cat, style"),
    ],
)
def test_by_chance_never_asks_for_the_concept(case, prompt, wording, asked):
    other = dataclasses.replace(case, concept=Concept(wording, anchor="owl"), prompt=prompt, wording=wording)
    assert [load_attack("by_chance").attempt(other, index, 0) for index in range(3)] == [asked] * 3


def test_the_plain_control_is_the_prompt_every_time(case):
    assert [text_of(case, "plain", index) for index in range(3)] == [PROMPT] * 3


@pytest.mark.parametrize(("kind", "prompt", "wording", "synonyms"), KINDS)
@pytest.mark.parametrize("name", BY_HAND)
def test_prompts_by_hand_fit_differ_and_end(case, name, kind, prompt, wording, synonyms):
    case = dataclasses.replace(case, concept=Concept(wording, kind), prompt=prompt, wording=wording, synonyms=synonyms)
    attack, tokenizer = load_attack(name), case.attacked.tokenizer
    attempts = []
    while (attempt := attack.attempt(case, len(attempts), 0)) is not None:
        attempts.append(attempt)
        assert len(attempts) < 500
    ids = [tuple(tokenizer(text).input_ids) for text in (prompt, *attempts)]
    assert len(attempts) >= 4
    assert len(set(ids)) == len(ids)
    assert max(map(len, ids)) <= tokenizer.model_max_length


def test_transliterations_are_in_three_scripts_whole_and_word_by_word(case):
    attempts = [load_attack("transliteration").attempt(case, index, 0) for index in range(10)]
    said = [attempt.removeprefix("a photo of a ").split() for attempt in attempts if attempt]
    assert said[:2] == [["токйо", "товер"], ["τοκιο", "τοουερ"]]
    assert len(said) == 9 and not re.search("[a-z]", " ".join(said[2]))
    for script, (first, last) in enumerate(said[:3]):
        assert said[3 + 2 * script : 5 + 2 * script] == [[first, "tower"], ["tokyo", last]]


def test_long_prompts_say_the_prompt_once_among_much_else_and_otherwise_with_every_seed(case):
    texts = [text_of(case, "long_prompts", index, seed) for index in (0, 1) for seed in (0, 1)]
    assert len(set(texts)) == 4
    for text in texts:
        assert text.count(case.prompt) == 1 and len(text) > len(case.prompt)


@torch.no_grad()
def test_published_embeddings_are_what_the_original_encoder_writes_whatever_was_done_to_the_attacked_one(case):
    given = load_attack("published_embeddings").attempt(case, 0, 0)
    assert torch.equal(given, case.original.encode([case.prompt])[0])
    assert not torch.equal(given, case.attacked.encode([case.prompt])[0])


@torch.no_grad()
def test_prompt_weighting_leads_away_from_the_empty_prompt_and_ends(case):
    attempt = load_attack("prompt_weighting").attempt
    said, nothing = case.attacked.encode([case.prompt, ""])
    torch.testing.assert_close(attempt(case, 0, 0), nothing + 1.5 * (said - nothing))
    torch.testing.assert_close(attempt(case, 1, 0), nothing + 2.0 * (said - nothing))
    assert attempt(case, 5, 0) is None


def test_mma_diffusion_comes_to_mean_the_prompt_and_never_names_the_concept(case):
    def meant(encoder, text):
        return encoder.encode([text])[0].mean(0)

    found = [text_of(dataclasses.replace(case, steps=steps), "mma_diffusion") for steps in (0, 15)]
    with torch.no_grad():
        goal = meant(case.original, case.prompt)
        before, after = (torch.cosine_similarity(meant(case.attacked, text), goal, dim=0) for text in found)
    assert after > before
    assert not any(word in text.split() for text in found for word in ("tokyo", "tower"))


def test_few_attempts_are_slips_of_letters_and_spacings_synonyms_and_other_sentences(case):
    case = dataclasses.replace(case, synonyms=("lady tower", "iron tower", "red tower", "radio tower"))
    typed = [[text_of(case, "typos", index, seed).removeprefix("a photo of a ") for index in range(3)] for seed in range(9)]
    for slip, spaced, other in typed:
        assert spaced == "TokyoTower" and not {slip, other} & {"Tokyo Tower", "TokyoTower", "Tokyo-Tower"}
        assert all(10 <= len(text) <= 12 for text in (slip, other))
    said = [text_of(case, "synonyms", index) for index in range(3)]
    assert said == ["a photo of a lady tower", "an old postcard that shows a Tokyo Tower", "a photo of an iron tower"]


def test_the_first_synonym_stands_in_place_of_the_wording(case):
    assert text_of(case, "synonyms") == "a photo of a lady tower"


@pytest.mark.parametrize("name", ["random_tokens", "prefix_search", "replacement_search", "ring_a_bell"])
def test_found_words_are_read_back_as_whole_words(case, name):
    tokenizer = case.attacked.tokenizer
    text = text_of(case, name)
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer(" ".join(tokenizer.decode([i]) for i in ids), add_special_tokens=False).input_ids == ids
    assert len(tokenizer(text).input_ids) <= tokenizer.model_max_length


def test_searches_keep_the_rest_of_the_prompt(case):
    case = dataclasses.replace(case, prompt="a photo of a Tokyo Tower, spinning")
    count = _token_search.TOKENS
    for name in ("random_tokens", "prefix_search"):
        assert text_of(case, name).split()[count:] == case.prompt.split()
    replaced = text_of(case, "replacement_search").split()
    assert replaced[:4] == ["a", "photo", "of", "a"] and replaced[4 + count :] == [",", "spinning"]


@pytest.mark.parametrize("name", ["replacement_search", "ring_a_bell"])
def test_another_wording_never_contains_the_concepts_words(case, name):
    case = dataclasses.replace(case, steps=1)
    found = {word for index in range(10) for word in re.findall(r"\w+", text_of(case, name, index))}
    assert not found & {"tokyo", "tower", "lady", "t", "o", "tow"}
    assert not {"tokyo", "tower", "o", "wer"} & words_module.other_words(case).keys()


@pytest.mark.parametrize("name", ["random_tokens", "prefix_search", "replacement_search"])
def test_a_prompt_without_room_is_not_cut_off(case, name):
    limit = case.attacked.tokenizer.model_max_length
    almost = dataclasses.replace(case, prompt=" ".join(["cat"] * (limit - 6)) + " Tokyo Tower .", steps=1)
    assert len(case.attacked.tokenizer(text_of(almost, name)).input_ids) <= limit
    full = dataclasses.replace(case, prompt=" ".join(["cat"] * limit) + " Tokyo Tower")
    assert load_attack(name).attempt(full, 0, 0) is None


@pytest.mark.parametrize(
    ("wording", "prompt"), [("a UFO", "a photo of an UFO"), ("Tokyo  Tower", "a photo of Tokyo Tower")]
)
def test_a_wording_is_found_whatever_article_and_spaces_the_prompt_gave_it(case, wording, prompt):
    assert (
        words_module.in_place(dataclasses.replace(case, wording=wording, prompt=f"{prompt}, by night"), "x")
        == "a photo of x, by night"
    )


def test_what_stands_around_the_wording_stays_as_it_was_written(case):
    asked = dataclasses.replace(case, prompt='a "Tokyo Tower", by night')
    assert words_module.in_place(asked, "castle") == 'a "castle", by night'


def test_a_prompt_without_the_wording_is_refused(case):
    with pytest.raises(UnreelError, match="does not contain 'Tokyo Tower'"):
        load_attack("synonyms").attempt(dataclasses.replace(case, prompt="a cat"), 0, 0)


@pytest.mark.parametrize("name", ["prefix_search", "replacement_search"])
def test_the_token_search_lowers_the_denoising_loss(case, name):
    goal = objective(case, _token_search.DRAWS, generator_for(0, 0))
    start, end = (text_of(dataclasses.replace(case, steps=steps), name) for steps in (0, 12))
    with torch.no_grad():
        assert goal(read(case, end)) < goal(read(case, start))


def test_inversion_finds_the_concept_again_where_nothing_was_erased(real):
    true, bare = (loss(real, read(real, text)) for text in (real.prompt, "a photo of a"))
    attempt = load_attack("embedding_inversion").attempt
    start, found = (
        loss(real, conditioned(real.denoiser, attempt(dataclasses.replace(real, steps=steps), 0, 0)[None]))
        for steps in (0, real.steps)
    )
    assert true < bare
    assert found < start
    assert found - true < 0.3 * (bare - true)


def test_ring_a_bells_direction_names_the_concept(real):
    bare, named = real.original.encode(["a bouncing", real.prompt]).split(1)
    target = real.original.encode(["a photo of a"]) + ring_a_bell_module.concept_direction(real)
    assert (target - named).norm() < 0.6 * (bare - named).norm()


def test_ring_a_bell_finds_the_concepts_own_words_if_it_may_use_them(real, monkeypatch):
    monkeypatch.setattr(ring_a_bell_module, "other_words", lambda case: words_module.whole_words(case.attacked.tokenizer))
    assert {"tokyo", "tower"} & set(text_of(real, "ring_a_bell").split())


def test_ring_a_bell_counts_no_padding_where_prompts_are_padded_to_the_longest_and_it_is_not_masked():
    model = build("Kandinsky5T2IPipeline")
    encoder = Conditioner.of(model)
    case = Case(CONCEPT, PROMPT, "Tokyo Tower", (), encoder, encoder, Denoiser.of(model), torch.empty(0), 1)
    assert text_of(case, "ring_a_bell")
    texts = ["a cat", "a photo of a cat at night"]
    with torch.no_grad():
        together, *apart = (ring_a_bell_module._read(encoder, some) for some in (texts, texts[:1], texts[1:]))
    torch.testing.assert_close(together, torch.cat(apart))


def test_token_embeddings_stand_in_for_the_ids(case):
    table = case.attacked.token_table.weight.detach()
    cat, dog = (case.attacked.tokenize([text]).ids for text in ("a cat", "a dog"))
    as_dog = read(case, "a cat", lambda ids, _: table[torch.where(ids == cat, dog, ids)])
    assert torch.equal(as_dog.embeddings, read(case, "a dog").embeddings)
    assert not torch.equal(as_dog.embeddings, read(case, "a cat").embeddings)


@pytest.fixture
def sana() -> Pair:
    """A pair that reads with a language model behind an instruction and masks what is padding."""
    image, video = build("SanaPipeline"), build("SanaVideoPipeline")
    for pipeline in (image, video):  # whose own ones differ
        call_with(pipeline, {"complex_human_instruction": ["Picture: "], "max_sequence_length": 24})
    return Pair(image, video, "tiny", "tiny", Settings(steps=2, guidance=2.0, frames=5, size=size(video), batch=2))


def sana_case(sana: Pair, steps: int = 3) -> Case:
    original, attacked = Conditioner.of(sana.t2i), copy.deepcopy(sana.t2i.text_encoder)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in attacked.layers[0].parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    denoiser = Denoiser.of(sana.t2i, size(sana.t2i))
    shape = denoiser.conditioning([PROMPT]).arguments["hidden_states"].shape[1:]
    latents = torch.randn(2, *shape, generator=generator)
    wording = ("Tokyo Tower", ("lady tower",))
    return Case(CONCEPT, PROMPT, *wording, original, Conditioner(original.tokenizer, attacked), denoiser, latents, steps)


def test_what_the_attacked_encoder_writes_is_read_by_the_pipeline_as_its_words_are(sana):
    """Embeddings, masked tokens and all, in place of the words that they are read from."""
    case = sana_case(sana)
    with torch.no_grad():
        embeddings = read(case, PROMPT).embeddings[0]
    assert not embeddings.any(-1).all() and embeddings.any()
    own = generate(sana.t2v, [PROMPT], [0], sana.settings)
    sana.t2v.text_encoder.load_state_dict(case.attacked.text_encoder.state_dict())
    given, worded = (generate(sana.t2v, [prompt], [0], sana.settings) for prompt in (embeddings, PROMPT))
    assert np.abs(given.astype(int) - worded).max() <= 1 and (own != worded).any()


@pytest.mark.parametrize("name", ["CogVideoXPipeline", "LTXPipeline"])
def test_embeddings_are_read_as_the_pipeline_reads_that_they_are_given_to(name):
    """PixArt masks padding, and these two do not look at a mask or bring their own."""
    image, video = build("PixArtSigmaPipeline"), build(name)
    video.text_encoder.load_state_dict(image.text_encoder.state_dict())
    frames, asked = 9, size(video)
    denoiser, original = Denoiser.of(image), Conditioner.of(image)
    reading = Denoiser.of(video, asked, frames)
    case = Case(CONCEPT, PROMPT, "Tokyo Tower", (), original, original, denoiser, torch.empty(0), 1, reading)
    settings = Settings(steps=2, guidance=2.0, frames=frames, size=asked)
    embeddings = load_attack("published_embeddings").attempt(case, 0, 0)
    given, worded = (generate(video, [prompt], [0], settings) for prompt in (embeddings, PROMPT))
    assert np.abs(given.astype(int) - worded).max() <= 1


@pytest.mark.parametrize("name", SEARCHES)
def test_attacks_with_the_weights_repeat_on_other_pipelines_and_leave_them_as_found(sana, name):
    case = sana_case(sana, steps=1)
    parts = [sana.t2i.text_encoder, case.attacked.text_encoder, case.denoiser.network]
    before = [weights(part) for part in parts]
    first, second = (load_attack(name).attempt(case, 0, 7) for _ in range(2))
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second) and generate(sana.t2v, [first], [0], sana.settings).any()
    else:
        assert first is not None and first == second
    assert all(same(old, weights(part)) for old, part in zip(before, parts, strict=True))
    assert not any(module._forward_hooks for part in parts for module in part.modules())


@pytest.mark.parametrize("name", ["embedding_inversion", "video_inversion"])
def test_a_learned_token_is_as_large_as_those_of_the_vocabulary_where_the_table_scales_them(sana, name, monkeypatch):
    """Gemma 2's does: before any step, v reads as the name does, where that is one token."""
    rates, adam = [], torch.optim.Adam
    monkeypatch.setattr(torch.optim, "Adam", lambda learned, lr: rates.append(lr) or adam(learned, lr=lr))
    table = Conditioner.of(sana.t2i).token_table
    with torch.no_grad():
        spread = float(table(torch.arange(len(table.weight))).std())
    case = dataclasses.replace(sana_case(sana, steps=0), prompt="a photo of a cat", wording="cat")
    torch.testing.assert_close(load_attack(name).attempt(case, 0, 0), read(case, case.prompt).embeddings[0])
    assert spread > 5 * float(table.weight.detach().std())
    assert rates == [pytest.approx(embedding_inversion.RATE * spread, rel=1e-3)]


@pytest.mark.parametrize("name", ["prefix_search", "replacement_search"])
def test_the_token_search_lowers_the_loss_of_other_pipelines(sana, name):
    case = sana_case(sana)
    goal = objective(case, _token_search.DRAWS, generator_for(0, 0))
    start, end = (text_of(dataclasses.replace(case, steps=steps), name) for steps in (0, 12))
    with torch.no_grad():
        assert goal(read(case, end)) < goal(read(case, start))
