"""What the app's page is made of: nothing that a visitor could misuse."""

import json
import os
import signal
import subprocess
import sys
from urllib.request import Request, urlopen

import pytest
from conftest import FakeJudge, make_pair

from unreel import cli
from unreel.web.visit import Host
from unreel.workflow import Place


@pytest.fixture(scope="module")
def blocks(tmp_path_factory):
    pytest.importorskip("gradio")
    from unreel.web.app import App

    return App(Host(make_pair(), FakeJudge(), "tiny", Place()), tmp_path_factory.mktemp("visits")).blocks


def test_jobs_wait_for_each_other_and_are_no_programming_interface(blocks):
    functions = list(blocks.fns.values())
    jobs = [each for each in functions if each.concurrency_id == "model"]
    stops = [each for each in functions if each not in jobs and not each.is_cancel_function]
    assert len(jobs) == len(stops) == 5 and not any(each.queue for each in stops)
    assert not blocks.get_api_info()["named_endpoints"]


def test_nothing_typed_is_shown_as_markup(blocks):
    kinds = {type(widget).__name__ for widget in blocks.blocks.values()}
    assert not kinds & {"HTML", "Code", "Chatbot", "UploadButton"}
    assert sum(type(widget).__name__ == "Markdown" for widget in blocks.blocks.values()) == 1  # its own heading
    files = [widget for widget in blocks.blocks.values() if type(widget).__name__ in ("File", "Gallery")]
    assert len(files) == 4 and not any(widget.interactive for widget in files if type(widget).__name__ == "File")


def press(url, button, *values):
    """Have a button's job done for a visitor, as their browser does."""
    page = json.load(urlopen(f"{url}/config"))
    labels = {each["id"]: each["props"].get("value") for each in page["components"]}
    job = next(each["id"] for each in page["dependencies"] if labels[each["targets"][0][0]] == button)
    asked = json.dumps({"data": [None, *values], "fn_index": job, "session_hash": "somebody"}).encode()
    urlopen(Request(f"{url}/gradio_api/queue/join", asked, {"Content-Type": "application/json"}))
    with urlopen(f"{url}/gradio_api/queue/data?session_hash=somebody") as news:
        assert any(b"process_completed" in line for line in news)


def started(models, folder):
    """A process with the app, which writes into `folder`, and the line that it says where it is with."""
    command = ["app", "--t2v", models / "t2v", "--t2i", models / "t2i", "--judge", "none", "--steps", 2, "--frames", 4]
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "unreel.cli", *map(str, command), "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(folder)},
    )
    return process, process.stdout.readline()


def test_nothing_that_visitors_made_outlives_the_app(models, tmp_path):
    """Told to stop, which is as if it were interrupted."""
    pytest.importorskip("gradio")
    process, said = started(models, tmp_path)
    press(said.split()[-1].rstrip("/"), "Make both videos", "a cat", 3, [])
    assert len(list(tmp_path.glob("**/unreel-visit-*/*.mp4"))) == 2
    process.send_signal(signal.SIGTERM)
    assert process.wait(600) == 0
    assert not list(tmp_path.glob("unreel-*")) and not list(tmp_path.rglob("*.mp4"))


def test_without_gradio_the_command_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "unreel.web.app", raising=False)
    monkeypatch.setattr(sys, "argv", ["unreel", "app"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2 and "pip install -e '.[app]'" in capsys.readouterr().err
