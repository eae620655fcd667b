"""Work that other threads want done, done in the first thread of a process, one piece after the other.

On processors it matters which thread computes. To OpenMP the first thread is one of as many as there are cores. Any other
is one more than that, so all of them sleep between operations instead of waiting awake, and a video of a small model takes
half as long again. Knows functions; knows nothing of what they do.
"""

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Executor, Future
from functools import partial
from queue import SimpleQueue
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class FirstThread(Executor):
    """Does what is submitted in the thread that calls `run`."""

    def __init__(self) -> None:
        self._waiting = SimpleQueue[tuple[Future, Callable[[], object]] | None]()
        self._closed, self._lock = False, threading.RLock()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Raises RuntimeError once nothing more is taken."""
        future = Future[T]()
        with self._lock:
            if self._closed:
                raise RuntimeError("nothing more is taken")
            self._waiting.put((future, partial(fn, *args, **kwargs)))
        return future

    def run(self) -> None:
        """Until `shutdown`, and whatever was submitted before. What interrupts the work ends it, and cancels what waits."""
        try:
            while (piece := self._waiting.get()) is not None:
                _do(*piece)
        finally:
            self.shutdown()
            while (piece := self._waiting.get()) is not None:
                piece[0].cancel()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Nothing more is taken. A signal's handler may call it, so it waits for nothing and cancels nothing."""
        with self._lock:
            self._closed = True
            self._waiting.put(None)


def _do(future: Future, work: Callable[[], object]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(work())
    except Exception as error:
        future.set_exception(error)
    except BaseException:
        future.set_exception(CancelledError())
        raise
