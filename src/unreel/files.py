"""Files that appear complete or not at all, and names for them. Knows bytes and letters only."""

import hashlib
import json
import re
import unicodedata
from pathlib import Path
from typing import Any

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


def write_bytes(file: Path, content: bytes) -> None:
    """Write atomically: under another name first, then renamed."""
    partial = file.with_name(f".{file.name}.partial")
    partial.write_bytes(content)
    partial.replace(file)


def write_text(file: Path, text: str) -> None:
    """Write atomically."""
    write_bytes(file, text.encode())


def write_json(file: Path, document: Any) -> None:
    """Write atomically."""
    write_text(file, json.dumps(document, indent=2) + "\n")
