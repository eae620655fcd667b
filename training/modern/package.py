"""Writes the trained parts of the modern pair into the package, in fp16 safetensors, without the reader."""

import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKLWan,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    SanaPipeline,
    SanaTransformer2DModel,
    SanaVideoPipeline,
    SanaVideoTransformer3DModel,
)
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from training.modern.captions import INSTRUCTION, MAX_TOKENS
from training.package import RECORDS, write_judge, write_records
from training.world import FOLDERS, load_world
from unreel.judges._network import JudgeNetwork
from unreel.models.adapter import call_with

TARGET = FOLDERS["modern"]
STAGES = ("autoencoder", "image", "words", "video-autoencoder", "video", "judge")


def scheduler() -> DPMSolverMultistepScheduler:
    return DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.0, algorithm_type="dpmsolver++"
    )


def _write(pipeline: DiffusionPipeline, home: Path) -> None:
    """Save a pipeline as `save_pretrained` does, without its text encoder and tokenizer."""
    side = load_world("modern")["image_size"]
    usual = {"complex_human_instruction": [INSTRUCTION], "max_sequence_length": MAX_TOKENS}
    call_with(pipeline, {**usual, "height": side, "width": side, "use_resolution_binning": False})
    pipeline.save_config(home)
    for name, part in pipeline.components.items():
        if not isinstance(part, (PreTrainedModel, PreTrainedTokenizerBase)):
            part.save_pretrained(home / name)
    for file in home.glob("*/config.json"):  # without the folder that a part was in when it was trained
        config = json.loads(file.read_text())
        config.pop("_name_or_path", None)
        file.write_text(json.dumps(config, indent=2) + "\n")


def write(
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    reader: PreTrainedModel,
    of_images: AutoencoderDC,
    still: SanaTransformer2DModel,
    of_videos: AutoencoderKLWan,
    moving: SanaVideoTransformer3DModel,
    judge: JudgeNetwork,
) -> None:
    reads = {"tokenizer": tokenizer, "text_encoder": reader, "scheduler": scheduler()}
    half = {"device": "cpu", "dtype": torch.float16}
    _write(SanaPipeline(**reads, vae=of_images.to(**half), transformer=still.to(**half)), TARGET / "image")
    _write(SanaVideoPipeline(**reads, vae=of_videos.to(**half), transformer=moving.to(**half)), TARGET / "video")
    write_judge(TARGET, judge)
    write_records(folder, RECORDS / "modern", STAGES)
