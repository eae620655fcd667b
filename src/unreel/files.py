"""Files that appear complete or not at all, and names for them. Knows bytes, letters and tensors; knows nothing about what
they mean.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from unreel.errors import UnreelError

LOCK_FILE = ".lock"
LONGEST_NAME = 60  # letters, of what a text gives a file; bytes are at most four times as many


def file_name(text: str) -> str:
    """A name for a file or folder after a text: its letters and digits, of any script, in lower case and with hyphens
    between. Where more than case and spaces is lost, a few digits that tell the text from others follow.
    """
    plain = re.sub(r"\s+", "-", unicodedata.normalize("NFC", text).strip().lower())
    name = re.sub(r"[^\w-]+|_+", "-", plain)[:LONGEST_NAME].strip("-")
    if name == plain:
        return name
    return "-".join(part for part in (name, hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:8]) if part)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Inside, no other process does this in `folder`. Raises UnreelError if one does; one that was killed does not."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder / LOCK_FILE, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise UnreelError(f"another process works in {folder.parent}: wait for it, or choose another folder") from None
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
