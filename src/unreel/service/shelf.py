"""Any number of erasures on disk, of which those that were used last are kept in memory.

Knows folders; knows nothing of who may want what.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unreel.errors import UnreelError, shortened
from unreel.files import as_it_lies
from unreel.interventions import load_intervention
from unreel.interventions.base import RECORD_FILE, WEIGHTS_FILE, Intervention

MEGABYTE = 10**6


class Shelf:
    """Erasures by the names of their folders in `folder`. Those used last stay in memory, `megabytes` of them at most."""

    def __init__(self, folder: str | Path, megabytes: float = 512) -> None:
        folder = Path(folder)
        if not folder.is_dir():
            raise UnreelError(f"{folder} is no folder of erasures")
        self.folder, self.megabytes = folder, megabytes
        self._folders: dict[str, Path] = {}
        self._loaded: OrderedDict[str, tuple[Any, Intervention]] = OrderedDict()  # with stamps of their files
        self._sound: dict[str, Any] = {}  # stamps of files that could be loaded
        self._lock = threading.Lock()
        self.look()

    def look(self) -> None:
        """List the erasures that are in the folder now. Raises UnreelError if it cannot be read."""
        try:
            # Folders that are being written, or were when their writer was killed, have names that begin with a dot.
            there = [each for each in sorted(self.folder.iterdir()) if not each.name.startswith(".")]
        except OSError as error:
            raise UnreelError(f"cannot look into {self.folder}: {error.strerror}") from error
        folders = {each.name: each for each in there if (each / RECORD_FILE).is_file()}
        with self._lock:
            self._folders = folders
            self._loaded = OrderedDict((name, one) for name, one in self._loaded.items() if name in folders)
            self._sound = {name: stamps for name, stamps in self._sound.items() if name in folders}

    @property
    def names(self) -> list[str]:
        """The names of the erasures that are in the folder now."""
        self.look()
        return list(self._folders)

    def require(self, names: Sequence[str]) -> None:
        """Raises UnreelError for the first of the names that no erasure in the folder has."""
        for name in names:
            if name not in self._folders and name not in self.names:  # it may be new
                raise _unknown(name)

    def require_sound(self, name: str) -> None:
        """Raises UnreelError if `take` would; what was loaded as it lies on disk is not loaded for this again."""
        if self._lies(name)[1] != self._sound.get(name):
            self.take(name)

    def _lies(self, name: str) -> tuple[Path, Any]:
        """The folder of that name, absolute, and stamps of its files. Raises UnreelError if there is none."""
        self.require([name])
        try:
            # Read once, since another thread may call `look` any time; absolute, since that is no hub id, even if the
            # folder is gone by the time it is loaded.
            folder = self._folders[name].absolute()
            # The weights have a stamp too, since they may arrive after the record.
            return folder, [as_it_lies(folder / file) for file in (RECORD_FILE, WEIGHTS_FILE) if (folder / file).exists()]
        except (KeyError, OSError):
            raise _unknown(name) from None

    def take(self, name: str) -> Intervention:
        """The erasure of that name, as it is on disk now. Raises UnreelError if there is none, or it is broken."""
        folder, stamps = self._lies(name)
        with self._lock:
            loaded_stamps, loaded = self._loaded.get(name, (None, None))
            if loaded and loaded_stamps == stamps:
                self._loaded.move_to_end(name)
                return loaded
        try:
            loaded = load_intervention(folder)
        except (UnreelError, OSError):
            if (folder / RECORD_FILE).is_file():
                raise
            raise _unknown(name) from None
        with self._lock:
            self._loaded[name], self._sound[name] = (stamps, loaded), stamps
            self._loaded.move_to_end(name)
            while len(self._loaded) > 1 and self._nbytes > self.megabytes * MEGABYTE:
                self._loaded.popitem(last=False)
        return loaded

    @property
    def _nbytes(self) -> int:
        return sum(loaded.nbytes for _, loaded in self._loaded.values())


def _unknown(name: str) -> UnreelError:
    return UnreelError(f"there is no erasure {shortened(repr(name))}")
