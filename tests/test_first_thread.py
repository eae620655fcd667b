"""Work of many threads in one: every piece is done once, or its owner is told that it will not be."""

import threading
from concurrent.futures import CancelledError

import pytest

from unreel.first_thread import FirstThread


def test_what_other_threads_submit_is_done_in_the_thread_that_runs():
    worker, done = FirstThread(), []

    def ask():
        futures = [worker.submit(lambda i=i: (i, threading.get_ident())) for i in range(20)]
        done.extend(future.result(1800) for future in futures)
        worker.shutdown()

    asking = threading.Thread(target=ask)
    asking.start()
    worker.run()
    asking.join()
    assert done == [(i, threading.get_ident()) for i in range(20)]


def test_what_fails_is_told_to_who_asked_and_stops_nobody_else():
    worker = FirstThread()
    broken, fine = worker.submit(int, "x"), worker.submit(int, "1")
    worker.shutdown()
    worker.run()
    assert isinstance(broken.exception(0), ValueError) and fine.result(0) == 1


def test_nothing_is_taken_after_the_end():
    worker = FirstThread()
    before = worker.submit(int, "1")
    worker.shutdown()
    with pytest.raises(RuntimeError, match="nothing more"):
        worker.submit(int, "2")
    worker.run()
    assert before.result(0) == 1


def test_who_gives_up_waiting_costs_nothing():
    worker, done = FirstThread(), []
    gone = worker.submit(done.append, "gone")
    worker.submit(done.append, "here")
    assert gone.cancel()
    worker.shutdown()
    worker.run()
    assert done == ["here"]


def test_an_interruption_leaves_nobody_waiting():
    def interrupted():
        raise KeyboardInterrupt

    worker = FirstThread()
    under_way, waiting = worker.submit(interrupted), worker.submit(int, "1")
    with pytest.raises(KeyboardInterrupt):
        worker.run()
    for future in (under_way, waiting):
        with pytest.raises(CancelledError):
            future.result(0)
