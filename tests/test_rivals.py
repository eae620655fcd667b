"""The rivals do what their names say, only that, and come off without a trace."""

import functools
import json
from dataclasses import replace
from unicodedata import normalize

import pytest
import torch
from conftest import FakeJudge, make_pair, same, uce, weights
from pipelines import build, size

from unreel import Concept, TextAblationConfig, UnreelError, active_interventions, attack, evaluate, generate, unlearn
from unreel.checking import check
from unreel.evaluation.evaluate import concept_of
from unreel.interventions import load_intervention
from unreel.interventions.export import export
from unreel.interventions.prompt import PromptRewrite, on_prompts
from unreel.methods import configure
from unreel.methods.uce import UCEConfig, first_words, others, text_projections
from unreel.models.conditioner import Conditioner
from unreel.models.denoiser import Denoiser
from unreel.models.pair import Pair, Settings
from unreel.workflow import combine

pytestmark = pytest.mark.usefixtures("hasty")
CASTLE = Concept("castle", synonyms=("fortress",))
PROMPTS, SEEDS = ["a castle", "a bouncing cat"], [1, 2]


def negative_prompt(pair, concept):
    return unlearn(concept, pair, configure("negative-prompt", {}))


def prompt_rewrite(pair, concept, anchor):
    return unlearn(replace(concept, anchor=anchor), pair, configure("prompt-rewrite", {}))


def make_rival(pair, index):
    if index < 2:
        return prompt_rewrite(pair, CASTLE, "house") if index else negative_prompt(pair, CASTLE)
    return uce(pair, CASTLE, "house", ["cat", "owl"], tokens=("last", "all")[index - 2])


def make_rivals(pair):
    return [make_rival(pair, index) for index in range(4)]


def test_a_negative_prompt_goes_with_embeddings_in_place_of_a_prompt(pair):
    negative, asked = negative_prompt(pair, CASTLE), []

    class Pipeline:
        def encode_prompt(self, prompt=None, negative_prompt=None, prompt_embeds=None):
            asked.append((prompt, negative_prompt))

    pipeline = negative.apply(Pipeline())
    pipeline.encode_prompt(prompt_embeds=torch.zeros(2, 4, 8))
    pipeline.encode_prompt(None, prompt_embeds=torch.zeros(2, 4, 8))
    assert asked == [(None, ["castle, fortress"] * 2)] * 2


def test_several_that_change_prompts_go_on_together_and_come_off_in_any_order(pair):
    """A tenant may have many takedowns by them."""
    negatives = [negative_prompt(pair, Concept(name)) for name in ("castle", "owl")]
    rewrites = [prompt_rewrite(pair, Concept(name), anchor) for name, anchor in (("cat", "dog"), ("car", "house"))]
    asked = []

    class Pipeline:
        def encode_prompt(self, prompt, negative_prompt=None):
            asked.append((prompt, negative_prompt))

    pipeline = Pipeline()
    for each in (*negatives, *rewrites):
        each.apply(pipeline)
    assert on_prompts(pipeline) == [*negatives, *rewrites]
    pipeline.encode_prompt("a cat in a car")
    pipeline.encode_prompt(["a cat", "a hat"])
    pipeline.encode_prompt("a boat", negative_prompt="rain")
    pipeline.encode_prompt(["a boat", "a cat"], negative_prompt=["rain", ""])
    assert asked[:2] == [("a dog in a house", "owl, castle"), (["a dog", "a hat"], ["owl, castle"] * 2)]
    assert asked[2:] == [("a boat", "owl, castle, rain"), (["a boat", "a dog"], ["owl, castle, rain", "owl, castle"])]
    negatives[0].remove(pipeline)
    rewrites[1].remove(pipeline)
    pipeline.encode_prompt("a cat in a car")
    assert asked[-1] == ("a dog in a car", "owl")
    for each in (rewrites[0], negatives[1]):
        each.remove(pipeline)
    assert not on_prompts(pipeline) and "encode_prompt" not in vars(pipeline)


@pytest.mark.parametrize("method", ["safree", "video-eraser"])
def test_what_projects_goes_on_alone(pair, method):
    alone, other = unlearn(CASTLE, pair, configure(method, {})), negative_prompt(pair, Concept("owl"))
    for first, second in ((alone, other), (other, alone)):
        with first.on(pair.t2v), pytest.raises(UnreelError, match=f"a {method} goes on alone"):
            second.apply(pair.t2v)
    assert not on_prompts(pair.t2v)


@pytest.mark.parametrize("index", range(4))
def test_rivals_change_videos_and_come_off_bit_for_bit(pair, index):
    rival = make_rival(pair, index)
    before = generate(pair.t2v, PROMPTS, SEEDS, pair.settings)
    unet, encoder = weights(pair.t2v.unet), weights(pair.t2v.text_encoder)
    assert rival.apply(pair.t2v) is pair.t2v
    changed = (generate(pair.t2v, PROMPTS, SEEDS, pair.settings) != before).any((1, 2, 3, 4))
    assert changed.tolist() == [True, not isinstance(rival, PromptRewrite)]  # the second prompt does not name the castle
    assert same(encoder, weights(pair.t2v.text_encoder))
    assert active_interventions(pair.t2v) == [rival]
    with pytest.raises(UnreelError, match="already"):
        rival.apply(pair.t2v)
    assert rival.remove(pair.t2v) is pair.t2v
    assert same(unet, weights(pair.t2v.unet))
    assert (generate(pair.t2v, PROMPTS, SEEDS, pair.settings) == before).all()
    with pytest.raises(UnreelError, match="on this pipeline"):
        rival.remove(pair.t2v)


@pytest.mark.parametrize("index", range(4))
def test_rivals_are_evaluated_like_erasures(pair, index, tmp_path):
    rival = make_rival(pair, index)
    run = evaluate(pair.video, rival, FakeJudge(), concept=Concept("cat"), videos=2, groups=["explicit"], folder=tmp_path)
    assert run.metrics()["explicit"]["concept_found"]["edited"]["n"] == 2
    assert run.run.document()["erasure"] == rival.identity
    assert run.run.document()["methods"] == [rival.provenance["parts"][0]["method"]]
    assert rival.concepts == ["castle"]


@pytest.mark.parametrize("index", range(4))
def test_rivals_are_saved_and_loaded_as_they_were(pair, index, tmp_path):
    rival = make_rival(pair, index)
    loaded = load_intervention(rival.save_pretrained(tmp_path / "rival"))
    assert type(loaded) is type(rival) and loaded == rival and loaded.matches(pair.t2v)
    assert loaded.provenance == json.loads(json.dumps(rival.provenance))
    assert "castle" in (tmp_path / "rival" / "README.md").read_text()
    with loaded.on(pair.t2v):
        assert active_interventions(pair.t2v) == [loaded]
    assert not active_interventions(pair.t2v)


def test_a_card_names_the_model_that_an_erasure_is_for(pair, tmp_path):
    apart = replace(pair, t2i_source="its/images", t2v_source="its/videos")
    texts = unlearn("castle", apart, configure("text-ablation", {"steps": 1}))
    for erasure, model in ((texts, "its/images"), (uce(apart, CASTLE, "house", ["cat"]), "its/videos")):
        card = (erasure.save_pretrained(tmp_path / model) / "README.md").read_text()
        assert f"base_model: {model}\n" in card and (f"of `{model}`" in card or f"in `{model}`" in card)
    both = texts + uce(apart, CASTLE, "house", ["cat"])
    assert "`its/images`" in both.about and "`its/videos`" in both.about and both.concepts == ["castle"]


def test_a_sum_names_the_text_encoder_and_the_network_that_its_parts_change(pair):
    alone = replace(pair, t2i_source="its/videos/text_encoder", t2v_source="its/videos/text_encoder")
    texts = unlearn("castle", alone, configure("text-ablation", {"steps": 1}))
    denoised = uce(replace(pair, t2i_source="its/images", t2v_source="its/videos"), CASTLE, "house", ["cat"])
    for both in (texts + denoised, denoised + texts):
        assert both.model == "its/videos" and both.provenance["encoder"] == "its/videos/text_encoder"
        assert "denoises in `its/videos`" in both.about


@pytest.mark.parametrize("index", range(4))
def test_rivals_are_attacked_like_erasures_but_for_what_studies_the_edited_encoder(pair, index):
    rival, concept = make_rival(pair, index), Concept("cat")
    options = {"concept": concept, "cases": 1, "budgets": [1], "steps": 1}
    found = attack(pair, rival, FakeJudge(), attacks=["plain", "typos"], **options)
    assert {(outcome.attack, outcome.arm) for outcome in found.outcomes} == {
        (name, arm) for name in ("plain", "typos") for arm in ("edited", "original")
    }
    with pytest.raises(UnreelError, match="prefix_search studies the edited text encoder"):
        attack(pair, rival, FakeJudge(), attacks=["prefix_search"], **options)


def test_edits_of_what_denoises_add_up_and_cannot_be_exported(pair, tmp_path):
    one, two = (uce(pair, Concept(name), "house", ["cat"]) for name in ("castle", "robot"))
    for name, component in {"one": one, "two": two}.items():
        component.save_pretrained(tmp_path / name)
    total = combine([str(tmp_path / "one"), tmp_path / "two"], str(tmp_path / "both"))
    assert total.concepts == ["castle", "robot"] and "check" not in total.provenance
    one.apply(pair.t2v), two.apply(pair.t2v)
    wanted = weights(pair.t2v.unet)
    two.remove(pair.t2v), one.remove(pair.t2v)
    with load_intervention(tmp_path / "both").on(pair.t2v):
        for name, weight in weights(pair.t2v.unet).items():
            torch.testing.assert_close(weight, wanted[name], rtol=1e-5, atol=1e-6)
    with pytest.raises(UnreelError, match="exports hold text encoders"):
        export(total, pair.t2v, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_edit_of_what_denoises_goes_on_top_of_one_of_the_text_encoder(pair, tmp_path):
    reading, denoising = unlearn(Concept("castle", anchor="house"), pair), uce(pair, Concept("castle"), "house", ["cat"])
    both = reading + denoising
    before = [weights(part) for part in (pair.t2v.text_encoder, pair.t2v.unet)]
    reading.apply(pair.t2v), denoising.apply(pair.t2v)
    wanted = [weights(part) for part in (pair.t2v.text_encoder, pair.t2v.unet)]
    denoising.remove(pair.t2v), reading.remove(pair.t2v)
    again = load_intervention(both.save_pretrained(tmp_path / "both"))
    with again.on(pair.t2v):
        on = [weights(part) for part in (pair.t2v.text_encoder, pair.t2v.unet)]
    assert all(same(*each) for each in zip(wanted, on, strict=True)) and not same(before[1], on[1])
    assert concept_of(again).name == "castle"
    card = (tmp_path / "both" / "README.md").read_text()
    assert (
        f"for what denoises in `{pair.t2v_source}`" in card and "how the denoiser reads text; the rest of it still" in card
    )
    with pytest.raises(UnreelError, match=r"has no network|another network"):
        both.apply(pair.t2i)
    with pytest.raises(UnreelError, match="exports hold text encoders"):
        export(both, pair.t2v, tmp_path / "exported")


@pytest.mark.parametrize(
    ("denoised", "method", "settings"),
    [
        (Concept("castle", anchor="boat"), "uce", {}),
        (Concept("robot", anchor="boat"), "uce", {}),
        (Concept("castle"), "esd", {"steps": 1}),  # which records no anchor
    ],
)
def test_a_sum_is_checked_on_what_its_part_for_the_text_encoder_forgets(pair, denoised, method, settings):
    few = TextAblationConfig(steps=3, forget=20, retain=20, solve_retain=30)
    reading = unlearn(Concept("castle", anchor="house"), pair, few)
    denoising = unlearn(denoised, pair, configure(method, settings))
    for both in (reading + denoising, denoising + reading):
        assert check(both, pair).document() == reading.provenance["check"]


PART = {"concept": "cat", "kind": "object", "synonyms": [], "method": "prompt-rewrite", "settings": {}, "anchor": "dog"}
SOUND = {"encoder": "tiny", "versions": {"unreel": "0"}}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"intervention": "spell"}, "which neither this version of unreel nor an installed package knows"),
        ({"intervention": "prompt-rewrite", "parts": []}, "is broken"),
        (
            {"intervention": "prompt-rewrite", **SOUND, "parts": [{**PART, "synonyms": [" "]}]},
            "names a concept that says nothing",
        ),
        (
            {"intervention": "prompt-rewrite", **SOUND, "parts": [{**PART, "concept": "\u2122"}]},
            "names a concept that says nothing",
        ),
        ({"intervention": 5}, "holds a 5, which neither this version of unreel nor an installed package knows"),
    ],
)
def test_what_is_no_intervention_is_refused(tmp_path, record, message):
    (tmp_path / "erasure.json").write_text(json.dumps(record))
    with pytest.raises(UnreelError, match=message):
        load_intervention(tmp_path)


def test_a_rewrite_has_full_fidelity_for_it_makes_the_anchor_prompts_very_videos(pair):
    run = evaluate(pair.video, prompt_rewrite(pair, Concept("cat"), "dog"), FakeJudge(), videos=2, groups=["explicit"])
    assert run.figure("fidelity_ssim", "explicit").edited.value == 1
    assert run.figure("fidelity_features", "explicit").edited.value == pytest.approx(1)
    assert run.figure("anchor_found", "explicit").edited.value == run.figure("anchor_ceiling").original.value


def test_rivals_are_told_apart(pair):
    different = uce(pair, CASTLE, "", ["cat", "owl"], tokens="last")
    assert len({rival.identity for rival in [*make_rivals(pair), different, negative_prompt(pair, Concept("castle"))]}) == 6
    assert uce(pair, CASTLE, "", ["cat", "owl"], tokens="last").identity == different.identity


@torch.inference_mode()
@pytest.mark.parametrize("method", ["negative-prompt", "prompt-rewrite", "safree"])
def test_what_somebody_put_in_place_of_encode_prompt_is_there_again_afterwards(pair, method):
    asked, encode = [], pair.t2v.encode_prompt

    def own(prompt, *rest, **options):
        asked.append(prompt)
        return encode(prompt, *rest, **options)

    pair.t2v.encode_prompt = functools.wraps(encode)(own)
    put = pair.t2v.encode_prompt
    rival = unlearn(replace(CASTLE, anchor="house") if method == "prompt-rewrite" else CASTLE, pair, configure(method, {}))
    with rival.on(pair.t2v):
        pair.t2v.encode_prompt("a castle", "cpu", 1, True)
    assert asked and vars(pair.t2v)["encode_prompt"] is put
    del pair.t2v.encode_prompt
    with rival.on(pair.t2v):
        pass
    assert "encode_prompt" not in vars(pair.t2v)


def test_a_negative_prompt_is_that_of_the_pipeline(pair):
    def videos(prompts, **options):
        generators = [torch.Generator().manual_seed(seed) for seed in SEEDS[: len(prompts)]]
        options |= {"prompt": prompts} if isinstance(prompts, list) else {"prompt_embeds": prompts}
        return pair.t2v(
            **options, generator=generators, num_inference_steps=2, guidance_scale=2.0, num_frames=4, output_type="np"
        ).frames

    wanted = videos(PROMPTS, negative_prompt=["castle, fortress"] * 2)
    besides = videos(PROMPTS, negative_prompt=["castle, fortress, owl"] * 2)
    rival = negative_prompt(pair, CASTLE)
    rival.apply(pair.t2v)
    assert (videos(PROMPTS) == wanted).all()
    assert (videos(Conditioner.of(pair.t2v).encode(PROMPTS)) == wanted).all()
    # A tenant's own does not take a takedown's place.
    assert (videos(PROMPTS, negative_prompt=["owl"] * 2) == besides).all()
    rival.remove(pair.t2v)
    assert "encode_prompt" not in vars(pair.t2v)


@pytest.mark.parametrize("method", ["safree", "video-eraser", "prompt-rewrite"])
def test_while_prompts_are_read_as_something_else_nothing_is_learned_from_them(pair, method):
    guard, learns = unlearn(CASTLE, pair, configure(method, {})), [p.requires_grad_() for p in pair.t2v.unet.parameters()]
    with guard.on(pair.t2v), pytest.raises(UnreelError, match=f"a {method} is on, and prompts are read as others"):
        unlearn("cat", pair, TextAblationConfig(steps=1))
    assert all(p.requires_grad for p in learns)  # as they were found


def test_a_rewrite_asks_for_the_anchor_by_every_wording_and_leaves_the_rest(pair):
    rival = prompt_rewrite(pair, CASTLE, "house")
    assert rival.rewritten("a Castle beside my fortress, castles") == "a house beside my house, houses"
    assert prompt_rewrite(pair, Concept("spinning", "motion"), "").rewritten("a spinning cat") == "a cat"
    wanted = generate(pair.t2v, ["a house"], SEEDS[:1], pair.settings)
    rival.apply(pair.t2v)
    assert (generate(pair.t2v, ["a castle"], SEEDS[:1], pair.settings) == wanted).all()
    rival.remove(pair.t2v)


@pytest.mark.parametrize(
    ("concept", "prompt", "wanted"),
    [
        *(
            ("Santa Claus", f"a {name} in snow", "a house in snow")
            for name in ("santa  claus", "santa\nclaus", "SANTA\tCLAUS")
        ),
        *(("santa claus", f"a {name}", "a house") for name in ("santa\u00a0claus", "\u017fanta clau\u017f")),
        ("santa  claus", "a Santa Claus", "a house"),
        ("Pok\u00e9mon", "a poke\u0301mon", "a house"),
        ("Poke\u0301mon", "a POK\u00c9MON", "a house"),
        ("\u0130stanbul", "in \u0130stanbul", "in house"),
        ("michael", "a photo of m\u0131chael", "a photo of house"),
        ("santa claus", "cafe\u0301,  santaclaus\n", "cafe\u0301,  santaclaus\n"),  # which does not name it
        *(
            ("Tokyo Tower", f"caf\u00e9, {name} &amp; fog", "caf\u00e9, house & fog")
            for name in (
                "To\u200bkyo Tower",
                "Tokyo-Tower",
                "TokyoTower",
                "\uff34\uff4f\uff4b\uff59\uff4f Tower",
                "T\u00f3kyo tower",
            )
        ),
        *(("Tokyo Tower", f"{name} at 5", "house at 5") for name in ("Tok&#121;o Tower", "Tok&amp;#121;o Tower")),
        ("clown", "two clowns, a clown's nose", "two houses, a house's nose"),
        *(
            (name, f"a photo of {normalize('NFD', name)}", "a photo of house")
            for name in ("\ubf40\ub85c\ub85c", "\u30d4\u30ab\u30c1\u30e5\u30a6")
        ),
        ("\u30d4\u30ab\u30c1\u30e5\u30a6", "\uff8b\uff9f\uff76\uff81\uff6d\uff73", "house"),
        ("clown", "rock&notes by a clown", "rock&notes by a house"),
        ("clown", "clownish &amp;  odd", "clownish &amp;  odd"),  # which does not name it
    ],
)
def test_a_rewrite_finds_a_name_in_whatever_way_text_encoders_read_it(pair, concept, prompt, wanted):
    assert prompt_rewrite(pair, Concept(concept), "house").rewritten(prompt) == wanted


def test_a_plural_that_a_rewrite_cannot_make_has_no_article(pair):
    assert prompt_rewrite(pair, Concept("person"), "a man in a suit").rewritten("two people") == "two man in a suits"


def test_a_rewrite_of_a_name_within_a_name_asks_for_the_anchor_of_each(pair):
    parts = [
        prompt_rewrite(pair, Concept(name), anchor).provenance for name, anchor in (("car", "boat"), ("car  park", "owl"))
    ]
    rival = PromptRewrite({**parts[0], "parts": [part for each in parts for part in each["parts"]]})
    assert rival.rewritten("a Car in a CAR PARK") == "a boat in a owl"


@pytest.mark.parametrize("tokens", ["last", "all", "whole"])
def test_uce_changes_nothing_but_how_the_denoiser_reads_text(pair, tokens):
    before = weights(pair.t2v.unet)
    erasure = uce(pair, CASTLE, "house", ["cat", "owl"], tokens=tokens)
    assert same(before, weights(pair.t2v.unet))
    erasure.apply(pair.t2v)
    changed = {name for name, weight in weights(pair.t2v.unet).items() if not torch.equal(weight, before[name])}
    assert changed == {f"{name}.weight" for name in text_projections(pair.t2v.unet)} == set(erasure.components[0].deltas)
    assert all(".attn2.to_" in name and "motion" not in name for name in changed)
    assert erasure.nbytes == 4 * sum(before[name].numel() for name in changed)


@pytest.mark.parametrize(("tokens", "moved"), [("last", 0.05), ("all", 0.15)])
@torch.no_grad()
def test_uce_reads_the_concept_as_the_anchor_and_the_rest_as_before(embedded, tokens, moved):
    concept, names = Concept("castle", anchor="house"), others(embedded.vocabulary, [Concept("castle")])
    erasure, conditioner = unlearn(concept, embedded, UCEConfig(tokens)), Conditioner.of(embedded.t2v)
    texts = ["castle", "house", *names]
    last = [len(ids) - 2 for ids in conditioner.tokenizer(texts).input_ids]
    castle, house, *rest = conditioner.encode(texts)[range(len(texts)), last]
    kept = torch.stack(rest)
    for name, matrix in text_projections(embedded.t2v.unet).items():
        old = matrix.weight
        new = old + erasure.components[0].deltas[f"{name}.weight"]
        assert (new @ castle - old @ house).norm() < 0.5 * (old @ castle - old @ house).norm()
        assert ((kept @ (new - old).T).norm(dim=1) / (kept @ old.T).norm(dim=1)).mean() < moved


@torch.no_grad()
def test_uce_of_whole_names_moves_half_a_name_too_unless_something_kept_begins_so(embedded):
    conditioner, concept = Conditioner.of(embedded.t2v), Concept("santa claus", "character", anchor="wizard")
    assert first_words(conditioner, ["santa claus", "castle"], ["cat"]) == [(0, 1)]
    assert first_words(conditioner, ["santa claus"], ["cat", "Santa hat"]) == []
    half = conditioner.encode(["santa claus"])[0, 1]
    nothing = conditioner.encode(["", *others(embedded.vocabulary, [concept])]).flatten(0, 1).mean(0)
    moved = {}
    for tokens in ("all", "whole"):
        component = unlearn(concept, embedded, UCEConfig(tokens, erase_scale=100.0)).components[0]
        name, matrix = next(iter(text_projections(embedded.t2v.unet).items()))
        read = (matrix.weight + component.deltas[f"{name}.weight"]) @ half
        moved[tokens] = float((read - matrix.weight @ nothing).norm() / (matrix.weight @ (half - nothing)).norm())
    assert moved["whole"] < moved["all"] / 2


def test_tokens_of_a_name_are_those_that_are_read_and_what_is_kept_is_kept_however_it_is_written(smollm2):
    conditioner = Conditioner.of(smollm2)
    for name in ("Santa Claus", "santa claus", "SANTA CLAUS", "Tokyo Tower"):
        count = len(conditioner.tokenizer(name, add_special_tokens=False).input_ids)
        assert first_words(conditioner, [name], ["cat"]) == [(0, back) for back in range(count - 1, 0, -1)]
    assert first_words(conditioner, ["Tokyo Tower"], ["tokyo tram"]) == []


@torch.no_grad()
def test_uce_is_the_formula_of_the_paper(pair):
    erasure = uce(pair, CASTLE, "house", ["cat"], tokens="last", erase_scale=2.0, preserve_scale=3.0, lamb=0.7)
    c1, c2, anchor, kept = Conditioner.of(pair.t2v).encode(["castle", "fortress", "house", "cat"])[:, 1].double()
    for name, matrix in text_projections(pair.t2v.unet).items():
        old = matrix.weight.double()
        left, right = 0.7 * old, 0.7 * torch.eye(len(kept), dtype=torch.float64)
        for scale, c, target in ((2.0, c1, anchor), (2.0, c2, anchor), (3.0, kept, kept)):
            left, right = left + scale * torch.outer(old @ target, c), right + scale * torch.outer(c, c)
        torch.testing.assert_close(
            old + erasure.components[0].deltas[f"{name}.weight"], left @ right.inverse(), rtol=1e-4, atol=1e-6
        )


def test_an_edit_made_in_float32_goes_on_lower_precision_and_on_no_other_denoiser(pair):
    component = uce(pair, CASTLE, "house", ["cat"])
    pair.t2v.to(dtype=torch.bfloat16)
    before = weights(pair.t2v.unet)
    component.apply(pair.t2v)
    assert not same(before, weights(pair.t2v.unet))
    component.remove(pair.t2v)
    assert same(before, weights(pair.t2v.unet))
    with pytest.raises(UnreelError, match="another network"):
        component.apply(make_pair(seed=1).t2v)


def test_others_are_all_but_the_concept(embedded):
    names = others(embedded.vocabulary, [Concept("Castle", synonyms=("house",))])
    assert {"castle", "house"}.isdisjoint(names) and {"cat", "ink", "spinning"} < set(names)
    assert "pine tree" in names and "pine tree" not in others(embedded.vocabulary, [Concept("pine-trees")])


@torch.no_grad()
@pytest.mark.parametrize("tokens", ["last", "all"])
def test_uce_edits_what_a_transformer_reads_its_projected_text_with(tokens):
    video = build("SanaVideoPipeline")
    pair = Pair(video, video, "tiny", "tiny", Settings(steps=1, frames=1, size=size(video)))
    before = weights(video.transformer)
    erasure = uce(pair, Concept("castle"), "house", ["cat", "owl", "tree"], tokens=tokens)
    assert same(before, weights(video.transformer))
    matrices = text_projections(video.transformer)
    assert set(erasure.components[0].deltas) == {f"{name}.weight" for name in matrices} and all(
        ".attn2.to_" in n for n in matrices
    )
    name, matrix = next(iter(matrices.items()))
    read, masked = Denoiser.of(video).text_inputs(matrix, ["castle", "house", "cat"])
    assert masked and all(tokens.shape[1] == matrix.in_features for tokens in read)
    castle, house, cat = (tokens[-1] for tokens in read)
    new = matrix.weight + erasure.components[0].deltas[f"{name}.weight"]
    assert (new @ castle - matrix.weight @ house).norm() < 0.5 * (matrix.weight @ (castle - house)).norm()
    assert ((new - matrix.weight) @ cat).norm() < 0.2 * (matrix.weight @ cat).norm()
