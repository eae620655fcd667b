"""The one exception users see, a message that says what is wrong and what to do about it; and what such messages need."""

from collections.abc import Iterable


class UnreelError(Exception):
    """Bad input or an impossible request. The command line prints it as one line and exits with code 2."""


def summarise(names: Iterable[str], most: int = 3) -> str:
    """The first few names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
