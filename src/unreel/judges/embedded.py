"""The judge of the embedded world: concepts and styles in frames, motion over frames.

Trained on rendered scenes only; shares no weights with the models it judges.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unreel.errors import UnreelError, reason_of
from unreel.judges._network import JudgeNetwork
from unreel.models.fingerprint import Fingerprint
from unreel.models.sampling import to_tensor
from unreel.models.shipped import EMBEDDED, WORLD_FILE, names, shipped
from unreel.prompts.vocabulary import Vocabulary, of_world

STILL = "still"


def load(argument: str = "", device: str = "cpu") -> "EmbeddedJudge":
    """The judge of the first pair that ships with unreel; with an `argument`, that of the pair of this name, or the one in
    this folder. Its files are `judge/judge.safetensors`, `world.json` and, if measured, `judge/quality.json`.

    Raises UnreelError if the folder has no judge, or a broken one.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    named = f"{EMBEDDED}:{argument}"
    folder = shipped(named if argument else EMBEDDED) if not argument or named in names() else None
    folder = folder or Path(argument)
    if not (folder / "judge" / "judge.safetensors").is_file() or not (folder / WORLD_FILE).is_file():
        raise UnreelError(f"{folder} holds no embedded judge: it needs judge/judge.safetensors and {WORLD_FILE}")
    try:
        world = json.loads((folder / WORLD_FILE).read_text(encoding="utf-8"))
        network = JudgeNetwork(len(world["concepts"]), len(world["styles"]), len(world["motions"]) + 1, world["frames"])
        weights = load_file(folder / "judge" / "judge.safetensors")
        network.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
        quality = folder / "judge" / "quality.json"
        error = json.loads(quality.read_text(encoding="utf-8")) if quality.exists() else {}
        judge = EmbeddedJudge(network.eval().to(device), world, error)
        judge.try_out()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as broken:
        raise UnreelError(f"the embedded judge in {folder} is broken: {reason_of(broken)}") from broken
    return judge


@dataclass(frozen=True)
class EmbeddedJudge:
    """Finds the embedded world's concepts, styles and motions."""

    network: JudgeNetwork
    world: dict[str, Any]
    error: dict[str, Any]
    name: str = "embedded judge"
    threshold: float = 0.5

    def try_out(self) -> None:
        """Use every label and weight once, on a grey video. Raises whatever goes wrong if its files do not fit together."""
        for label in (label for labels in self.vocabulary.values() for label in labels):
            self.wordings(label)
        size = self.world["image_size"]
        classes = self.everything(np.full((1, self.world["frames"], size, size, 3), 128, np.uint8))
        if not isinstance(self.error, dict) or not all(np.isfinite(values).all() for values in classes.values()):
            raise ValueError("its weights or its quality are no numbers")

    @property
    def identity(self) -> str:
        return f"{self.name}, {Fingerprint.of(self.network).identity}"

    @property
    def vocabulary(self) -> Vocabulary:
        return of_world(self.world)

    @property
    def motions(self) -> list[str]:
        return [STILL, *self.world["motions"]]

    def _resolve(self, label: str) -> tuple[str, str] | None:
        """The kind and the name that a name or a wording stands for; None if the world has none."""
        wanted = label.strip().lower()
        for kind in self.vocabulary:
            for name in self.world[f"{kind}s"]:
                if wanted in (name, *self._wordings(kind, name)):
                    return kind, name
        return None

    def _wordings(self, kind: str, name: str) -> list[str]:
        entry = self.world[f"{kind}s"][name]
        return entry if kind == "motion" else entry["wordings"]

    def knows(self, label: str) -> bool:
        return self._resolve(label) is not None

    def wordings(self, label: str) -> list[str]:
        resolved = self._resolve(label)
        return [word for word in self._wordings(*resolved) if word != label.strip().lower()] if resolved else []

    def probabilities(self, videos: np.ndarray, labels: Sequence[str]) -> np.ndarray:
        """As the protocol says. A motion is judged over the whole video, so its probability is the same in every frame."""
        unknown = [label for label in labels if not self.knows(label)]
        if unknown:
            raise UnreelError(
                f"the {self.name} does not know {unknown[0]!r}: it knows {', '.join(self.vocabulary['concept'])}"
            )
        everything, columns = self.everything(videos), []
        for kind, name in (resolved for label in labels if (resolved := self._resolve(label))):
            names = self.motions if kind == "motion" else list(self.world[f"{kind}s"])
            columns.append(np.broadcast_to(everything[kind][..., names.index(name)], videos.shape[:2]))
        return np.stack(columns, axis=-1)

    @torch.inference_mode()
    def everything(self, videos: np.ndarray) -> dict[str, np.ndarray]:
        """Videos (n, frames, height, width, 3) uint8 -> probabilities by kind: concept (n, frames, concepts), style (n,
        frames, styles) and motion (n, 1, motions). Motion is read from evenly spaced frames, as many as the world's clips
        have.
        """
        concepts, styles, motions = [], [], []
        for images in map(self._images, videos):
            concept, style = self.network.frame_logits(images)
            chosen = images[torch.linspace(0, len(images) - 1, self.world["frames"]).round().long()]
            concepts.append(concept.sigmoid())
            styles.append(style.sigmoid())
            motions.append(self.network.motion_logits(chosen[None]).softmax(-1))
        return {
            kind: torch.stack(values).cpu().numpy()
            for kind, values in (("concept", concepts), ("style", styles), ("motion", motions))
        }

    @torch.inference_mode()
    def features(self, videos: np.ndarray) -> np.ndarray:
        return torch.stack([self.network.features(self._images(video)) for video in videos]).cpu().numpy()

    def _images(self, video: np.ndarray) -> torch.Tensor:
        """(frames, height, width, 3) uint8 -> (frames, 3, size, size) in [-1, 1] at the judge's own size."""
        size, device = self.world["image_size"], next(self.network.parameters()).device
        images = to_tensor(video).to(device)
        if images.shape[-2:] != (size, size):
            images = torch.nn.functional.interpolate(images, (size, size), mode="bilinear", antialias=True)
        return images
