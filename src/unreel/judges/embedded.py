"""The judge of the embedded world: concepts and styles in frames, motion over frames.

Trained on rendered scenes only; shares no weights with the models it judges.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unreel.errors import UnreelError
from unreel.judges.network import JudgeNetwork

THRESHOLD = 0.5
STILL = "still"


@dataclass(frozen=True)
class EmbeddedJudge:
    """Finds the embedded world's concepts, styles and motions."""

    network: JudgeNetwork
    world: dict[str, Any]
    error: dict[str, Any]
    name: str = "embedded judge"

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> "EmbeddedJudge":
        """From `judge/judge.safetensors`, `world.json` and, where measured, `quality.json`."""
        from safetensors.torch import load_file

        world = json.loads((folder / "world.json").read_text())
        network = JudgeNetwork(len(world["concepts"]), len(world["styles"]), len(world["motions"]) + 1, world["frames"])
        weights = load_file(folder / "judge" / "judge.safetensors")
        network.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
        quality = folder / "judge" / "quality.json"
        error = json.loads(quality.read_text()) if quality.exists() else {}
        return cls(network.eval().to(device), world, error)

    @property
    def motions(self) -> list[str]:
        return [STILL, *self.world["motions"]]

    def _resolve(self, label: str) -> tuple[str, int] | None:
        """Which output speaks for a name or wording: ("concept" | "style" | "motion", index)."""
        wanted = label.strip().lower()
        for group, entries in (("concept", self.world["concepts"]), ("style", self.world["styles"])):
            for index, (name, entry) in enumerate(entries.items()):
                if wanted in (name, *entry["wordings"]):
                    return group, index
        for index, (name, wordings) in enumerate(self.world["motions"].items()):
            if wanted in (name, *wordings):
                return "motion", index + 1
        return None

    def knows(self, label: str) -> bool:
        return self._resolve(label) is not None

    def neighbours(self, label: str) -> list[str]:
        group, index = self._resolve(label) or ("", -1)
        return [name for i, name in enumerate(self.world["concepts"]) if (group, index) != ("concept", i)]

    @torch.inference_mode()
    def probabilities(self, videos: np.ndarray) -> dict[str, torch.Tensor]:
        """Videos (n, frames, height, width, 3) uint8 -> concept (n, frames, concepts), style (n, frames, styles),
        motion (n, 1, motions). Frames are scaled to the judge's size; motion is read from its number of frames, taken at
        even distances.
        """
        size, count = self.world["image_size"], self.world["frames"]
        device = next(self.network.parameters()).device
        outputs: dict[str, list[torch.Tensor]] = {"concept": [], "style": [], "motion": []}
        for video in videos:
            images = torch.from_numpy(video).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
            if images.shape[-2:] != (size, size):
                images = torch.nn.functional.interpolate(images, (size, size), mode="bilinear", antialias=True)
            concept, style = self.network.frame_logits(images)
            chosen = images[torch.linspace(0, len(images) - 1, count).round().long()]
            outputs["concept"].append(concept.sigmoid())
            outputs["style"].append(style.softmax(-1))
            outputs["motion"].append(self.network.motion_logits(chosen[None]).softmax(-1))
        return {name: torch.stack(values).cpu() for name, values in outputs.items()}

    def found(self, videos: np.ndarray, label: str) -> np.ndarray:
        """(n, frames) bool, or (n, 1) for a motion. Raises UnreelError for a label it does not know."""
        resolved = self._resolve(label)
        if resolved is None:
            raise UnreelError(f"the {self.name} does not know {label!r}: it knows {', '.join(self.world['concepts'])}")
        group, index = resolved
        return (self.probabilities(videos)[group][..., index] >= THRESHOLD).numpy()
