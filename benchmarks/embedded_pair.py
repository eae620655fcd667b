"""How good an embedded pair and its judge are: `python -m benchmarks.embedded_pair [--pair embedded:modern]`.

Every figure rests on at least 400 samples whose seeds were used neither in training nor in tuning. Renders come from the
training code, so the sprites must have been built (`python -m training sprites`, or `python -m training.modern sprites`).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from benchmarks.common import contact_sheet, shows, stored_entries, write_result
from benchmarks.reader_words import KNOWN
from training.judge import scene_labels
from training.scenes import Renderer
from training.world import Scene, sample_scene, with_article
from unreel.evaluation.estimate import Estimate
from unreel.judges.embedded import EmbeddedJudge
from unreel.judges.embedded import load as load_judge
from unreel.models.pair import Pair, load_pair
from unreel.models.sampling import generate, generate_images, to_tensor
from unreel.models.shipped import EMBEDDED, shipped

SEED = 7_000_000
SAMPLES = 540
FLYING = "flying over"
Shares = dict[str, Estimate]


def judge_quality(judge: EmbeddedJudge, renderer: Renderer) -> tuple[Shares, float]:
    """The judge on renders it has not seen, and how often it finds a concept that is not there."""
    rng = np.random.default_rng(SEED)
    names, styles = list(judge.world["concepts"]), list(judge.world["styles"])
    singles, pairs, clips = [], [], []
    while min(len(singles), len(pairs)) < 1000:
        scene = sample_scene(judge.world, rng, motion=False)
        (singles if len(scene.concepts) == 1 else pairs).append(scene)
    clips = [sample_scene(judge.world, rng, motion=i % 8 != 0) for i in range(800)]

    def look(scenes: list[Scene]) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.inference_mode():
            frames = to_tensor(np.stack([renderer.frame(scene, 0) for scene in scenes]))
            logits = [judge.network.frame_logits(part) for part in frames.split(256)]
        return torch.cat([c for c, _ in logits]).sigmoid() >= judge.threshold, torch.cat([s for _, s in logits]).argmax(1)

    found, drawn = look(singles)
    truth = scene_labels(judge.world, singles)[0].bool()
    both, _ = look(pairs)
    absent = torch.cat([found[~truth], both[~scene_labels(judge.world, pairs)[0].bool()]])
    with torch.inference_mode():
        moved = torch.cat([judge.network.motion_logits(to_tensor(renderer.clip(scene))[None]).argmax(1) for scene in clips])
    shares = {
        "judge_concept": Estimate.share(np.array([found[i, names.index(s.concepts[0])] for i, s in enumerate(singles)])),
        "judge_style": Estimate.share(np.array([styles[drawn[i]] == s.style for i, s in enumerate(singles)])),
        "judge_two_objects": Estimate.share(
            np.array([all(both[i, names.index(c)] for c in s.concepts) for i, s in enumerate(pairs)])
        ),
        "judge_motion": Estimate.share((moved == scene_labels(judge.world, clips)[2]).numpy()),
    }
    return shares, float(absent.float().mean())


@dataclass(frozen=True)
class Bench:
    """A pair and its judge; `title` begins the names of the contact sheets."""

    pair: Pair
    judge: EmbeddedJudge
    title: str

    @property
    def names(self) -> list[str]:
        return list(self.judge.world["concepts"])

    @property
    def styles(self) -> list[str]:
        return list(self.judge.world["styles"])

    def images(self, prompts: Sequence[str], first: int) -> np.ndarray:
        """Images of the prompts as videos of one frame: (n, 1, height, width, 3)."""
        seeds = [SEED + first + i for i in range(len(prompts))]
        return generate_images(self.pair.t2i, list(prompts), seeds, self.pair.settings)[:, None]

    def style_found(self, videos: np.ndarray, labels: Sequence[str]) -> np.ndarray:
        chosen = self.judge.everything(videos)["style"].argmax(-1)
        return np.array([[self.styles[k] == label for k in row] for row, label in zip(chosen, labels, strict=True)])

    def named(self, name: str, wording: str | None = None) -> str:
        """The name or wording with its article, which depends on the wording."""
        return with_article(self.judge.world["concepts"][name], wording or name)


def one_object(bench: Bench) -> tuple[Shares, dict[str, Any]]:
    """Every concept in every style, one seed after the other."""
    names, styles = bench.names, bench.styles
    asked = list(islice(cycle([(name, style) for name in names for style in styles]), SAMPLES))
    images = bench.images([f"{bench.named(name)} in {style} style" for name, style in asked], 0)
    there = shows(bench.judge, images, [name for name, _ in asked])[:, 0]
    shares = {
        "image_concept": Estimate.share(there),
        "image_style": Estimate.share(bench.style_found(images, [style for _, style in asked])[:, 0]),
    }
    parts = [names[at : at + 16] for at in range(0, len(names), 16)]
    rows = [(style, images[[asked.index((n, style)) for n in part], 0]) for part in parts for style in styles]
    contact_sheet(f"{bench.title}-images", rows, label=70)
    by_style = {style: float(there[[a[1] == style for a in asked]].mean()) for style in styles}
    return shares, {"image_concept_by_style": by_style}


def rendered(bench: Bench, renderer: Renderer) -> tuple[Shares, dict[str, Any]]:
    """The judge on renders of what `moving` asks the video model for: no model can do better than these."""
    rng, judge = np.random.default_rng(SEED + 2), bench.judge
    rows = [row for row in videos_asked(bench) if row[3] != FLYING]
    backgrounds = list(judge.world["backgrounds"])
    scenes = [Scene((name,), style, str(rng.choice(backgrounds)), motion=motion) for _, name, style, motion in rows]
    flags = np.concatenate(
        [
            shows(
                judge,
                np.stack([renderer.clip(scene) for scene in scenes[at : at + 50]]),
                [row[1] for row in rows[at : at + 50]],
            )
            for at in range(0, len(scenes), 50)
        ]
    )
    return {"render_concept": _mean_over_frames(flags)}, {"render_concept_by_motion": _by_motion(flags, rows)}


def _mean_over_frames(flags: np.ndarray) -> Estimate:
    """The mean over frames, with an interval over videos, since frames of one video are not independent."""
    spread = 1.96 * flags.mean(1).std(ddof=1) / np.sqrt(len(flags))
    mean = float(flags.mean())
    return Estimate(mean, (max(0.0, mean - spread), min(1.0, mean + spread)), len(flags))


def _by_motion(flags: np.ndarray, rows: Sequence[tuple[str, str, str, str]]) -> dict[str, float]:
    motions = dict.fromkeys(row[3] for row in rows)
    return {motion: float(flags[[row[3] == motion for row in rows]].mean()) for motion in motions}


def two_objects(bench: Bench) -> Shares:
    rng = np.random.default_rng(SEED + 1)
    couples = [[str(name) for name in rng.choice(bench.names, 2, replace=False)] for _ in range(SAMPLES)]
    words = islice(cycle(("next to", "above")), SAMPLES)
    prompts = [f"{bench.named(a)} {word} {bench.named(b)}" for (a, b), word in zip(couples, words, strict=True)]
    scenes = bench.images(prompts, SAMPLES)
    first, second = (shows(bench.judge, scenes, [couple[i] for couple in couples])[:, 0] for i in (0, 1))
    rows = [("\n".join(prompts[i : i + 4]), scenes[i : i + 4, 0]) for i in range(0, 24, 4)]
    contact_sheet(f"{bench.title}-pairs", rows, label=250, scale=2)
    return {"two_objects": Estimate.share(first & second)}


def new_words(bench: Bench) -> tuple[Shares, dict[str, Any]]:
    """Wordings that no training of the pair has seen, if its world keeps some; and those of them that its reader knows, if
    `benchmarks.reader_words` has asked it.
    """
    concepts = bench.judge.world["concepts"]
    held_out = [(name, wording) for name in bench.names for wording in concepts[name].get("held_out", ())]
    if not held_out:
        return {}, {}
    asked = list(islice(cycle(held_out), max(SAMPLES, len(held_out))))
    images = bench.images([bench.named(name, wording) for name, wording in asked], 4 * SAMPLES)
    there = shows(bench.judge, images, [name for name, _ in asked])[:, 0]
    contact_sheet(
        f"{bench.title}-words",
        [("\n".join(w for _, w in asked[i : i + 4]), images[i : i + 4, 0]) for i in range(0, 96, 4)],
        label=230,
    )
    by_wording = {wording: there[[a == (name, wording) for a in asked]].mean() for name, wording in held_out}
    shares = {"new_wordings": Estimate.share(there)}
    if rank := stored_entries("reader_words").get("rank"):
        shares["known_wordings"] = Estimate.share(there[[rank[wording] <= KNOWN for _, wording in asked]])
    return shares, {"by_wording": {wording: round(float(share), 2) for wording, share in by_wording.items()}}


def videos_asked(bench: Bench) -> list[tuple[str, str, str, str]]:
    """Prompt, concept, style and motion: all motions in turn, every concept and style."""
    names, styles, world, rows = bench.names, bench.styles, bench.judge.world, []
    motions = list(world["motions"])
    for i in range(SAMPLES):
        turn = i // len(motions)
        motion, name, style = motions[i % len(motions)], names[(7 * i + turn) % len(names)], styles[turn % len(styles)]
        if motion == "dancing" and "dancers" in world:
            name, style = world["dancers"][turn % len(world["dancers"])], "fluent"
        other = names[(i * 11 + 5) % len(names)]
        if motion == FLYING:
            text = f"{bench.named(name)} flying over {bench.named(other)} in {style} style"
        elif motion == "zooming":
            text = f"{bench.named(name)} zooming in, {style} style"
        else:
            text = f"a {motion} {name} in {style} style"
        rows.append((text, name, style, motion))
    return rows


def moving(bench: Bench) -> tuple[Shares, dict[str, Any]]:
    rows, judge = videos_asked(bench), bench.judge
    prompts = [row[0] for row in rows]
    seeds = [SEED + 2 * SAMPLES + i for i in range(SAMPLES)]
    videos = generate(bench.pair.t2v, prompts, seeds, bench.pair.settings)
    single = [i for i, row in enumerate(rows) if row[3] != FLYING]
    concept = shows(judge, videos[single], [rows[i][1] for i in single])
    style = bench.style_found(videos[single], [rows[i][2] for i in single])
    moved = judge.everything(videos)["motion"][:, 0].argmax(-1)
    right = np.array([judge.motions[m] == row[3] for m, row in zip(moved, rows, strict=True)])
    shares = {"video_motion": Estimate.share(right)}
    shares |= {"video_concept": _mean_over_frames(concept), "video_style": _mean_over_frames(style)}
    contact_sheet(f"{bench.title}-videos", [(prompts[i], videos[i]) for i in range(24)], label=270)
    motions = list(judge.world["motions"])
    return shares, {
        "video_motion_by_motion": {m: float(right[[row[3] == m for row in rows]].mean()) for m in motions},
        "video_concept_by_motion": _by_motion(concept, [rows[i] for i in single]),
    }


def main(
    pair: Annotated[str, typer.Option(help="the pair to look at")] = EMBEDDED,
    folder: Annotated[Path, typer.Option(help="where training keeps its sprites")] = Path("training/runs"),
    renders: Annotated[
        bool, typer.Option("--renders", help="only the judge on rendered videos, added to the rest")
    ] = False,
) -> None:
    judge = load_judge(pair.partition(":")[2])
    bench = Bench(load_pair(t2v=pair), judge, pair.replace(":", "-"))
    name = bench.title.replace("embedded", "embedded_pair").replace("-", "_")
    renderer = Renderer(folder / "sprites.npz", judge.world)
    drawn = _figures(*rendered(bench, renderer))
    result = stored_entries(name) if renders else _all_else(bench, renderer)
    write_result(name, result | {key: result[key] | drawn.pop(key) for key in ("quality", "n", "ci")} | drawn)


def _figures(shares: Shares, details: dict[str, Any]) -> dict[str, Any]:
    return {
        "quality": {key: round(share.value, 4) for key, share in shares.items()},
        "n": {key: share.n for key, share in shares.items()},
        "ci": {key: [round(x, 4) for x in share.ci] for key, share in shares.items()},
        **details,
    }


def _all_else(bench: Bench, renderer: Renderer) -> dict[str, Any]:
    """All other figures; those of the judge are also written beside the judge."""
    judge, settings, home = bench.judge, bench.pair.settings, shipped(bench.pair.t2v_source)
    assert home is not None
    shares, false_positive = judge_quality(judge, renderer)
    single, details = one_object(bench)
    worded, by_wording = new_words(bench)
    moved, by_motion = moving(bench)
    shares |= single | two_objects(bench) | worded | moved
    error = {
        "concept_accuracy": round(shares["judge_concept"].value, 4),
        "style_accuracy": round(shares["judge_style"].value, 4),
        "motion_accuracy": round(shares["judge_motion"].value, 4),
        "false_positive_rate": round(false_positive, 5),
    }
    (home / "judge" / "quality.json").write_text(json.dumps(error, indent=2) + "\n")
    return _figures(shares, by_motion | details | by_wording) | {
        "classes": {"concept": len(bench.names), "style": len(bench.styles), "motion": len(judge.motions)},
        "judge_false_positive": round(false_positive, 5),
        "seed": SEED,
        "settings": {"steps": settings.steps, "guidance": settings.guidance},
    }


if __name__ == "__main__":
    typer.run(main)
