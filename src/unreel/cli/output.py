"""What commands print: lines for people, or one JSON document for programs.

Knows terminals; knows no command.
"""

import dataclasses
import json
import os
import shlex
import shutil
from collections.abc import Mapping
from typing import Any

import typer

_as_json = False  # print one JSON document instead of lines


def choose_json(wanted: bool) -> None:
    global _as_json
    _as_json = wanted


def echo(line: object) -> None:
    """Print a line for people; to standard error if the output is for programs."""
    typer.echo(line, err=_as_json)


def print_result(document: Any) -> None:
    """Print the result, if the output is for programs."""
    if _as_json:
        # JSON has neither NaN nor infinity.
        plain = json.loads(json.dumps(document, default=str), parse_constant=lambda _: None)
        typer.echo(json.dumps(plain, indent=2))


def terminal_width() -> int:
    """Columns that a table may take."""
    return shutil.get_terminal_size().columns


def quieten(wanted: bool) -> None:
    if wanted:  # read by tqdm, and by the libraries that draw with it, when they are imported
        os.environ.update(TQDM_DISABLE="1", HF_HUB_DISABLE_PROGRESS_BARS="1")


def tell(sort: str, text: str) -> None:
    """Print a piece of news of a job as a line."""
    echo(f"{sort:<8} {text}")


def described(learned: Any) -> dict[str, Any]:
    """An intervention for programs: what it forgets, how, and what its self-check said."""
    keys = ("concept", "kind", "synonyms", "method", "anchor", "stopped", "seconds")
    parts = [{name: part[name] for name in keys if name in part} for part in learned.provenance["parts"]]
    return {"concepts": parts, "check": learned.provenance.get("check"), "bytes": learned.nbytes}


def as_options(asked: Mapping[str, Any], *groups: Any) -> str:
    """What was asked for, and the values of `groups` that are not their defaults, as options of a further command; each
    has a space before it.
    """
    chosen = dict(asked)
    for group in groups:
        defaults = dataclasses.asdict(type(group)())
        others = {name: value for name, value in dataclasses.asdict(group).items() if value != defaults[name]}
        chosen |= {f"--{name.replace('_', '-')}": value for name, value in others.items()}
    options = [
        (name, value if isinstance(value, tuple) else (value,)) for name, value in chosen.items() if value is not None
    ]
    return "".join(
        f" {shlex.join([name, *(str(each) for each in values if each is not True)])}" for name, values in options
    )
