"""Bars with the time left, of work that takes long on large models and none on small ones."""

from collections.abc import Iterable
from typing import TypeVar

from tqdm.auto import tqdm

T = TypeVar("T")
PATIENCE = 2.0  # seconds before a bar appears


def watched(work: Iterable[T], what: str, total: int | None = None) -> Iterable[T]:
    """The same, batch by batch; a bar appears if it takes longer, and goes at its end."""
    return tqdm(work, desc=what, total=total, unit="batch", delay=PATIENCE, leave=False)
