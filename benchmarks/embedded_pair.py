"""How good the embedded pair and its judge are: `python -m benchmarks.embedded_pair`.

Every figure rests on at least 400 samples whose seeds were used neither in training nor in tuning. Renders come from the
training code, so the sprites must have been built (`python -m training sprites`).
"""

import json
from itertools import cycle, islice
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from benchmarks.common import contact_sheet, write_result
from training.judge import scene_labels
from training.scenes import Renderer
from training.world import Scene, sample_scene
from unreel.evaluation.estimate import Estimate
from unreel.judges import found
from unreel.judges.embedded import EmbeddedJudge
from unreel.judges.embedded import load as load_judge
from unreel.models.pair import load_pair
from unreel.models.sampling import generate, generate_images, to_tensor
from unreel.models.shipped import EMBEDDED_FOLDER

SEED = 7_000_000
SAMPLES = 540
MOTIONS = ("bouncing", "spinning", "sliding", "zooming", "shaking", "dancing", "flying over")


def judge_quality(judge: EmbeddedJudge, renderer: Renderer) -> tuple[dict[str, Estimate], float]:
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


def main(
    folder: Annotated[Path, typer.Option(help="where training keeps its sprites")] = Path("training/runs"),
) -> None:
    pair, judge = load_pair(), load_judge()
    world = judge.world
    names, styles = list(world["concepts"]), list(world["styles"])
    shares, false_positive = judge_quality(judge, Renderer(folder / "sprites.npz", judge.world))

    def style_found(videos: np.ndarray, labels: list[str]) -> np.ndarray:
        chosen = judge.everything(videos)["style"].argmax(-1)
        return np.array([[styles[k] == label for k in row] for row, label in zip(chosen, labels, strict=True)])

    # Images: every concept in every style, three seeds each.
    asked = list(islice(cycle([(name, style) for name in names for style in styles]), SAMPLES))
    prompts = [f"a {name} in {style} style" for name, style in asked]
    images = generate_images(pair.t2i, prompts, [SEED + i for i in range(SAMPLES)], pair.settings)
    shares["image_concept"] = Estimate.share(found(judge, images[:, None], [a[0] for a in asked])[:, 0])
    shares["image_style"] = Estimate.share(style_found(images[:, None], [a[1] for a in asked])[:, 0])
    contact_sheet(
        "embedded-images",
        [
            (style, images[[asked.index((name, style)) for name in part]])
            for part in (names[:15], names[15:30], names[30:])
            for style in styles
        ],
        label=70,
    )

    # Two objects in an image.
    rng = np.random.default_rng(SEED + 1)
    couples = [rng.choice(names, 2, replace=False) for _ in range(SAMPLES)]
    words = [("next to", "above")[i % 2] for i in range(SAMPLES)]
    prompts = [f"a {a} {word} a {b}" for (a, b), word in zip(couples, words, strict=True)]
    scenes = generate_images(pair.t2i, prompts, [SEED + SAMPLES + i for i in range(SAMPLES)], pair.settings)
    first = found(judge, scenes[:, None], [str(a) for a, _ in couples])[:, 0]
    second = found(judge, scenes[:, None], [str(b) for _, b in couples])[:, 0]
    shares["two_objects"] = Estimate.share(first & second)
    contact_sheet(
        "embedded-pairs",
        [("\n".join(prompts[i : i + 4]), scenes[i : i + 4]) for i in range(0, 24, 4)],
        label=250,
        scale=2,
    )

    # Videos: all motions in turn, every concept and style.
    rows = []
    for i in range(SAMPLES):
        motion, name, style = (
            MOTIONS[i % len(MOTIONS)],
            names[(7 * i + i // 45) % len(names)],
            styles[(i // 7) % len(styles)],
        )
        if motion == "dancing":
            name, style = world["dancers"][(i // 7) % len(world["dancers"])], "fluent"
        other = names[(i * 11 + 5) % len(names)]
        text = (
            f"a {name} flying over a {other} in {style} style"
            if motion == "flying over"
            else f"a {motion} {name} in {style} style"
        )
        if motion == "zooming":
            text = f"a {name} zooming in, {style} style"
        rows.append((text, name, style, motion))
    prompts = [row[0] for row in rows]
    videos = generate(pair.t2v, prompts, [SEED + 2 * SAMPLES + i for i in range(SAMPLES)], pair.settings)
    single = [i for i, row in enumerate(rows) if row[3] != "flying over"]
    concept = found(judge, videos[single], [rows[i][1] for i in single])
    style = style_found(videos[single], [rows[i][2] for i in single])
    moved = judge.everything(videos)["motion"][:, 0].argmax(-1)
    right = np.array([judge.motions[m] == row[3] for m, row in zip(moved, rows, strict=True)])
    # Mean over frames, as the bar asks; the interval counts videos, since frames of one video are not independent.
    for key, flags in (("video_concept", concept), ("video_style", style)):
        spread = 1.96 * flags.mean(1).std(ddof=1) / np.sqrt(len(flags))
        mean = float(flags.mean())
        shares[key] = Estimate(mean, (max(0.0, mean - spread), min(1.0, mean + spread)), len(flags))
    shares["video_motion"] = Estimate.share(right)
    contact_sheet("embedded-videos", [(prompts[i], videos[i]) for i in range(21)], label=270)

    by_motion = {m: float(right[[i for i, row in enumerate(rows) if row[3] == m]].mean()) for m in MOTIONS}
    by_motion_concept = {
        m: float(concept[[k for k, i in enumerate(single) if rows[i][3] == m]].mean()) for m in MOTIONS[:-1]
    }
    by_style = {
        s: float(found(judge, images[:, None], [a[0] for a in asked])[[a[1] == s for a in asked]].mean()) for s in styles
    }
    write_result(
        "embedded_pair",
        {
            "quality": {key: round(share.value, 4) for key, share in shares.items()},
            "n": {key: share.n for key, share in shares.items()},
            "ci": {key: [round(x, 4) for x in share.ci] for key, share in shares.items()},
            "classes": {"concept": len(names), "style": len(styles), "motion": len(judge.motions)},
            "judge_false_positive": round(false_positive, 5),
            "video_motion_by_motion": by_motion,
            "video_concept_by_motion": by_motion_concept,
            "image_concept_by_style": by_style,
            "seed": SEED,
            "settings": {"steps": pair.settings.steps, "guidance": pair.settings.guidance},
        },
    )
    error = {
        "concept_accuracy": round(shares["judge_concept"].value, 4),
        "style_accuracy": round(shares["judge_style"].value, 4),
        "motion_accuracy": round(shares["judge_motion"].value, 4),
        "false_positive_rate": round(false_positive, 5),
    }
    (EMBEDDED_FOLDER / "judge" / "quality.json").write_text(json.dumps(error, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
