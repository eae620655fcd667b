"""How fast a batch of takedowns is, and what is left of it when workers die: `python -m benchmarks.batch`.

200 takedowns in the embedded pair's text encoder: in one process, and over a Ray cluster on this machine, whose workers
are killed at random meanwhile. Then the erasures are counted, read, and compared with those that one process made.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.common import write_result
from unreel import Erasure
from unreel.batch import BatchJob, batch
from unreel.files import write_text
from unreel.judges import load_judge
from unreel.workflow import UnlearnJob

TAKEDOWNS, SEED = 200, 0
PAUSE = 20.0  # seconds between two killings, on average


def table(file: Path, count: int) -> None:
    """Every concept and style of the first pair's world, again and again, with tickets."""
    world = load_judge("embedded").world
    names = [*world["concepts"], *world["styles"]]
    kinds = {**dict.fromkeys(world["concepts"], ""), **dict.fromkeys(world["styles"], "style")}
    rows = [f"{names[i % len(names)]},{kinds[names[i % len(names)]]},T-{i}" for i in range(count)]
    write_text(file, "\n".join(["concept,kind,ticket", *rows]) + "\n")


def processes() -> dict[int, float]:
    """Ray's workers that unlearn, with the GiB that each takes."""
    out: dict[int, float] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if "ray::attempt" in (folder / "cmdline").read_text():
                out[int(folder.name)] = int((folder / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**30
        except (OSError, IndexError):
            continue
    return out


class Killer(threading.Thread):
    """Kills a worker now and then, and remembers how much memory workers took."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.killed, self.peak, self.over = 0, 0.0, threading.Event()

    def run(self) -> None:
        draw = random.Random(SEED)
        due = time.monotonic() + draw.expovariate(1 / PAUSE)
        while not self.over.wait(0.5):
            workers = processes()
            self.peak = max([self.peak, *workers.values()])
            if workers and time.monotonic() > due:
                os.kill(draw.choice(sorted(workers)), signal.SIGKILL)
                self.killed += 1
                due = time.monotonic() + draw.expovariate(1 / PAUSE)


def alone(folder: Path) -> dict[str, Any]:
    """In a process of its own, as a user runs it."""
    table(folder / "alone.csv", TAKEDOWNS)
    begun = time.perf_counter()
    command = [
        sys.executable,
        "-m",
        "unreel.cli",
        "batch",
        folder / "alone.csv",
        "--out",
        folder / "alone",
        "--accept-weak",
    ]
    subprocess.run([*command, "--quiet"], check=True)
    seconds = time.perf_counter() - begun
    return {"seconds": round(seconds, 1), "an_hour": round(3600 * TAKEDOWNS / seconds)}


def over_ray(folder: Path) -> dict[str, Any]:
    table(folder / "all.csv", TAKEDOWNS)
    job = BatchJob(
        folder / "all.csv", UnlearnJob((), videos=0, accept_weak=True, out=folder / "all"), retries=5, ray="local"
    )
    killer = Killer()
    killer.start()
    begun = time.perf_counter()
    made, _ = batch(job, lambda *news: print(*news, flush=True))
    seconds = time.perf_counter() - begun
    killer.over.set()
    killer.join()
    erasures = {file.parent.name: Erasure.from_pretrained(file.parent) for file in (folder / "all").glob("*/erasure.json")}
    one_by_one = [Erasure.from_pretrained(file.parent) for file in sorted((folder / "alone").glob("*/erasure.json"))]
    over_cluster = [erasures[name] for name in sorted(erasures)]
    return {
        "takedowns": TAKEDOWNS,
        "seconds": round(seconds, 1),
        "an_hour": round(3600 * TAKEDOWNS / seconds),
        "workers_killed": killer.killed,
        "done": made.count("forgotten", "weak"),
        "weak": made.count("weak"),
        "tried_again": sum(outcome.attempts > 1 for outcome in made.outcomes),
        "erasures": len(erasures),
        "of_their_concept": sum(
            erasures[outcome.takedown.folder].concepts == [outcome.takedown.concept] for outcome in made.outcomes
        ),
        "same_as_alone": sum(a == b for a, b in zip(one_by_one, over_cluster, strict=True)),
        "left_behind": sum(file.name.startswith(".") and file.is_dir() for file in (folder / "all").iterdir()),
        "largest_worker_gib": round(killer.peak, 2),
        "megabytes": round(sum(outcome.nbytes for outcome in made.outcomes) / 1e6, 1),
    }


def main(
    folder: Annotated[Path | None, typer.Option(help="where erasures go; default: a temporary folder")] = None,
) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        home = folder or Path(temporary)
        home.mkdir(parents=True, exist_ok=True)
        result = {"alone": alone(home), "ray": over_ray(home), "processors": os.cpu_count()}
    write_result("batch", result)


if __name__ == "__main__":
    typer.run(main)
