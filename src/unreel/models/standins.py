"""What stands in for a method of one object for a while, as the stand-ins of accelerate and peft do for good.

Knows objects; knows nothing about what they do.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def hiding(owner: Any, method: str, stand_in: Any) -> Iterator[None]:
    """Inside, `owner.method` is `stand_in`, on this object alone; then somebody's own again, as accelerate's, or its
    class's.
    """
    own = vars(owner).get(method)
    setattr(owner, method, stand_in)
    try:
        yield
    finally:
        if own is None:
            delattr(owner, method)
        else:
            setattr(owner, method, own)
