"""How far work is, drawn by whoever asks."""

import threading

import pytest

from unreel.progress import Work, drawn, drawn_by, track


class Recorder:
    """Draws into a list; stops the work after so many updates."""

    def __init__(self, most=100):
        self.seen, self.most = [], most

    def __call__(self, work):
        self.seen.append(work)
        return self

    def update(self, n=1):
        self.seen.append(n)
        if self.seen.count(1) > self.most:
            raise InterruptedError("stop")

    def close(self):
        self.seen.append("closed")


def test_items_come_as_they_are_and_are_counted():
    recorder = Recorder()
    with drawn_by(recorder):
        assert list(track("abc", "spelling", "letter")) == ["a", "b", "c"]
        with drawn(Work("making", "video", 4, 1)) as bar:
            bar.update(3)
    first = Work("spelling", "letter", 3)
    assert recorder.seen == [first, 1, 1, 1, "closed", Work("making", "video", 4, 1), 3, "closed"]


def test_a_stop_ends_the_work_and_what_is_left_early_is_closed():
    recorder = Recorder(most=1)
    with drawn_by(recorder), pytest.raises(InterruptedError):
        list(track(range(5), "counting"))
    assert recorder.seen.count(1) == 2 and recorder.seen[-1] == "closed"
    recorder = Recorder()
    with drawn_by(recorder):
        for item in track(iter("ab"), "leaving"):
            if item == "a":
                break
    assert recorder.seen == [Work("leaving"), "closed"]


def test_each_thread_draws_for_itself():
    recorders = [Recorder(), Recorder()]

    def work(recorder, name):
        with drawn_by(recorder):
            list(track("ab", name))

    threads = [threading.Thread(target=work, args=(each, str(i))) for i, each in enumerate(recorders)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [recorder.seen[0].what for recorder in recorders] == ["0", "1"]
