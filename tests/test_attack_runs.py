"""Attacks are run, counted and resumed as they should be; what each attack does stands in test_attacks.py."""

import copy
import dataclasses
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from conftest import FakeJudge, conditioned, make_pair, same, weights

from unreel import Concept, FewShotConfig, UnreelError, active_interventions, attack, unlearn
from unreel.attacks import Case, load_attack, version_of
from unreel.evaluation import attack as robustness
from unreel.evaluation import video_cache as clips
from unreel.evaluation.attack import STUDIED_SEED_OFFSET, _chosen
from unreel.files import alone_in
from unreel.methods import configure
from unreel.models.conditioner import Conditioner
from unreel.models.denoiser import Denoiser
from unreel.progress import as_bar, drawn_by

pytestmark = pytest.mark.usefixtures("hasty")
ATTACKS = ["plain", "typos", "embedding_inversion"]
OPTIONS = {"attacks": ATTACKS, "cases": 3, "budgets": [1, 2], "steps": 2}


class Blind(FakeJudge):
    """Never finds the concept."""

    threshold = 2.0


class Sees(FakeJudge):
    """Always finds the concept."""

    threshold = -1.0


@pytest.fixture(scope="module")
def setting():
    pair = make_pair()
    return pair, unlearn("cat", pair, FewShotConfig(learning_rate=1e-2))


def weights_of(pair):
    return [weights(part) for part in (pair.t2i.text_encoder, pair.t2v.text_encoder, pair.t2i.unet, pair.t2v.unet)]


@pytest.fixture(scope="module")
def found(setting):
    """The weights as an attack finds them."""
    return weights_of(setting[0])


@pytest.fixture(scope="module")
def attacked(setting, found, tmp_path_factory):
    """A whole run."""
    return attack(*setting, FakeJudge(), **OPTIONS, folder=tmp_path_factory.mktemp("whole"))


def test_a_judge_that_never_or_always_finds_the_concept_gives_no_or_full_success(setting):
    never, always = (attack(*setting, judge, **OPTIONS) for judge in (Blind(), Sees()))
    assert [(o.attack, o.arm) for o in never.outcomes] == [
        (name, arm) for arm in ("edited", "original") for name in ATTACKS
    ]
    for outcome in never.outcomes:
        assert outcome.success(1).value == outcome.success(2).value == 0
        assert [len(case) for case in outcome.cases] == [2, 2, 2]
    for outcome in always.outcomes:
        assert outcome.success(1).value == outcome.success(2).value == 1
        assert [len(case) for case in outcome.cases] == [1, 1, 1], "it goes on after a success"


def test_a_larger_budget_never_has_less_success_and_only_attacks_with_weights_say_so(attacked):
    for outcome in attacked.outcomes:
        assert outcome.success(1).value <= outcome.success(2).value
        assert outcome.needs_weights == (outcome.attack == "embedding_inversion")
        assert all(bool(a.prompt) != outcome.needs_weights for case in outcome.cases for a in case)


def test_attacked_models_are_left_as_they_were(setting, found, attacked):
    assert all(map(same, found, weights_of(setting[0])))


def test_a_killed_attack_repeats_no_finished_video_or_search_and_ends_the_same(setting, attacked, tmp_path, monkeypatch):
    pair, erasure = setting
    whole = attacked.document()
    write, count = clips._write, 0

    def killed(*arguments):
        nonlocal count
        count += 1
        if count == 4:
            raise KeyboardInterrupt
        write(*arguments)

    monkeypatch.setattr(clips, "_write", killed)
    with pytest.raises(KeyboardInterrupt):
        attack(pair, erasure, FakeJudge(), **OPTIONS, folder=tmp_path / "killed")
    finished = {file: file.stat().st_mtime_ns for file in (tmp_path / "killed" / "clips").iterdir()}
    assert finished
    monkeypatch.setattr(clips, "_write", write)
    again = attack(pair, erasure, FakeJudge(), **OPTIONS, folder=tmp_path / "killed").document()
    assert again == whole
    assert all(file.stat().st_mtime_ns == when for file, when in finished.items())

    # A third call finds everything finished.
    searched = {
        name: SimpleNamespace(
            NEEDS_WEIGHTS=load_attack(name).NEEDS_WEIGHTS,
            VERSION=version_of(load_attack(name)),
            attempt=lambda *_: pytest.fail("searched again"),
        )
        for name in ATTACKS
    }
    monkeypatch.setattr(robustness, "load_attack", searched.__getitem__)
    monkeypatch.setattr(clips, "generate", lambda *_, **__: pytest.fail("generated again"))
    third = attack(pair, erasure, FakeJudge(), **OPTIONS, folder=tmp_path / "killed").document()
    assert [[a["found"] for a in case] for case in third["attacks"]["typos"]["edited_attempts"]] == [
        [a["found"] for a in case] for case in whole["attacks"]["typos"]["edited_attempts"]
    ]


def test_what_attacks_study_is_made_once_and_told_apart_by_what_decides_it(setting, tmp_path, monkeypatch):
    pair, erasure = setting
    options = {"cases": 2, "budgets": [1], "steps": 1, "clips": tmp_path}
    studying = ["embedding_inversion", "video_inversion", "initial_latents"]
    seen, drawn = [], []
    for name in studying:
        module = load_attack(name)
        attempt = module.attempt
        monkeypatch.setattr(module, "attempt", lambda case, *rest, of=attempt: seen.append(case.latents) or of(case, *rest))
    with drawn_by(lambda work: drawn.append((work.what, work.total)) or as_bar(work)):
        first = attack(pair, erasure, Blind(), attacks=studying, **options).document()
    assert {("making videos to study", 4), ("making pictures to study", 2)} <= set(drawn)
    files, latents = set(tmp_path.glob("studied-*")), seen[:]
    assert len(files) == 2 * 2 + 2
    for other in ({"seed": 7}, {"cases": 1}):
        attack(pair, erasure, Blind(), attacks=studying, **(options | other))
    assert len(set(tmp_path.glob("studied-*"))) == 2 * len(files)
    changed = replace(pair, settings=replace(pair.settings, guidance=3.0))
    attack(changed, erasure, Blind(), attacks=studying, **options)
    assert len(set(tmp_path.glob("studied-*"))) == 3 * len(files)

    # Nothing of it is made again, also where attempts are searched anew.
    for file in tmp_path.glob("attempt-*"):
        file.unlink()
    seen.clear()
    monkeypatch.setattr(Denoiser, "finished", lambda *_: pytest.fail("made again"))
    monkeypatch.setattr(robustness, "generate_images", lambda *_, **__: pytest.fail("made again"))
    assert attack(pair, erasure, Blind(), attacks=studying, **options).document() == first
    assert all(torch.equal(was, now) for was, now in zip(latents, seen, strict=True))


def test_what_was_found_of_one_concept_is_not_overwritten_by_another(setting, tmp_path):
    options = {"attacks": ["plain"], "cases": 1, "budgets": [1], "folder": tmp_path / "attacks"}
    attack(*setting, FakeJudge(), **options)
    with pytest.raises(UnreelError, match="another"):
        attack(*setting, FakeJudge(), concept=Concept("dog"), **options)


def test_a_name_that_an_attack_has_nothing_to_try_on_is_not_withstood(setting, monkeypatch):
    monkeypatch.setattr(load_attack("typos"), "attempt", lambda case, index, seed: None)
    result = attack(*setting, Blind(), attacks=["plain", "typos"], cases=2, budgets=[1])
    assert {outcome.attack for outcome in result.outcomes} == {"plain"} and result.document()["untried"] == ["typos"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attacks": ["magic"]}, "unknown attack 'magic'"),
        ({"cases": 0}, "at least one case"),
        ({"budgets": [0]}, "budgets are numbers of videos"),
        ({"steps": 0}, "at least one step"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(setting, tmp_path, change, message):
    with pytest.raises(UnreelError, match=message):
        attack(*setting, FakeJudge(), **(OPTIONS | change), folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_disk_without_room_for_a_video_of_each_case_is_refused_before_anything_is_written(setting, tmp_path, monkeypatch):
    options, each = {"attacks": ["plain", "typos"], "cases": 3, "budgets": [2]}, setting[0].video.video_bytes
    monkeypatch.setattr(clips.shutil, "disk_usage", lambda _: SimpleNamespace(free=2 * 2 * 3 * each - 1))
    with pytest.raises(UnreelError, match=r"12 videos of .* do not fit into .*run/clips"):
        attack(*setting, FakeJudge(), **options, folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_erasure_of_another_encoder_and_a_folder_of_another_run_are_refused(setting, tmp_path):
    pair, erasure = setting
    with pytest.raises(UnreelError, match="another text encoder"):
        attack(make_pair(seed=1), erasure, FakeJudge(), **OPTIONS, folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    options = OPTIONS | {"attacks": ["plain"]}
    attack(pair, erasure, FakeJudge(), **options, folder=tmp_path / "run")
    with pytest.raises(UnreelError, match="another run"):
        attack(pair, erasure, FakeJudge(), **(options | {"cases": 2}), folder=tmp_path / "run")


def test_an_attack_goes_on_with_the_image_model_that_it_began_with_alone(setting, tmp_path):
    pair, erasure = setting
    options = OPTIONS | {"attacks": ["plain"], "folder": tmp_path / "run"}
    attack(pair, erasure, FakeJudge(), **options)
    with pytest.raises(UnreelError, match=r"another run \(image_model tiny image model instead of another\)"):
        attack(replace(pair, t2i_source="another"), erasure, FakeJudge(), **options)
    lower = copy.deepcopy(pair.t2i).to(torch.bfloat16)
    with pytest.raises(UnreelError, match=r"another run \(image_dtype float32 instead of bfloat16\)"):
        attack(replace(pair, t2i=lower), erasure, FakeJudge(), **options)
    with alone_in(tmp_path / "run"), pytest.raises(UnreelError, match="another process works in"):
        attack(pair, erasure, FakeJudge(), **options)


@pytest.mark.parametrize("name", ["ring_a_bell", "published_embeddings"])
def test_what_reads_through_the_image_model_is_searched_again_through_another(setting, name, tmp_path, monkeypatch):
    pair, erasure = setting
    module, calls = load_attack(name), []
    monkeypatch.setattr(module, "attempt", lambda case, index, seed: calls.append(index) or case.prompt)
    options = {"attacks": [name], "cases": 1, "budgets": [1], "steps": 1, "clips": tmp_path}
    attack(pair, erasure, Blind(), **options)
    for again in (pair, replace(pair, t2i=make_pair(seed=1).t2i)):
        attack(again, erasure, Blind(), **options)
    assert calls == [0, 0]


def test_an_attack_with_weights_sees_the_edited_encoder_and_one_without_does_not(setting, monkeypatch):
    pair, erasure = setting
    seen = {}

    class Spy:
        NEEDS_WEIGHTS = True

        @staticmethod
        def attempt(case, index, seed):
            seen.setdefault(len(seen), (weights(case.original.text_encoder), weights(case.attacked.text_encoder)))
            return case.prompt

    monkeypatch.setattr(robustness, "load_attack", lambda name: Spy)
    attack(pair, erasure, FakeJudge(), attacks=["plain"], cases=1, budgets=[1])
    (original, attacked), (plain, control) = seen[0], seen[1]
    name = next(iter(erasure.components[0].deltas))
    assert not torch.equal(original[name], attacked[name])
    assert same(plain, control)


OF_VIDEOS = {"attacks": ["video_inversion"], "cases": 2, "budgets": [1], "steps": 1}


@pytest.mark.parametrize("method", ["text-ablation", "uce", "safree"])
def test_what_studies_the_video_model_studies_it_with_what_is_on_it_and_leaves_it_as_it_was(pair, monkeypatch, method):
    rival, seen = unlearn("cat", pair, configure(method, {})), []
    before = [weights(part) for part in (pair.t2v.text_encoder, pair.t2v.unet)]
    module = load_attack("video_inversion")
    attempt = module.attempt

    def watched(case, index, seed):
        seen.append((active_interventions(pair.t2v), case.denoiser.pipeline is pair.t2v, case.latents.shape))
        return attempt(case, index, seed)

    monkeypatch.setattr(module, "attempt", watched)
    result = attack(pair, rival, FakeJudge(), **OF_VIDEOS)
    assert [(outcome.attack, outcome.arm) for outcome in result.outcomes] == [
        ("video_inversion", arm) for arm in ("edited", "original")
    ]
    assert [on for on, _, _ in seen] == [[rival], [rival], [], []]
    assert all(video and len(shape) == 5 and shape[2] == pair.settings.frames for _, video, shape in seen)
    assert all(same(was, weights(part)) for was, part in zip(before, (pair.t2v.text_encoder, pair.t2v.unet), strict=True))
    assert not active_interventions(pair.t2v)


def test_video_inversion_lowers_the_loss_of_the_video_model_that_it_attacks(pair):
    denoiser, reader = Denoiser.of(pair.t2v, None, pair.settings.frames), Conditioner.of(pair.t2v)
    clips = denoiser.finished("a photo of a cat", 1, pair.settings)
    case = Case(Concept("cat"), "a photo of a cat", "cat", (), reader, reader, denoiser, clips, 12)
    learned, start = (
        load_attack("video_inversion").attempt(dataclasses.replace(case, steps=steps), 0, 0) for steps in (12, 0)
    )

    @torch.no_grad()
    def loss(embeddings):
        """Over eight draws; the network is given the text for every frame."""
        generator = torch.Generator().manual_seed(9)
        draws = [(torch.randn(clips.shape, generator=generator), torch.tensor([500 + 60 * i])) for i in range(8)]
        every_frame = embeddings.expand(pair.settings.frames, -1, -1)
        return sum(float(denoiser.loss(clips, noise, t, conditioned(denoiser, every_frame))) for noise, t in draws)

    assert loss(learned) < loss(start)


def test_what_starts_from_a_video_starts_from_one_of_the_concept_that_the_original_model_made(pair, tmp_path):
    started, options = {}, {"attacks": ["initial_latents"], "cases": 2, "budgets": [3], "clips": tmp_path}
    rival = unlearn("cat", pair, configure("uce", {}))
    for judge in (Blind(), Sees()):
        result = attack(pair, rival, judge, **options)
        started[judge] = [[attempt.batch.prompts for attempt in case] for case in result.outcomes[0].cases]
        assert [outcome.needs_weights for outcome in result.outcomes] == [False, False]
    blind, sees = started.values()
    assert [len(case) for case in blind] == [3, 3] and [len(case) for case in sees] == [1, 1]
    starts = [start for case in blind for batch in case for start in batch]
    assert all(start.latents.shape[2] == pair.settings.frames for start in starts)
    assert sorted({start.share for start in starts}) == [0.7, 0.8, 0.9]
    clips = Denoiser.of(pair.t2v, None, pair.settings.frames).finished(
        starts[0].prompt, STUDIED_SEED_OFFSET + 2000, pair.settings
    )
    assert torch.equal(starts[0].latents, clips)


def test_attacks_without_the_weights_are_searched_once_for_all_that_is_attacked(setting, tmp_path, monkeypatch):
    pair, erasure = setting
    module, calls = load_attack("ring_a_bell"), []
    monkeypatch.setattr(module, "attempt", lambda case, index, seed: calls.append(index) or f"words {index} {seed}")
    options = {"attacks": ["ring_a_bell"], "cases": 1, "budgets": [2], "steps": 1, "clips": tmp_path}
    attack(pair, erasure, Blind(), **options)
    attack(pair, unlearn("cat", pair, FewShotConfig(learning_rate=2e-2)), Blind(), **options)
    assert calls == [0, 1]


def test_what_studies_whole_videos_is_tried_only_where_it_is_asked_for(pair):
    for method, studied in (("text-ablation", {"embedding_inversion"}), ("uce", set())):
        tried, left_out = _chosen(pair, unlearn("cat", pair, configure(method, {})), ())
        tried = set(tried)
        assert ("embedding_inversion" in left_out) is not bool(studied)
        assert {"plain", "long_prompts", "published_embeddings"} | studied <= tried
        assert not {"video_inversion", "initial_latents"} & tried and ("embedding_inversion" in tried) is bool(studied)
