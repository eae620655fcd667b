"""An attribute of one subject alone: `python -m benchmarks.attributes`.

"A spinning cat" is to be forgotten, but cats and spinning are not: unreel is told to make a cat instead. Looked
for is the attribute on its subject, by the wordings that were forgotten and by others; the attribute on other subjects; and
the subject without it. Once with the defaults, and once with the attribute kept by name on subjects of no prompt and what
is near weighing five times as much. Resumable like methods; a quarter of an hour on one core.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.common import FOLDER, resume, write_result
from unreel import Concept, evaluate, load_pair, unlearn
from unreel.judges import load_judge
from unreel.methods import configure
from unreel.models.pair import load_video_model
from unreel.prompts.files import PromptRow
from unreel.prompts.kinds import Kind

NAME = "attributes"
NEAR_WEIGHT = 100.0
VIDEOS = 20  # of each group
SEED = 16_000_000


@dataclass(frozen=True)
class Case:
    """`patterns` say the attribute and a subject: those to forget, and others of the same meaning."""

    attribute: str
    kind: Kind
    subject: str
    forgotten: tuple[str, ...]
    reworded: tuple[str, ...]

    @property
    def concept(self) -> Concept:
        name, *synonyms = (pattern.format(self.subject, self.attribute) for pattern in self.forgotten)
        return Concept(name, synonyms=tuple(synonyms), anchor=self.subject)


MOVED = (("{1} {0}", "{0} {1}"), ("video of the {0}, {1}", "{0} that keeps {1}"))
STYLED = (("{0} in {1} style", "{0} in the style of {1}"), ("{0}, {1} style", "painting of a {0}, {1} style"))
CASES = (
    Case("spinning", "motion", "cat", *MOVED),
    Case("bouncing", "motion", "robot", *MOVED),
    Case("openmoji", "style", "owl", *STYLED),
)
OTHERS = ("penguin", "elephant", "castle", "guitar", "ghost", "car", "unicorn", "house", "crown", "pizza")
KEPT = (
    "dog",
    "fish",
    "rocket",
    "drum",
    "frog",
    "sunflower",
)  # subjects to keep the attribute on, not among those asked for
OTHERWISE = {"motion": ("sliding", "shaking"), "style": ("fluent", "noto")}


def prompts(case: Case) -> list[PromptRow]:
    def rows(group: str, patterns: Sequence[str], subjects: Sequence[str], attributes: Sequence[str]) -> list[PromptRow]:
        """As many as there are videos, over all ways to say it."""
        asked = [(pattern.format(s, a), s) for s in subjects for a in attributes for pattern in patterns]
        chosen = (asked * VIDEOS)[:VIDEOS]
        return [PromptRow(f"a {text}", group, label, SEED + i) for i, (text, label) in enumerate(chosen)]

    attribute, subject = (case.attribute,), (case.subject,)
    return [
        *rows("forgotten wordings", case.forgotten, subject, attribute),
        *rows("other wordings", case.reworded, subject, attribute),
        *rows("other subjects", case.forgotten, OTHERS, attribute),
        *rows("other attributes", case.forgotten, subject, OTHERWISE[case.kind]),
    ]


def main(
    folder: Annotated[Path, typer.Option(help="where finished videos are kept")] = FOLDER,
    device: str = "cpu",
    dtype: str = "bfloat16",
) -> None:
    pair, judge = load_pair(device=device), load_judge("embedded", device)
    model = load_video_model(device=device, dtype=getattr(torch, dtype))
    stored, same = resume(NAME, pair, judge, {"dtype": dtype, "seed": SEED, "cases": [asdict(case) for case in CASES]})
    rows: list[dict[str, Any]] = stored.get("rows", [])
    for case, keeping in [(case, keeping) for keeping in (False, True) for case in CASES][len(rows) :]:
        keep = [pattern.format(subject, case.attribute) for subject in KEPT for pattern in case.forgotten]
        config = configure("text-ablation", {"near_weight": NEAR_WEIGHT} if keeping else {}, pair.settings)
        erasure = unlearn(case.concept, pair, config, keep=keep if keeping else ())
        run = evaluate(
            model,
            erasure,
            judge,
            concept=Concept(case.attribute, case.kind),
            groups=(),
            own_prompts=prompts(case),
            clips=folder / "clips",
        )
        figures = {
            group: {
                "attribute": asdict(run.figure("concept_found", group)),
                "subject": asdict(run.figure("label_found", group)),
                "ssim": asdict(run.figure("ssim", group)),
            }
            for group in run.groups
        }
        rows.append({"attribute": case.attribute, "subject": case.subject, "kept": keeping, "figures": figures})
        for group, figure in figures.items():
            print(
                case.concept.name,
                keeping,
                group,
                {what: each["edited"]["value"] for what, each in figure.items()},
                flush=True,
            )
        write_result(NAME, same | {"rows": rows, "device": device})


if __name__ == "__main__":
    typer.run(main)
