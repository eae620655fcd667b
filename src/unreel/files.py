"""Files that appear complete or not at all, and names for them. Knows bytes, letters and tensors; knows nothing about what
they mean.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from unreel.errors import UnreelError, shortened

LOCK_FILE = ".lock"
LONGEST_NAME = 60  # letters of a text that go into a file's name; each takes at most four bytes


def file_name(text: str) -> str:
    """A name for a file or folder after a text: its letters and digits, of any script, in lower case and with hyphens
    between. If more than case and spaces is lost, a few digits follow that tell the text from others.
    """
    plain = re.sub(r"\s+", "-", unicodedata.normalize("NFC", text).strip().lower())
    name = re.sub(r"[^\w-]+|_+", "-", plain)[:LONGEST_NAME].strip("-")
    return name if name == plain else _with_digest(name, text)


def file_names(texts: Iterable[str]) -> dict[str, str]:
    """A name for each of several texts, as `file_name` gives it. No two are the same: of texts that differ in case and
    spaces alone, those after the first have such digits too.
    """
    names: dict[str, str] = {}
    for text in texts:
        name = file_name(text)
        names[text] = _with_digest(name, text) if name in names.values() else name
    return names


def _with_digest(name: str, text: str) -> str:
    digits = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:8]
    return f"{name}-{digits}" if name else digits


def as_it_lies(file: Path) -> tuple[int, ...]:
    """A stamp of the file (times, size, inode) that changes when the file does. Raises OSError if there is none."""
    about = file.stat()
    return about.st_mtime_ns, about.st_ctime_ns, about.st_size, about.st_ino


@contextmanager
def alone_in(folder: Path, about: Path | None = None) -> Iterator[None]:
    """Inside, this process holds the lock of `folder`; a process that was killed holds none. Raises UnreelError if
    another process holds it, naming `about`, by default the folder around it.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / LOCK_FILE, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        where = about or folder.parent
        raise UnreelError(f"another process works in {where}: wait for it, or choose another folder") from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Gives a name to write to that no other process uses; what is written there takes the place of `file` at the end of
    the block, and is gone if it fails. Raises UnreelError, which names `file`, if it cannot be written.
    """
    from safetensors import SafetensorError

    partial = file.with_name(f".{uuid4().hex[:12]}.partial")
    try:
        yield partial
        partial.replace(file)
    except (OSError, SafetensorError) as error:
        raise UnreelError(f"cannot write {file}: {getattr(error, 'strerror', None) or error}") from error
    finally:
        with suppress(OSError):
            partial.unlink()


def require_new(folder: Path, overwrite: bool, marker: str) -> None:
    """Raises UnreelError if `folder` exists and may not be replaced, or cannot be created.

    Only a folder of the same sort, which holds the file `marker`, or an empty one is ever replaced, so that a slip of the
    hand loses nothing else. If `folder` is a link, this is about the folder that it leads to.
    """
    home = _real(folder)
    try:
        _require_replaceable(folder, home, overwrite, marker)
        home.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=_beside(home), dir=home.parent):
            pass
    except OSError as error:
        raise UnreelError(f"cannot write {folder}: {error.strerror}") from error


def _require_replaceable(folder: Path, home: Path, overwrite: bool, marker: str) -> None:
    if not home.exists():
        return
    if home.is_mount() or Path.cwd().is_relative_to(home):
        which = "a mount point" if home.is_mount() else "where this command runs"
        raise UnreelError(f"{folder} is {which}, which cannot be replaced: choose another folder, such as one in it")
    if not overwrite:
        raise UnreelError(f"{folder} exists: choose another folder, or replace it with --overwrite")
    if not (home / marker).is_file() and (home.is_file() or any(home.iterdir())):
        kind = Path(marker).stem
        raise UnreelError(f"{folder} exists and is no {kind}, so --overwrite does not replace it: choose another folder")


def _real(folder: Path) -> Path:
    """The folder that links lead to, so that this is renamed and not a link."""
    return Path(os.path.realpath(folder))


def _beside(home: Path) -> str:
    """The beginning of the names of temporary folders for it."""
    return f".{home.name}-"


def write_folder(folder: Path, fill: Callable[[Path], None], marker: str, *, overwrite: bool = False) -> Path:
    """Fill a temporary folder beside `folder`, then rename it: a write that fails or is interrupted leaves nothing behind
    and all as it was. One that is killed may leave hidden folders `.NAME-*` there; if it was killed between the two renames
    that replace a folder, one of them is the former folder.

    Raises UnreelError as `require_new` does, and if it cannot be written.
    """
    from safetensors import SafetensorError

    require_new(folder, overwrite, marker)
    home = _real(folder)
    partial = Path(tempfile.mkdtemp(prefix=_beside(home), dir=home.parent))
    try:
        fill(partial)
        allowed = _allowed(partial)
        for file in (partial, *partial.rglob("*")):  # temporary folders and safetensors files are born private
            file.chmod((0o755 if file.is_dir() else 0o644) & allowed)
            _have_on_disk(file)
        _put(partial, home)
        _have_on_disk(home.parent)
    except (OSError, SafetensorError) as error:
        raise UnreelError(f"cannot write {folder}: {getattr(error, 'strerror', None) or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _allowed(folder: Path) -> int:
    """The permissions that the umask leaves, read off a file made in `folder`: `os.umask` tells it only by setting it, for
    the files of all threads.
    """
    probe = folder / f".{uuid4().hex[:12]}.partial"
    probe.touch(0o777)
    mode = probe.stat().st_mode
    probe.unlink()
    return mode


def _have_on_disk(file: Path) -> None:
    """Have the disk hold a file, or the names in a folder, so that a power cut takes nothing that was called done."""
    with suppress(OSError) if file.is_dir() else nullcontext():  # of folders, not all systems can
        handle = os.open(file, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _put(partial: Path, home: Path) -> None:
    """Rename the folder `partial` to `home`, in place of a former folder, which stays if that fails."""
    if not home.exists():
        partial.rename(home)
        return
    old = Path(tempfile.mkdtemp(prefix=_beside(home), dir=home.parent))
    try:
        home.rename(old)
        partial.rename(home)
    finally:
        if not home.exists():
            old.rename(home)
        shutil.rmtree(old, ignore_errors=True)


def write_bytes(file: Path, content: bytes) -> None:
    """Write atomically."""
    with replacing(file) as partial:
        partial.write_bytes(content)


def write_text(file: Path, text: str) -> None:
    """Write atomically."""
    write_bytes(file, text.encode())


def write_json(file: Path, document: Any) -> None:
    """Write atomically."""
    write_text(file, json.dumps(document, indent=2) + "\n")


def parse_json(text: str | bytes) -> Any:
    """JSON that others have written. Raises ValueError if an object has a name twice: json would silently use the last."""
    return json.loads(text, object_pairs_hook=_each_once)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name in fields:
            raise ValueError(f"it has {shortened(repr(name))} twice, of which the last would count: keep one of them")
        fields[name] = value
    return fields


def short_digest(key: Any) -> str:
    """A short digest of `key`, plain data; values that JSON lacks count as their text."""
    return hashlib.sha256(json.dumps(key, default=str).encode()).hexdigest()[:16]


def tensor_file(folder: Path, key: Any, prefix: str = "") -> Path:
    """The file in `folder` for tensors that are decided by `key`, plain data, so that a cache never mixes them up."""
    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]
    return folder / f"{prefix}{name}.safetensors"


def write_tensors(file: Path, tensors: Mapping[str, Any], metadata: Mapping[str, str]) -> None:
    """Write torch tensors to a safetensors file, atomically."""
    from safetensors.torch import save_file

    with replacing(file) as partial:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial, dict(metadata))


def read_tensors(file: Path, names: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, str]]:
    """The tensors called `names`, on the CPU, and the metadata of a file that `write_tensors` has written. Raises
    UnreelError if it is missing, broken or another's.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as stored:
            return {name: stored.get_tensor(name) for name in names}, dict(stored.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise UnreelError(f"{file} is missing or broken: delete it and run the command again to remake it") from error
