"""What it costs when something else computes beside unreel: `python -m benchmarks.busy`.

Unlearns one concept of the embedded pair in a process of its own: alone, and beside as many other processes, each in a
session of its own as a service is, as there are cores. With the number of looks for work that unreel gives OpenMP's
threads, and with their own.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from benchmarks.common import machine, write_result

CODE = """
import time
from unreel import load_pair, unlearn
pair = load_pair()
begun = time.perf_counter()
unlearn("pizza", pair)
print(time.perf_counter() - begun)
"""
ENDLESS = """
import torch
torch.set_num_threads(1)
matrix = torch.randn(1000, 1000)
while True:
    matrix @ matrix
"""
PATIENCE, WARM_UP = 240.0, 10.0  # seconds, of all with loading, and until others compute
OTHERS = os.cpu_count() or 1
BESIDE = {"alone": (0, 0), "beside others": (OTHERS, 0), "beside others of low priority": (OTHERS, 15)}
LOOKS = {"unreel's": {}, "OpenMP's own": {"GOMP_SPINCOUNT": "300000"}}


@contextmanager
def beside(count: int, niceness: int) -> Iterator[None]:
    command = ["nice", "-n", str(niceness), sys.executable, "-c", ENDLESS]
    others = [subprocess.Popen(command, start_new_session=True) for _ in range(count)]
    time.sleep(WARM_UP if others else 0)
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def seconds(environment: dict[str, str]) -> float | None:
    """How long unlearning takes; None if longer than anybody waits."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))} | environment
    command = [sys.executable, "-c", CODE]
    try:
        done = subprocess.run(command, env=kept, capture_output=True, text=True, check=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        return None
    return round(float(done.stdout), 1)


def main() -> None:
    result = {
        "machine": machine("cpu"),
        "processors": os.cpu_count(),
        "patience": PATIENCE,
    }
    taken: dict[str, dict[str, float | None]] = {}
    for what, others in BESIDE.items():
        with beside(*others):
            taken[what] = {looks: seconds(environment) for looks, environment in LOOKS.items()}
        print(what, taken[what], flush=True)
    write_result("busy", result | {"seconds": taken})


if __name__ == "__main__":
    typer.run(main)
