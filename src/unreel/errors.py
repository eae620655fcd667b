"""The one exception users see, a message that says what is wrong and what to do about it; and what such messages need."""

from collections.abc import Iterable

LONGEST = 1000  # characters of a message that people read
_COMMANDS = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0)])


class UnreelError(Exception):
    """Bad input or an impossible request. The command line prints it as one line and exits with code 2."""


def needs(what: str, packages: str, extra: str) -> UnreelError:
    """The error for packages of an extra that are not installed."""
    return UnreelError(f"{what} needs {packages}: pip install -e '.[{extra}]' in a clone of unreel")


def summarise(names: Iterable[str], most: int = 3) -> str:
    """The first few names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def shortened(message: str) -> str:
    """A message on one line, without characters that command a terminal; of one that is too long to read, beginning and
    end.
    """
    line = " ".join(message.split()).translate(_COMMANDS)
    half = LONGEST // 2
    return line if len(line) <= LONGEST else f"{line[:half]} ... {line[-half:]}"


def reason_of(error: BaseException) -> str:
    """Why something failed, on one line: what the error says, or its kind where it says nothing."""
    return shortened(str(error)) or type(error).__name__


def is_text(letters: str) -> bool:
    """Whether the letters can be written as UTF-8. Arguments and JSON may hold lone surrogates, which no file or tokenizer
    takes.
    """
    return not any("\ud800" <= letter <= "\udfff" for letter in letters)
