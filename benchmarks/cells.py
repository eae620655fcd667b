"""Experiments, cell by cell: `python -m benchmarks.cells EXPERIMENT`.

An experiment is a file in `experiments/`: which methods with which settings, on which concepts, prompts and seeds, and what
is measured of them. Each of its cells becomes one file, results/EXPERIMENT/RUN/CONCEPT.json, so a killed run goes on where
it was, and cells that were made with another model, judge or settings are made anew. Learning is in float32, videos are
made in the experiment's precision; finished ones lie in --folder, so that those of the original model are made once.
`--ray auto` spreads cells over a Ray cluster, `--ray local` over this machine's cores.
"""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import cache
from itertools import islice, product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from benchmarks.common import FOLDER, RESULTS, contact_sheet, plainly, recorded_settings, shows, slug, stored_entries
from unreel import Concept, Pair, UnreelError, attack, evaluate, load_pair, unlearn
from unreel.attacks import usable, version_of
from unreel.evaluation.estimate import Estimate
from unreel.evaluation.evaluate import build_suite
from unreel.evaluation.run import Evaluation
from unreel.files import write_json
from unreel.interventions.base import Intervention
from unreel.judges import Judge, load_judge
from unreel.methods import configure
from unreel.models.adapter import network_of
from unreel.models.conditioner import Conditioner
from unreel.models.fingerprint import Fingerprint
from unreel.models.pair import VideoModel, load_video_model
from unreel.models.sampling import generate_images
from unreel.models.shipped import EMBEDDED, preset_of
from unreel.progress import track
from unreel.prompts.suite import Prompt
from unreel.versions import versions

EXPERIMENTS = Path(__file__).parent / "experiments"
FOUND = "found_wordings"  # the result that holds which words were found for concepts
SHEET = {"explicit": 4, "companions": 2, "neighbours": 4}  # groups of prompts, and how many of each are shown


@dataclass(frozen=True)
class Cell:
    """One method with one setting, or several added up ("a and b"), unlearning one concept of one pair, and what is
    measured then.

    `options` are those of the measure: prompts, seeds, budgets. `sequence` are concepts unlearned one on top of the other,
    if it is not `concept` alone. `images` says where the images to learn from come from, if not from the model.
    """

    experiment: str
    run: str
    measure: str
    method: str
    concept: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    sequence: list[dict[str, Any]] = field(default_factory=list)
    images: str = ""
    pair: str = EMBEDDED
    dtype: str = "float32"

    @property
    def file(self) -> Path:
        return RESULTS / self.experiment / slug(self.run) / f"{slug(self.concept['name'])}.json"

    def stored(self) -> dict[str, Any]:
        """The content of its file; {} if there is none, or if it is cut short."""
        try:
            content = json.loads(self.file.read_text())
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}


def cells_of(experiment: str) -> list[Cell]:
    """The cells of an experiment, run by run. Raises UnreelError if there is no such experiment."""
    file = EXPERIMENTS / f"{experiment}.json"
    if file.parent != EXPERIMENTS or "/" in experiment or not file.is_file():
        raise UnreelError(
            f"there is no experiment {experiment}: {', '.join(sorted(f.stem for f in EXPERIMENTS.iterdir()))}"
        )
    plan = json.loads(file.read_text())
    common = {key: plan[key] for key in ("measure", "pair", "dtype") if key in plan}
    cells = []
    for run in plan["runs"]:
        for name, settings, options in _variants(run):
            chosen = {"settings": settings, "options": plan["options"] | options}
            chosen |= {key: run[key] for key in ("sequence", "images") if key in run}
            cells += [
                Cell(experiment, name, method=run["method"], concept=concept, **chosen, **common)
                for concept in _with_found(run.get("concepts", plan["concepts"]), run.get("found"))
            ]
    if plan["measure"] not in MEASURES:
        raise UnreelError(f"{experiment} measures {plan['measure']!r}: choose from {', '.join(MEASURES)}")
    if len({cell.file for cell in cells}) < len(cells):
        raise UnreelError(f"two cells of {experiment} would be one file: call runs and concepts otherwise")
    return cells


def _with_found(concepts: Sequence[dict[str, Any]], source: str | None) -> list[dict[str, Any]]:
    """The concepts; if a run has a source, those for which words were found in it, with these as synonyms."""
    if source is None:
        return list(concepts)
    words = stored_entries(FOUND).get(source, {}).get("found", {})
    return [concept | {"synonyms": words[concept["name"]]} for concept in concepts if concept["name"] in words]


def _variants(run: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Names, settings and options of a run, for each combination of what it varies; options are varied as options.NAME."""
    varied = run.get("vary", {})
    for values in product(*varied.values()):
        settings, options = dict(run.get("settings", {})), dict(run.get("options", {}))
        name = [run["name"]]
        for key, value in zip(varied, values, strict=True):
            of, _, option = key.rpartition(".")
            (options if of else settings)[option] = value
            shown = f"{value:g}" if isinstance(value, float) else value
            name.append(f"{option.replace('_', ' ')} {shown}")
        yield ", ".join(name), settings, options


def results_of(experiment: str) -> dict[str, dict[str, Any]]:
    """The results that there are, by run and concept. Raises FileNotFoundError if there is none."""
    measured: dict[str, dict[str, Any]] = {}
    for cell in cells_of(experiment):
        if stored := cell.stored():
            measured.setdefault(cell.run, {})[cell.concept["name"]] = stored["result"]
    if not measured:
        raise FileNotFoundError(f"{experiment} was not measured")
    return measured


@dataclass(frozen=True, eq=False)
class Bench:
    """A pair and its judge, and the video model in the precision of the videos."""

    pair: Pair
    model: VideoModel
    judge: Judge
    stamp: dict[str, Any]


@cache
def bench_of(pair: str, dtype: str, device: str) -> Bench:
    loaded, judge = load_pair(t2v=pair, device=device), load_judge(preset_of(pair)["judge"], device)
    parts = {f"{kind} {name}": part for kind in ("t2i", "t2v") for name, part in getattr(loaded, kind).components.items()}
    parts = {name: part for name, part in parts.items() if isinstance(part, torch.nn.Module)} | {"judge": judge.network}
    weights = {name: Fingerprint.of(part).identity for name, part in sorted(parts.items())}
    model = load_video_model(pair, device=device, dtype=getattr(torch, dtype))
    return Bench(loaded, model, judge, {"pair": recorded_settings(loaded.settings), "weights": weights})


def content_of(cell: Cell, folder: Path, device: str) -> dict[str, Any]:
    """The content of a cell's file, made anew."""
    bench = bench_of(cell.pair, cell.dtype, device)
    learned = learned_in(cell, bench, folder)
    methods = len(cell.method.split(" and "))
    part, *also = learned.provenance["parts"][-methods:]
    about = {key: part[key] for key in ("kind", "settings", "anchor", "seconds", "stopped") if key in part}
    about["seconds"] += sum(other["seconds"] for other in also)
    about |= {"steps": len(part["losses"])} if part.get("losses") else {}
    result = about | MEASURES[cell.measure](cell, bench, learned, folder, **cell.options)
    return {"cell": asdict(cell), **bench.stamp, "result": result, "device": device, "versions": versions()}


def learned_in(cell: Cell, bench: Bench, folder: Path) -> Intervention:
    """The intervention of a cell: what its method learns, or several methods, added up."""
    method, *also = cell.method.split(" and ")
    pair = bench.pair
    if MEASURES[cell.measure] in IN_IMAGES:  # methods that change a network are to change the image model's
        pair = Pair(pair.t2i, pair.t2i, pair.t2i_source, pair.t2i_source, pair.settings, pair.vocabulary)
    config = configure(method, cell.settings, pair.settings)
    concepts = [Concept(**concept) for concept in cell.sequence or [cell.concept]]
    images = renders(concepts[0], folder / "renders", config.shots) if cell.images else None
    total = last = unlearn(concepts[0], pair, config, images=images)
    for method in also:
        total = total + unlearn(concepts[0], pair, configure(method, {}, pair.settings))
    with ExitStack() as on:
        for concept in concepts[1:]:
            on.enter_context(last.on(pair.t2i))
            last = unlearn(concept, pair, config)
            total = total + last
    return total


def renders(concept: Concept, folder: Path, count: int) -> Path:
    """A folder of drawings of the concept, as a person would collect pictures of it. Needs `python -m training sprites`."""
    from PIL import Image

    from training.scenes import Renderer
    from training.world import Scene, load_world

    world, rng = load_world("first"), np.random.default_rng(8_000_000)
    renderer = Renderer(Path("training/runs/sprites.npz"), world)
    names, styles, backgrounds = (list(world[key]) for key in ("concepts", "styles", "backgrounds"))
    home = folder / slug(concept.name)
    home.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        name = str(rng.choice(names)) if concept.kind == "style" else concept.name.lower()
        style = concept.name if concept.kind == "style" else styles[i % len(styles)]
        scene = Scene((name,), style, backgrounds[int(rng.integers(len(backgrounds)))])
        Image.fromarray(renderer.frame(scene, 0)).save(home / f"{i}.png")
    return home


def videos(
    cell: Cell,
    bench: Bench,
    learned: Intervention,
    folder: Path,
    *,
    sheet: bool = False,
    compiled: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """An evaluation; with `sheet`, frames of some of its videos go into a picture.

    `compiled` makes them with a compiled network, faster; pixels differ by rounding, so such videos are kept apart.
    """
    if compiled:
        _compile(network_of(bench.model.pipeline))
    clips = folder / ("clips-compiled" if compiled else "clips")
    run = evaluate(bench.model, learned, bench.judge, concept=Concept(**cell.concept), clips=clips, **options)
    if sheet:
        of = [] if cell.pair == EMBEDDED else [cell.pair]
        _sheet("-".join(slug(part) for part in [*of, cell.run, cell.concept["name"]]), run)
    return run.run.document()


@cache
def _compile(network: torch.nn.Module) -> None:
    network.compile(dynamic=False)


def _sheet(name: str, run: Evaluation) -> None:
    rows = []
    for group, count in SHEET.items():
        if group in run.groups:
            shown = run.groups[group]
            arms = [list(islice(shown.videos(arm), count)) for arm in ("original", "edited")]
            for prompt, original, edited in zip(shown.prompts, *arms, strict=False):
                rows += [(f"{prompt.text}\noriginal", original), ("edited", edited)]
    contact_sheet(name, rows, label=230)


def attacks(cell: Cell, bench: Bench, learned: Intervention, folder: Path, **options: Any) -> dict[str, Any]:
    """Attacks, whose searches are in float32. If the cell has results already, only attacks that these lack, or have in an
    older version, are tried: each attack has its own seeds, whatever else is tried. Each entry says which erasure was
    attacked, since what is learned may have changed meanwhile.
    """
    pair = bench.pair
    target = Pair(pair.t2i, bench.model.pipeline, pair.t2i_source, bench.model.source, pair.settings)
    concept, stored = Concept(**cell.concept), cell.stored()
    current = stored and _is_current(cell, bench.stamp)
    if current and (left := _lacking(cell, stored["result"])):
        options["attacks"] = left
    document = attack(target, learned, bench.judge, concept=concept, clips=folder / "clips", **options).document()
    attacked = {"erasure": learned.identity}
    tried = {name: entry | attacked for name, entry in document["attacks"].items()}
    earlier = stored["result"] if current else {}
    untried = sorted({*earlier.get("untried", ()), *document["untried"]})
    left_out = earlier.get("left_out", {}) | document["left_out"]
    return document | attacked | {"attacks": earlier.get("attacks", {}) | tried, "untried": untried, "left_out": left_out}


def images(
    cell: Cell, bench: Bench, learned: Intervention, folder: Path, *, images: int, seed: int, groups: Sequence[str]
) -> dict[str, Any]:
    """What is found in the image model's images of some groups of prompts: to tune settings, as videos take too long."""
    concept, reader = Concept(**cell.concept), Conditioner.of(bench.pair.t2i)
    prompts = build_suite(reader, concept, bench.judge, videos=images, seed=seed, groups=groups)
    return {"figures": _in_images(bench, learned, prompts, {"explicit": "concept_found"})}


# Groups of other words for concepts: a world's lists of the words in its captions, in two parts, and of words that none of
# its training saw.
WORDINGS = ("wordings", "also", "held_out")


def wordings(cell: Cell, bench: Bench, learned: Intervention, folder: Path, *, images: int, seed: int) -> dict[str, Any]:
    """What is found in the image model's images of other words for the concept, without its name in them, by group."""
    concept = Concept(**cell.concept)
    known, prompts = bench.judge.world["concepts"][concept.name.lower()], []  # type: ignore[attr-defined]
    for group in WORDINGS:
        words = [word for word in known[group] if concept.name.lower() not in word]
        if not words:  # every other word for it has the name in it
            continue
        texts = [text for word in words for text in plainly(concept, word)]
        mixed = random.Random(0).sample(texts, len(texts))
        prompts += [Prompt(mixed[i % len(mixed)], group, concept.name, seed + len(prompts) + i) for i in range(images)]
    return {"figures": _in_images(bench, learned, prompts, dict.fromkeys(WORDINGS, "concept_found"))}


def _in_images(bench: Bench, learned: Intervention, prompts: Sequence[Prompt], metrics: dict[str, str]) -> dict[str, Any]:
    """For each group the share of images that show what is asked for, by both models, under the metric's name."""
    arms = {"original": _originals(bench, tuple(prompts))}
    with learned.on(bench.pair.t2i):
        arms["edited"] = _shown(bench, prompts)
    figures: dict[str, Any] = {}
    for group in dict.fromkeys(prompt.group for prompt in prompts):
        rows = np.array([prompt.group == group for prompt in prompts])
        shares = {arm: asdict(Estimate.share(shown[rows])) for arm, shown in arms.items()}
        figures[group] = {metrics.get(group, "label_found"): shares}
    return figures


@cache
def _originals(bench: Bench, prompts: tuple[Prompt, ...]) -> np.ndarray:
    return _shown(bench, prompts)


def _shown(bench: Bench, prompts: Sequence[Prompt]) -> np.ndarray:
    texts, seeds = [prompt.text for prompt in prompts], [prompt.seed for prompt in prompts]
    images = generate_images(bench.pair.t2i, texts, seeds, bench.pair.settings, what="")
    return shows(bench.judge, images[:, None], [prompt.label for prompt in prompts])[:, 0]


Measure = Callable[..., dict[str, Any]]
MEASURES: dict[str, Measure] = {"videos": videos, "attacks": attacks, "images": images, "wordings": wordings}
IN_IMAGES: tuple[Measure, ...] = (images, wordings)  # look at the image model alone


def lacks(cell: Cell, result: dict[str, Any]) -> bool:
    """Whether a stored result lacks what its measure has by now: verdicts, or an attack."""
    if cell.measure == "videos":
        return "by_video" not in result
    return cell.measure == "attacks" and bool(_lacking(cell, result))


def _lacking(cell: Cell, result: dict[str, Any]) -> list[str]:
    """The attacks that a stored result lacks, or has in an older version. If the cell names none, they are among those that
    are tried by default; attacks that need weights count only if the result has one.
    """
    modules = usable()
    studied = any(modules[name].NEEDS_WEIGHTS for name in result["attacks"])
    by_default = [
        name for name, each in modules.items() if (studied or not each.NEEDS_WEIGHTS) and not hasattr(each, "STUDIES")
    ]
    wanted = [*cell.options.get("attacks", by_default), *result["attacks"]]
    has, untried = {name: entry.get("version", 1) for name, entry in result["attacks"].items()}, result.get("untried", ())
    return [name for name in dict.fromkeys(wanted) if name not in untried and has.get(name) != version_of(modules[name])]


def missing(cells: Sequence[Cell], device: str) -> list[Cell]:
    """The cells that were not made, were made with another model, judge or settings, or lack what is measured by now."""
    out = []
    for cell in cells:
        if not _is_current(cell, bench_of(cell.pair, cell.dtype, device).stamp) or lacks(cell, cell.stored()["result"]):
            out.append(cell)
    return out


def _is_current(cell: Cell, stamp: dict[str, Any]) -> bool:
    """Whether a cell's file is of what is asked for now, and of these weights."""
    stored, wanted = cell.stored(), json.loads(json.dumps({"cell": asdict(cell), **stamp}))
    return all(_for_cell(cell, stored).get(key) == value for key, value in _for_cell(cell, wanted).items())


def _for_cell(cell: Cell, content: dict[str, Any]) -> dict[str, Any]:
    """A file's content, whose settings of the pair's methods are cut down to those of the cell's own methods."""
    pair = content.get("pair", {})
    return content | {
        "pair": pair | {"methods": [pair.get("methods", {}).get(each) for each in cell.method.split(" and ")]}
    }


def write(cell: Cell, content: dict[str, Any]) -> None:
    cell.file.parent.mkdir(parents=True, exist_ok=True)
    write_json(cell.file, content)


def over_ray(cells: Sequence[Cell], address: str, folder: Path, device: str) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Cells with the contents of their files, as they are done. A worker that dies is replaced, and its cell made again."""
    import ray

    ray.init(address=address, log_to_driver=False)
    make = ray.remote(num_cpus=1, num_gpus=int(device != "cpu"), max_retries=3)(content_of)
    waiting = {make.remote(cell, folder.absolute(), device): cell for cell in cells}
    while waiting:
        (done,), _ = ray.wait(list(waiting), num_returns=1)
        yield waiting.pop(done), ray.get(done)
    ray.shutdown()


def _of_runs(cells: Sequence[Cell], names: Sequence[str]) -> list[Cell]:
    """The cells of the runs with those names; for a name that no run has, of the runs whose names begin so. All cells
    without names.
    """
    runs = {cell.run for cell in cells}
    wanted = {run for name in names for run in ({name} & runs or {run for run in runs if run.startswith(name)})}
    return [cell for cell in cells if not names or cell.run in wanted]


def main(
    experiment: Annotated[str, typer.Argument(help="the name of a file in benchmarks/experiments")],
    run: Annotated[
        list[str] | None, typer.Option(help="only the run of that name, or those that begin so; may be repeated")
    ] = None,
    concept: Annotated[list[str] | None, typer.Option(help="only these concepts; may be repeated")] = None,
    folder: Annotated[Path, typer.Option(help="where finished videos are kept")] = FOLDER,
    device: str = "cpu",
    ray: Annotated[str, typer.Option(help="address of a Ray cluster; auto, or local for this machine's cores")] = "",
) -> None:
    cells = _of_runs(cells_of(experiment), run or ())
    cells = [cell for cell in cells if not concept or cell.concept["name"] in concept]
    if not cells:
        runs, names = (
            {pick(c): None for c in cells_of(experiment)} for pick in (lambda c: c.run, lambda c: c.concept["name"])
        )
        raise UnreelError(f"{experiment} has no such cell: its runs are {', '.join(runs)}, its concepts {', '.join(names)}")
    left = missing(cells, device)
    print(f"{experiment}: {len(cells)} cells, {len(left)} to make", flush=True)
    making = over_ray(left, ray, folder, device) if ray else ((cell, content_of(cell, folder, device)) for cell in left)
    for cell, content in track(making, experiment, "cell", total=len(left)):
        write(cell, content)


if __name__ == "__main__":
    # Not as __main__, whose functions Ray's workers do not find.
    from benchmarks.cells import main as run

    try:
        typer.run(run)
    except UnreelError as error:
        raise SystemExit(f"error: {error}") from None
