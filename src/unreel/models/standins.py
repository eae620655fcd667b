"""What stands in for something of one object for a while, as the stand-ins of accelerate and peft do for good.

Knows objects; knows nothing about what they do.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def hiding(owner: Any, name: str, stand_in: Any) -> Iterator[None]:
    """Inside, the method or value of that name is `stand_in`, on this object alone; then somebody's own again, as
    accelerate's, or its class's.
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
