"""What the paper's method does on the embedded pair: `python -m benchmarks.paper_method`.

One object, one character, one style and one face, none of which its settings were tuned on; 100 videos of the concept and
100 of its ten nearest neighbours each, before and after, from the same seeds. A concept that is finished is not repeated.
"""

import json
from dataclasses import asdict

import numpy as np

from benchmarks.common import RESULTS, contact_sheet, write_result
from unreel import Concept, Erasure, evaluate, load_pair, unlearn
from unreel.erasure import Fingerprint
from unreel.evaluation import Evaluation
from unreel.judges.embedded import EmbeddedJudge
from unreel.pair import EMBEDDED_FOLDER
from unreel.report import metrics

CONCEPTS = (
    Concept("Tokyo Tower"),
    Concept("Santa Claus", "character"),
    Concept("ink", "style"),
    Concept("clown", "face"),
)
VIDEOS = 100
SEED = 5_000_000
NAME = "paper_method"


def sheet(concept: Concept, evaluation: Evaluation) -> None:
    """Frames of the first clips of each group, before above after."""
    rows = []
    for group, clips in evaluation.groups.items():
        for clip in clips.clips[:4] if group == "target" else clips.clips[::25][:4]:
            for when in ("before", "after"):
                rows.append((f"{clip.prompt}\n{when}", getattr(clip, when)))
    contact_sheet(f"paper-{concept.name.lower().replace(' ', '-')}", rows, label=190)


def main() -> None:
    pair, judge = load_pair(), EmbeddedJudge.load(EMBEDDED_FOLDER)
    file = RESULTS / f"{NAME}.json"
    stored = json.loads(file.read_text()) if file.exists() else {}
    # What another pair or other settings gave is made anew.
    encoder = Fingerprint.of(pair.t2i.text_encoder).identity
    same = stored.get("pair") == asdict(pair.settings) and stored.get("encoder") == encoder
    done = stored["concepts"] if same else {}
    for concept in CONCEPTS:
        if concept.name in done:
            continue
        erasure: Erasure = unlearn(concept, pair)
        evaluation = evaluate(pair, erasure, concept, judge, videos=VIDEOS, seed=SEED)
        sheet(concept, evaluation)
        part = erasure.provenance["parts"][0]
        done[concept.name] = metrics(erasure, evaluation) | {
            "evaluation_seeds": [SEED, SEED + VIDEOS - 1],
            "settings": part["settings"],
            "by_neighbour": by_label(evaluation),
        }
        for name, group in evaluation.groups.items():
            print(f"{concept.name}: {name} {group.share('before')} -> {group.share('after')}", flush=True)
        write_result(NAME, {"concepts": done, "pair": asdict(pair.settings), "encoder": encoder})


def by_label(evaluation: Evaluation) -> dict[str, list[float]]:
    """Mean over frames before and after, for each neighbour."""
    clips = evaluation.groups["neighbours"].clips
    return {
        label: [
            round(float(np.mean([getattr(c, f"found_{when}").mean() for c in clips if c.label == label])), 3)
            for when in ("before", "after")
        ]
        for label in dict.fromkeys(clip.label for clip in clips)
    }


if __name__ == "__main__":
    main()
