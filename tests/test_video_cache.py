"""Nothing is generated twice, and what is read back is what was generated."""

import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import make_pair
from peft import LoraConfig
from pipelines import PIPELINES

from unreel import Erasure, FewShotConfig, UnreelError, active_interventions, generate, unlearn
from unreel.evaluation import video_cache as clips
from unreel.evaluation.video_cache import VideoCache
from unreel.files import tensor_file, write_tensors
from unreel.models.pair import Settings, VideoModel
from unreel.progress import nobody

PROMPTS, SEEDS = ["a cat", "a dog", "an owl", "a car", "a hat"], [1, 2, 3, 4, 5]


@pytest.fixture
def calls(monkeypatch):
    """How many videos each call of the generator made."""
    made = []

    def counted(pipeline, prompts, *rest, **options):
        made.append(len(prompts))
        return generate(pipeline, prompts, *rest, **options)

    monkeypatch.setattr(clips, "generate", counted)
    return made


def read(cache, batches):
    return np.stack(list(cache.read(batches)))


def test_videos_come_back_bit_for_bit(pair):
    cache = VideoCache(pair.video)
    batches = cache.batches(PROMPTS, SEEDS)
    cache.make(batches, "")
    assert np.array_equal(read(cache, batches), generate(pair.t2v, PROMPTS, SEEDS, pair.settings))
    assert np.array_equal(cache.frames(batches[1], 1), read(cache, batches)[3])


def test_a_killed_run_makes_only_what_is_missing_and_ends_the_same(pair, tmp_path, calls, monkeypatch):
    whole = VideoCache(pair.video, tmp_path / "whole")
    batches = whole.batches(PROMPTS, SEEDS)
    whole.make(batches, "")
    assert calls == [2, 2, 1]
    write, calls[:] = clips._write, []

    def killed(batch, *rest):
        if len(calls) == 2:
            raise KeyboardInterrupt
        write(batch, *rest)

    cache = VideoCache(pair.video, tmp_path / "killed")
    monkeypatch.setattr(clips, "_write", killed)
    with pytest.raises(KeyboardInterrupt):
        cache.make(cache.batches(PROMPTS, SEEDS), "")
    monkeypatch.setattr(clips, "_write", write)
    calls.clear()
    again = VideoCache(make_pair().video, tmp_path / "killed")  # loaded anew, as after a restart
    again.make(again.batches(PROMPTS, SEEDS), "")
    assert calls == [2, 1]
    assert np.array_equal(read(again, again.batches(PROMPTS, SEEDS)), read(whole, batches))


@pytest.fixture
def switches(monkeypatch):
    """Each time that an erasure was put on or taken off."""
    made = []
    for name in ("apply", "remove"):
        way = getattr(Erasure, name)
        monkeypatch.setattr(
            Erasure, name, lambda erasure, pipeline, way=way, name=name: made.append(name) or way(erasure, pipeline)
        )
    return made


def test_an_erasure_goes_on_once_for_all_batches_that_follow_each_other(pair, calls, switches):
    erasure = unlearn("cat", pair, FewShotConfig(learning_rate=1e-2))
    cache, switches[:] = VideoCache(pair.video), []
    edited, original = (cache.batches(PROMPTS, SEEDS, each) for each in (erasure, None))
    assert edited[0].file != original[0].file
    cache.make([*original, *edited, edited[0]], "")
    assert calls == [2, 2, 1] * 2 and switches == ["apply", "remove"]
    with erasure.on(pair.t2v):
        assert np.array_equal(read(cache, edited), generate(pair.t2v, PROMPTS, SEEDS, pair.settings))
    assert np.array_equal(read(cache, original), generate(pair.t2v, PROMPTS, SEEDS, pair.settings))


def test_what_breaks_off_among_batches_leaves_the_erasure_off_and_what_is_finished(pair, calls, switches, monkeypatch):
    erasure, write = unlearn("cat", pair, FewShotConfig(learning_rate=1e-2)), clips._write
    cache, switches[:] = VideoCache(pair.video), []
    batches = cache.batches(PROMPTS, SEEDS, erasure)

    def killed(*arguments):
        if len(calls) == 2:
            raise KeyboardInterrupt
        write(*arguments)

    monkeypatch.setattr(clips, "_write", killed)
    with pytest.raises(KeyboardInterrupt):
        cache.make(batches, "")
    assert [batch.finished for batch in batches] == [True, False, False]
    assert switches == ["apply", "remove"] and not active_interventions(pair.t2v)


def test_no_other_thread_puts_an_erasure_on_while_videos_are_made(pair, monkeypatch):
    erasure, on, write = unlearn("cat", pair, FewShotConfig(learning_rate=1e-2)), [], clips._write
    other = threading.Thread(target=erasure.apply, args=[pair.t2v])

    def meddling(*arguments):  # between two batches of the original model
        write(*arguments)
        on.append(active_interventions(pair.t2v))
        if other.ident is None:
            other.start()
        other.join(0.2)

    monkeypatch.setattr(clips, "_write", meddling)
    cache = VideoCache(pair.video)
    batches = cache.batches(PROMPTS, SEEDS)
    cache.make(batches, "")
    other.join()
    assert on == [[], [], []] and active_interventions(pair.t2v) == [erasure]
    erasure.remove(pair.t2v)
    assert np.array_equal(read(cache, batches), generate(pair.t2v, PROMPTS, SEEDS, pair.settings))


def test_everything_that_decides_pixels_tells_batches_apart(pair, tmp_path):
    erasure = unlearn("cat", pair, FewShotConfig(learning_rate=1e-2))
    ways = ({"steps": 3}, {"guidance": 3.0}, {"frames": 5}, {"size": (16, 16)}, {"tiling": True})
    others = [make_pair(seed=1).video, *(replace(pair.video, settings=replace(pair.settings, **way)) for way in ways)]
    cache = VideoCache(pair.video, tmp_path)
    files = [
        cache.batches(["a cat"], [0])[0].file,
        cache.batches(["a cat"], [1])[0].file,
        cache.batches(["a dog"], [0])[0].file,
        cache.batches([torch.zeros(32, 16)], [0])[0].file,
        cache.batches([torch.ones(32, 16)], [0])[0].file,
        cache.batches(["a cat"], [0], erasure)[0].file,
        *(VideoCache(other, tmp_path).batches(["a cat"], [0])[0].file for other in others),
    ]
    erasure.apply(pair.t2v)
    files.append(VideoCache(pair.video, tmp_path).batches(["a cat"], [0])[0].file)
    erasure.remove(pair.t2v)
    scheduler = pair.t2v.scheduler
    pair.t2v.scheduler = type(scheduler).from_config(scheduler.config, timestep_spacing="trailing")
    files.append(VideoCache(pair.video, tmp_path).batches(["a cat"], [0])[0].file)
    pair.t2v.scheduler = scheduler
    assert len(set(files)) == len(files)
    assert cache.batches(["a cat"], [0])[0].file == files[0]


def test_adapters_tell_batches_apart_and_how_strong_they_are(pair, tmp_path):
    def file():
        return VideoCache(pair.video, tmp_path).batches(["a cat"], [0])[0].file

    files = [file()]
    for seed in (0, 1):
        torch.manual_seed(seed)
        pair.t2v.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False), f"number{seed}")
        files += [file(), file()]
    pair.t2v.unet.set_adapters(["number0", "number1"], [0.5, 1.0])
    files.append(file())
    pair.t2v.unet.disable_adapters()
    files.append(file())
    assert files[1] == files[2] and files[3] == files[4] and len(set(files)) == 5
    pair.t2v.unet.delete_adapters(["number0", "number1"])


@pytest.mark.parametrize("what", ["class", "scheduler", "tokenizer", "versions"])
def test_what_is_no_weight_tells_batches_apart_too(pair, tmp_path, monkeypatch, what):
    def file():
        return VideoCache(pair.video, tmp_path).batches(["a cat"], [0])[0].file

    pipeline, before = pair.t2v, file()
    if what == "class":
        pipeline.__class__ = type("AnotherPipeline", (type(pipeline),), {})
    elif what == "scheduler":  # of one configuration
        pipeline.scheduler.__class__ = type("AnotherScheduler", (type(pipeline.scheduler),), {})
    elif what == "tokenizer":
        pipeline.tokenizer.add_tokens(["zyzzyva"])
    else:
        monkeypatch.setattr(clips, "versions", lambda: {"diffusers": "99.1"})
    assert file() != before
    pipeline.register_to_config(_name_or_path="elsewhere")
    assert len({before, file(), file()}) == 2


def test_how_a_pipeline_is_configured_tells_batches_apart_too(tmp_path):
    wan = VideoModel(PIPELINES["WanPipeline"](), Settings(steps=1, size=(16, 32), frames=5))
    before = VideoCache(wan, tmp_path).batches(["a cat"], [0])[0].file
    wan.pipeline.register_to_config(boundary_ratio=0.9)
    assert VideoCache(wan, tmp_path).batches(["a cat"], [0])[0].file != before


def test_what_another_process_has_made_meanwhile_is_not_made_again(pair, tmp_path, calls, monkeypatch):
    cache, write = VideoCache(pair.video, tmp_path), clips._write
    batches = cache.batches(PROMPTS, SEEDS)

    def meanwhile(batch, *rest):  # the other one makes all of it
        monkeypatch.setattr(clips, "_write", write)
        other = VideoCache(make_pair().video, tmp_path)
        other.make(other.batches(PROMPTS, SEEDS), "")
        write(batch, *rest)

    monkeypatch.setattr(clips, "_write", meanwhile)
    cache.make(batches, "")
    assert calls == [2, 2, 2, 1] and len(list(tmp_path.iterdir())) == len(batches)
    assert np.array_equal(read(cache, batches), generate(pair.t2v, PROMPTS, SEEDS, pair.settings))


def test_to_know_how_long_videos_took_none_is_read(pair, monkeypatch):
    cache = VideoCache(pair.video)
    batches = cache.batches(PROMPTS, SEEDS)
    cache.make(batches, "")
    monkeypatch.setattr(clips, "_open", lambda _: pytest.fail("the videos were read"))
    assert cache.seconds(batches).shape == (3,) and (cache.seconds(batches) > 0).all()


def test_embeddings_make_the_video_that_their_words_make(pair):
    from unreel.models.conditioner import Conditioner

    cache = VideoCache(pair.video)
    with torch.no_grad():
        embeddings = list(Conditioner.of(pair.t2v).encode(PROMPTS[:2]))
    words, numbers = cache.batches(PROMPTS[:2], SEEDS[:2]), cache.batches(embeddings, SEEDS[:2])
    cache.make([*words, *numbers], "")
    difference = read(cache, words).astype(int) - read(cache, numbers)
    assert np.abs(difference).max() <= 1


def test_what_videos_take_is_known_before_they_are_made(pair):
    wan = VideoModel(PIPELINES["WanPipeline"](), Settings(steps=1, size=(16, 32), frames=5))
    for model in (pair.video, wan):
        assert model.video_bytes == generate(model.pipeline, ["a cat"], [1], model.settings).nbytes
    assert replace(wan, settings=replace(wan.settings, size=None)).video_bytes == 5 * 480 * 832 * 3
    assert replace(wan, settings=replace(wan.settings, frames=None)).video_bytes is None


def test_what_takes_much_room_is_said_and_what_has_none_is_refused(pair, tmp_path, monkeypatch):
    told, each, folder = [], pair.video.video_bytes, tmp_path / "evaluation" / "clips"
    monkeypatch.setattr(clips.shutil, "disk_usage", lambda there: SimpleNamespace(free=there.is_dir() and 10 * each))
    monkeypatch.setattr(clips, "LARGE", 9 * each)
    clips.require_room(pair.video, folder, 9, 9, lambda *news: told.append(news))
    assert not told
    clips.require_room(pair.video, folder, 10, 20, lambda *news: told.append(news))
    assert told == [("disk", f"up to 0.0 GB for 20 videos of 0.0 MB in {folder}")]
    with pytest.raises(UnreelError, match=f"11 videos of 0.0 MB do not fit into {folder}, whose disk has 0.0 GB left"):
        clips.require_room(pair.video, folder, 11, 11, nobody)
    assert not list(tmp_path.iterdir())
    cache = VideoCache(pair.video, folder)
    cache.make(cache.batches(PROMPTS, SEEDS), "")
    clips.require_room(pair.video, folder, 15, 15, nobody, made=clips.made_in(folder))  # five of them are made
    made = clips.made_in(folder)
    write_tensors(tensor_file(folder, "what an attack studied", "studied-"), {"latents": torch.zeros(9)}, {})
    assert clips.made_in(folder) == made, "no video"


def test_a_broken_file_is_named(pair, tmp_path):
    cache = VideoCache(pair.video, tmp_path)
    batches = cache.batches(PROMPTS[:1], SEEDS[:1])
    cache.make(batches, "")
    whole = batches[0].file.read_bytes()
    for broken in (b"broken", b"", whole[:-100]):
        batches[0].file.write_bytes(broken)
        with pytest.raises(UnreelError, match=f"{batches[0].file.name} is missing or broken"):
            list(cache.read(batches))
    for videos in (torch.zeros(1, 2, 4, 4, 3), torch.zeros(2, 2, 4, 4, 3, dtype=torch.uint8)):
        write_tensors(batches[0].file, {"videos": videos, "seconds": torch.ones(1)}, {})
        with pytest.raises(UnreelError, match=f"{batches[0].file.name} holds other videos"):
            list(cache.read(batches))
