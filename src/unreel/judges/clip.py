"""Zero-shot judge for any concept that CLIP has a word for: `clip:FOLDER_OR_HUB_ID`.

Method: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (arXiv 2103.00020). The
default is OpenAI's ViT-L/14 (code under MIT, weights from the hub in safetensors; see its model card for what it may be
used for).

The probability of a label in a frame is its share of a softmax over the label and a fixed list of everyday classes,
`CLASSES`, less the one that is the label itself. It therefore says "rather this than any of those", and chance level is
one in `len(CLASSES) + 1`. Which other labels are asked for makes no difference.

Known limits: a class that means nearly the same as the label, or covers it, takes part of its share ("bird" against
"parrot"). A style competes with the things shown in it. The image is cropped to its middle square, so the sides of wide
frames go unseen. Nobody has measured its error rate here: judge the original model's videos first. The default is no
independent witness for models conditioned by the same CLIP, such as Stable Diffusion 1.x: what its text encoder gets
wrong, both get wrong.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from unreel.errors import UnreelError, reason_of
from unreel.models.fingerprint import Fingerprint
from unreel.models.loading import at_the_hub, repository, shown

if TYPE_CHECKING:
    from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

DEFAULT = "openai/clip-vit-large-patch14"
BATCH = 64
TEMPLATES = ("{}", "a photo of {}", "a picture of {}", "a frame of a video of {}")
CLASSES = (
    "person", "man", "woman", "child", "face", "crowd", "dog", "cat", "bird", "horse", "cow", "fish", "insect",
    "elephant", "flower", "tree", "forest", "mountain", "beach", "ocean", "river", "sky", "city street", "building",
    "house", "bridge", "room", "kitchen", "bed", "chair", "table", "lamp", "window", "door", "book", "computer",
    "telephone", "television", "clock", "car", "bus", "train", "airplane", "boat", "bicycle", "motorcycle", "ball",
    "toy", "robot", "balloon", "umbrella", "hat", "shoes", "clothes", "bottle", "cup", "food", "fruit", "cake",
    "tool", "musical instrument", "statue", "painting", "drawing", "cartoon character", "text on a sign",
    "nothing in particular", "an empty scene", "a plain background", "a blurry image", "random noise",
)  # fmt: skip


def load(argument: str = "", device: str = "cpu") -> "ClipJudge":
    """The CLIP in a folder or on the hub, from safetensors only. Raises UnreelError for anything else."""
    from safetensors import SafetensorError
    from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

    source = argument or DEFAULT
    name, version = repository(source)
    try:
        model, loading = CLIPModel.from_pretrained(
            name, revision=version, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
        tokenizer = CLIPTokenizer.from_pretrained(name, revision=version)
        # Resized by Pillow whether or not torchvision is there: the two differ, and so would the figures.
        images = CLIPImageProcessorPil.from_pretrained(name, revision=version)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = at_the_hub(source, error) or reason_of(error)
        raise UnreelError(
            f"cannot load {source} as a CLIP in safetensors ({reason}): give a folder with --judge clip:FOLDER, or compare "
            "by eye with --judge none"
        ) from error
    if missing := sorted(loading["missing_keys"]):
        raise UnreelError(f"{source} is no whole CLIP: {len(missing)} of its weights are missing, for example {missing[0]}")
    return ClipJudge(model.eval().to(device), tokenizer, images, f"CLIP {shown(source)}, one of {len(CLASSES) + 1} classes")


@dataclass(frozen=True)
class ClipJudge:
    """Compares frames with words; knows every label, so its vocabulary is empty."""

    model: "CLIPModel"
    tokenizer: "CLIPTokenizer"
    images: "CLIPImageProcessorPil"
    name: str
    threshold: float = 0.5
    error: dict[str, Any] = field(default_factory=dict)
    vocabulary: dict[str, list[str]] = field(default_factory=dict)
    _texts: dict[str, torch.Tensor] = field(default_factory=dict)
    _last: list[tuple[np.ndarray, torch.Tensor]] = field(default_factory=list, compare=False)

    @property
    def identity(self) -> str:
        return f"{self.name}, {Fingerprint.of(self.model).identity}"

    def knows(self, label: str) -> bool:
        return bool(label.strip())

    def wordings(self, label: str) -> list[str]:
        return []

    @torch.inference_mode()
    def probabilities(self, videos: np.ndarray, labels: Sequence[str]) -> np.ndarray:
        """As the protocol says. Raises UnreelError for an empty label."""
        if not all(map(self.knows, labels)):
            raise UnreelError(f"{self.name} cannot look for an empty label")
        frames, scale = self._frames(videos), self.model.logit_scale.exp()
        columns = []
        for label in (label.strip().lower() for label in labels):
            bare = re.sub(r"^(an?|the) ", "", label)
            classes = [label, *(name for name in CLASSES if name not in (label, bare))]
            texts = torch.stack([self._text(name) for name in classes])
            columns.append((scale * frames @ texts.T).softmax(-1)[..., 0])
        return torch.stack(columns, -1).cpu().numpy()

    def features(self, videos: np.ndarray) -> np.ndarray:
        """Image embeddings of length 1."""
        return self._frames(videos).cpu().numpy()

    def _frames(self, videos: np.ndarray) -> torch.Tensor:
        """Videos (n, frames, height, width, 3) uint8 -> (n, frames, width) of length 1. The embeddings of the last videos
        are kept, because an evaluation asks about them twice.
        """
        if not self._last or self._last[0][0] is not videos:
            self._last[:] = [(videos, self._embedded(videos))]
        return self._last[0][1]

    @torch.inference_mode()
    def _embedded(self, videos: np.ndarray) -> torch.Tensor:
        flat, parts = videos.reshape(-1, *videos.shape[2:]), []
        for start in range(0, len(flat), BATCH):
            pixels = self.images(list(flat[start : start + BATCH]), return_tensors="pt").to(self.model.device)
            parts.append(torch.nn.functional.normalize(self.model.get_image_features(**pixels).pooler_output, dim=-1))
        return torch.cat(parts).unflatten(0, videos.shape[:2])

    def _text(self, name: str) -> torch.Tensor:
        """(width,) of length 1: the mean of the templates' embeddings."""
        if name not in self._texts:
            prompts = [template.format(name) for template in TEMPLATES]
            tokens = self.tokenizer(prompts, padding=True, truncation=True, return_tensors="pt").to(self.model.device)
            texts = torch.nn.functional.normalize(self.model.get_text_features(**tokens).pooler_output, dim=-1)
            self._texts[name] = torch.nn.functional.normalize(texts.mean(0), dim=-1)
        return self._texts[name]
