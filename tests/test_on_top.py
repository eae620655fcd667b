"""A method that changes what denoises on top of one that changes text encoders: both at once, in one erasure."""

from dataclasses import replace

import pytest
import torch
from conftest import make_pair, same, weights

from unreel import UnreelError, load_intervention, load_pair, load_video_model, unlearn
from unreel.batch import BatchJob, batch
from unreel.interventions.erasure import NETWORK, TEXT_ENCODER
from unreel.interventions.record import CHECK
from unreel.methods import configure
from unreel.workflow import UnlearnJob
from unreel.workflow import unlearn as run


@pytest.fixture
def job(tmp_path, hasty):
    folder, pair = tmp_path / "models", make_pair()
    pair.t2i.save_pretrained(folder / "t2i")
    pair.t2v.save_pretrained(folder / "t2v")
    models = {"t2i": str(folder / "t2i"), "t2v": str(folder / "t2v")}
    return UnlearnJob(["cat"], anchor="a house", on_top="uce", out=tmp_path / "made", videos=0, accept_weak=True, **models)


def test_it_is_the_sum_of_what_both_make_alone_with_what_the_check_says_of_text_encoders(job):
    said = []
    done = run(job, lambda sort, news: said.append((sort, news)))
    made = load_intervention(done.folder)
    assert made.edits_text_encoder and made.edits_network and made.concepts == ["cat"]
    assert [part["method"] for part in made.provenance["parts"]] == ["text-ablation", "uce"]
    pair = load_pair(job.t2i, job.t2v)
    (concept,) = job.concepts_of(pair)
    alone = [unlearn(concept, pair, configure(method, {}, pair.settings)) for method in job.methods]
    total = alone[0] + alone[1]
    assert made.identity == total.identity
    assert made.provenance[CHECK] == alone[0].provenance[CHECK]
    assert dict(said)["check"] == made.provenance[CHECK]["summary"]
    assert made.provenance[CHECK]["summary"] in (done.folder / "README.md").read_text()


def test_a_pipeline_that_is_saved_with_it_on_is_erased_whole_and_is_the_original_no_more(job, tmp_path):
    made, pair = run(job).intervention, load_pair(job.t2i, job.t2v)
    before = {part: weights(getattr(pair.t2v, part)) for part in ("text_encoder", "unet")}
    made.apply(pair.t2v).save_pretrained(tmp_path / "erased")
    saved = load_video_model(tmp_path / "erased").pipeline
    for part, original in before.items():
        stored = weights(getattr(saved, part))
        assert same(stored, weights(getattr(pair.t2v, part))) and not same(stored, original)
    with pytest.raises(UnreelError, match="was saved with an erasure of cat in it: load the original"):
        made.apply(saved)


def test_a_setting_goes_to_the_method_that_has_it_and_one_that_neither_has_is_refused(job):
    made = run(replace(job, settings={"tokens": "last", "rank": 4}, seed=3)).intervention
    first, second = (part["settings"] for part in made.provenance["parts"])
    assert first["rank"] == 4 and first["seed"] == 3 and "tokens" not in first
    assert second["tokens"] == "last" and "rank" not in second
    with pytest.raises(UnreelError, match="has no epochs"):
        run(replace(job, settings={"epochs": 3}, out=job.folder / "other"))


def test_it_goes_on_only_with_what_was_made_the_same_way(job, monkeypatch):
    run(job)
    monkeypatch.setattr("unreel.workflow.learning.unlearn_concepts", None)  # to learn again would fail
    again = run(replace(job, resume=True)).intervention
    assert len(again.provenance["parts"]) == 2
    for other in ({"on_top": None}, {"on_top": "esd"}, {"settings": {"tokens": "last"}}):
        with pytest.raises(UnreelError, match="holds another erasure"):
            run(replace(job, resume=True, **other))


@pytest.mark.parametrize(
    ("method", "on_top"),
    [
        *(("text-ablation", "few-shot"), ("text-ablation", "negative-prompt"), ("text-ablation", "video-eraser")),
        *(("uce", "esd"), ("text-ablation", "nothing")),
    ],
)
def test_what_does_not_go_on_top_is_refused_before_any_work(job, monkeypatch, method, on_top):
    monkeypatch.setattr("unreel.workflow.learning.loaded", None)
    with pytest.raises(UnreelError, match=f"{on_top} does not go on top of {method}|unknown method 'nothing'"):
        run(replace(job, method=method, on_top=on_top))
    assert not job.folder.exists()


def test_a_concept_that_is_named_twice_is_refused_before_any_work(job, monkeypatch):
    monkeypatch.setattr("unreel.workflow.learning.loaded", None)
    with pytest.raises(UnreelError, match="the same concept is named twice"):
        run(replace(job, concepts=["cat", "Cat"]))


def test_what_cannot_be_added_up_and_models_that_cannot_be_changed_are_refused_with_nothing_written(job):
    for changed, why in (
        ({"method": "prompt-rewrite"}, "prompt-rewrite and uce do not both change weights"),
        ({"t2i": None, "t2v": f"{job.t2v}/text_encoder"}, "UCE edits the cross-attention"),
    ):
        with pytest.raises(UnreelError, match=why):
            run(replace(job, **changed))
    assert not job.folder.exists()


@pytest.mark.parametrize(("of", "what"), [(TEXT_ENCODER, "nothing"), (NETWORK, "nothing of what denoises")])
def test_an_edit_that_changes_nothing_is_not_hidden_by_the_other(job, monkeypatch, of, what):
    def nothing(concepts, pair, config, **options):
        made = unlearn(concepts, pair, config, **options)
        (component,) = made.components
        if component.of != of:
            return made
        part = pair.t2i.text_encoder if of == TEXT_ENCODER else pair.t2v.unet
        still = {name: torch.zeros_like(weight) for name, weight in part.named_parameters()}
        return replace(made, components=(replace(component, deltas={name: still[name] for name in component.deltas}),))

    monkeypatch.setattr("unreel.workflow.learning.unlearn_concepts", nothing)
    with pytest.raises(UnreelError, match=rf"changes {what}\. Nothing was written"):
        run(replace(job, accept_weak=False))
    assert not job.folder.exists()


def test_every_takedown_of_a_table_gets_it_and_its_words_are_told_once(job, tmp_path, monkeypatch):
    monkeypatch.setattr("unreel.wordings.ALIKE", 1e9)  # networks with random weights draw nothing alike
    table = tmp_path / "takedowns.csv"
    table.write_text("concept\ncat\ndog\n")
    each = replace(job, concepts=(), wordings=["kitten"], out=tmp_path / "all")
    made, _ = batch(BatchJob(table, each), lambda *_: None)
    assert made.complete
    for outcome in made.outcomes:
        assert outcome.says.endswith("since they draw it: kitten")
        assert load_intervention(tmp_path / "all" / outcome.takedown.folder).edits_network
