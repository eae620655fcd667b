"""The folder that a run goes on in: whose it is, and that nobody else works there meanwhile.

Knows folders and JSON; knows nothing about what a run does.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unreel.errors import UnreelError
from unreel.files import LOCK_FILE, alone_in, write_json

RUN_FILE, CLIPS_FOLDER = "run.json", "clips"
SHORT = 20  # letters of a setting that a line has room for


@contextmanager
def claimed(folder: Path, run: dict[str, Any]) -> Iterator[None]:
    """Inside, `folder` belongs to this run, and no other process works in it. Raises UnreelError if it belongs to another
    run or is no folder of a run, and if another process works there.
    """
    document = json.loads(json.dumps(run))
    _require_free(folder, document)
    folder.mkdir(parents=True, exist_ok=True)
    with alone_in(folder, folder):
        _require_free(folder, document)  # another process may have claimed it meanwhile, for a run of its own
        if not (folder / RUN_FILE).is_file() or not _holds_something(folder):
            write_json(folder / RUN_FILE, document)
        yield


def _require_free(folder: Path, document: dict[str, Any]) -> None:
    """Raises UnreelError if `folder` belongs to another run than `document` describes, or holds something else than a
    run.
    """
    file = folder / RUN_FILE
    if file.is_file():
        try:
            stored = json.loads(file.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            stored = None
        if not isinstance(stored, dict):
            raise UnreelError(f"{file} is broken: choose another folder with --out, or delete that one")
        differs = _differences(stored, document)
        if differs and _holds_something(folder):  # a run that failed before anything was made is in nobody's way
            raise UnreelError(
                f"{folder} holds the results of another run ({', '.join(differs)}): choose another folder with --out, or "
                "delete that one"
            )
        return
    if folder.exists() and (folder.is_file() or {file.name for file in folder.iterdir()} - {LOCK_FILE}):
        raise UnreelError(
            f"{folder} exists and is no folder of an evaluation, an attack or takedowns: choose another with --out"
        )


def _holds_something(folder: Path) -> bool:
    """Whether a run's folder has any file besides the run's description and the lock."""
    return any(file.is_file() and file.name not in (RUN_FILE, LOCK_FILE) for file in folder.rglob("*"))


def _differences(stored: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """How a stored run differs from the one `wanted`: a few words for each setting. Settings that only `stored` has, as
    earlier versions of unreel wrote them, make no difference.
    """
    out = []
    for name, value in wanted.items():
        had = stored.get(name)
        if name not in stored:
            out.append(f"it does not say which {name}")
        elif isinstance(had, dict) and isinstance(value, dict):
            out += _differences(had, value)
        elif had != value:
            short = all(isinstance(each, (str, int, float)) and len(str(each)) <= SHORT for each in (had, value))
            out.append(f"{name} {had} instead of {value}" if short else f"not the same {name}")
    return out
