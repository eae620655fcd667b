"""The image model with its text encoder, then the video model on the frozen text encoder."""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, MotionAdapter, UNet2DConditionModel, UNetMotionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from training import latents as cache
from training.autoencoder import LATENT_CHANNELS
from training.loop import Schedule, autocast, train
from training.scenes import Renderer
from training.tokenizer import MAX_LENGTH
from training.world import caption

TEXT_WIDTH = 128
BLOCKS = (88, 144)
LATENT_SIZE = 8
IMAGES, CLIPS = 60_000, 8_000
IMAGE_SCHEDULE = Schedule(steps=9_000, batch=64)
VIDEO_SCHEDULE = Schedule(steps=3_800, batch=8, lr=6e-4)
CAPTION_DROPOUT = 0.1


def scheduler() -> DDIMScheduler:
    # Zero terminal SNR: otherwise plain backgrounds come out in the wrong colour (Lin et al., arXiv 2305.08891).
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
    )


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=MAX_LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_image_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("CrossAttnDownBlock2D",) * len(BLOCKS),
        up_block_types=("CrossAttnUpBlock2D",) * len(BLOCKS),
        block_out_channels=BLOCKS,
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=(2, 3),  # numbers of heads, whatever the name says
        norm_num_groups=8,
        use_linear_projection=True,
    )


def build_video_unet(unet: UNet2DConditionModel) -> UNetMotionModel:
    """The image model with motion modules that change nothing until trained."""
    adapter = MotionAdapter(
        block_out_channels=BLOCKS,
        motion_layers_per_block=1,
        motion_num_attention_heads=2,
        motion_norm_num_groups=8,
        motion_max_seq_length=16,
        use_motion_mid_block=False,
    )
    model = UNetMotionModel.from_unet2d(unet, adapter)
    for name, module in model.named_modules():
        if name.endswith("proj_out") and "motion_modules" in name:
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    return model


def tokenize(tokenizer: CLIPTokenizer, captions: list[str], rng: np.random.Generator, device: str) -> torch.Tensor:
    dropped = ["" if rng.random() < CAPTION_DROPOUT else text for text in captions]
    tokens = tokenizer(dropped, padding="max_length", truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
    return tokens.input_ids.to(device)


def velocity_batch(latents: torch.Tensor, alphas: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noisy latents, timesteps and velocity targets for clean latents of any rank."""
    timesteps = torch.randint(len(alphas), (len(latents),), device=latents.device)
    noise = torch.randn_like(latents)
    alpha = alphas[timesteps].view(-1, *[1] * (latents.ndim - 1))
    return (
        alpha.sqrt() * latents + (1 - alpha).sqrt() * noise,
        timesteps,
        alpha.sqrt() * noise - (1 - alpha).sqrt() * latents,
    )


def train_image(
    folder: Path, renderer: Renderer, vae: AutoencoderKL, tokenizer: CLIPTokenizer, device: str
) -> nn.ModuleDict:
    """Text encoder and image U-Net, trained together."""
    stored = cache.image_latents(folder / "images.npy", vae, renderer, IMAGES, device)
    scenes = cache.image_scenes(renderer.world, IMAGES)
    alphas = scheduler().alphas_cumprod.to(device)
    torch.manual_seed(IMAGE_SCHEDULE.seed)
    model = nn.ModuleDict({"text_encoder": build_text_encoder(tokenizer), "unet": build_image_unet()})
    # Plain products instead of the fused attention kernel, whose backward is several times slower on CPU.
    model["unet"].set_attn_processor(AttnProcessor())
    model["text_encoder"].set_attn_implementation("eager")

    def loss(model: nn.Module, rng: np.random.Generator, batch: int) -> torch.Tensor:
        chosen = rng.integers(len(scenes), size=batch)
        captions = [caption(renderer.world, scenes[i][0], rng) for i in chosen]
        noisy, timesteps, target = velocity_batch(stored[chosen].to(device).float(), alphas)
        with autocast(device):
            text = model["text_encoder"](tokenize(tokenizer, captions, rng, device)).last_hidden_state
            predicted = model["unet"](noisy, timesteps, text).sample
        return nn.functional.mse_loss(predicted.float(), target)

    return train("image", folder, model, loss, IMAGE_SCHEDULE, device=device)


def train_video(
    folder: Path,
    renderer: Renderer,
    vae: AutoencoderKL,
    tokenizer: CLIPTokenizer,
    text_encoder: CLIPTextModel,
    unet: UNet2DConditionModel,
    device: str,
) -> UNetMotionModel:
    """The video model: starts at the image model's weights, then every weight is trained on clips."""
    stored = cache.clip_latents(folder / "clips.npy", vae, renderer, CLIPS, device)
    scenes = cache.clip_scenes(renderer.world, CLIPS)
    alphas = scheduler().alphas_cumprod.to(device)
    torch.manual_seed(VIDEO_SCHEDULE.seed)
    model = build_video_unet(unet)
    model.set_attn_processor(AttnProcessor())
    text_encoder.requires_grad_(False).to(device)

    def loss(model: nn.Module, rng: np.random.Generator, batch: int) -> torch.Tensor:
        chosen = rng.integers(len(scenes), size=batch)
        captions = [caption(renderer.world, scenes[i], rng) for i in chosen]
        noisy, timesteps, target = velocity_batch(stored[chosen].to(device).float(), alphas)
        frames = noisy.shape[1]
        with autocast(device):
            with torch.no_grad():
                text = text_encoder(tokenize(tokenizer, captions, rng, device)).last_hidden_state
            predicted = model(noisy.transpose(1, 2), timesteps, text.repeat_interleave(frames, 0)).sample
        return nn.functional.mse_loss(predicted.float().transpose(1, 2), target)

    return train("video", folder, model, loss, VIDEO_SCHEDULE, device=device)
