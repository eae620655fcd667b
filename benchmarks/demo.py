"""How long the README's demo takes, set-up aside: `python -m benchmarks.demo`."""

import os
import subprocess
import sys
import tempfile
import time

from benchmarks.common import write_result


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        command = [sys.executable, "-m", "unreel.cli", "unlearn", "Tokyo Tower", "--out", "tokyo-tower"]
        subprocess.run(command, cwd=folder, check=True)
        seconds = time.perf_counter() - begun
    write_result("demo", {"seconds": round(seconds, 1), "cores": os.cpu_count()})


if __name__ == "__main__":
    main()
