"""A line for each video: when, for whom and with which erasures; no prompts.

Knows a file to append to.
"""

import errno
import json
import os
import shutil
import stat
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from unreel.errors import UnreelError
from unreel.interventions.base import Intervention
from unreel.service.wish import Wish

ROOM = 2**20  # bytes that have to be free on the disk


class Audit:
    """A file with a line of JSON for each video: when, for whom, from which seed and with which erasures; never the prompt.

    A line is appended in one piece, and the file opened for it, so that several services may share one, and it may be
    renamed meanwhile.
    """

    def __init__(self, file: str | Path) -> None:
        self.file = Path(file)
        self._lock = threading.Lock()
        self.require()

    def require(self) -> None:
        """Raises UnreelError unless lines can be appended, as far as that shows beforehand."""
        self._append(b"")
        if shutil.disk_usage(self.file.absolute().parent).free < ROOM:
            raise self._unwritten(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))

    def note(self, wish: Wish, on: Mapping[str, Intervention], policy: str | None) -> None:
        """Append the line for a video. `on` are the interventions by name, `policy` is the digest of the policy that
        decides them. Raises UnreelError if it cannot be written.
        """
        about = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "tenant": wish.tenant,
            "seed": wish.seed,
            "erasures": {name: each.identity for name, each in on.items()},
            "policy": policy,
        }
        self._append(json.dumps(about).encode() + b"\n")

    def _append(self, line: bytes) -> None:
        try:
            with self._lock, self.file.open("ab+", buffering=0) as file:
                if line and file.seek(0, os.SEEK_END):
                    file.seek(-1, os.SEEK_END)
                    line = line if file.read(1) == b"\n" else b"\n" + line  # after a line that was cut short
                if file.write(line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                if line and stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    os.fsync(file.fileno())  # a line that a power cut takes was not written
        except OSError as error:
            raise self._unwritten(error) from error

    def _unwritten(self, error: OSError) -> UnreelError:
        return UnreelError(f"cannot write {self.file}, and no video is made without: {error.strerror}")
