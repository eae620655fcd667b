"""The frozen image model, or a video model on single frames, as one differentiable loss.

Hides the parameterisation (epsilon, velocity or flow), the scheduler, the autoencoder and all that a pipeline gives to its
network besides latents and text; works on latents of any rank. Knows nothing about methods.
"""

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial, wraps
from types import MethodType
from typing import TYPE_CHECKING, Any

import torch

from unreel.errors import UnreelError
from unreel.models.adapter import (
    PLACES,
    as_stepped,
    calls_of,
    first_call,
    frames_argument,
    latents_argument,
    latents_by,
    leading_away,
    makes_pictures,
    network_of,
    set_up,
    size_arguments,
    stepped,
    usual_call,
)
from unreel.models.memory import device_of
from unreel.models.precision import upcast
from unreel.models.standins import hiding

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from unreel.models.pair import Settings

READ_TOGETHER = 16  # prompts
MARGIN = 8  # tokens that a limit leaves for what a pipeline puts around a prompt; limits grow in steps of it


@dataclass(frozen=True)
class Conditioning:
    """The arguments, by name, with which a pipeline calls its network for some prompts; differentiable in the text
    encoders.

    `latents` and `time` name those that change at every step; the network gets the scheduler's timestep times `scale`.
    """

    arguments: dict[str, Any]
    latents: str
    time: str
    scale: float

    def learnable(self) -> list[torch.Tensor]:
        """The outputs of text encoders that take a gradient, in the order of the arguments."""
        return [tensor for tensor in _inside(self.arguments) if tensor.requires_grad]

    def detached(self) -> "Conditioning":
        """The same arguments cut off from the text encoders: gradients end at the arguments."""
        return replace(
            self, arguments=_mapped(self.arguments, lambda tensor: tensor.detach().requires_grad_(tensor.requires_grad))
        )

    @property
    def embeddings(self) -> torch.Tensor:
        """Prompts as the network reads them: (batch, tokens, width), zero where it is not to look."""
        states, mask = self.arguments["encoder_hidden_states"], self.arguments.get("encoder_attention_mask")
        states = states.flatten(1, -2)  # some put one more dimension between
        return states if mask is None else states * mask.flatten(1)[..., None].to(states.dtype)

    @property
    def seen(self) -> torch.Tensor | None:
        """The unmasked tokens of all prompts, (tokens, width); None without a mask."""
        mask = self.arguments.get("encoder_attention_mask")
        return None if mask is None else self.embeddings.reshape(*mask.shape, -1)[mask.bool()]

    def each(self) -> list["Conditioning"]:
        """The arguments of each prompt alone."""
        return [self.rows([i]) for i in range(len(self.arguments[self.latents]))]

    def rows(self, some: Sequence[int]) -> "Conditioning":
        """The arguments of some of the prompts."""
        count = len(self.arguments[self.latents])

        def rows(tensor: torch.Tensor) -> torch.Tensor:
            return tensor[list(some)] if tensor.ndim and len(tensor) == count else tensor

        return replace(self, arguments=_mapped(self.arguments, rows))

    def repeated(self, times: int) -> "Conditioning":
        """The arguments of one prompt, repeated for so many latents."""

        def repeat(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.expand(times, *tensor.shape[1:]) if tensor.ndim and len(tensor) == 1 else tensor

        return replace(self, arguments=_mapped(self.arguments, repeat))

    def at(self, noisy: torch.Tensor, timesteps: torch.Tensor) -> dict[str, Any]:
        """The arguments with other latents and timesteps (batch)."""
        own, before = self.arguments[self.time], self.arguments[self.latents]
        t = (timesteps * self.scale).to(own.dtype).view(-1, *[1] * (own.ndim - 1)).expand(len(noisy), *own.shape[1:])
        z = noisy.to(before.dtype)
        axis = _wider(before, z)
        if axis is not None:  # the network's further channels, a first frame and its mask, are empty here
            z = torch.cat([z, before.narrow(axis, z.shape[axis], before.shape[axis] - z.shape[axis])], dim=axis)
        return {**self.arguments, self.latents: z, self.time: t}


@dataclass(frozen=True)
class Denoiser:
    """A frozen network with its scheduler, its autoencoder and the pipeline that knows how to call it.

    `shape` holds the pipeline's call arguments that set the size of latents.
    """

    network: Any
    scheduler: Any
    vae: Any
    pipeline: Any
    shape: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, pipeline: "DiffusionPipeline", size: tuple[int, int] | None = None, frames: int | None = 1) -> "Denoiser":
        """`size` is (height, width) in pixels, and `frames` of a video pipeline is how many; None: the pipeline's own.

        Raises UnreelError for a pipeline without a network.
        """
        network = network_of(pipeline)
        if network is None or getattr(pipeline, "vae", None) is None:
            raise UnreelError(
                f"{type(pipeline).__name__} has no network to learn from images with: learn from text alone, or give a "
                "text-to-image pipeline that shares the text encoder with --t2i"
            )
        for part in (network, pipeline.vae):
            part.requires_grad_(False)
        name = frames_argument(pipeline)
        shape = size_arguments(pipeline, size) | ({name: frames} if name and frames else {})
        return cls(network, pipeline.scheduler, pipeline.vae, pipeline, shape)

    @property
    def offloaded(self) -> bool:
        """Whether the pipeline's parts wait in main memory until they are called: `enable_model_cpu_offload`."""
        return hasattr(self.network, "_hf_hook")

    @contextmanager
    def channels_last(self) -> Iterator[None]:
        """Inside, the weights of an image model's U-Net are stored in the order in which convolutions read them fastest.
        Their values stay, and results are the same to rounding (benchmarks/full_size.py says what it saves).
        """
        pictures = makes_pictures(self.pipeline)
        if pictures:
            self.network.to(memory_format=torch.channels_last)
        try:
            yield
        finally:
            if pictures:
                self.network.to(memory_format=torch.contiguous_format)

    @property
    def timesteps(self) -> int:
        """How many training timesteps there are."""
        return self.scheduler.config.num_train_timesteps

    @property
    def first_timestep(self) -> int:
        """The lowest training timestep of this network: below it, Wan 2.2 uses another network."""
        boundary = getattr(self.pipeline.config, "boundary_ratio", None)
        return math.ceil((boundary or 0) * self.timesteps)

    def timesteps_of(self, levels: torch.Tensor) -> torch.Tensor:
        """The training timesteps (n,), whole numbers, whose share of noise is nearest to `levels`, as far as this
        network has them.
        """
        t = (1 - levels if self.inverted else levels) * (self.timesteps - 1)
        return t.round().long().clamp(min=self.first_timestep)

    @torch.no_grad()
    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Images (batch, 3, height, width) in [-1, 1] -> latents (batch, channels, height/f, width/f)."""
        coarse = self.vae.dtype == torch.float16 and self.vae.config.get("force_upcast")  # it overflows there: SDXL's
        with upcast(self.vae) if coarse else nullcontext():
            encoded = self.vae.encode(images.to(device_of(self.vae), self.vae.dtype))
        latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latent  # Sana's has no spread
        return (latents - (getattr(self.vae.config, "shift_factor", None) or 0)) * self.vae.config.scaling_factor

    @torch.no_grad()
    def sample(self, prompts: Sequence[str], seeds: Sequence[int], steps: int) -> torch.Tensor:
        """Latents that the model makes itself, one for each prompt, in the layout that its network reads."""
        made = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            generator = torch.Generator("cpu").manual_seed(seed)
            made.append(
                latents_by(self.pipeline, prompt=prompt, num_inference_steps=steps, generator=generator, **self.shape)
            )
        return torch.cat(made)

    @torch.no_grad()
    def finished(self, prompts: str | Sequence[str], seed: int, settings: "Settings") -> torch.Tensor:
        """The latents (prompts, ...) of the videos that a pipeline makes of a prompt, or of several from the same noise,
        with `settings`, guidance included. Nothing is decoded.
        """
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        generator = [torch.Generator("cpu").manual_seed(seed) for _ in texts]
        asked = {"prompt": texts, **leading_away(settings.negative_prompt, len(texts))}
        with set_up(self.pipeline, settings.guidance, settings.frames, settings.size, settings.tiling) as options:
            options |= {"num_inference_steps": settings.steps, "generator": generator}
            return latents_by(self.pipeline, **asked, **options).float()

    @torch.no_grad()
    def on_the_way(self, prompt: str, seed: int, steps: int, settings: "Settings") -> tuple[torch.Tensor, torch.Tensor]:
        """x_t and t, batches of one, after `steps` of the steps in which a pipeline makes a video of the prompt with
        `settings`, guidance included.

        Raises UnreelError for a pipeline that guides in two calls of its network.
        """
        call = calls_of(self.network, partial(self.finished, prompt, seed, settings), most=steps + 1)[-1]
        latents = call[latents_argument(call)]
        if len(latents) < 2 and settings.guidance > 1:
            raise UnreelError(
                f"{type(self.pipeline).__name__} guides in two calls of its network: it is not supported here"
            )
        t = self.scheduler.timesteps[steps : steps + 1].to(latents.device)
        return latents[-1:].float(), t

    @contextmanager
    def starting_from(self, latents: torch.Tensor, noise: torch.Tensor, share: float) -> Iterator[None]:
        """Inside, one call of the pipeline starts from `latents`, with about as much `noise` as at that share of its
        timesteps, instead of from noise alone: Meng et al., "SDEdit" (arXiv 2108.01073). Earlier steps call the network
        too, and their result is discarded. If videos are made in chunks (Helios), only the first starts from them.

        Raises UnreelError, when the pipeline is called, for a single step, or if its scheduler sees other latents than
        it returns.
        """
        scheduler, own = self.scheduler, type(self.scheduler).step
        takes, done = inspect.signature(own), dict[Any, int]()  # steps by scheduler: some pipelines copy it for every frame

        @wraps(own)
        def step(stepping: Any, *args: Any, **kwargs: Any) -> Any:
            following = done[stepping] = done.get(stepping, 0) + 1
            if following > self._first_step(share):
                return own(stepping, *args, **kwargs)
            # The scheduler's own step is skipped, so that it keeps no history of these steps; only its counter goes on.
            if hasattr(stepping, "_step_index"):
                stepping._step_index = following
            call = takes.bind(stepping, *args, **kwargs)
            call.apply_defaults()
            start = self._as_sample(latents, noise, scheduler.timesteps[following])
            made = as_stepped(start, call.arguments["sample"], list(done).index(stepping))
            return stepped(made, call.arguments["return_dict"])

        with hiding(scheduler, "step", MethodType(step, scheduler)):  # of a copy, the copy's
            yield

    def _first_step(self, share: float) -> int:
        """The step, from 0, at whose timestep the share of noise is nearest to `share`; 0, noise alone, for a share of
        1.

        Raises UnreelError if there is only one step.
        """
        if share >= 1:
            return 0
        if len(self.scheduler.timesteps) < 2:
            raise UnreelError("one step starts from noise alone: it cannot start from a video, give more --steps")
        noise = (self.scheduler.timesteps.float() / self.timesteps - int(self.inverted)).abs()
        return max(1, int((noise - share).abs().argmin()))

    def _as_sample(self, latents: torch.Tensor, noise: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """z_t as the scheduler keeps it. Some schedulers keep z + (sigma_t / alpha_t) e and scale that for the network."""
        t = timestep.to(latents.device).expand(len(latents))
        grows = float(getattr(self.scheduler, "init_noise_sigma", 1.0)) > 1
        return self.noisy(latents, noise, t) / (self._scales(latents, t)[0] if grows else 1)

    def conditioning(self, prompts: Sequence[str]) -> Conditioning:
        """The arguments of the first call of its network that the pipeline makes for `prompts`, without guidance."""
        call = inspect.unwrap(type(self.pipeline).__call__)  # without its no_grad
        # Where guidance is distilled it is one of the network's inputs, elsewhere a second pass.
        guided = getattr(self.network.config, "guidance_embeds", False)
        free = {} if guided or "guidance_scale" not in inspect.signature(call).parameters else {"guidance_scale": 1.0}
        options = usual_call(self.pipeline) | {"num_inference_steps": 2, "output_type": "latent"} | free | self.shape
        asked = first_call(self.network, lambda: call(self.pipeline, prompt=list(prompts), **options))
        if asked is None:
            raise UnreelError(f"{type(self.pipeline).__name__} did not call its network: it is not supported")
        latents, time = latents_argument(asked), "timestep"
        # Floating-point arguments in the network's precision, which may be coarser than the text encoder's.
        arguments = _mapped(asked, lambda value: value.to(self.network.dtype) if value.is_floating_point() else value)
        arguments |= {name: asked[name] for name in (time, PLACES) if name in asked}
        if isinstance(asked.get("fps"), list):  # one for every prompt, of which SkyReels' network can take one alone
            arguments["fps"] = asked["fps"][:1]
        arguments[time] = torch.as_tensor(arguments[time]).reshape(-1, *arguments[time].shape[1:])
        first = float(self.scheduler.timesteps[0])
        scale = float(arguments[time].flatten()[0]) / first if first else 1.0
        return Conditioning(arguments, latents, time, scale)

    @torch.no_grad()
    def reading_briefly(self, tokens: int, prompt: str) -> "Denoiser":
        """This denoiser for prompts of at most `tokens` tokens, start and end included. That is much faster if the
        pipeline pads far and neither encoder nor network looks at padding. `self` otherwise, and if `prompt`, one of
        that length, is then read differently.
        """
        longest = "max_sequence_length"
        takes = inspect.signature(inspect.unwrap(type(self.pipeline).__call__)).parameters
        if longest not in takes:
            return self
        usual = (usual_call(self.pipeline) | self.shape).get(longest, takes[longest].default)
        brief = replace(self, shape=self.shape | {longest: min(usual, tokens)})
        one, two = (each.conditioning([prompt]).seen for each in (self, brief))
        alike = one is not None and two is not None and one.shape == two.shape
        return brief if alike and torch.allclose(one, two, rtol=1e-2, atol=1e-3) else self  # type: ignore[arg-type]

    @torch.no_grad()
    def text_inputs(self, part: torch.nn.Module, prompts: Sequence[str]) -> tuple[list[torch.Tensor], bool]:
        """The text as it reaches `part`, a matrix of the network, for each prompt: (tokens, width) without masked
        tokens; and whether there is a mask. Some networks project the text before they look at it.
        """
        out: list[torch.Tensor] = []
        mask = None
        for at in range(0, len(prompts), READ_TOGETHER):
            conditioning = self.conditioning(prompts[at : at + READ_TOGETHER])
            latents = conditioning.arguments[conditioning.latents]
            # Small latents do: text layers do not depend on them. Allegro and the smaller Wan 2.2 need whole ones, since
            # other arguments have an entry for each place in them.
            told = "image_rotary_emb" in conditioning.arguments or conditioning.arguments[conditioning.time].ndim > 1
            whole = latents.ndim < 4 or told
            small = latents if whole else latents[..., :8, :8]
            call = first_call(part, partial(self.network, **conditioning.arguments | {conditioning.latents: small}))
            if call is None:
                raise UnreelError(f"{type(self.network).__name__} does not read text there: it is not supported")
            mask, rows = conditioning.arguments.get("encoder_attention_mask"), call["input"]
            out += rows if mask is None else [row[kept.bool()] for row, kept in zip(rows, mask, strict=True)]
        return out, mask is not None

    def noisy(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """z_t = alpha_t z + sigma_t e, in at least float32: half precision is for the network only."""
        latents, noise = _precise(latents), _precise(noise)
        signal, sigma = self._scales(latents, timesteps)
        return signal * latents + sigma * noise

    def predict(self, noisy: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """The network's prediction for z_t, of whichever quantity it was trained to predict, in the shape and type of
        `noisy`; differentiable in `conditioning`.
        """
        predicted = self.network(**conditioning.at(noisy, timesteps))[0]
        if predicted.shape != noisy.shape:  # it predicts a variance too
            predicted = predicted.chunk(2, dim=1)[0]
        return predicted.to(noisy.dtype)

    def loss(
        self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        """Mean squared error of the network's prediction, a scalar, differentiable in `conditioning`."""
        latents, noise = _precise(latents), _precise(noise)
        target = self.target(latents, noise, timesteps)
        predicted = self.predict(self.noisy(latents, noise, timesteps), timesteps, conditioning)
        return torch.nn.functional.mse_loss(predicted, target)

    def target(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """What the network was trained to predict of z_t.

        With z_t = alpha_t z + sigma_t e, that is e for epsilon models, alpha_t e - sigma_t z for velocity models (Salimans
        & Ho, arXiv 2202.00512) and the slope of z_t in the scheduler's time for flow models (Lipman et al., arXiv
        2210.02747): e - z where noise grows with it, z - e where it shrinks.
        """
        signal, sigma = self._scales(latents, timesteps)
        match self._predicts:
            case "epsilon":
                return noise
            case "v_prediction":
                return signal * noise - sigma * latents
            case _:
                return latents - noise if self.inverted else noise - latents

    @property
    def _predicts(self) -> str:
        flow = "FlowMatch" in type(self.scheduler).__name__
        kind = self.scheduler.config.get("prediction_type", "flow_prediction" if flow else None)
        if kind not in ("epsilon", "v_prediction", "flow_prediction"):
            raise UnreelError(
                f"the model predicts {kind!r}: only epsilon, v_prediction and flow_prediction are supported; learn from "
                "text alone, without --method"
            )
        return kind

    @property
    def inverted(self) -> bool:
        return bool(self.scheduler.config.get("invert_sigmas", False))

    def _scales(self, latents: torch.Tensor, timesteps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """alpha_t and sigma_t, to be multiplied with latents of any rank."""
        rank = [1] * (latents.ndim - 1)
        if self._predicts == "flow_prediction":
            time = (timesteps.to(latents) / self.timesteps).view(-1, *rank)
            return (time, 1 - time) if self.inverted else (1 - time, time)
        alpha = self.scheduler.alphas_cumprod.to(latents)[timesteps.long()].view(-1, *rank)
        return alpha.sqrt(), (1 - alpha).sqrt()


def _wider(one: torch.Tensor, other: torch.Tensor) -> int | None:
    """The only axis, if it may hold channels, in which `one` is larger than `other`; None if they differ otherwise or
    not at all.
    """
    unlike = [axis for axis in range(1, other.ndim) if one.ndim == other.ndim and one.shape[axis] != other.shape[axis]]
    return unlike[0] if unlike in ([1], [other.ndim - 1]) and one.shape[unlike[0]] > other.shape[unlike[0]] else None


def _mapped(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The arguments of a network with every tensor in them changed."""
    if isinstance(value, dict):
        return {name: _mapped(part, change) for name, part in value.items()}
    return change(value) if isinstance(value, torch.Tensor) else value


def _inside(value: Any) -> list[torch.Tensor]:
    """All tensors in the arguments of a network."""
    if isinstance(value, dict):
        return [tensor for part in value.values() for tensor in _inside(part)]
    return [value] if isinstance(value, torch.Tensor) else []


def _precise(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
