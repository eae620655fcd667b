"""Stand-ins for an object's method or value for a while, as the stand-ins of accelerate and peft replace them for good.

Knows objects; knows nothing about what they do.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def hiding(owner: Any, name: str, stand_in: Any) -> Iterator[None]:
    """Inside, this object's attribute `name` is `stand_in`. Afterwards it is the object's own again (such as
    accelerate's `forward`), or its class's.
    """
    held, own = name in vars(owner), vars(owner).get(name)
    setattr(owner, name, stand_in)
    try:
        yield
    finally:
        if held:
            setattr(owner, name, own)
        else:
            delattr(owner, name)
