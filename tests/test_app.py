"""What the app's page is made of: nothing that a visitor could misuse."""

import pytest
from conftest import FakeJudge, make_pair

from unreel import cli
from unreel.web.visit import Host
from unreel.workflow import Place


@pytest.fixture(scope="module")
def blocks():
    pytest.importorskip("gradio")
    from unreel.web.app import App

    return App(Host(make_pair(), FakeJudge(), "tiny", Place())).blocks


def test_jobs_wait_for_each_other_and_are_no_programming_interface(blocks):
    functions = list(blocks.fns.values())
    jobs = [each for each in functions if each.concurrency_id == "model"]
    stops = [each for each in functions if each not in jobs]
    assert len(jobs) == len(stops) == 5 and not any(each.queue for each in stops)
    assert not blocks.get_api_info()["named_endpoints"]


def test_nothing_typed_is_shown_as_markup(blocks):
    kinds = {type(widget).__name__ for widget in blocks.blocks.values()}
    assert not kinds & {"HTML", "Code", "Chatbot", "UploadButton"}
    assert sum(type(widget).__name__ == "Markdown" for widget in blocks.blocks.values()) == 1  # its own heading
    files = [widget for widget in blocks.blocks.values() if type(widget).__name__ in ("File", "Gallery")]
    assert len(files) == 4 and not any(widget.interactive for widget in files if type(widget).__name__ == "File")


def test_without_gradio_the_command_says_what_to_install(monkeypatch, capsys):
    import sys

    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "unreel.web.app", raising=False)
    monkeypatch.setattr(sys, "argv", ["unreel", "app"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2 and "pip install -e '.[app]'" in capsys.readouterr().err
