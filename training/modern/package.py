"""What is trained of the modern pair, into the package, in fp16 safetensors, without the language model that it reads with.

The image model so far: its transformer learns on, so there is no preset yet, and nothing loads the pair.
"""

from pathlib import Path

import torch
from diffusers import AutoencoderDC, DPMSolverMultistepScheduler, SanaTransformer2DModel

from training.world import FOLDERS

TARGET = FOLDERS["modern"]


def scheduler() -> DPMSolverMultistepScheduler:
    return DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.0, algorithm_type="dpmsolver++"
    )


def write_image(vae: AutoencoderDC, transformer: SanaTransformer2DModel) -> Path:
    home = TARGET / "image"
    vae.to("cpu", torch.float16).save_pretrained(home / "vae")
    transformer.to("cpu", torch.float16).save_pretrained(home / "transformer")
    scheduler().save_pretrained(home / "scheduler")
    return home
