"""Tables of takedowns are read whole or not at all."""

import json

import pytest

from unreel.errors import UnreelError
from unreel.prompts.takedowns import Takedown, read_takedowns


def test_a_table_is_read_row_by_row(tmp_path):
    file = tmp_path / "takedowns.csv"
    file.write_text(
        "concept,kind,synonyms,replace,keep,ticket\n"
        "Tokyo Tower,,tower of Tokyo; Tōkyō tawā,a castle,Eiffel Tower;Skytree,T-1\n"
        "ink,style,,,,T-2\n"
        'pizza,object,,Nothing,,"T-3, again"\n',
        encoding="utf-8",
    )
    tower, ink, pizza = read_takedowns(file)
    assert tower == Takedown(
        "Tokyo Tower", None, ("tower of Tokyo", "Tōkyō tawā"), "a castle", ("Eiffel Tower", "Skytree"), "T-1"
    )
    assert (ink.kind, ink.anchor) == ("style", None)
    assert (pizza.anchor, pizza.ticket) == ("", "T-3, again")


def test_json_says_the_same_with_lists(tmp_path):
    file = tmp_path / "takedowns.json"
    file.write_text(json.dumps([{"concept": "pizza", "synonyms": ["pizza pie", "slice"], "keep": None, "ticket": 7}]))
    assert read_takedowns(file) == [Takedown("pizza", synonyms=("pizza pie", "slice"), ticket="7")]


@pytest.mark.parametrize("ticket", ["../../etc/passwd", "a/b", "..", "\x00", "C:\\x", "t" * 400, "<b>"])
def test_no_ticket_is_part_of_a_path(ticket):
    folder = Takedown("pizza", ticket=ticket).folder
    assert "/" not in folder and "\\" not in folder and folder not in (".", "..") and len(folder.encode()) < 255


def test_folders_of_different_takedowns_differ():
    assert len({Takedown(*each).folder for each in (("pizza",), ("pizza!",), ("pizza?",), ("Pizza pie",))}) == 4


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "concept\n", "row 1"),
        ("a.csv", "name,kind\npizza,object\n", "row 1: name is no column: there are concept, kind"),
        ("a.csv", "concept,keep,keep\npizza,castle,\n", "more than one column keep, of which the last would count"),
        ("a.csv", "kind\nobject\n", "row 1: it has no column concept"),
        ("a.csv", "concept,kind\npizza,object\nink,stile\n", "row 2: 'stile' is no kind: choose from object"),
        ("a.csv", "concept\npizza\n...\n", "row 2: '...' says nothing"),
        ("a.csv", "concept,replace\npizza,a slice of pizza\n", "row 1: 'a slice of pizza' names 'pizza'"),
        ("a.csv", "concept\npizza\nPizza\n", "rows 1 and 2 are the same takedown: give each a ticket"),
        ("a.json", '{"concept": "pizza"}', "not a list of takedowns"),
        ("a.json", '[{"concept": "pizza", "keep": ["castle"], "keep": []}]', "'keep' twice, of which the last would count"),
        ("a.json", '["pizza"]', "row 1: it is no object with a concept"),
        ("a.json", '[{"concept": ["a", "b"]}]', "row 1: its concept is one text, not 2"),
        ("a.json", '[{"concept": "pizza", "keep": [{}]}]', "row 1: its keep is neither a text nor a list of texts"),
        ("a.txt", "pizza\n", "takedowns are read from .csv, .json"),
    ],
)
def test_what_cannot_be_meant_names_its_row(tmp_path, name, text, message):
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(UnreelError) as error:
        read_takedowns(file)
    assert message in str(error.value) and str(file) in str(error.value)
