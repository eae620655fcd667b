import signal
import subprocess
import sys

import pytest
from conftest import make_pair, same, weights

from unreel import Erasure, cli, load_pair


def run(capsys, monkeypatch, *arguments):
    """Exit code, standard output and standard error of one command."""
    monkeypatch.setattr(sys, "argv", ["unreel", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    out, err = capsys.readouterr()
    return stop.value.code or 0, out, err


@pytest.fixture
def command(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: run(capsys, monkeypatch, *arguments)


@pytest.fixture
def tiny(tmp_path):
    folder = tmp_path / "models"
    pair = make_pair()
    pair.t2i.save_pretrained(folder / "t2i")
    pair.t2v.save_pretrained(folder / "t2v")
    return ["--t2i", folder / "t2i", "--t2v", folder / "t2v"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([""], "the concept is empty"),
        (["xylophone " * 12], "cut off"),
        (["cat", "--kind", "animal"], "unknown kind 'animal'"),
        (["cat", "--shots", "0"], "shots must be greater than zero"),
        (["cat", "--epochs", "-1"], "epochs must be greater than zero"),
        (["cat", "--learning-rate", "0"], "learning rate must be greater than zero"),
        (["cat", "--trainable", "most"], "unknown trainable set"),
        (["cat", "--videos", "-1"], "videos must be zero or more"),
        (["cat", "--device", "cuda:99"], "not available"),
        (["cat", "--t2i", "nowhere/at/all", "--t2v", "."], "does not exist"),
        (["cat", "--t2i", ".", "--t2v", "."], "is no pipeline"),
        (["cat", "--images", "absent"], "is no folder"),
        (["cat", "--learning-rate", "1e30"], "nothing was kept"),
    ],
)
def test_bad_input_is_one_line_exit_2_and_nothing_written(command, tmp_path, arguments, message):
    code, _, err = command("unlearn", *arguments, "--out", "made")
    assert code == 2
    assert next(line for line in err.splitlines() if line.startswith("unreel: ")).count(message) == 1
    assert "Traceback" not in err
    assert not (tmp_path / "made").exists() and not list(tmp_path.glob(".made*"))


def test_an_existing_folder_is_refused_before_any_work(command, tmp_path):
    (tmp_path / "made").mkdir()
    code, _, err = command("unlearn", "cat", "--out", "made")
    assert code == 2 and "--overwrite" in err
    assert list((tmp_path / "made").iterdir()) == []


def test_an_output_that_cannot_be_created_is_refused(command, tmp_path):
    (tmp_path / "file").write_text("in the way")
    code, _, err = command("unlearn", "cat", "--out", "file/made")
    assert code == 2 and "cannot write" in err


def test_unlearn_then_generate_with_a_pair_of_folders(command, tiny, tmp_path):
    code, _out, err = command("unlearn", "cat", *tiny, "--out", "made", "--videos", "0", "--learning-rate", "0.01")
    assert code == 0, err
    pair = load_pair(*map(str, tiny[1::2]))
    before = weights(pair.t2v.text_encoder)
    Erasure.from_pretrained(tmp_path / "made").apply(pair.t2v)
    assert not same(before, weights(pair.t2v.text_encoder))
    arguments = ["generate", "a cat", "--t2v", tiny[3], "--steps", "1", "--frames", "2"]
    code, _, err = command(*arguments, "--out", "plain")
    assert code == 0, err
    assert command(*arguments, "--out", "erased", "--erasure", "made")[0] == 0
    plain, erased = (tmp_path / name / "a-cat-0.mp4" for name in ("plain", "erased"))
    assert plain.read_bytes() != erased.read_bytes()
    code, _, err = command(*arguments, "--out", "plain")
    assert code == 2 and "--overwrite" in err


def test_ctrl_c_leaves_no_half_written_artifact(tmp_path):
    command = [sys.executable, "-m", "unreel.cli", "unlearn", "cat", "--epochs", "100000", "--out", "made"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert process.stderr is not None
    seen = b""
    while b"unlearning:" not in seen:
        piece = process.stderr.read1()  # type: ignore[attr-defined]
        assert piece, f"it ended by itself: {seen.decode()}"
        seen += piece
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=60)[1]
    assert process.returncode != 0 and b"Traceback" not in seen + rest
    assert list(tmp_path.iterdir()) == []


def test_generate_refuses_an_erasure_of_another_model_and_writes_nothing(command, tiny, tmp_path):
    command("unlearn", "cat", *tiny, "--out", "made", "--videos", "0")
    code, _, err = command("generate", "a cat", "--erasure", "made", "--out", "videos")
    assert code == 2 and "another text encoder" in err
    assert not (tmp_path / "videos").exists()


def test_check_proves_the_embedded_pair(command):
    code, out, _ = command("check")
    assert code == 0 and out.split()[0] == "text_encoder" and out.strip().endswith("shared")


def test_help_needs_none_of_the_heavy_imports():
    program = (
        "import sys; from unreel import cli; sys.argv = ['unreel', '--help']\ntry: cli.main()\nexcept SystemExit: pass\n"
    )
    program += "print(sorted({'torch', 'diffusers', 'transformers', 'numpy'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"
