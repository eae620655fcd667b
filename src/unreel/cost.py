"""What a piece of work cost: wall seconds and peak memory."""

import sys
import time
from contextlib import suppress
from pathlib import Path

import torch


class Cost:
    """Measures the code inside `with Cost(device) as cost:`.

    `seconds` is wall time; `peak_memory_gib` the device's peak allocation on CUDA, elsewhere the process's peak resident
    set, both including what was loaded before.
    """

    def __init__(self, device: str | torch.device = "cpu"):
        self.device = torch.device(device)
        self.cuda = self.device.type == "cuda"
        self.seconds = self.peak_memory_gib = 0.0

    def __enter__(self) -> "Cost":
        if self.cuda:
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            with suppress(OSError):  # Linux: forget the peak of what ran before
                Path("/proc/self/clear_refs").write_text("5")
        self._begun = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        if self.cuda:
            torch.cuda.synchronize(self.device)
        self.seconds = time.perf_counter() - self._begun
        self.peak_memory_gib = (torch.cuda.max_memory_allocated(self.device) if self.cuda else _peak_resident()) / 2**30


def _peak_resident() -> int:
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows has none, and does not say
        return 0
    counted = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return counted if sys.platform == "darwin" else counted * 1024  # macOS counts bytes, others KiB
