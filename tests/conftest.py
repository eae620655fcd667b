"""Tiny pipelines of the real diffusers classes, with random weights, in memory."""

import os
import shutil
import tempfile
from pathlib import Path

# The real encoders are read where `make encoders` puts them; worker processes inherit this from the first one.
os.environ.setdefault(
    "UNREEL_ENCODERS", str(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unreel" / "encoders")
)
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="unreel-tests-")  # nothing else of the user's is read or written
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.pop("HF_HOME", None)  # homes of models, which would be read in place of that cache
os.environ.pop("HF_HUB_CACHE", None)
os.environ.pop("HUGGINGFACE_HUB_CACHE", None)
os.environ.pop("GITHUB_ACTIONS", None)  # what the command line prints depends on these four
os.environ.pop("FORCE_COLOR", None)
os.environ.pop("PY_COLORS", None)
os.environ.pop("COLUMNS", None)
os.environ["no_proxy"] = "*"  # what tests serve is on this machine
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as unreel does, which is imported after torch here

import atexit
import copy
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import ClassVar

import hypothesis
import numpy as np
import pytest
import torch
from diffusers import (
    AnimateDiffPipeline,
    AutoencoderKL,
    DDIMScheduler,
    MotionAdapter,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UNetMotionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from unreel import ConceptAblationConfig, cli, unlearn
from unreel.errors import UnreelError
from unreel.evaluation import selfcheck
from unreel.methods import text_ablation
from unreel.methods.uce import UCEConfig
from unreel.models import anchors
from unreel.models.denoiser import Conditioning, Denoiser
from unreel.models.pair import Pair, Settings, load_pair
from unreel.models.pipelines import TextModel, load_text_model
from unreel.models.shipped import EMBEDDED_FOLDER

# The same examples in every run, so that what passes here passes elsewhere; others with --hypothesis-profile default.
hypothesis.settings.register_profile("same examples", derandomize=True, database=None)
hypothesis.settings.load_profile("same examples")

atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)

# Tests that make pictures, learn for long or go through all families: left out with --quick.
SLOW = (
    *("app", "attack_runs", "attacks", "batch", "browser", "cli", "compare", "concept_ablation"),
    *("device", "embedded", "encoders", "erasure", "evaluation", "export", "families", "few_shot"),
    *("full_size", "judges", "memory", "metrics", "modern_pair", "notebook", "on_top", "pair"),
    *("pipelines", "plugins", "published", "reach", "real_encoders", "releases", "report"),
    *("rivals", "selfcheck", "service", "text_ablation", "unlearning", "video", "video_cache"),
    *("visit", "weights", "wordings"),
)


def pytest_addoption(parser):
    parser.addoption("--quick", action="store_true", help="only tests that take no time, for while you write")


def pytest_ignore_collect(collection_path, config):
    return True if config.getoption("--quick") and collection_path.stem.removeprefix("test_") in SLOW else None


SETTINGS = Settings(steps=2, guidance=2.0, frames=4, batch=2)


BROWSERS = {  # by driver
    "chromedriver": ("chromium", "chromium-browser", "google-chrome"),
    "geckodriver": ("firefox", "firefox-esr"),
}


@pytest.fixture(scope="module", params=list(BROWSERS))
def browser(request):
    """A real browser without a window, driven by selenium; skipped if the browser or its driver is missing."""
    webdriver = pytest.importorskip("selenium.webdriver")
    program, driver = next(filter(None, map(shutil.which, BROWSERS[request.param])), None), shutil.which(request.param)
    if program is None or driver is None:
        pytest.skip(f"needs {request.param} and its browser: `make test` installs those of Chromium where it may")
    if request.param == "chromedriver":
        options = webdriver.ChromeOptions()
        for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "disable-background-networking"):
            options.add_argument(f"--{flag}")
        options.binary_location, service = program, webdriver.ChromeService(driver)
        running = webdriver.Chrome(options, service)
    else:
        options = webdriver.FirefoxOptions()
        options.add_argument("-headless")
        options.binary_location, service = program, webdriver.FirefoxService(driver)
        running = webdriver.Firefox(options, service)
    running.set_window_size(1200, 1000)
    running.set_script_timeout(600)
    yield running
    running.quit()


@pytest.fixture(autouse=True)
def environment():
    """Undoes what a test sets in the environment, as `--quiet` does: the processes of other tests would inherit it."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


def make_pair(prediction_type: str = "epsilon", seed: int = 0) -> Pair:
    torch.manual_seed(seed)
    tokenizer = CLIPTokenizer.from_pretrained(EMBEDDED_FOLDER / "image" / "tokenizer")
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            projection_dim=16,
            num_hidden_layers=3,
            num_attention_heads=2,
            max_position_embeddings=tokenizer.model_max_length,
            eos_token_id=tokenizer.eos_token_id,
        )
    ).eval()
    unet = UNet2DConditionModel(
        sample_size=4,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
    ).eval()
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=0.5,
    ).eval()
    scheduler = DDIMScheduler(prediction_type=prediction_type, clip_sample=False, steps_offset=1)
    parts = {"vae": vae, "tokenizer": tokenizer, "scheduler": scheduler}
    t2i = StableDiffusionPipeline(
        **parts,
        text_encoder=text_encoder,
        unet=unet,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    adapter = MotionAdapter(
        block_out_channels=(8, 16), motion_layers_per_block=1, motion_num_attention_heads=2, motion_norm_num_groups=4
    )
    motion_unet = UNetMotionModel.from_unet2d(unet, adapter).eval()
    t2v = AnimateDiffPipeline(**parts, text_encoder=copy.deepcopy(text_encoder), unet=motion_unet, motion_adapter=None)
    for pipeline in (t2i, t2v):
        pipeline.set_progress_bar_config(disable=True)
    return Pair(t2i, t2v, "tiny image model", "tiny video model", SETTINGS)


@pytest.fixture
def pair() -> Pair:
    return make_pair()


@pytest.fixture(scope="session")
def embedded() -> Pair:
    return load_pair()


def real_encoder(name: str) -> TextModel:
    """The real encoder of that name; skips the test if it is not there."""
    from benchmarks.encoders import encoder

    try:
        folder = encoder(name)
    except UnreelError as missing:
        pytest.skip(str(missing))
    return load_text_model(folder)


@pytest.fixture(scope="session")
def smollm2() -> TextModel:
    """A real causal encoder. All tests share it: leave its weights as they were."""
    return real_encoder("smollm2")


@pytest.fixture(scope="session")
def minilm() -> TextModel:
    """A real bidirectional encoder. All tests share it: leave its weights as they were."""
    return real_encoder("minilm")


def weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def conditioned(denoiser: Denoiser, embeddings: torch.Tensor) -> Conditioning:
    """The conditioning of a network with these embeddings in place of a prompt's."""
    unasked = denoiser.conditioning([""])
    return replace(unasked, arguments=unasked.arguments | {"encoder_hidden_states": embeddings})


@pytest.fixture
def hasty(monkeypatch):
    """Few steps, few prompts to learn from and to check on, and few words to look for neighbours among: for tests of other
    things than learning.
    """
    monkeypatch.setattr(text_ablation, "STEPS", 5)
    few = {"forget": 20, "retain": 20, "solve_retain": 30}
    for config, less in ((text_ablation.TextAblationConfig, few), (ConceptAblationConfig, {**few, "steps": 10})):
        defaults = tuple(less.get(field.name, field.default) for field in fields(config))
        monkeypatch.setattr(config.__init__, "__defaults__", defaults)
    for name in ("PAIRS", "NEIGHBOURS", "EVERYDAY_PROMPTS"):
        monkeypatch.setattr(selfcheck, name, 4)
    monkeypatch.setattr(anchors, "LOOKED_AT", 12)


class FakeJudge:
    """Judges by brightness alone: a label is found in a frame that is brighter than the label's place in the alphabet."""

    name = "fake judge"
    threshold = 0.5
    error: ClassVar = {"accuracy": 0.9}
    vocabulary: ClassVar = {
        "concept": ["cat", "dog", "owl", "car"],
        "style": ["ink", "oil"],
        "motion": ["spinning", "dancing"],
    }

    def knows(self, label: str) -> bool:
        return any(label.lower() in labels for labels in self.vocabulary.values())

    def wordings(self, label: str) -> list[str]:
        return ["kitten"] if label.lower() == "cat" else []

    def probabilities(self, videos: np.ndarray, labels: Sequence[str]) -> np.ndarray:
        light = videos.mean((2, 3, 4)) / 255
        bars = [(ord(label.lower()[0]) - ord("a")) / 26 for label in labels]
        return np.stack([(0.5 + light - bar).clip(0, 1) for bar in bars], axis=-1)

    def features(self, videos: np.ndarray) -> np.ndarray:
        return videos.mean((2, 3)).astype(np.float32)


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


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Folders of a tiny image and video model, which all tests share."""
    folder, pair = tmp_path_factory.mktemp("models"), make_pair()
    pair.t2i.save_pretrained(folder / "t2i")
    pair.t2v.save_pretrained(folder / "t2v")
    return folder


@pytest.fixture
def tiny(models):
    return ["--t2i", models / "t2i", "--t2v", models / "t2v"]


def bars(monkeypatch, share):
    """Set all bars of the self-check to `share`: everything passes infinite ones, and nothing ones below zero."""
    for name in ("MOST_RESIDUAL", "MOST_RESIDUAL_OF_WORST", "MOST_NEIGHBOURS_MOVED", "MOST_EVERYDAY_MOVED"):
        monkeypatch.setattr(selfcheck, name, share)


def uce(pair, concept, anchor, preserve, **settings):
    """UCE in a pair whose vocabulary holds only what is to be preserved."""
    knows = replace(pair, vocabulary={"concept": preserve, "style": [], "motion": []})
    return unlearn(replace(concept, anchor=anchor), knows, UCEConfig(**settings))
