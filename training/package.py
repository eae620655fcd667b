"""Writes the finished weights into the package: two complete diffusers pipelines and the judge, in fp16 safetensors."""

import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch
from diffusers import AnimateDiffPipeline, AutoencoderKL, StableDiffusionPipeline, UNetMotionModel
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from training.diffusion import scheduler
from training.world import FOLDERS
from unreel.judges._network import JudgeNetwork

TARGET, RECORDS = FOLDERS["first"], Path(__file__).parent / "records"


def _standard_keys(text_encoder: CLIPTextModel) -> CLIPTextModel:
    """The same encoder, loaded from a file, so that saving writes the `text_model.` key prefix every tool looks for."""
    with tempfile.TemporaryDirectory() as folder:
        text_encoder.save_pretrained(folder)
        weights = {f"text_model.{name}": tensor.contiguous() for name, tensor in text_encoder.state_dict().items()}
        save_file(weights, Path(folder) / "model.safetensors", metadata={"format": "pt"})
        return CLIPTextModel.from_pretrained(folder, dtype=torch.float16)


def write(
    folder: Path,
    vae: AutoencoderKL,
    tokenizer: CLIPTokenizer,
    still: nn.ModuleDict,
    moving: UNetMotionModel,
    judge: JudgeNetwork,
) -> None:
    text_encoder = _standard_keys(still["text_encoder"].cpu().half())
    shared = {"vae": vae.cpu().half(), "text_encoder": text_encoder, "tokenizer": tokenizer, "scheduler": scheduler()}
    image = StableDiffusionPipeline(
        **shared,
        unet=still["unet"].cpu().half(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    video = AnimateDiffPipeline(**shared, unet=moving.cpu().half(), motion_adapter=None)
    for name, pipeline in (("image", image), ("video", video)):
        shutil.rmtree(TARGET / name, ignore_errors=True)
        pipeline.save_pretrained(TARGET / name)
    shutil.rmtree(TARGET / "video" / "vae")  # both have the same one, and the preset says so
    write_judge(TARGET, judge)
    write_records(folder, RECORDS, ("autoencoder", "image", "video", "judge"))


def write_judge(target: Path, judge: JudgeNetwork) -> None:
    (target / "judge").mkdir(exist_ok=True)
    weights = {name: t.half().contiguous() if t.is_floating_point() else t for name, t in judge.cpu().state_dict().items()}
    save_file(weights, target / "judge" / "judge.safetensors", metadata={"format": "pt"})


def write_records(folder: Path, records: Path, stages: Iterable[str]) -> None:
    """Copy the records of how each stage was trained beside the code."""
    records.mkdir(exist_ok=True)
    for stage in stages:
        shutil.copy(folder / stage / "record.json", records / f"{stage}.json")
