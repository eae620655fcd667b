"""The one exception users see: a message that says what is wrong and what to do about it."""


class UnreelError(Exception):
    """Bad input or an impossible request. The command line prints it as one line and exits with code 2."""
