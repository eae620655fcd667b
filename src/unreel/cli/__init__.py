"""The command line: each command parses, leaves the work to public functions and prints. Heavy imports wait in commands."""

import os
import sys
from typing import Any

import typer

from unreel.cli import about, artifacts, judging, learning, running
from unreel.cli.app import Command, app
from unreel.errors import UnreelError, is_text, shortened

ORDER = [module.__name__ for module in (learning, judging, running, artifacts, about)]  # of commands in --help
app.registered_commands.sort(key=lambda registered: ORDER.index(registered.callback.__module__))
for _registered in app.registered_commands:
    _registered.cls = Command

USAGE_ERROR: Any = typer.BadParameter.__mro__[1]  # what typer raises for options and arguments, whoever defines it


def _command(arguments: list[str]) -> list[str]:
    """The command among the arguments, as a list; empty if there is none of that name."""
    return [name for name in arguments[1:2] if name in typer.main.get_command(app).commands]  # type: ignore[attr-defined]


def main() -> None:
    """Run the command line; every error a user can mend becomes one line and exit code 2."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # it counts its attempts at length where there is no network
    if len(sys.argv) == 1:
        sys.argv.append("--help")
    try:
        if not all(map(is_text, sys.argv)):
            raise UnreelError("an argument is not UTF-8 text")
        sys.exit(app(standalone_mode=False))
    except UnreelError as error:
        message = str(error)
    except typer.Abort:
        message = "aborted"
    except USAGE_ERROR as error:
        message = f"{error.format_message()} (`{' '.join(['unreel', *_command(sys.argv)])} --help` lists what there is)"
    except OSError as error:  # no space, no permission: where it happened is in the file name
        message = f"{error.filename or 'the output'}: {error.strerror or error}"
    typer.echo(f"unreel: {shortened(message)}", err=True)
    sys.exit(2)
