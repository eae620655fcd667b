"""Errors for requests that are not served, and messages to the operator.

Knows nothing of what was asked.
"""

import sys

from unreel.errors import UnreelError, shortened


class BusyError(Exception):
    """Too many requests wait, or no more are taken."""


class RefusedError(UnreelError):
    """The request is invalid, or asks for something its tenant may not. Says nothing that its tenant may not know."""


def tell_operator(what: str) -> None:
    print(f"unreel: {shortened(what)}", file=sys.stderr, flush=True)
