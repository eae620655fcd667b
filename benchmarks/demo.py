"""How long the README's demos take, set-up aside: `python -m benchmarks.demo [--pair embedded:modern]`."""

import os
import subprocess
import sys
import tempfile
import time
from typing import Annotated

import typer

from benchmarks.common import slug, write_result
from unreel.models.shipped import EMBEDDED


def main(pair: Annotated[str, typer.Option(help="the pair to unlearn in")] = EMBEDDED) -> None:
    other = [] if pair == EMBEDDED else ["--t2v", pair]
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        command = [sys.executable, "-m", "unreel.cli", "unlearn", "Tokyo Tower", "--out", "tokyo-tower", *other]
        subprocess.run(command, cwd=folder, check=True)
        seconds = time.perf_counter() - begun
    write_result(slug(pair).replace("embedded", "demo"), {"seconds": round(seconds, 1), "cores": os.cpu_count()})


if __name__ == "__main__":
    typer.run(main)
