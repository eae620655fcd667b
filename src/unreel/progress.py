"""The progress of long work, drawn as whoever started it wants, by default as bars with the time left; and news of it.

    with drawn_by(my_own):
        unlearn("Tokyo Tower", pair)

Work is drawn by the function that holds when it begins. Knows numbers; knows neither terminals nor pages.
"""

from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol, TypeVar

T = TypeVar("T")
PATIENCE = 2.0  # seconds before a bar of brief work appears

Tell = Callable[[str, str], None]  # takes the sort of a piece of news, in a word or two, and the news


def nobody(sort: str, news: str) -> None:
    """Tells nobody."""


@dataclass(frozen=True)
class Work:
    """A part of a job that may take long. `what` names it; `total` is how many pieces it has, None if that is unknown;
    `unit` is what one piece is called; `done` of them were finished before.

    `brief` work is over at once on small models: its bar need not appear at first, and goes when the work is done.
    """

    what: str
    unit: str = "batch"
    total: int | None = None
    done: int = 0
    brief: bool = False


class Bar(Protocol):
    """What draws one piece of work. What `update` raises ends the work, as a stop button may."""

    def update(self, n: int = 1) -> object: ...

    def close(self) -> object: ...


Draw = Callable[[Work], Bar]


def as_bar(work: Work) -> Bar:
    """A bar on the terminal, or in a notebook."""
    from tqdm.auto import tqdm

    options = {"delay": PATIENCE, "leave": False} if work.brief else {}
    return tqdm(desc=work.what, total=work.total, initial=work.done, unit=work.unit, **options)


_draw: ContextVar[Draw] = ContextVar("draw", default=as_bar)


@contextmanager
def drawn_by(draw: Draw) -> Iterator[None]:
    """Inside, and in this thread, work is drawn by `draw`."""
    token = _draw.set(draw)
    try:
        yield
    finally:
        _draw.reset(token)


@contextmanager
def drawn(work: Work) -> Iterator[Bar]:
    """The bar of a piece of work, closed at its end."""
    bar = _draw.get()(work)
    try:
        yield bar
    finally:
        bar.close()


def track(
    items: Iterable[T], what: str, unit: str = "batch", *, total: int | None = None, brief: bool = False
) -> Iterator[T]:
    """The items, one after the other, while a bar counts them."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with drawn(Work(what, unit, total, brief=brief)) as bar:
        for item in items:
            yield item
            bar.update()
