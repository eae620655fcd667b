"""SAFREE and VideoEraser: interventions that change the text encoder's output, and guidance, while videos are made.

Knows the arguments of a pipeline's network; knows no method.
"""

import copy
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from unreel.errors import UnreelError
from unreel.interventions.projection import Projection
from unreel.interventions.prompt import NegativePrompt, PromptIntervention, made_of
from unreel.models.adapter import arguments_of, frames_axis, guides_in_one_call, modules_of, only_network_of
from unreel.models.denoiser import Denoiser
from unreel.models.standins import hiding
from unreel.models.weights import gradients_as_found

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

READ = ("encoder_hidden_states", "encoder_attention_mask")  # the arguments of a network that come from a text


class _Projecting(PromptIntervention):
    """Projects the text encoder's output away from the concepts' wordings (projection.py)."""

    NEEDS_GUIDANCE: ClassVar[bool] = False  # only what else they do needs it
    SETTINGS: ClassVar[tuple[str, ...]] = ("alpha",)
    STACKS: ClassVar[bool] = False  # several projections do not add up

    @property
    def projects(self) -> bool:
        return True

    def setting(self, name: str) -> float:
        """A setting, which is a number. Raises ValueError if it is none."""
        return float(self.provenance["parts"][0]["settings"][name])

    def prepare(self, pipeline: "DiffusionPipeline", undo: ExitStack) -> Callable[[dict[str, Any]], AbstractContextManager]:
        projection = Projection.of(pipeline, self.wordings, self.setting("alpha"))
        undo.enter_context(projection.hooked())
        return lambda arguments: nullcontext() if arguments.get("prompt") is None else projection.waiting()

    @property
    def identity(self) -> str:
        numbers = ", ".join(f"{name} {self.setting(name):g}" for name in self.SETTINGS)
        return f"{self.KIND}: {', '.join(self.wordings)}; {numbers}"


class Safree(_Projecting, NegativePrompt):
    """SAFREE as its authors run it on ZeroScope: the projection, and the concepts' wordings as a negative prompt."""

    KIND = "safree"


class VideoEraser(_Projecting):
    """VideoEraser: the projection, and guidance away from the prediction for the concepts, with a momentum over steps.

    With eps_u, eps_p and eps_c the network's predictions without a prompt, for the prompt and for the concepts,

        gamma = mu (eps_c - eps_u) + s nu,    mu = min(w |eps_p - eps_c|, 1) where eps_p - eps_c < theta, else 0
        nu <- beta nu + (1 - beta) mean_f gamma
        eps = eps_u + g (eps_p - eps_u - gamma)

    at every step (Xu et al., arXiv 2508.15314), mean_f being over frames; nu begins at zero.
    """

    KIND = "video-eraser"
    SETTINGS = ("alpha", "guidance_weight", "threshold", "momentum_scale", "momentum")

    def change(self, arguments: dict[str, Any]) -> None:
        """Prompts stay as they are."""

    def prepare(self, pipeline: "DiffusionPipeline", undo: ExitStack) -> Callable[[dict[str, Any]], AbstractContextManager]:
        network = only_network_of(pipeline)
        if network is None or not guides_in_one_call(pipeline):
            raise UnreelError(
                f"VideoEraser guides within one call of the network, where a {type(pipeline).__name__} makes two: choose "
                "another method, such as text-ablation"
            )
        with torch.no_grad(), gradients_as_found(modules_of(pipeline).values()):
            conditioning = Denoiser.of(pipeline).conditioning([", ".join(self.wordings)]).arguments
        concept = {name: conditioning[name] for name in READ if conditioning.get(name) is not None}
        guidance = _Guidance(concept, frames_axis(pipeline), *map(self.setting, self.SETTINGS[1:]))
        undo.enter_context(network.register_forward_hook(guidance, with_kwargs=True))
        project = super().prepare(pipeline, undo)

        def inside(arguments: dict[str, Any]) -> AbstractContextManager:
            guidance.begin(made_of(arguments))
            return project(arguments)

        return inside


@dataclass
class _Guidance:
    """A hook on a network whose batches hold rows without the prompt and then as many with it: the prediction for the
    second half is led away from that for `concept`, which holds the network's arguments for one text.
    """

    concept: Mapping[str, torch.Tensor]
    frames_axis: int | None
    guidance_weight: float
    threshold: float
    momentum_scale: float
    momentum: float
    count: int = field(default=0, init=False)
    memory: torch.Tensor | float = field(default=0.0, init=False)
    busy: bool = field(default=False, init=False)

    def begin(self, count: int) -> None:
        """Start anew, for the next `count` videos."""
        self.count, self.memory = count, 0.0

    @torch.no_grad()
    def __call__(self, network: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        call = arguments_of(network, args, kwargs)
        rows = len(output[0])
        if self.busy or rows != 2 * self.count:  # a pipeline that does not guide has `count` rows
            return None
        half = {name: self._half(value, rows) for name, value in call.items()}
        # Some networks get the text once for every frame.
        half |= {name: text.expand(len(call[name]) // 2, *text.shape[1:]) for name, text in self.concept.items()}
        with hiding(self, "busy", True):
            concept = network(**half)[0]
        free, prompted = output[0].chunk(2)
        apart = prompted - concept
        mu = torch.where(apart < self.threshold, (apart.abs() * self.guidance_weight).clamp(max=1.0), 0.0)
        away = mu * (concept - free) + self.momentum_scale * self.memory
        remembered = away if self.frames_axis is None else away.mean(self.frames_axis, keepdim=True)
        self.memory = self.momentum * self.memory + (1 - self.momentum) * remembered
        return _with_first(output, torch.cat([free, prompted - away]).to(output[0].dtype))

    @staticmethod
    def _half(value: Any, rows: int) -> Any:
        """The second half of an argument that has a value for every row; any other argument as it is."""
        has_rows = isinstance(value, torch.Tensor) and value.ndim > 0 and len(value) == rows
        return value[rows // 2 :] if has_rows else value


def _with_first(output: Any, first: torch.Tensor) -> Any:
    """The network's output with `first` in place of its first part."""
    if isinstance(output, tuple):
        return (first, *output[1:])
    changed = copy.copy(output)
    changed[next(iter(output.keys()))] = first
    return changed
