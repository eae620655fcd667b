"""The cheap floors that methods are compared with. Each stands in for an Erasure in `evaluate`, on the video pipeline.

They guard less than an Erasure does: all leave the shared text encoder as it is, so nothing reaches another model.
"""

import hashlib
import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, wraps
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from diffusers import DiffusionPipeline
from torch import nn

from unreel.concept import Concept
from unreel.cost import Cost
from unreel.errors import UnreelError
from unreel.models.conditioner import Conditioner
from unreel.models.weights import Fingerprint
from unreel.unlearning import versions
from unreel.vocabulary import Vocabulary


class _OnThePrompt(ABC):
    """Leaves all weights alone and changes what a pipeline is asked for. Stands in for an Erasure in `evaluate`."""

    concept: Concept
    nbytes = 0
    name: str

    @abstractmethod
    def change(self, given: dict[str, Any]) -> None:
        """Change what the pipeline's `encode_prompt` is called with, in place."""

    @property
    def concepts(self) -> list[str]:
        return [self.concept.name]

    def apply(self, pipeline: DiffusionPipeline) -> DiffusionPipeline:
        """From now on the pipeline asks for something else. Raises UnreelError if something does that already."""
        if "encode_prompt" in vars(pipeline):
            raise UnreelError(f"a {self.name} is already on this pipeline, or something else that changes prompts")
        encode, signature = pipeline.encode_prompt, inspect.signature(pipeline.encode_prompt)

        @wraps(encode)
        def encode_prompt(*args: Any, **options: Any) -> Any:
            given = signature.bind(*args, **options).arguments
            self.change(given)
            return encode(**given)

        pipeline.encode_prompt = encode_prompt  # hides the class's method, on this pipeline alone
        return pipeline

    def remove(self, pipeline: DiffusionPipeline) -> DiffusionPipeline:
        """Take it off again. Raises UnreelError if there is none on."""
        if vars(pipeline).pop("encode_prompt", None) is None:
            raise UnreelError(f"there is no {self.name} on this pipeline")
        return pipeline


@dataclass(frozen=True)
class NegativePrompt(_OnThePrompt):
    """Forgets nothing, but guides away from the concept: classifier-free guidance against its wordings (Ho & Salimans,
    arXiv 2207.12598, with the wordings where the empty prompt was), unless the caller has a negative prompt of their own.

    Does nothing at guidance 1 or below, where pipelines do not guide.
    """

    concept: Concept
    name = "negative prompt"

    @property
    def text(self) -> str:
        return ", ".join(self.concept.wordings)

    @property
    def identity(self) -> str:
        return f"negative prompt: {self.text}"

    @property
    def provenance(self) -> dict[str, Any]:
        return _provenance(self.concept, self.name, {"negative_prompt": self.text})

    def change(self, given: dict[str, Any]) -> None:
        if given.get("negative_prompt") is None:
            prompt, embeddings = given["prompt"], given.get("prompt_embeds")
            # One for each prompt, and text for text: pipelines insist on both.
            count = len(embeddings if prompt is None else prompt)
            given["negative_prompt"] = self.text if isinstance(prompt, str) else [self.text] * count


@dataclass(frozen=True)
class PromptRewrite(_OnThePrompt):
    """Forgets nothing, but puts the anchor where a prompt names the concept, as a filter in front of a service would.

    What text ablation aims for: the unedited model, asked for the anchor. Embeddings go through untouched.
    """

    concept: Concept
    anchor: str
    name = "prompt rewrite"

    @property
    def identity(self) -> str:
        return f"prompt rewrite: {', '.join(self.concept.wordings)} as {self.anchor!r}"

    @property
    def provenance(self) -> dict[str, Any]:
        return _provenance(self.concept, self.name, {"anchor": self.anchor})

    def change(self, given: dict[str, Any]) -> None:
        prompt = given["prompt"]
        if prompt is not None:
            given["prompt"] = self.rewritten(prompt) if isinstance(prompt, str) else [self.rewritten(p) for p in prompt]

    def rewritten(self, prompt: str) -> str:
        wordings = "|".join(map(re.escape, self.concept.wordings))
        said = re.sub(rf"(?<!\w)(?:{wordings})(?!\w)", lambda _: self.anchor, prompt, flags=re.IGNORECASE)
        return " ".join(said.split())


@dataclass(frozen=True, eq=False)
class CrossAttentionEdit:
    """Weight changes for one denoiser, by parameter name."""

    changes: dict[str, torch.Tensor]
    fingerprint: Fingerprint
    provenance: dict[str, Any]
    _before: WeakKeyDictionary[nn.Module, dict[str, torch.Tensor]] = field(default_factory=WeakKeyDictionary, repr=False)

    @property
    def concepts(self) -> list[str]:
        return [part["concept"] for part in self.provenance["parts"]]

    @cached_property
    def identity(self) -> str:
        """A short name for exactly these changes."""
        digest = hashlib.sha256()
        for name, change in sorted(self.changes.items()):
            digest.update(name.encode() + change.cpu().numpy().tobytes())
        return f"cross-attention {digest.hexdigest()[:16]}"

    @property
    def nbytes(self) -> int:
        return sum(change.nbytes for change in self.changes.values())

    @torch.no_grad()
    def apply(self, pipeline: DiffusionPipeline) -> DiffusionPipeline:
        """Change the denoiser's weights, in whatever precision it is; returns the pipeline.

        Raises UnreelError for any other denoiser, which one that is edited already is too.
        """
        unet = pipeline.unet
        if not self.fingerprint.matches(Fingerprint.of(unet)):
            raise UnreelError(f"the edit of {', '.join(self.concepts)} was made for another denoiser, or is on already")
        self._before[unet] = {name: unet.get_parameter(name).detach().clone() for name in self.changes}
        for name, change in self.changes.items():
            weight = unet.get_parameter(name)
            weight.copy_(weight.double() + change.to(weight.device))
        return pipeline

    @torch.no_grad()
    def remove(self, pipeline: DiffusionPipeline) -> DiffusionPipeline:
        """Put the weights back that were there before, bit for bit. Raises UnreelError if the edit is not on."""
        before = self._before.pop(pipeline.unet, None)
        if before is None:
            raise UnreelError(f"the edit of {', '.join(self.concepts)} is not on this pipeline")
        for name, weight in before.items():
            pipeline.unet.get_parameter(name).copy_(weight)
        return pipeline


@torch.no_grad()
def uce(
    pipeline: DiffusionPipeline,
    concept: Concept,
    anchor: str,
    preserve: Sequence[str],
    *,
    tokens: Literal["last", "all"] = "last",
    erase_scale: float = 1.0,
    preserve_scale: float | None = None,
    lamb: float = 0.5,
) -> CrossAttentionEdit:
    """Unified Concept Editing (Gandikota et al., arXiv 2308.14761, equation 7), a least-squares edit of every key and
    value matrix through which the denoiser reads the text:

        W = (a sum_i W0 c*_i c_i' + b sum_j W0 c_j c_j' + lamb W0) (a sum_i c_i c_i' + b sum_j c_j c_j' + lamb I)^-1

    with c_i token embeddings of the erased wordings, c*_i of the anchor, c_j of what is preserved, a `erase_scale`, b
    `preserve_scale`. The authors' code (rohitgandikota/unified-concept-editing) has chosen the tokens in two ways, both
    with a = 1 and lamb = 0.5:

    - "last" (trainscripts/uce_sd_erase.py, the rewrite): the last token of each name alone; b = 1.
    - "all" (train-scripts/train_erase.py, the paper's): of the erased names the last token, the end token and the padding,
      one for one with the anchor's; of the preserved names and the empty prompt every token; b = max(0.1, 1 / number of
      preserved texts).

    As there, names stand alone, without a sentence around them, and attention that reads no text stays as it is. There,
    objects turn into the empty prompt unless told otherwise (anchor "", whose last token is the start token), and only
    what is asked for is preserved, or all artists. Ours: the wordings of a concept are erased together.

    Make the edit in float32: it can be put on a model of lower precision. Raises UnreelError for names that are too long.
    """
    conditioner, count = Conditioner.of(pipeline), len(concept.wordings)
    kept = list(preserve) if tokens == "last" else ["", *preserve]
    texts = [*concept.wordings, anchor, *kept]
    conditioner.require_room_for(texts)
    if preserve_scale is None:
        preserve_scale = 1.0 if tokens == "last" else max(0.1, 1 / len(kept))
    with Cost(conditioner.device) as cost:
        embeddings = conditioner.encode(texts).double()
        last = [len(ids) - 2 for ids in conditioner.tokenizer(texts).input_ids]  # before the end token
        tails = [tokens_of[place:] for tokens_of, place in zip(embeddings, last, strict=True)]
        whole = list(embeddings)
        if tokens == "last":
            whole = tails = [tail[:1] for tail in tails]
        goal, rest = tails[count], torch.cat([embeddings[0, :0], *whole[count + 1 :]])
        source = torch.cat([tail[: len(goal)] for tail in tails[:count]])
        target = torch.cat([goal[: len(tail)] for tail in tails[:count]])
        gram = erase_scale * source.T @ source + preserve_scale * rest.T @ rest
        gram += lamb * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        # W - W0 = W0 move, the same move for every matrix: a sum_i (c*_i - c_i) c_i' gram^-1
        move = torch.linalg.solve(gram, erase_scale * source.T @ (target - source)).T
        changes = {
            f"{name}.weight": (matrix.weight.double() @ move).float().cpu()
            for name, matrix in text_projections(pipeline.unet).items()
        }
    settings = {"anchor": anchor, "preserved": len(preserve), "tokens": tokens, "erase_scale": erase_scale}
    settings |= {"preserve_scale": preserve_scale, "lamb": lamb}
    provenance = _provenance(concept, f"UCE, {tokens}", settings, cost)
    return CrossAttentionEdit(changes, Fingerprint.of(pipeline.unet), provenance)


def text_projections(unet: nn.Module) -> dict[str, nn.Linear]:
    """The key and value matrices that read the text, by name: those of attention to something else than its own input."""
    attentions = {name: module for name, module in unet.named_modules() if getattr(module, "is_cross_attention", False)}
    return {f"{name}.{side}": getattr(module, side) for name, module in attentions.items() for side in ("to_k", "to_v")}


def others(vocabulary: Vocabulary, concept: Concept) -> list[str]:
    """Everything a model can be asked for but the concept, which is what to preserve."""
    erased = {wording.lower() for wording in concept.wordings}
    return [word for words in vocabulary.values() for word in words if word.lower() not in erased]


def _provenance(concept: Concept, method: str, settings: dict[str, Any], cost: Cost | None = None) -> dict[str, Any]:
    """As much of an Erasure's provenance as an evaluation reads."""
    part = {
        "concept": concept.name,
        "kind": concept.kind,
        "synonyms": list(concept.synonyms),
        "method": method,
        "settings": settings,
        **({"anchor": settings["anchor"]} if "anchor" in settings else {}),
        "losses": [],
        "seconds": round(cost.seconds, 3) if cost else 0.0,
        "peak_memory_gib": round(cost.peak_memory_gib, 3) if cost else 0.0,
    }
    return {"versions": versions(), "parts": [part]}
