"""A pair that ships with unreel is a folder, and nothing else is to be added for it."""

import json

import pytest

from unreel import UnreelError, load_judge, load_pair
from unreel.models import shipped
from unreel.models.pair import folders_of, load_video_model


@pytest.fixture
def another(tmp_path, monkeypatch):
    """A second pair called "another", which is the first one but for how it samples and what it makes."""
    first, home = shipped.EMBEDDED_FOLDER, tmp_path / "another"
    for folder in (tmp_path, home):
        folder.mkdir(exist_ok=True)
        for name in ("image", "video", "judge", "preset.json", "world.json"):
            (folder / name).symlink_to(first / name)
    preset, world = (json.loads((first / name).read_text()) for name in ("preset.json", "world.json"))
    (home / "preset.json").unlink()
    (home / "preset.json").write_text(json.dumps(preset | {"judge": "embedded:another", "sampling": {"steps": 3}}))
    (home / "world.json").unlink()
    world["concepts"]["tokyo tower"]["wordings"].append("the red tower")
    (home / "world.json").write_text(json.dumps(world))
    monkeypatch.setattr(shipped, "EMBEDDED_FOLDER", tmp_path)
    return "embedded:another"


def test_a_folder_is_a_pair_with_a_preset_a_world_and_a_judge(another):
    assert shipped.names() == ["embedded", another]
    for arguments in ({"t2v": another}, {"t2i": another}, {"t2i": another, "t2v": another}):
        pair = load_pair(**arguments)
        assert (pair.t2i_source, pair.t2v_source) == (another, another) and pair.settings.steps == 3
    assert "tokyo tower" in pair.vocabulary["concept"]
    assert load_video_model(another).settings.steps == 3
    assert list(folders_of(another)) == [f"{another} image", f"{another} video"]
    judge = load_judge(shipped.preset_of(another)["judge"])
    assert judge.knows("the red tower") and not load_judge("embedded").knows("the red tower")


def test_what_does_not_ship_is_refused(another):
    with pytest.raises(UnreelError, match="no pair ships as 'embedded:nope': there is embedded, embedded:another"):
        load_pair(t2v="embedded:nope")
    assert shipped.shipped("owner/embedded") is None and shipped.preset_of("owner/embedded") == {}


@pytest.mark.parametrize(
    "file", sorted(shipped.EMBEDDED_FOLDER.rglob("*.json")), ids=lambda file: "/".join(file.parts[-4:])
)
def test_nothing_that_ships_says_where_it_was_made(file):
    assert "_name_or_path" not in file.read_text()
