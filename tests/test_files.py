"""Files appear whole or not at all. Names after texts: readable, one for each, and never a way out of the folder."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from unreel import UnreelError
from unreel.files import (
    file_name,
    file_names,
    read_tensors,
    require_new,
    short_digest,
    write_folder,
    write_tensors,
    write_text,
)

TEXTS = (
    "C++",
    "C#",
    "C",
    "ピカチュウ",
    "猫",
    "../../x",
    "x",
    "/etc/passwd",
    "a/b",
    "a b",
    "...",
    "a\0b",
    "x" * 300,
    "x" * 301,
    "\ud800",
)


@pytest.mark.parametrize("text", TEXTS)
def test_a_name_stays_in_its_folder_and_is_short(text):
    name = file_name(text)
    assert name and not set(name) & set("/\\\0.:") and len(name.encode("utf-8", "replace")) < 250


def test_texts_that_differ_have_names_that_differ():
    assert len({file_name(text) for text in TEXTS}) == len(TEXTS)


def test_texts_that_differ_in_case_and_spaces_alone_have_names_that_differ_where_they_are_named_together():
    texts = ["toys", "Toys", "to ys", "to-ys", "TO YS"]
    named = file_names(texts)
    assert list(named) == texts and len(set(named.values())) == len(texts)
    assert (named["toys"], named["to ys"]) == ("toys", "to-ys")


@pytest.mark.parametrize(("text", "name"), [("Tokyo Tower", "tokyo-tower"), ("ピカチュウ", "ピカチュウ"), ("Dalí", "dalí")])
def test_letters_of_every_script_stay(text, name):
    assert file_name(text) == name


FULL_DISK = """
import resource, sys
from pathlib import Path
import torch
from unreel.files import write_tensors, write_text
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
write_text(Path("text"), "x" * 2000) if sys.argv[1] == "text" else write_tensors(Path("text"), {"a": torch.zeros(2000)}, {})
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits files in the way of Unix")
@pytest.mark.parametrize("what", ["text", "tensors"])
def test_where_no_room_is_left_the_file_is_named_and_what_was_there_stays(tmp_path, what):
    (tmp_path / "text").write_text("before")
    done = subprocess.run([sys.executable, "-c", FULL_DISK, what], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "unreel.errors.UnreelError: cannot write text: " in done.stderr.splitlines()[-1]
    assert [file.name for file in tmp_path.iterdir()] == ["text"] and (tmp_path / "text").read_text() == "before"


def test_what_fails_on_the_way_leaves_nothing(tmp_path):
    with pytest.raises(UnreelError, match=r"cannot write .*/missing/text"):
        write_text(tmp_path / "missing" / "text", "x")
    with pytest.raises(TypeError):
        write_tensors(tmp_path / "tensors", {"a": torch.zeros(2)}, {"key": 5})  # type: ignore[dict-item]
    assert list(tmp_path.iterdir()) == []


def test_tensors_come_back_and_others_are_refused(tmp_path):
    write_tensors(tmp_path / "file", {"a": torch.arange(6).reshape(2, 3).T}, {"said": "so"})
    tensors, metadata = read_tensors(tmp_path / "file", ("a",))
    assert torch.equal(tensors["a"], torch.arange(6).reshape(2, 3).T) and metadata["said"] == "so"
    for name, missing in (("file", "b"), ("nothing", "a")):
        with pytest.raises(UnreelError, match=f"{name} is missing or broken"):
            read_tensors(tmp_path / name, (missing,))


@pytest.fixture
def folder(tmp_path):
    """One of a sort, holding "before"."""
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "marker.json").write_text("before")
    return tmp_path / "x"


def fill(partial):
    (partial / "marker.json").write_text("after")


def test_what_a_link_leads_to_is_replaced_and_the_link_stays(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    assert write_folder(tmp_path / "link", fill, "marker.json", overwrite=True) == tmp_path / "link"
    assert (tmp_path / "link").is_symlink() and (folder / "marker.json").read_text() == "after"
    assert {file.name for file in tmp_path.iterdir()} == {"x", "link"}


@pytest.mark.parametrize("where", [".", "..", "../x", "mount", "x" * 250, "x" * 300])
def test_what_cannot_be_replaced_or_named_so_is_refused_before_any_work(folder, where, monkeypatch):
    (folder / "inside").mkdir()
    monkeypatch.chdir(folder / "inside" if where == ".." else folder)
    if where == "mount":
        (folder / "mount").mkdir()
        monkeypatch.setattr(Path, "is_mount", lambda path: path.name == "mount")
    with pytest.raises(UnreelError, match=r"cannot be replaced|File name too long") as raised:
        require_new(Path(where), True, "marker.json")
    assert "\n" not in str(raised.value) and (folder / "marker.json").read_text() == "before"


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(16, "busy")])
@pytest.mark.parametrize("fails", [1, 2])
def test_an_interrupt_while_a_folder_is_replaced_leaves_what_was_there(folder, tmp_path, monkeypatch, error, fails):
    rename, renamed = Path.rename, []

    def stopped(path, target):
        renamed.append(path)
        if len(renamed) == fails:
            raise error
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", stopped)
    with pytest.raises((KeyboardInterrupt, UnreelError)):
        write_folder(folder, fill, "marker.json", overwrite=True)
    assert (folder / "marker.json").read_text() == "before" and [file.name for file in tmp_path.iterdir()] == ["x"]


def test_what_the_disk_does_not_take_is_not_called_written(tmp_path, monkeypatch):
    """Some systems tell of a full disk only then."""

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UnreelError, match=r"cannot write .*: No space left"):
        write_folder(tmp_path / "made", lambda partial: (partial / "erasure.json").write_text("{}"), "erasure.json")
    assert not list(tmp_path.iterdir())


def test_what_other_threads_write_meanwhile_is_as_private_as_ever(tmp_path, monkeypatch):
    """Which the process is asked for by setting it, for all of them."""
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("it was set"))
    made = write_folder(tmp_path / "x", fill, "marker.json")
    assert [file.name for file in made.iterdir()] == ["marker.json"]


@pytest.mark.skipif(sys.platform == "win32", reason="modes in the way of Unix")
@pytest.mark.parametrize(("mask", "modes"), [(0o077, (0o700, 0o600)), (0o027, (0o750, 0o640)), (0o022, (0o755, 0o644))])
def test_a_folder_is_as_private_as_its_owner_has_files_made(tmp_path, mask, modes):
    before = os.umask(mask)
    try:
        made = write_folder(tmp_path / "x", fill, "marker.json")
        assert os.umask(mask) == mask  # left as it was
    finally:
        os.umask(before)
    assert tuple(file.stat().st_mode & 0o777 for file in (made, made / "marker.json")) == modes


def test_short_digests_stay_what_records_hold():
    assert short_digest([["noodles", "東京"], 0]) == "d0a35e04a22da404"
    assert short_digest({"out": None, "folder": Path("runs")}) == short_digest({"out": None, "folder": "runs"})
