"""Where unreel looks into diffusers pipelines. Components, call arguments and settings are read from the pipeline
itself, so that nobody has to write down what each class does, and nobody else has to know.

Knows pipelines as functions with parts; knows nothing about what they compute.
"""

import ast
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import cache, partial
from textwrap import dedent
from typing import Any

import torch
from torch import nn

from unreel.errors import UnreelError, reason_of
from unreel.models.applied import locked
from unreel.models.families import LTX
from unreel.models.memory import device_of, enough_memory, no_memory
from unreel.models.standins import hiding
from unreel.models.weights import own_modules

PLACES = "video_coords"  # in LTX's newer pipelines: the places and times of tokens, whose precision is kept
# The entry of a pipeline's configuration with call arguments that it was trained with, if they differ from its class's
# defaults. diffusers ignores names that begin with an underscore. Only CALL_OPTIONS may stand there: how prompts are read,
# and how large pictures are.
USUAL_CALL = "_usual_call"
CALL_OPTIONS: dict[str, type] = {
    "complex_human_instruction": list,
    "max_sequence_length": int,
    "height": int,
    "width": int,
    "use_resolution_binning": bool,
}


def frames_argument(pipeline: Any) -> str | None:
    """What a video pipeline calls the number of frames it is to make; None for an image pipeline."""
    takes = inspect.signature(type(pipeline).__call__).parameters
    return next((name for name in ("num_frames", "video_length", "frames") if name in takes), None)


def size_arguments(pipeline: Any, size: tuple[int, int] | None) -> dict[str, Any]:
    """The call arguments that ask a pipeline for (height, width) in pixels; none without a size, for the pipeline's own."""
    if size is None:
        return {}
    # With binning, the pipeline would choose another size.
    binned = "use_resolution_binning" in inspect.signature(type(pipeline).__call__).parameters
    return {"height": size[0], "width": size[1], **({"use_resolution_binning": False} if binned else {})}


def call_with(pipeline: Any, options: Any) -> None:
    """From now on, unreel calls the pipeline with those of `options` that may stand in its configuration (CALL_OPTIONS),
    unless something else is asked for. They are saved with the pipeline; other options are ignored.
    """
    takes = inspect.signature(type(pipeline).__call__).parameters
    asked = options if isinstance(options, Mapping) else {}
    usual = {name: asked[name] for name, kind in CALL_OPTIONS.items() if name in takes and type(asked.get(name)) is kind}
    if usual:
        pipeline.register_to_config(**{USUAL_CALL: usual})


def usual_call(pipeline: Any) -> dict[str, Any]:
    """The call arguments that a pipeline's configuration stores (`call_with`), for when nothing else is asked for."""
    return dict(getattr(pipeline, "config", {}).get(USUAL_CALL, {}))


def network_of(pipeline: Any) -> Any:
    """The denoiser of a pipeline, a U-Net or transformer; None if there is none."""
    unet = getattr(pipeline, "unet", None)  # not `or`: a compiled module has no truth
    return getattr(pipeline, "transformer", None) if unet is None else unet


def only_network_of(pipeline: Any) -> Any:
    """The denoiser, as `network_of` gives it. Raises UnreelError if there are several, because each makes a part of
    every video.
    """
    if len(several := networks(pipeline)) > 1:
        raise UnreelError(
            f"this {type(pipeline).__name__} denoises with {' and '.join(several)}, and the method changes one network "
            "alone: choose another method, such as text-ablation"
        )
    return network_of(pipeline)


def changeable(pipeline: Any) -> dict[str, nn.Module]:
    """The parts whose weights interventions change: text encoders, then networks."""
    return {**text_encoders(pipeline), **networks(pipeline)}


def networks(pipeline: Any) -> dict[str, nn.Module]:
    """All denoisers of a pipeline, by the names of their components: some pipelines have one for each half of the
    timesteps.
    """
    networks = {name: getattr(pipeline, name, None) for name in ("transformer", "transformer_2", "unet")}
    return {name: network for name, network in networks.items() if isinstance(network, nn.Module)}


def cross_attention(network: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers of cross-attention (attention to the text), by name. If a class has no `is_cross_attention`, a
    module named `attn2` counts.
    """
    parts = own_modules(network)
    reading = tuple(
        f"{name}."
        for name, part in parts.items()
        if getattr(part, "is_cross_attention", name.rpartition(".")[2] == "attn2")
    )
    return {name: part for name, part in parts.items() if isinstance(part, nn.Linear) and name.startswith(reading)}


def outside_cross_attention(network: nn.Module) -> dict[str, nn.Module]:
    """The linear layers and convolutions outside `cross_attention`, by name: all there are if text and picture are
    joined in one sequence.
    """
    kinds, reading = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d), cross_attention(network)
    return {name: part for name, part in own_modules(network).items() if isinstance(part, kinds) and name not in reading}


def cross_attention_outputs(network: nn.Module) -> dict[str, nn.Linear]:
    """The output matrices (`to_out`) of cross-attention, by name."""
    return {name: matrix for name, matrix in cross_attention(network).items() if ".to_out." in name}


def frames_axis(pipeline: Any) -> int | None:
    """The axis of the network's output that is time; None if places and frames are one sequence, and for an image
    pipeline.
    """
    if frames_argument(pipeline) is None or type(pipeline).__name__ in LTX:
        return None
    return 1 if type(pipeline).__name__ in ("CogVideoXPipeline", "Kandinsky5T2VPipeline") else 2


def makes_pictures(pipeline: Any) -> bool:
    """Whether a pipeline is an image model with a U-Net, whose latents are pictures."""
    return hasattr(pipeline, "unet") and frames_argument(pipeline) is None


def reads_latents_of_pictures(pipeline: Any) -> bool:
    """Whether a pipeline is an image model whose network gets the autoencoder's latents as they are: not packed, and
    with no other channels beside them.
    """
    network, vae = network_of(pipeline), getattr(pipeline, "vae", None)
    channels = getattr(getattr(network, "config", None), "in_channels", None)
    return frames_argument(pipeline) is None and vae is not None and channels == getattr(vae.config, "latent_channels", 0)


def as_prompts(pipeline: Any, embeddings: torch.Tensor) -> dict[str, Any]:
    """The call arguments that give embeddings (batch, tokens, width) to a pipeline in place of prompts. Tokens that are
    all zero are masked, if the pipeline takes a mask.
    """
    usual = _defaults(pipeline)
    mask = {"prompt_attention_mask": (embeddings != 0).any(-1).long()} if "prompt_attention_mask" in usual else {}
    none = {"prompt": None} if usual["prompt"] is inspect.Parameter.empty else {}  # which has to be given
    return {**none, "prompt_embeds": embeddings, **mask}


def latents_by(pipeline: Any, **options: Any) -> torch.Tensor:
    """Latents that the pipeline makes, in the layout that its network reads; of a video made in chunks, only the first
    chunk. Raises UnreelError as `made_by` does.
    """
    made = made_by(pipeline, **options, output_type="latent")[0]
    if type(pipeline).__name__ == "LTXConditionPipeline":  # gives them out as frames, where its network reads a sequence
        sides = pipeline.transformer_spatial_patch_size, pipeline.transformer_temporal_patch_size
        return pipeline._pack_latents(made, *sides)
    chunk = _defaults(pipeline).get("num_latent_frames_per_chunk")
    return made if chunk is None else made[:, :, :chunk]


def as_stepped(latents: torch.Tensor, sample: torch.Tensor, scheduler: int = 0) -> torch.Tensor:
    """Video latents in the layout of `sample`, which the pipeline's scheduler receives: some pipelines fold frames into
    the batch. Others have a scheduler per frame; `scheduler` is then that frame's index, from 0.

    Raises UnreelError if the layouts differ.
    """
    if latents.ndim == 5 and sample.ndim == 4:
        one = len(sample) == len(latents)
        latents = latents[:, :, scheduler] if one else latents.transpose(1, 2).flatten(0, 1)
    if latents.shape != sample.shape:
        raise UnreelError("the pipeline gives out other latents than its scheduler sees: it cannot start from a video here")
    return latents.to(sample)


def stepped(latents: torch.Tensor, as_object: bool) -> Any:
    """What a scheduler's step returns, with these latents and without a predicted original sample."""
    from diffusers.schedulers.scheduling_utils import SchedulerOutput

    return SchedulerOutput(latents) if as_object else (latents, None)


def text_encoders(pipeline: Any) -> dict[str, nn.Module]:
    """The text encoders of a pipeline by the names of their components; of models that also read pictures, only the
    language model (`reading_part`).

    Raises UnreelError for what is no pipeline.
    """
    if not hasattr(pipeline, "__dict__"):
        raise UnreelError(f"{pipeline!r} is no pipeline")
    names = [name for name in getattr(pipeline, "components", None) or vars(pipeline) if name.startswith("text_encoder")]
    return {name: reading_part(getattr(pipeline, name)) for name in sorted(names) if getattr(pipeline, name) is not None}


def reading_part(encoder: nn.Module) -> nn.Module:
    """The language model within a model of pictures and words, as some pipelines hold it; else the encoder itself. For a
    module that torch has compiled, the module before that, which shares its weights.
    """
    encoder = getattr(encoder, "_orig_mod", encoder)
    parts = (module for name, module in encoder.named_modules() if name.rpartition(".")[2] == "language_model")
    return next(parts, encoder)


def words_of(tokenizer: Any) -> Any:
    """The tokenizer itself, also where a processor of words and images holds it."""
    return getattr(tokenizer, "tokenizer", tokenizer)


def tokenizer_of(pipeline: Any, text_encoder: str) -> Any:
    """The tokenizer of the text encoder that the pipeline holds under that name."""
    return words_of(getattr(pipeline, text_encoder.replace("text_encoder", "tokenizer")))


def modules_of(pipeline: Any) -> dict[str, nn.Module]:
    """The parts of a pipeline that have weights, in the order of their names."""
    components = getattr(pipeline, "components", None) or vars(pipeline)
    return {name: part for name, part in sorted(components.items()) if isinstance(part, nn.Module)}


def _defaults(pipeline: Any) -> dict[str, Any]:
    """The arguments of a pipeline's call with their defaults; `inspect.Parameter.empty` for those without."""
    return {name: parameter.default for name, parameter in inspect.signature(type(pipeline).__call__).parameters.items()}


def own_sampling(pipeline: Any) -> dict[str, Any]:
    """The steps, guidance and frames of a pipeline that is called with a prompt alone."""
    usual = _defaults(pipeline)
    own = {"steps": "num_inference_steps", "guidance": "guidance_scale", "frames": frames_argument(pipeline)}
    sampling = {field: usual[name] for field, name in own.items() if name in usual}
    if getattr(pipeline, "guider", None):
        sampling["guidance"] = pipeline.guider.guidance_scale
    return sampling


def image_size(pipeline: Any) -> tuple[int, int]:
    """(height, width) in pixels that an image model makes on its own."""
    side = network_of(pipeline).config.get("sample_size") or pipeline.default_sample_size
    height, width = side if isinstance(side, (list, tuple)) else (side, side)
    return height * pipeline.vae_scale_factor, width * pipeline.vae_scale_factor


def video_size(pipeline: Any) -> tuple[int, int] | None:
    """(height, width) in pixels that a video pipeline makes on its own; None if it decides that only when it is called."""
    usual = _defaults(pipeline) | usual_call(pipeline)
    height, width = usual.get("height"), usual.get("width")
    if isinstance(height, int) and isinstance(width, int):
        return height, width
    return image_size(pipeline) if network_of(pipeline).config.get("sample_size") else None


def require_tiling(pipeline: Any, tiling: bool) -> None:
    """Raises UnreelError if a video pipeline's autoencoder is to work in tiles and cannot."""
    if tiling and getattr(pipeline.vae, "use_tiling", None) is None:
        raise UnreelError(f"the autoencoder of a {type(pipeline).__name__} cannot work in tiles: leave --tiling out")


def require_size(pipeline: Any, size: tuple[int, int]) -> None:
    """Raises UnreelError for a size (height, width) in pixels that a video pipeline refuses when it is called."""
    usual = _defaults(pipeline)
    takes = inspect.signature(pipeline.check_inputs).parameters
    own = {"prompt": "", **size_arguments(pipeline, size)}
    # Of the frames, which one class's check looks at before the size, any number does.
    own |= {"num_frames": 1} if usual.get("num_frames") is None else {}
    # What the check takes is as the call has it: SkyReels' compares numbers of frames that it has none for itself.
    asked = {
        name: own.get(name, usual.get(name))
        for name, parameter in takes.items()
        if parameter.default is parameter.empty or usual.get(name) not in (None, parameter.empty)
    }
    try:
        pipeline.check_inputs(**asked)
        _require_whole_patches(pipeline, size)
    except ValueError as error:
        why = reason_of(error)
        raise UnreelError(f"{type(pipeline).__name__} cannot generate with --size {size[0]} {size[1]}: {why}") from error


def guides(pipeline: Any, guidance: float) -> bool:
    """Whether the pipeline guides away from a negative prompt at that guidance scale."""
    own = inspect.signature(type(pipeline).__call__).parameters.get("true_cfg_scale")  # beside a guidance that is learned
    return guidance > 1 and (own is None or own.default > 1)


def leading_away(negative: str | None, count: int) -> dict[str, list[str]]:
    """The call argument that gives `count` videos a negative prompt in place of the pipeline's own; none for None."""
    return {} if negative is None else {"negative_prompt": [negative] * count}


def require_negative_prompt(pipeline: Any, guidance: float) -> None:
    """Raises UnreelError if a video pipeline would ignore a negative prompt at that guidance scale."""
    name = type(pipeline).__name__
    if "negative_prompt" not in inspect.signature(type(pipeline).__call__).parameters:
        raise UnreelError(f"a {name} takes no negative prompt: leave --negative-prompt out")
    if not guides(pipeline, guidance):
        ways = "leave --negative-prompt out" if guidance > 1 else "leave it out, or ask for more than 1"
        raise UnreelError(f"at --guidance {guidance:g} a {name} is not led away from anything: {ways}")


# What pipelines call the pixels along a side of one latent; the image models' name last, which some have as well.
_SCALES = ("vae_scale_factor_spatial", "vae_spatial_scale_factor", "vae_spatial_compression_ratio", "vae_scale_factor")


def _require_whole_patches(pipeline: Any, size: tuple[int, int]) -> None:
    """Raises ValueError for a size that is no multiple of a transformer's patches, which not all pipelines check."""
    patch = network_of(pipeline).config.get("patch_size") or 1
    patch = patch if isinstance(patch, int) else patch[-1]
    side = patch * next((getattr(pipeline, name) for name in _SCALES if hasattr(pipeline, name)), 1)
    if patch > 1 and any(length % side for length in size):
        raise ValueError(f"height and width have to be divisible by {side}")


@contextmanager
def set_up(
    pipeline: Any, guidance: float, frames: int | None, size: tuple[int, int] | None, tiling: bool
) -> Iterator[dict[str, Any]]:
    """Gives the call arguments of a video pipeline that say how to sample. Inside, settings that are not call arguments
    (a guider's guidance, tiling) are set on its parts.

    Raises UnreelError for an autoencoder that cannot work in tiles.
    """
    require_tiling(pipeline, tiling)
    name = frames_argument(pipeline)
    options: dict[str, Any] = {**({name: frames} if name and frames else {}), **size_arguments(pipeline, size)}
    guider, own_tiling = getattr(pipeline, "guider", None), getattr(pipeline.vae, "use_tiling", None)
    with ExitStack() as afterwards:
        if guider is None:
            options["guidance_scale"] = guidance
        else:
            afterwards.enter_context(hiding(pipeline, "guider", guider.new(guidance_scale=guidance)))
        if own_tiling is not None:
            afterwards.enter_context(hiding(pipeline.vae, "use_tiling", own_tiling))
        if tiling or type(pipeline).__name__ == "AllegroPipeline":  # whose autoencoder cannot decode a video in one piece
            pipeline.vae.enable_tiling()
        yield options


def fewer_steps(pipeline: Any) -> AbstractContextManager[None]:
    """Inside, the pipeline samples with DPM-Solver++ of order two (Lu et al., arXiv 2211.01095), for which few steps do."""
    from diffusers import DPMSolverMultistepScheduler

    return hiding(pipeline, "scheduler", DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config))


def takes_lora(pipeline: Any, component: str) -> bool:
    """Whether diffusers loads LoRA into this text encoder: a pipeline loads what it can save."""
    save = getattr(pipeline, "save_lora_weights", None)
    return save is not None and f"{component}_lora_layers" in inspect.signature(save).parameters


def made_by(pipeline: Any, **options: Any) -> Any:
    """The output of the pipeline's call. Raises UnreelError for what it cannot make, such as more frames than it was
    trained for.
    """
    device, video = pipeline._execution_device, frames_argument(pipeline) is not None
    ways = {
        "--dtype bfloat16": network_of(pipeline).dtype == torch.float32,
        "--offload": device.type != "cpu" and pipeline.device == device,
        "--tiling": video and not getattr(pipeline.vae, "use_tiling", True),
        "fewer --frames": video,
        "a smaller --size": video,
    }
    with enough_memory("generating", device, [hint for hint, helps in ways.items() if helps]):
        try:
            return pipeline(**usual_call(pipeline) | options)
        except (ValueError, RuntimeError, IndexError, ArithmeticError) as error:
            if no_memory(error):
                raise
            numbers = ", ".join(f"{name}={value}" for name, value in options.items() if isinstance(value, (int, float)))
            raise UnreelError(f"{type(pipeline).__name__} cannot generate with {numbers}: {reason_of(error)}") from error


def encoding_signature(pipeline: Any) -> inspect.Signature:
    """What the pipeline's `encode_prompt` is called with."""
    return inspect.signature(pipeline.encode_prompt)


def encode_prompt(pipeline: Any, prompts: list[str], *, guided: bool = False) -> Any:
    """The output of a pipeline's own `encode_prompt`, with the defaults of its `__call__`, and without guidance unless
    `guided`.
    """
    takes = inspect.signature(pipeline.encode_prompt).parameters
    usual = _defaults(pipeline)
    usual |= usual_call(pipeline)
    defaults = {
        name: usual[name] for name in takes if usual.get(name, inspect.Parameter.empty) is not inspect.Parameter.empty
    }
    fixed = {
        "prompt": prompts,
        "device": device_of(getattr(pipeline, next(iter(text_encoders(pipeline))))),
        "batch_size": len(prompts),
        "do_classifier_free_guidance": guided,
        "num_images_per_prompt": 1,
        "num_videos_per_prompt": 1,
    }
    # Compiled modules ignore hooks that are set later.
    with quiet(), torch.compiler.set_stance("force_eager"):
        return pipeline.encode_prompt(**defaults | {name: value for name, value in fixed.items() if name in takes})


def own_negative_prompt(pipeline: Any) -> str:
    """The negative prompt that is written in the code of a pipeline's `__call__`, used if nobody gives one; empty if
    there is none.
    """
    return _negative_prompt_in(type(pipeline).__call__)


@cache
def _negative_prompt_in(call: Callable[..., Any]) -> str:
    try:
        tree = ast.parse(dedent(inspect.getsource(inspect.unwrap(call))))
    except (OSError, TypeError):  # there is no source
        return ""
    for node in ast.walk(tree):
        match node:
            case ast.Assign([ast.Name("negative_prompt")], ast.Constant(str(text))):
                return text
    return ""


def tensors_in(given: Any) -> list[torch.Tensor]:
    """The tensors that an `encode_prompt` returned, in its order."""
    return [part for part in (given if isinstance(given, (tuple, list)) else [given]) if isinstance(part, torch.Tensor)]


def seen_in(given: Any, prompts: int) -> torch.Tensor:
    """What `encode_prompt` returned for so many prompts, flattened to (prompts, numbers): token states (prompts, tokens,
    width), zero where the mask or the lengths returned with them hide a token, and pooled states (prompts, width).
    """
    parts = tensors_in(given)
    masks = [part for part in parts if _is_mask(part)]
    ends = next((part for part in parts if part.shape == (prompts + 1,)), None)
    seen = []
    for part in (part for part in parts if len(part) == prompts and part.is_floating_point() and not _is_mask(part)):
        if part.ndim == 3:
            mask = next((one.bool() for one in masks if one.shape == part.shape[:2]), None)
            if mask is None and ends is not None:
                mask = torch.arange(part.shape[1], device=ends.device) < ends.diff()[:, None]
            if mask is not None:
                columns = mask.any(0).nonzero()
                part = (part * mask.to(part.device)[..., None])[:, : int(columns.max()) + 1 if len(columns) else 0]
        seen.append(part.flatten(1))
    return torch.cat(seen, dim=1)


def _is_mask(part: torch.Tensor) -> bool:
    """Whether a tensor is a mask: (prompts, tokens) of zeros and ones, in whichever type."""
    return part.ndim == 2 and bool(((part == 0) | (part == 1)).all()) and bool(part.any())


@contextmanager
def quiet() -> Iterator[None]:
    """Inside, no warnings of prompts that are cut off, which would print them."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    before = {logging: logging.get_verbosity() for logging in (of_diffusers, of_transformers)}
    before = {logging: verbosity for logging, verbosity in before.items() if verbosity < logging.ERROR}  # to set takes time
    for logging in before:
        logging.set_verbosity_error()
    try:
        yield
    finally:
        for logging, verbosity in before.items():
            logging.set_verbosity(verbosity)


class Outlines:
    """Stand-ins for text encoders whose values nobody reads: they return zeros of the right shapes. Each encoder runs
    once, to learn the shapes.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self.modules = list(modules)
        self._seen: dict[nn.Module, tuple[Any, tuple[int, ...]]] = {}

    @contextmanager
    def standing_in(self) -> Iterator[None]:
        """Inside, encoders whose shapes are known return zeros; the others run, and their shapes are noted."""
        with ExitStack() as afterwards:
            for module in self.modules:
                if module in self._seen:
                    afterwards.enter_context(hiding(module, "forward", partial(self._zeros, module)))
                else:
                    afterwards.enter_context(module.register_forward_hook(self._note, with_kwargs=True))
            yield

    def _note(self, module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        outline = mapped(output, lambda tensor: torch.empty_like(tensor, device="meta"))
        self._seen[module] = (outline, tuple(ids_of(args, kwargs).shape))

    def _zeros(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        (output, before), ids = self._seen[module], ids_of(args, kwargs)

        def zeros(outline: torch.Tensor) -> torch.Tensor:
            shape = list(outline.shape)
            for place in range(min(len(shape) - 1, 2)):  # prompts, then tokens where there is a width behind
                shape[place] = ids.shape[place] if shape[place] == before[place] else shape[place]
            # One number, seen everywhere: all layers of a large encoder take gigabytes.
            return torch.zeros((), dtype=outline.dtype, device=ids.device).expand(shape)

        return mapped(output, zeros)


def ids_of(args: tuple, kwargs: dict[str, Any]) -> torch.Tensor:
    """The tokens that a text encoder is called with."""
    return args[0] if args else kwargs["input_ids"]


def mapped(output: Any, change: Callable[[torch.Tensor], torch.Tensor], *, only_asked: bool = False) -> Any:
    """A module's output with `change` applied to every tensor in it; what is no tensor, such as a cache, becomes None.
    With `only_asked`, the tensors of a sequence, such as the states of all layers, are changed when they are read.
    """
    if isinstance(output, torch.Tensor):
        return change(output)
    if isinstance(output, (tuple, list)):
        return _Changed(output, change) if only_asked else type(output)(mapped(part, change) for part in output)
    if isinstance(output, Mapping):
        return type(output)(**{name: mapped(part, change, only_asked=only_asked) for name, part in output.items()})
    return None


class _Changed(Sequence):
    """A sequence of tensors that are changed when they are read. It is no tuple, so that stacking it fails instead of
    yielding unchanged tensors.
    """

    def __init__(self, own: Sequence[torch.Tensor], change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self._own, self._change = own, change

    def __len__(self) -> int:
        return len(self._own)

    def __getitem__(self, which: Any) -> Any:
        own = self._own[which]
        return _Changed(own, self._change) if isinstance(which, slice) else mapped(own, self._change)


class _Reached(Exception):  # noqa: N818  (no error: it ends a pipeline's run early)
    pass


def first_call(part: nn.Module, run: Callable[[], Any]) -> dict[str, Any] | None:
    """The arguments, by name, of the first call of `part` in `run()`, which ends the run; None if it is not called."""
    return next(iter(calls_of(part, run, most=1)), None)


def arguments_of(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a module's call, by name, from what a hook gets."""
    takes = inspect.signature(getattr(module, "_orig_mod", module).forward)  # what torch compiled takes anything
    arguments = dict(takes.bind(*args, **kwargs).arguments)
    return arguments | arguments.pop("kwargs", {})


def calls_of(part: nn.Module, run: Callable[[], Any], most: int = 0) -> list[dict[str, Any]]:
    """The arguments, by name, of each call of `part` in `run()`. The run ends after `most` of them; 0: it is not ended."""
    calls: list[dict[str, Any]] = []

    def note(module: nn.Module, args: tuple, kwargs: dict) -> None:
        calls.append(arguments_of(module, args, kwargs))
        if len(calls) == most:
            raise _Reached

    with part.register_forward_pre_hook(note, with_kwargs=True), suppress(_Reached):
        run()
    return calls


@torch.no_grad()
def guides_in_one_call(pipeline: Any) -> bool:
    """Whether a guided pipeline calls its network once a step, with the prompt and the negative prompt in one batch."""
    call = _asked_of_network(pipeline, {"prompt": ["a photo"]})
    return call is not None and len(call[latents_argument(call)]) == 2


def latents_argument(call: Mapping[str, Any]) -> str:
    """What a network calls the latents among the arguments that it is called with."""
    return "sample" if "sample" in call else "hidden_states"


@torch.no_grad()
def takes_embeddings(pipeline: Any) -> bool:
    """Whether a pipeline with one text encoder can be called with embeddings alone: some take the argument and then
    fail.
    """
    try:
        return _asked_of_network(pipeline, as_prompts(pipeline, encode_prompt(pipeline, ["a photo"])[0])) is not None
    except (UnreelError, TypeError):
        return False


def _asked_of_network(pipeline: Any, asked: dict[str, Any]) -> dict[str, Any] | None:
    """The arguments of a pipeline's first call of its network, guided, with the call arguments `asked`."""
    frames = frames_argument(pipeline)
    with set_up(pipeline, 2.0, 1, None, False) as options:
        options = {name: value for name, value in options.items() if name == frames or name == "guidance_scale"}
        options |= {"num_inference_steps": 2, "output_type": "latent"}
        return first_call(network_of(pipeline), lambda: made_by(pipeline, **asked, **options))


@contextmanager
def undisturbed(pipeline: Any) -> Iterator[Any]:
    """Inside, no other thread puts anything on the pipeline or takes it off: for requests that need certain erasures, or
    none.
    """
    with locked(changeable(pipeline).values()):
        yield pipeline
