"""Names of files after texts: readable, one for each, and never a way out of the folder."""

import pytest

from unreel.files import file_name

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


@pytest.mark.parametrize(("text", "name"), [("Tokyo Tower", "tokyo-tower"), ("ピカチュウ", "ピカチュウ"), ("Dalí", "dalí")])
def test_letters_of_every_script_stay(text, name):
    assert file_name(text) == name
