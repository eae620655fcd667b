"""What the paper's few-shot recipe costs on Stable Diffusion 1.5: `python -m benchmarks.full_size --device cuda`.

The model is built from its configuration with random weights (nothing is downloaded), which cost what real ones do:
512 x 512 pixels, four shots, ten steps of two images. Run in turn on the same images:

- unreel, as `unreel unlearn --method few-shot` runs it, in float32 and in `--dtype`, with the image model alone loaded;
- "published": a plain loop in float32 that works as the code of few-shot erasing does (github.com/fmp453/few-shot-erasing):
  the denoiser frozen, the latents encoded once; it trains the weights that the paper names, as that code does since July
  2026 (before, it misspelt `requires_grad` and left the whole text encoder to the optimiser);
- "naive": the same loop without even that: every step encodes its images anew and computes all gradients there are.

Then how far the plain loops' results are from unreel's in float32. `--cap-gib 8` gives the process no more of the GPU's
memory than that; what does not fit is said not to. On a CPU, where 50 denoising steps an image take too long, the shots are
noise, `--steps 2` keeps it short, and seconds are also counted in processor time, which other work on the machine changes
less. `--details` measures instead, step by step, what single choices save, and where the time of unreel's steps goes.
"""

import ctypes
import gc
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any
from unittest.mock import patch

import numpy as np
import torch
import typer
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.profiler import ProfilerActivity, profile
from transformers import AutoTokenizer, CLIPTextModel

from benchmarks.common import machine, write_entry
from benchmarks.encoder_cost import CLIP_L
from unreel import Concept, FewShotConfig, unlearn
from unreel.cost import Cost
from unreel.methods.few_shot import few_shot
from unreel.models.adapter import image_size
from unreel.models.conditioner import Conditioner
from unreel.models.denoiser import Denoiser
from unreel.models.pair import Pair
from unreel.models.sampling import load_images, made_images, to_tensor
from unreel.models.shipped import EMBEDDED_FOLDER

NAME = "full_size"
CONCEPT = Concept("Tokyo Tower")
Learned = tuple[dict[str, torch.Tensor], list[float]]  # the changes by name, and the loss at every step
Recipe = Callable[[Pair, Concept, FewShotConfig, Path], Learned]


def stable_diffusion() -> StableDiffusionPipeline:
    """Stable Diffusion 1.5 with random weights, in float32. What is not said here is its classes' default."""
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_FOLDER / "image" / "tokenizer")
    tokenizer.model_max_length = CLIP_L.max_position_embeddings
    pipeline = StableDiffusionPipeline(
        tokenizer=tokenizer,
        text_encoder=CLIPTextModel(CLIP_L).eval(),
        unet=UNet2DConditionModel(sample_size=64, cross_attention_dim=CLIP_L.hidden_size).eval(),
        vae=AutoencoderKL(
            sample_size=512,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
        ).eval(),
        scheduler=PNDMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def unreels(pair: Pair, concept: Concept, config: FewShotConfig, images: Path) -> Learned:
    erasure = unlearn(concept, pair, config, images=images)
    return dict(erasure.components[0].deltas), erasure.provenance["parts"][0]["losses"]  # type: ignore[arg-type]


def plain(pair: Pair, concept: Concept, config: FewShotConfig, images: Path, *, naive: bool = False) -> Learned:
    """The same recipe written straight down, with unreel's draws; the image model is left as it was found.

    As the published code works; `naive` encodes the images of every step anew and keeps all gradients.
    """
    pipeline, draws = pair.t2i, torch.Generator().manual_seed(config.seed)
    encoder, unet, vae, scheduler = pipeline.text_encoder, pipeline.unet, pipeline.vae, pipeline.scheduler
    pixels = to_tensor(load_images(images, image_size(pair.t2i)))

    def latents_of(image: int, mirrored: int) -> torch.Tensor:
        shown = pixels[image].flip(-1) if mirrored else pixels[image]
        with torch.no_grad():
            return vae.encode(shown[None].to(vae.device)).latent_dist.mode()[0] * vae.config.scaling_factor

    encoder.requires_grad_(True)
    unet.requires_grad_(naive)
    last = f"layers.{encoder.config.num_hidden_layers - 1}.self_attn."
    weights = {name: weight for name, weight in encoder.named_parameters() if ".mlp." in name or last in name}
    originals = {name: weight.detach().clone() for name, weight in weights.items()}
    known = None if naive else [[latents_of(i, mirrored) for mirrored in (0, 1)] for i in range(len(pixels))]
    optimizer = torch.optim.Adam(weights.values(), config.learning_rate, config.betas, config.eps, config.weight_decay)
    losses = []
    for _ in range(config.epochs):
        for shots in torch.randperm(len(pixels), generator=draws).split(config.batch_size):
            mirrored = torch.randint(2, shots.shape, generator=draws).tolist()
            texts = torch.randint(len(concept.forget_prompts), shots.shape, generator=draws).tolist()
            z = torch.stack(
                [known[i][m] if known else latents_of(i, m) for i, m in zip(shots.tolist(), mirrored, strict=True)]
            )
            tokens = pipeline.tokenizer(
                [concept.forget_prompts[i] for i in texts],
                padding="max_length",
                max_length=pipeline.tokenizer.model_max_length,
                return_tensors="pt",
            ).input_ids
            t = torch.randint(scheduler.config.num_train_timesteps, shots.shape, generator=draws).to(z.device)
            noise = torch.randn(z.shape, generator=draws).to(z.device)
            predicted = unet(scheduler.add_noise(z, noise, t), t, encoder(tokens.to(z.device))[0]).sample
            loss = -torch.nn.functional.mse_loss(predicted, noise)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(-loss.item())
    with torch.no_grad():
        deltas = {name: (weight - originals[name]).cpu() for name, weight in weights.items()}
        for name, weight in weights.items():
            weight.copy_(originals[name])
    for part in (encoder, unet):
        part.zero_grad()
        part.requires_grad_(False)
    return deltas, losses


def apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], learning_rate: float) -> dict[str, float]:
    """How far two results are from each other: as a share of the second one's norm, and at most, in learning rates."""
    differences = [one[name] - other[name] for name in other]
    norms = [sum(t.square().sum().item() for t in tensors) ** 0.5 for tensors in (differences, other.values())]
    most = max(t.abs().max().item() for t in differences)
    return {"relative": norms[0] / norms[1], "most_in_learning_rates": most / learning_rate}


LOOPS: dict[str, Recipe] = {"unreel": unreels, "published": plain, "naive": partial(plain, naive=True)}


def clocks(device: torch.device | str) -> dict[str, float]:
    """Seconds on the wall, and of all processor cores' work for this process."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
    return {"seconds": time.perf_counter(), "processor_seconds": time.process_time()}


def tidy() -> None:
    """Give back what earlier work has freed, so that the next peak is not that of the last."""
    gc.collect()
    with suppress(OSError, AttributeError):  # glibc keeps freed memory to itself
        ctypes.CDLL("libc.so.6").malloc_trim(0)


@contextmanager
def steps_timed(device: torch.device) -> Iterator[list[dict[str, float]]]:
    """The clocks at the end of every optimiser step while the block runs."""
    ticks: list[dict[str, float]] = []
    handle = register_optimizer_step_post_hook(lambda *_: ticks.append(clocks(device)))
    try:
        yield ticks
    finally:
        handle.remove()


def measured(pair: Pair, images: Path, recipe: Recipe, config: FewShotConfig) -> tuple[dict[str, Any], Learned | None]:
    """Seconds and peak memory of one run, and what it learned; {"fits": False} and None if memory did not suffice."""
    vae, device = pair.t2i.vae, pair.t2i.device
    encode, spent = vae.encode, {"seconds": 0.0, "processor_seconds": 0.0}

    def timed(pixels: torch.Tensor) -> Any:
        begun = clocks(device)
        out = encode(pixels)
        for clock, now in clocks(device).items():
            spent[clock] += now - begun[clock]
        return out

    tidy()
    begun = clocks(device)
    try:
        with patch.object(vae, "encode", timed), steps_timed(device) as ticks, Cost(device) as cost:
            learned = recipe(pair, CONCEPT, config, images)
    except torch.OutOfMemoryError:
        pass
    else:
        total = {clock: now - begun[clock] for clock, now in clocks(device).items()}
        steps = np.diff([list(tick.values()) for tick in ticks], axis=0).T  # the first, which warms up, aside
        a_step = dict(zip(total, (float(median(each)) for each in steps), strict=True))
        row = {"fits": True, "total": total, "encoding": spent, "a_step": a_step, "peak_memory_gib": cost.peak_memory_gib}
        return row, learned
    torch.cuda.empty_cache()
    return {"fits": False}, None


def write_shots(pair: Pair, config: FewShotConfig, folder: Path) -> float | None:
    """Put the shots into `folder`: generated ones, and the seconds that took; on a CPU, where it was not run, noise."""
    seconds = None
    if pair.t2i.device.type == "cpu":
        pixels = np.random.default_rng(0).integers(256, size=(config.shots, *image_size(pair.t2i), 3), dtype=np.uint8)
    else:
        with Cost(pair.t2i.device) as cost:
            pixels = made_images(pair, CONCEPT.forget_prompts[: config.shots], range(config.shots), config.shot_steps)
        seconds = cost.seconds
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{i}.png")
    return seconds


def compared(pair: Pair, dtype: str, config: FewShotConfig) -> dict[str, Any]:
    """All loops in turn, in float32 and unreel's in `dtype` too, and how far their results are apart."""
    rows, learned = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for precision, loops in (("float32", tuple(LOOPS)), (dtype, ("unreel",))):
            pair.t2i.to(getattr(torch, precision))
            generation = write_shots(pair, config, Path(folder))
            for loop in loops:
                row, result = measured(pair, Path(folder), LOOPS[loop], config)
                rows.append({"loop": loop, "dtype": precision, "generation_seconds": generation, **row})
                learned.setdefault(loop, result)
                print(rows[-1], flush=True)
    ours = learned["unreel"]
    others = {loop: theirs for loop, theirs in learned.items() if loop != "unreel" and theirs}
    agreement = {loop: apart(ours[0], theirs[0], config.learning_rate) for loop, theirs in others.items() if ours}
    return {"steps": config.epochs * config.shots // config.batch_size, "runs": rows, "apart": agreement}


@contextmanager
def weight_gradients(unet: UNet2DConditionModel) -> Iterator[None]:
    unet.requires_grad_(True)
    yield
    unet.requires_grad_(False)
    unet.zero_grad()


@contextmanager
def channels_last(unet: UNet2DConditionModel) -> Iterator[None]:
    unet.to(memory_format=torch.channels_last)
    yield
    unet.to(memory_format=torch.contiguous_format)


@contextmanager
def without_sdpa(unet: UNet2DConditionModel) -> Iterator[None]:
    processors = dict(unet.attn_processors)
    unet.set_attn_processor(AttnProcessor())
    yield
    unet.set_attn_processor(processors)


@contextmanager
def checkpointing(unet: UNet2DConditionModel) -> Iterator[None]:
    unet.enable_gradient_checkpointing()
    yield
    unet.disable_gradient_checkpointing()


@contextmanager
def compiled(unet: UNet2DConditionModel) -> Iterator[None]:
    unet.compile()
    yield
    unet._compiled_call_impl = None
    torch.compiler.reset()


# What an optimiser step is compared with: the first is the network as it was loaded.
CHOICES: dict[str, Callable[[UNet2DConditionModel], AbstractContextManager[None]]] = {
    "as it is": lambda unet: nullcontext(),
    "gradients of the denoiser's weights too": weight_gradients,
    "attention written out, not `scaled_dot_product_attention`": without_sdpa,
    "`channels_last`": channels_last,  # as `unreel unlearn` does
    "gradient checkpointing": checkpointing,
    "`torch.compile`": compiled,
}


def detailed(pair: Pair, dtype: str) -> dict[str, Any]:
    """Encoding at once and one by one, what a shot takes for each of its denoising steps, single optimiser steps with each
    of CHOICES, the first of them and another, and the operators of one.
    """
    conditioner, denoiser = Conditioner.of(pair.t2i), Denoiser.of(pair.t2i)
    config, device = FewShotConfig(shots=2, epochs=1), conditioner.device
    pixels = torch.rand(4, 3, *image_size(pair.t2i))
    rows, longest = [], {}
    for precision in ("float32", dtype):
        pair.t2i.to(getattr(torch, precision))
        latents = torch.randn(2, 2, *denoiser.encode(pixels[:1]).shape[1:]).to(device)
        step = partial(few_shot, [conditioner], denoiser, CONCEPT, config, latents)
        for count in (1, 4):
            encode = partial(list, map(denoiser.encode, pixels.split(count)))
            rows.append({"what": f"encoding four images, {count} at a time", "dtype": precision, **costs(device, encode)})
            print(rows[-1], flush=True)
        denoise = partial(guided, pair, latents[0])
        denoise()
        rows.append({"what": "a denoising step of a shot, with guidance", "dtype": precision, **costs(device, denoise)})
        print(rows[-1], flush=True)
        for choice, chosen in CHOICES.items():
            with chosen(denoiser.network):
                first = costs(device, step)["seconds"]
                row = {"what": f"a step, {choice}", "dtype": precision, "first_seconds": first, **costs(device, step)}
            rows.append(row)
            print(rows[-1], flush=True)
        longest[precision] = operators(step)
    return {"rows": rows, "operators": longest}


@torch.no_grad()
def guided(pair: Pair, latents: torch.Tensor) -> None:
    """What the network computes to denoise an image once: with a prompt and without."""
    embeddings = Conditioner.of(pair.t2i).encode(["", CONCEPT.name])
    pair.t2i.unet(latents.to(pair.t2i.unet.dtype), 500, embeddings)


def costs(device: torch.device, work: Callable[[], Any]) -> dict[str, float]:
    """Seconds, processor seconds and peak memory of `work`."""
    tidy()
    begun = clocks(device)
    with Cost(device) as cost:
        work()
    spent = {clock: now - begun[clock] for clock, now in clocks(device).items()}
    return {**spent, "peak_memory_gib": cost.peak_memory_gib}


def operators(work: Callable[[], Any], most: int = 12) -> list[dict[str, Any]]:
    """The operators that `work` spends most processor time in, with their share of it."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        work()
    events = sorted(profiler.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    return [{"operator": e.key, "calls": e.count, "share": e.self_cpu_time_total / total} for e in events[:most]]


def main(
    device: str = "cpu",
    dtype: Annotated[str, typer.Option(help="the half precision that unreel's loop also runs in")] = "bfloat16",
    steps: Annotated[int, typer.Option(help="optimiser steps, an even number, at least 2")] = 10,
    cap_gib: Annotated[float | None, typer.Option(help="of the GPU's memory, use no more than this")] = None,
    details: Annotated[bool, typer.Option("--details", help="single choices and operators, not the whole recipe")] = False,
) -> None:
    if cap_gib:
        torch.cuda.set_per_process_memory_fraction(cap_gib * 2**30 / torch.cuda.mem_get_info()[1])
    torch.manual_seed(0)
    pipeline = stable_diffusion().to(device)
    pair = Pair(pipeline, pipeline, "Stable Diffusion 1.5 with random weights", "")
    entry = {
        "model": pair.t2i_source,
        "machine": machine(device),
        "cap_gib": cap_gib,
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],  # before anything else ran, about the number of threads if nothing else did
    }
    entry |= detailed(pair, dtype) if details else compared(pair, dtype, FewShotConfig(epochs=steps // 2))
    what = "details" if details else f"{steps} steps"
    name = ", ".join([device, dtype, what, *([f"{cap_gib:g} GiB"] if cap_gib else [])])
    write_entry(NAME, name, entry)


if __name__ == "__main__":
    typer.run(main)
