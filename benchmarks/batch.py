"""How fast a batch of takedowns is, and what is left of it when workers die: `python -m benchmarks.batch`.

200 takedowns in the embedded pair's text encoder over a Ray cluster on this machine, whose workers are killed at random
meanwhile, and the first 60 of them in one process. Then the erasures are counted and read. Ten are made both ways, with one
thread, to be compared: sums of several threads round otherwise, and training carries that on.
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

from benchmarks.common import write_entry
from unreel import Erasure
from unreel.batch import ERASED, BatchJob, batch
from unreel.files import write_text
from unreel.judges import load_judge
from unreel.workflow import UnlearnJob

TAKEDOWNS, ALONE, COMPARED, SEED = 200, 60, 10, 0
PARTS = ("alone", "ray", "same")
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


def one_process(table: Path, **environment: str) -> None:
    """Unlearn all of a table in a process of its own, as a user runs it, into the folder of the table's name."""
    command = [
        sys.executable,
        "-m",
        "unreel.cli",
        "batch",
        table,
        "--out",
        table.with_suffix(""),
        "--accept-weak",
        "--quiet",
    ]
    subprocess.run(command, check=True, env=os.environ | environment)


def alone(folder: Path) -> dict[str, Any]:
    table(folder / "alone.csv", ALONE)
    begun = time.perf_counter()
    one_process(folder / "alone.csv")
    seconds = time.perf_counter() - begun
    return {"takedowns": ALONE, "seconds": round(seconds, 1), "an_hour": round(3600 * ALONE / seconds)}


def erasures_in(folder: Path) -> dict[str, Erasure]:
    return {file.parent.name: Erasure.from_pretrained(file.parent) for file in folder.glob("*/erasure.json")}


def same(folder: Path) -> dict[str, Any]:
    """How many erasures of a cluster's workers are the very same that one process makes with one thread."""
    for name in ("one", "cluster"):
        table(folder / f"{name}.csv", COMPARED)
    one_process(folder / "one.csv", OMP_NUM_THREADS="1")
    job = UnlearnJob((), videos=0, accept_weak=True, out=folder / "cluster")
    batch(BatchJob(folder / "cluster.csv", job, ray="local"), lambda *news: print(*news, flush=True))
    one, cluster = (erasures_in(folder / name) for name in ("one", "cluster"))
    return {"takedowns": COMPARED, "same": sum(cluster[name] == erasure for name, erasure in one.items())}


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
    erasures = erasures_in(folder / "all")
    return {
        "takedowns": TAKEDOWNS,
        "seconds": round(seconds, 1),
        "an_hour": round(3600 * TAKEDOWNS / seconds),
        "workers_killed": killer.killed,
        "done": made.count(*ERASED),
        "weak": made.count("weak"),
        "tried_again": sum(outcome.attempts > 1 for outcome in made.outcomes),
        "erasures": len(erasures),
        "of_their_concept": sum(
            erasures[outcome.takedown.folder].concepts == [outcome.takedown.concept] for outcome in made.outcomes
        ),
        "left_behind": sum(file.name.startswith(".") and file.is_dir() for file in (folder / "all").iterdir()),
        "largest_worker_gib": round(killer.peak, 2),
        "megabytes": round(sum(outcome.nbytes for outcome in made.outcomes) / 1e6, 1),
    }


def main(
    part: Annotated[list[str] | None, typer.Option(help=f"only this of {', '.join(PARTS)}; may be repeated")] = None,
) -> None:
    measures = {"alone": alone, "ray": over_ray, "same": same}
    for name in part or PARTS:
        with tempfile.TemporaryDirectory() as folder:
            write_entry("batch", name, {**measures[name](Path(folder)), "processors": os.cpu_count()})


if __name__ == "__main__":
    typer.run(main)
