"""Several evaluations on one page: what can be compared stands beside each other, and what cannot is said."""

import html
import json
import re
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
from conftest import FakeJudge, make_pair

from unreel import Concept, FewShotConfig, UnreelError, cli, evaluate, unlearn
from unreel.evaluation.estimate import Estimate, mcnemar
from unreel.evaluation.run import Run
from unreel.report import comparison, page, plots
from unreel.report.comparison import Compared, differences, paired, write_comparison
from unreel.report.page import write_report


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two evaluations of the same prompts with different strengths, and one of fewer prompts."""
    home, pair = tmp_path_factory.mktemp("runs"), make_pair()
    for name, rate, videos in (("gentle", 1e-4, 4), ("strong", 1e-2, 4), ("few", 1e-2, 2)):
        erasure = unlearn(Concept("cat"), pair, FewShotConfig(learning_rate=rate))
        run = evaluate(pair.video, erasure, FakeJudge(), videos=videos, groups=["explicit", "neighbours"])
        write_report(erasure.save_pretrained(home / name), run)
    return home


def test_runs_stand_beside_each_other_with_the_same_videos(folders, tmp_path):
    page = write_comparison([Compared.load(folders / name) for name in ("gentle", "strong")], tmp_path)
    text = html.unescape(page.read_text())
    assert text.count("<video") == 2 * 4 * 3 and "Not measured alike" not in text
    assert re.search(r"gentle \(few-shot\).*strong \(few-shot\)", text, re.DOTALL)
    for name in ("gentle", "strong"):
        for group, figures in json.loads((folders / name / "metrics.json").read_text())["figures"].items():
            if group != "all":
                assert f"{100 * figures['concept_found']['edited']['value']:.0f} %" in text
    assert text.count('class="edited-dot"') == 2


def test_verdicts_of_single_videos_are_those_that_shares_are_of(measured):
    for group, looks in measured.by_video.items():
        for metric, arms in looks.items():
            if metric == "concept_found" or group == "neighbours":
                for arm, flags in arms.items():
                    share = getattr(measured.figure(metric, group), arm)
                    assert len(flags) == share.n == 4 and flags.count("1") / 4 == share.value


def verdicts(run, found, kept):
    """The run, with these verdicts on its videos."""
    by_video = {
        "explicit": {"concept_found": {"edited": found}, "label_found": {"edited": found}},
        "neighbours": {"concept_found": {"edited": "0000"}, "label_found": {"edited": kept}},
    }
    return replace(run, by_video=by_video)


def test_the_same_videos_are_compared_one_by_one(measured, folders, tmp_path):
    first, second = verdicts(measured, "1110", "1111"), verdicts(measured, "0001", "1100")
    of_concept, of_neighbours = paired([first, second])
    assert of_concept["beside_first"] == [{"better": 3, "worse": 1, "videos": 4, "p": mcnemar(3, 1)}]
    assert of_neighbours["beside_first"] == [{"better": 0, "worse": 2, "videos": 4, "p": 0.5}]
    assert paired([first, altered(second, seeds="others")]) == [of_neighbours]
    assert not paired([first, replace(second, by_video=None)])
    compared = [
        replace(Compared.load(folders / "strong"), title=name, run=run) for name, run in (("a", first), ("b", second))
    ]
    page = html.unescape(write_comparison(compared, tmp_path).read_text())
    assert "+3 / -1 of 4, p = 0.625" in page and "better than a on a of them" in page
    assert json.loads((tmp_path / "comparison.json").read_text())["paired"] == [of_concept, of_neighbours]


def test_what_was_not_measured_alike_is_said(folders, tmp_path, capsys, monkeypatch):
    arguments = ["compare", folders / "strong", folders / "few", "--out", tmp_path / "page"]
    monkeypatch.setattr(sys, "argv", ["unreel", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    out = capsys.readouterr().out
    assert not stop.value.code and "not measured alike: number of videos differ" in out
    assert "number of videos differ" in (tmp_path / "page" / "report.html").read_text()
    assert json.loads((tmp_path / "page" / "comparison.json").read_text())["differ"] == "number of videos"
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2 and "exists" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--overwrite"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code


@pytest.fixture(scope="module")
def measured(folders):
    return Run.load(folders / "strong")


def altered(run, **of_explicit):
    return replace(run, asked=run.asked | {"explicit": run.asked["explicit"] | of_explicit})


def test_other_prompts_seeds_and_groups_are_not_alike_and_what_a_file_does_not_tell_is_not_said(measured, folders):
    assert measured.asked["explicit"] == Run.load(folders / "gentle").asked["explicit"]
    fewer = replace(measured, figures=[figure for figure in measured.figures if figure.group != "neighbours"])
    for other, said in (
        (altered(measured, seeds="others"), "seeds"),
        (altered(measured, prompts="others"), "prompts"),
        (replace(measured, kind="style"), "kind"),
        (replace(measured, asked=None), ""),
        (fewer, "groups of prompts"),
    ):
        assert differences([measured, other]) == differences([other, measured]) == said


def test_what_is_kept_is_compared_over_the_groups_that_all_have(measured, folders, monkeypatch, tmp_path):
    compared = Compared.load(folders / "strong")
    (of_neighbours,) = (f for f in measured.figures if (f.metric, f.group) == ("label_found", "neighbours"))
    other = replace(of_neighbours, group="unrelated", edited=Estimate.share(np.zeros(40)))
    more = replace(compared, title="more", run=replace(measured, figures=[*measured.figures, other]))
    spoken = []
    point = plots.point
    monkeypatch.setattr(plots, "point", lambda title, found, kept: spoken.append(kept) or point(title, found, kept))
    write_comparison([compared, more], tmp_path)
    assert spoken == [of_neighbours.edited] * 2


def test_a_video_that_is_cut_off_does_not_end_a_comparison(folders, tmp_path):
    home = shutil.copytree(folders / "few", tmp_path / "few")
    runs = [Compared.load(each) for each in (home, folders / "strong")]
    for broken in (next(iter(runs[0].videos.values())).read_bytes()[:60], b""):
        for file in runs[0].videos.values():
            file.write_bytes(broken)
        assert write_comparison(runs, tmp_path / "page").is_file()


def test_videos_that_are_too_large_for_a_page_are_made_smaller_and_every_group_keeps_some(folders, tmp_path, monkeypatch):
    runs = [Compared.load(folders / name) for name in ("strong", "gentle")]
    whole = write_comparison(runs, tmp_path / "whole").read_text()
    monkeypatch.setattr(comparison, "BUDGET", 1)
    monkeypatch.setattr(page, "BUDGET", 40_000)
    small = write_comparison(runs, tmp_path / "small").read_text()
    groups = {group for group, *_ in runs[0].videos}
    for made in (whole, small):
        assert len(groups) > 1 and made.count('<div class="clips many">') >= len(groups)
    assert 0 < len(small) < len(whole)


def test_runs_are_called_after_their_erasures_wherever_one_points(folders, tmp_path):
    for name in ("one", "other"):
        shutil.copytree(folders / "strong", tmp_path / name / "evaluation")
    for within in ("", "evaluation"):
        titles = [Compared.load(tmp_path / name / within).title for name in ("one", "other")]
        assert [title.split()[0] for title in titles] == ["one", "other"]


def test_judges_of_one_name_are_told_apart_where_both_files_do(measured):
    one, other = (replace(measured, judge={**measured.judge, "identity": which}) for which in "ab")
    untold = replace(measured, judge={name: said for name, said in measured.judge.items() if name != "identity"})
    assert differences([one, other]) == "judge" and not differences([one, untold]) and not paired([one, other])


def test_a_comparison_replaces_no_page_of_an_erasure(folders, capsys, monkeypatch):
    page = (folders / "few" / "report.html").read_bytes()
    arguments = ["compare", folders / "gentle", folders / "strong", "--out", folders / "few", "--overwrite"]
    monkeypatch.setattr(sys, "argv", ["unreel", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2 and "is no comparison, so --overwrite does not replace it" in capsys.readouterr().err
    assert (folders / "few" / "report.html").read_bytes() == page


def test_an_index_leads_nowhere_else(folders, tmp_path):
    home = shutil.copytree(folders / "few", tmp_path / "few")
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    index = json.loads((home / "videos" / "index.json").read_text())
    for entry in index:
        entry["file"] = "../../secret.mp4"
    (home / "videos" / "index.json").write_text(json.dumps(index))
    assert not Compared.load(home).videos
    (home / "videos" / "index.json").write_text("{")
    assert not Compared.load(home).videos


def test_what_is_no_evaluation_is_refused(folders, tmp_path):
    with pytest.raises(UnreelError, match="evaluate first"):
        Compared.load(tmp_path)
    with pytest.raises(UnreelError, match="at least two"):
        write_comparison([Compared.load(folders / "few")] * 2, tmp_path)
