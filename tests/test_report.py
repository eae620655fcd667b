"""The report page, opened in a real browser."""

import dataclasses
import html
import json
import re
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from conftest import FakeJudge

from unreel import Concept, FewShotConfig, attack, evaluate, unlearn
from unreel.attacks import load_attack
from unreel.evaluation.video_cache import VideoCache
from unreel.methods import configure
from unreel.models.sampling import encode_mp4
from unreel.prompts.files import PromptRow
from unreel.report import page as pages
from unreel.report import plots
from unreel.report.comparison import Compared
from unreel.report.page import INDEX_FILE, write_attack_report, write_report
from unreel.report.table import TITLES, align, attack_table, cell, table

pytestmark = pytest.mark.usefixtures("hasty")
TEMPLATES = Path(pages.__file__).parent / "templates"
# What a page has done once all of its videos can be played; what goes wrong after that is in `wrong`.
VIDEOS = """
window.wrong = [];
addEventListener("error", event => wrong.push(event.message));
const done = arguments[0], videos = [...document.querySelectorAll("video")];
const ready = v => v.readyState >= 2 || v.error || new Promise(then => { v.onloadeddata = v.onerror = then; });
Promise.all(videos.map(ready)).then(
  () => done({videos: videos.map(v => [v.videoWidth, v.videoHeight, v.duration, v.error && v.error.message]),
              fetched: performance.getEntriesByType("resource").map(e => e.name).filter(n => !n.startsWith("data:"))}));
"""
SLIDE = """
const clip = document.querySelector(".clip"), slider = clip.querySelector("input");
slider.value = 2;
slider.dispatchEvent(new Event("input"));
return [...clip.querySelectorAll("video")].map(v => [v.currentTime, v.paused]);
"""
LIMIT = "Few-shot unlearning has no term that protects other concepts"
HIDDEN = "return [...document.querySelectorAll('[data-group]')].filter(s => s.hidden).map(s => s.dataset.group);"


@pytest.fixture
def page(pair, tmp_path):
    concept = Concept("<script>")
    erasure = unlearn(concept, pair, FewShotConfig(learning_rate=1e-3))
    evaluation = evaluate(pair.video, erasure, None, videos=3, groups=["explicit"])
    return write_report(erasure.save_pretrained(tmp_path / "run"), evaluation)


def complete(page, videos):
    text = page.read_text()
    assert text.count("<video") == videos and text.count("data:video/mp4;base64,") == videos
    assert not re.search(r"""(src|href)\s*=\s*["'](?!data:)|url\(|@import""", text)
    player = (TEMPLATES / "player.js").read_text().strip()
    assert text.count("<script") == text.count(f"<script>\n{player}\n</script>") == 1  # and nobody else's
    assert page.stat().st_size < 3_000_000
    return text


def test_the_page_is_complete_alone_and_escapes_what_users_typed(page):
    text = complete(page, 6)
    assert "No judge looked for the concept" in text and "Threat model" in text
    assert len(list((page.parent / "videos").glob("*.mp4"))) == 6
    assert json.loads((page.parent / "metrics.json").read_text())["judge"] is None


def test_every_figure_stands_on_the_page_and_the_ones_that_matter_in_the_table(pair, tmp_path):
    erasure = unlearn("cat", pair, FewShotConfig(learning_rate=1e-3))
    run = evaluate(pair.video, erasure, FakeJudge(), videos=4)
    text = html.unescape(complete(write_report(erasure.save_pretrained(tmp_path / "run"), run), 7 * 4 * 2))
    assert LIMIT in text and "climbs this denoising loss" in text and "other timesteps and noise" in text
    for figure in run.figures:
        assert figure.title in text and cell(figure).split(" [")[0] in text, figure
    assert "its own rates, measured apart: accuracy\n90.0 %" in text
    lines = table(run, 200).splitlines()
    assert len({line.index("concept found") for line in lines[:1]}) == 1 and len(lines) >= 7 + 2
    for group in run.groups.values():
        line = next(line for line in lines if line.startswith(TITLES[group.name]))
        assert cell(run.figure("concept_found", group.name)) in line


def test_the_page_says_of_no_other_method_what_few_shot_lacks(pair, tmp_path):
    rewrite = unlearn(Concept("cat", anchor="dog"), pair, configure("prompt-rewrite", {}))
    run = evaluate(pair.video, rewrite, None, concept=Concept("cat"), videos=2, groups=["explicit"])
    text = write_report(rewrite.save_pretrained(tmp_path / "run"), run).read_text()
    assert "Threat model" in text and LIMIT not in text


def test_the_page_says_of_a_loss_without_noise_nothing_about_noise(pair, tmp_path):
    learned = unlearn("cat", pair, configure("hirm", {"steps": 3}))
    run = evaluate(pair.video, learned, None, videos=2, groups=["explicit"])
    text = write_report(learned.save_pretrained(tmp_path / "run"), run).read_text()
    assert "The loss that learning makes small" in text and "Every step takes other" not in text


def test_the_page_tells_nobody_where_models_lie(pair, tmp_path):
    erasure = unlearn("cat", pair, FewShotConfig(learning_rate=1e-3))
    erasure.provenance["encoder"] = "/home/somebody/base"
    model = dataclasses.replace(pair.video, source="./projects/secret/tiny-video")
    text = write_report(tmp_path, evaluate(model, erasure, None, videos=2, groups=["explicit"])).read_text()
    assert "<dd>base</dd>" in text and "Evaluated on tiny-video" in text
    assert "somebody" not in text and "secret" not in text


def test_the_page_shows_what_the_anchor_gives_beside_what_came_in_the_concepts_place(pair, tmp_path):
    erasure = unlearn("cat", pair, FewShotConfig(learning_rate=1e-3))
    options = {"concept": Concept("cat", anchor="a dog"), "videos": 2, "groups": ["explicit", "neighbours"]}
    run = evaluate(pair.video, erasure, FakeJudge(), **options)
    page = write_report(erasure.save_pretrained(tmp_path / "run"), run)
    text = html.unescape(complete(page, 2 * 3 + 2 * 2))
    for prompt in run.groups["explicit"].prompts:
        assert f"original, of “{prompt.anchor}”: <span" in text
    assert text.count("dog in ") >= 2 * 2  # in the edited videos and in the anchor's
    assert sorted(file.name for file in (page.parent / "videos").glob("*-anchor.mp4")) == [
        "explicit-00-anchor.mp4",
        "explicit-01-anchor.mp4",
    ]
    assert json.loads((page.parent / "metrics.json").read_text())["anchor"] == "a dog"
    head, explicit, neighbours = table(run, 200).splitlines()[:3]
    place = slice(head.index("anchor found"), head.index("what else was asked for"))
    cells = [cell(run.figure(metric, "explicit")) for metric in ("anchor_found", "fidelity_ssim")]
    assert re.split("  +", explicit[place].strip()) == cells and not neighbours[place].strip()


def test_a_caption_names_what_was_looked_for_and_wants_the_concept_only_where_it_was_asked_for(pair, tmp_path):
    class OneThing(FakeJudge):
        """Knows the concept, which it never finds."""

        vocabulary: ClassVar = {}

        def knows(self, label):
            return label == "cat"

        def probabilities(self, videos, labels):
            assert set(labels) == {"cat"}
            return np.zeros((*videos.shape[:2], len(labels)))

    erasure = unlearn("cat", pair, FewShotConfig(learning_rate=1e-3))
    given = [PromptRow("a tea party", "manners", "", 7)]
    run = evaluate(pair.video, erasure, OneThing(), videos=1, groups=["neighbours"], own_prompts=given)
    text = html.unescape(write_report(erasure.save_pretrained(tmp_path / "run"), run).read_text())
    captions = re.findall(r'<figcaption>.*?class="(\w+)">(.*?)</span>', text)
    assert captions == [("yes", "cat in 0 of 4 frames")] * 4


def test_what_a_prompts_file_calls_its_groups_is_never_a_way_out_of_the_folder(pair, tmp_path):
    erasure = unlearn("cat", pair, FewShotConfig(learning_rate=1e-3))
    names = ("../../x", "/tmp/x", "a/b", "a b", "a\0b", "猫" * 300)
    given = [PromptRow("a cat", name, None, seed) for seed, name in enumerate(names)]
    run = evaluate(pair.video, erasure, None, groups=(), own_prompts=given)
    before = set(tmp_path.rglob("*"))
    page = write_report(erasure.save_pretrained(tmp_path / "deep" / "run"), run)
    videos = set(tmp_path.rglob("*.mp4")) - before
    assert {file.parent for file in videos} == {page.parent / "videos"} and len(videos) == 2 * len(names)


def test_groups_that_are_called_alike_have_files_of_their_own_which_a_comparison_finds(pair, tmp_path):
    erasure = unlearn("cat", pair, FewShotConfig(learning_rate=1e-3))
    given = [PromptRow("a cat", name, None, seed) for seed, name in enumerate(("Explicit", "toys", "Toys"))]
    run = evaluate(pair.video, erasure, None, videos=1, groups=["explicit"], own_prompts=given)
    page = write_report(erasure.save_pretrained(tmp_path / "run"), run)
    videos = Compared.load(page.parent).videos
    assert len(videos) == len(set(videos.values())) == 2 * 4
    for (name, _, _, arm), file in videos.items():
        assert file.read_bytes() == encode_mp4(run.groups[name].video(arm, 0), pair.settings.fps)
    sections = re.findall(r'<section data-group="([^"]+)">', page.read_text())
    assert len(set(sections)) == len(sections) == 4


def test_the_attacks_page_is_complete_alone_and_shows_every_attack(pair, tmp_path):
    erasure = unlearn("cat", pair, FewShotConfig(learning_rate=1e-3))
    result = attack(pair, erasure, FakeJudge(), attacks=["plain", "typos"], cases=2, budgets=[1, 2], steps=1)
    text = complete(write_attack_report(tmp_path, result), 4)
    for outcome in result.outcomes:
        assert outcome.attack in text and outcome.attack in attack_table(result, 80)
    attacks = json.loads((tmp_path / "attacks.json").read_text())["attacks"]
    assert attacks["typos"]["edited"]["2"]["value"] == result.outcomes[1].success(2).value
    assert attacks["typos"]["edited_attempts"][0][0]["prompt"]


def test_attacks_say_what_was_attacked_and_how_and_the_page_not_where_it_lies(pair, tmp_path):
    erasure = unlearn("cat", pair, FewShotConfig(learning_rate=1e-3))
    own = dataclasses.replace(pair, t2v_source="/home/somebody/video", t2i_source="/home/somebody/image")
    result = attack(own, erasure, FakeJudge(), attacks=["plain"], cases=2, budgets=[1], steps=1, seed=7)
    page = write_attack_report(tmp_path, result).read_text()
    document = json.loads((tmp_path / "attacks.json").read_text())
    told = {
        "erasure": erasure.identity,
        "methods": ["few-shot"],
        "model": "/home/somebody/video",
        "image_model": "/home/somebody/image",
        "sampling": json.loads(json.dumps(pair.settings.sampling)),
        "dtype": "float32",
        "seed": 7,
        "cases": 2,
    }
    assert told.items() <= document.items()
    assert "few-shot on video, float32, 2 steps, 4 frames" in page and "read through image." in page
    assert "/home/somebody" not in page


def test_an_attack_that_has_nothing_to_try_is_told_on_a_page_without_videos(pair, tmp_path, monkeypatch):
    monkeypatch.setattr(load_attack("typos"), "attempt", lambda case, index, seed: None)
    erasure = unlearn("cat", pair, FewShotConfig(learning_rate=1e-3))
    result = attack(pair, erasure, FakeJudge(), attacks=["typos"], cases=1, budgets=[1])
    text = complete(write_attack_report(tmp_path, result), 0)
    assert "Not attacked" in text and "There was nothing to try for typos." in text
    assert json.loads((tmp_path / "attacks.json").read_text())["untried"] == ["typos"]


def test_videos_play_in_a_browser_and_nothing_is_fetched(page, browser):
    browser.get(page.as_uri())
    seen = browser.execute_async_script(VIDEOS)
    assert seen["videos"] == [[192, 192, pytest.approx(0.5), None]] * 6
    assert seen["fetched"] == []


def test_a_slider_takes_all_videos_of_a_prompt_to_a_frame_and_groups_can_be_left_out(pair, tmp_path, browser):
    erasure = unlearn("cat", pair, FewShotConfig(learning_rate=1e-3))
    run = evaluate(pair.video, erasure, FakeJudge(), videos=2, groups=["explicit", "neighbours"])
    browser.get(write_report(erasure.save_pretrained(tmp_path / "run"), run).as_uri())
    browser.execute_async_script(VIDEOS)
    assert browser.execute_script(SLIDE) == [[pytest.approx(2.5 / 8), True]] * 2
    button = browser.find_element("id", "play")
    labels = [button.text]
    button.click()  # goes on after the slider
    button.click()
    assert [*labels, button.text] == ["Pause all", "Play all"]
    assert browser.execute_script(HIDDEN) == []
    browser.find_element("css selector", "input[value=neighbours]").click()
    assert browser.execute_script(HIDDEN) == ["explicit"]
    assert browser.execute_script("return wrong") == []


def test_a_page_is_printed_with_everything_that_can_be_opened(page, browser):
    browser.get(page.as_uri())
    browser.execute_async_script(VIDEOS)
    assert browser.print_page()
    assert browser.execute_script("return [...document.querySelectorAll('details')].every(each => each.open)")


def test_the_page_shows_the_first_videos_and_the_worst_ones_worst_first(pair, tmp_path, monkeypatch):
    erasure = unlearn("cat", pair, FewShotConfig(learning_rate=1e-3))
    run = evaluate(pair.video, erasure, FakeJudge(), videos=12, groups=["explicit"])
    bad = np.array([0.1, 0.2, 0.0, 0.3, 0.9, 0.4, 0.5, 0.8, 0.6, 0.35, 0.3, 0.3])
    monkeypatch.setattr(pages, "_badness", lambda group: bad)
    page = write_report(erasure.save_pretrained(tmp_path / "run"), run)
    shown = [4, 7, 8, 1, 0, 2]
    prompts = run.groups["explicit"].prompts
    index = json.loads((page.parent / "videos" / INDEX_FILE).read_text())
    assert [entry["seed"] for entry in index if entry["arm"] == "edited"] == [prompts[i].seed for i in shown]
    seeds = re.findall(r"<small>seed (\d+)</small>", page.read_text())
    assert list(map(int, seeds)) == [prompts[i].seed for i in shown]
    assert "6 of 12 prompts, what went worst first" in page.read_text()


def test_a_page_reads_the_videos_it_shows_alone_however_often_it_makes_them_smaller(pair, tmp_path, monkeypatch):
    erasure = unlearn("cat", pair, FewShotConfig(learning_rate=1e-3))
    run = evaluate(pair.video, erasure, FakeJudge(), videos=9, groups=["explicit"])
    folder, group, read, frames = (
        erasure.save_pretrained(tmp_path / "run"),
        run.groups["explicit"],
        set(),
        VideoCache.frames,
    )
    bad = np.array([0.1, 0.2, 0.0, 0.3, 0.9, 0.4, 0.5, 0.8, 0.6])
    monkeypatch.setattr(pages, "_badness", lambda group: bad)
    monkeypatch.setattr(pages, "BUDGET", 0)
    assert run.figures  # which are read from all
    monkeypatch.setattr(VideoCache, "read", lambda *_: pytest.fail("all are read"))
    monkeypatch.setattr(VideoCache, "frames", lambda cache, *place: read.add(place) or frames(cache, *place))
    write_report(folder, run)
    shown = [(group.batches[arm][i // 2].file, i % 2) for arm in ("original", "edited") for i in (0, 1, 2, 4, 7, 8)]
    assert {(batch.file, place) for batch, place in read} == set(shown)


def test_large_videos_are_made_smaller_until_the_page_is_small_enough():
    frames = np.random.default_rng(0).integers(0, 256, (16, 480, 832, 3), dtype=np.uint8)  # noise: nothing is larger
    made = pages.within_budget(lambda encode, most: [encode(frames) for _ in range(2 * most)], 8)
    assert sum(len(data) for data in made) < 3_000_000 and made


def test_a_table_that_is_too_wide_goes_on_below():
    rows = [["", "one", "two", "three"], ["a row", "1", "2", "3"]]
    assert align(rows, 80).splitlines() == ["       one  two  three", "a row  1    2    3"]
    assert align(rows, 16).split("\n\n") == ["       one  two\na row  1    2", "       three\na row  3"]
    assert align(rows, 1).count("a row") == 3


def test_loss_curve_spans_its_box():
    points = np.array([[float(x) for x in point.split(",")] for point in plots.losses([1.0, 3.0, 2.0]).split()])
    np.testing.assert_allclose(points, [[0, 120], [300, 0], [600, 60]])
    assert plots.losses([1.0]) == "0.0,120.0"
