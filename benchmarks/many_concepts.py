"""Many concepts in one erasure: `python -m benchmarks.many_concepts [--pair embedded:modern --together]`.

One to forty of them, learned together, and the erasures of each added up, whose anchors are chosen knowing all the others.
Beside what each erases stands what the same concepts' own erasures erase, one at a time; what is kept is looked for in
prompts for things and styles that are erased at no size. Where one erasure takes minutes, `--together` leaves out those
made apart. Judged on images, made under bfloat16 autocast, and motions on a few videos. Seconds of learning are processor
seconds. Every size is written when it is done.
"""

import json
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any

import numpy as np
import torch
import typer

from benchmarks.common import of_pair, plainly, resume, shows, stored_entries, write_entry
from benchmarks.over_concepts import share_over
from unreel import Concept, Erasure, generate, load_pair, unlearn
from unreel.evaluation.estimate import Estimate, in_video
from unreel.evaluation.evaluate import build_suite
from unreel.judges import Judge, load_judge
from unreel.models.anchors import anchored
from unreel.models.conditioner import Conditioner
from unreel.models.pair import Pair
from unreel.models.sampling import generate_images
from unreel.models.shipped import EMBEDDED, preset_of
from unreel.prompts.suite import ERASED, Prompt

# None of the concepts that settings were chosen on. All five kinds are among the first five.
CONCEPTS = (
    *(Concept("Tokyo Tower"), Concept("Santa Claus", "character"), Concept("clown", "face"), Concept("noto", "style")),
    *(Concept("spinning", "motion"), Concept("pizza"), Concept("elephant"), Concept("robot", "character")),
    *(Concept("cowboy", "face"), Concept("guitar"), Concept("alien", "character"), Concept("penguin"), Concept("car")),
    *(Concept("cactus"), Concept("owl"), Concept("balloon"), Concept("sunflower"), Concept("octopus")),
    *(Concept("sailboat"), Concept("crown"), Concept("moai"), Concept("volcano"), Concept("rocket"), Concept("drum")),
    *(Concept("umbrella"), Concept("gift"), Concept("apple"), Concept("mushroom"), Concept("pine tree")),
    *(Concept("pumpkin"), Concept("dog"), Concept("butterfly"), Concept("polar bear"), Concept("turtle")),
    *(Concept("fish"), Concept("frog"), Concept("whale"), Concept("unicorn"), Concept("ghost", "character")),
    Concept("cool guy", "face"),
)
SIZES = (1, 5, 10, 20, 40)
NEVER_ERASED = ("statue of liberty", "castle", "house", "cat", "snowman", "teddy bear", "nerd")
NEVER_ERASED_STYLES = ("openmoji", "ink", "fluent")
IMAGES = 6  # for each concept and group
KEPT_IMAGES = 8  # for each thing and style that is never erased
VIDEOS = 10
SEED = 15_000_000

Flags = dict[str, np.ndarray]  # by group, one yes or no for each image or video
Seen = dict[str, Flags]  # by concept, and for what is kept


def kept_prompts() -> list[Prompt]:
    """Plain prompts for what is erased at no size, which name nothing that is."""
    rows = []
    for kind, names in (("object", NEVER_ERASED), ("style", NEVER_ERASED_STYLES)):
        for name in names:
            texts = [text for text in plainly(Concept(name, kind)) if not any(c.is_named_in(text) for c in CONCEPTS)]
            rows += [(text, name) for text in random.Random(name).choices(texts, k=KEPT_IMAGES)]
    return [Prompt(text, "kept", name, SEED + 100_000 * len(CONCEPTS) + i) for i, (text, name) in enumerate(rows)]


@dataclass
class Bench:
    """A pair and its judge, and what was found out about each concept's own erasure."""

    pair: Pair
    judge: Judge
    apart: dict[Concept, tuple[Erasure, float]] = field(default_factory=dict)
    seen_apart: dict[str, Seen] = field(default_factory=dict)

    def prompts(self, concept: Concept) -> list[Prompt]:
        """The prompts for a concept: the same at every size, so they ask for nothing besides that is erased at any size."""
        videos, groups = (VIDEOS, ERASED[:1]) if concept.kind == "motion" else (IMAGES, ERASED)
        seed = SEED + 100_000 * CONCEPTS.index(concept)
        return build_suite(Conditioner.of(self.pair.t2i), concept, self.judge, videos=videos, seed=seed, groups=groups)

    def shown(self, rows: Sequence[Prompt]) -> np.ndarray:
        """One image for each prompt, and whether it shows what its label says: (n,) bool."""
        texts, seeds = [row.text for row in rows], [row.seed for row in rows]
        with torch.autocast("cpu", torch.bfloat16):
            images = generate_images(self.pair.t2i, texts, seeds, self.pair.settings, what="")
        return shows(self.judge, images[:, None], [row.label for row in rows])[:, 0]

    def moving(self, rows: Sequence[Prompt]) -> np.ndarray:
        """One video for each prompt, and whether it shows what its label says: (n,) bool."""
        texts, seeds = [row.text for row in rows], [row.seed for row in rows]
        with torch.autocast("cpu", torch.bfloat16):
            videos = generate(self.pair.t2v, texts, seeds, self.pair.settings, what="")
        return in_video(shows(self.judge, videos, [row.label for row in rows]))

    def look(self, concepts: Sequence[Concept], erasure: Erasure | None = None) -> Seen:
        """What is found of each concept, and of what is never erased."""
        for pipeline in (self.pair.t2i, self.pair.t2v) if erasure else ():
            erasure.apply(pipeline)
        seen: Seen = {"kept": {"kept": self.shown(kept_prompts())}}
        for concept in concepts:
            rows = [replace(row, label=concept.name) for row in self.prompts(concept)]
            if concept.kind == "motion":
                seen[concept.name] = {"motion": self.moving(rows)}
            else:
                flags = self.shown(rows)
                seen[concept.name] = {g: flags[np.array([row.group == g for row in rows])] for g in ERASED}
        for pipeline in (self.pair.t2i, self.pair.t2v) if erasure else ():
            erasure.remove(pipeline)
        return seen

    def alone(self, concept: Concept) -> tuple[Erasure, float]:
        """The erasure of one concept, and seconds of one core."""
        if concept not in self.apart:
            self.apart[concept] = timed([concept], self.pair)
        return self.apart[concept]

    def look_at_alone(self, concept: Concept) -> Seen:
        if concept.name not in self.seen_apart:
            self.seen_apart[concept.name] = self.look([concept], self.alone(concept)[0])
        return self.seen_apart[concept.name]


def timed(concepts: Sequence[Concept], pair: Pair) -> tuple[Erasure, float]:
    begun = time.process_time()
    return unlearn(concepts, pair), time.process_time() - begun


def shares(looks: Sequence[Seen]) -> dict[str, Any]:
    """By group, the share in which what was asked for is found, of one look or of several together."""
    flags = [flag for seen in looks for flag in seen.values()]
    out = {
        group: asdict(share_over([flag[group] for flag in flags if group in flag]))
        for group in (*ERASED, "motion")
        if any(group in flag for flag in flags)
    }
    # The same images at every look: their number is that of one.
    kept_by_image = np.mean([seen["kept"]["kept"] for seen in looks], axis=0)
    return out | {"kept": asdict((Estimate.share if len(looks) == 1 else Estimate.mean)(kept_by_image))}


def measured(bench: Bench, original: Seen, size: int, together_only: bool) -> dict[str, Any]:
    """All figures for the first `size` concepts; `original` is what the original model shows."""
    concepts, pair = CONCEPTS[:size], bench.pair
    whole, seconds = timed(concepts, pair)
    erasures = {"together": (whole, seconds)}
    figures = {"original": shares([{name: original[name] for name in ("kept", *(each.name for each in concepts))}])}
    if not together_only:
        conditioner = Conditioner.of(pair.t2i)
        parts = [bench.alone(concept) for concept in anchored(concepts, conditioner, pair.vocabulary)]
        total = parts[0][0]
        for part, _ in parts[1:]:
            total = total + part
        erasures["added up"] = (total, sum(spent for _, spent in parts))
        figures["one at a time"] = shares([bench.look_at_alone(concept) for concept in concepts])
    for how, (erasure, _) in erasures.items():
        figures[how] = shares([bench.look(concepts, erasure)])
    return {
        "concepts": [asdict(concept) for concept in concepts],
        "figures": figures,
        "anchors": {part["concept"]: part["anchor"] for part in whole.provenance["parts"]},
        "check": whole.provenance["check"],
        "nbytes": {how: erasure.nbytes for how, (erasure, _) in erasures.items()},
        "seconds": {how: round(spent, 1) for how, (_, spent) in erasures.items()},
    }


def main(
    pair: Annotated[str, typer.Option(help="the pair to look at")] = EMBEDDED,
    size: Annotated[list[int] | None, typer.Option(help="only this many concepts; may be repeated")] = None,
    together: Annotated[bool, typer.Option("--together", help="leave out erasures made apart")] = False,
) -> None:
    bench, name = Bench(load_pair(t2v=pair), load_judge(preset_of(pair)["judge"])), of_pair("many concepts", pair)
    options = {"seed": SEED, "images": IMAGES, "kept_images": KEPT_IMAGES, "videos": VIDEOS, "apart": not together}
    same = json.loads(json.dumps(resume(name, bench.pair, bench.judge, options)[1]))  # as it is stored
    left = [count for count in size or SIZES if stored_entries(name).get(str(count), {}).get("made_with") != same]
    unlearn(Concept("castle"), bench.pair)  # warm up
    original = bench.look(CONCEPTS[: max(left, default=0)])
    for count in left:
        entry = measured(bench, original, count, together)
        for how, figures in entry["figures"].items():
            print(count, how, {group: round(estimate["value"], 2) for group, estimate in figures.items()}, flush=True)
        write_entry(name, str(count), entry | {"made_with": same})


if __name__ == "__main__":
    typer.run(main)
