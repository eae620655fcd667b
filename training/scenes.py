"""Scenes to pixels: draw any frame of any scene.

Knows sprites and geometry; knows nothing about captions or models.
"""

import math
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from training.world import POSED, SIZES, STILL, Scene

PAIR_SIZE = 31


class Renderer:
    """Draws scenes from a sprite file."""

    def __init__(self, sprites: Path, world: dict):
        self.sprites = {key: [Image.fromarray(a) for a in frames] for key, frames in np.load(sprites).items()}
        self.world = world
        self._resized = lru_cache(maxsize=20000)(self._resize)

    def _resize(self, key: str, frame: int, width: int, height: int) -> Image.Image:
        sprite = self.sprites[key][frame]
        # Premultiplied resizing keeps dark fringes away from transparent borders.
        resized = sprite.convert("RGBa").resize(
            (max(1, abs(width)), max(1, height)),
            Image.Resampling.BOX if abs(width) * 4 < sprite.width else Image.Resampling.LANCZOS,
        )
        resized = resized.convert("RGBA")
        return resized.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if width < 0 else resized

    def _draw(self, canvas, key: str, x: float, y: float, width: float, height: float, frame: int = 0, tilt: float = 0.0):
        sprite = self._resized(key, frame, round(width), round(height))
        if tilt:
            sprite = sprite.convert("RGBa").rotate(tilt, Image.Resampling.BICUBIC, expand=True).convert("RGBA")
        canvas.paste(sprite, (round(x - sprite.width / 2), round(y - sprite.height / 2)), sprite)

    def frame(self, scene: Scene, index: int) -> np.ndarray:
        """Frame `index` of the scene's clip: (64, 64, 3) uint8."""
        world, count = self.world, self.world["frames"]
        canvas = Image.new("RGB", (world["image_size"],) * 2, tuple(world["backgrounds"][scene.background]))
        centre = world["image_size"] / 2
        dx, dy = scene.offset
        t = index / count
        keys = [f"{scene.style}/{name}" for name in scene.concepts]
        if len(keys) == 2:
            near, far = centre - 16, centre + 16
            if scene.relation == "beside":
                places = [(near + dx / 3, centre + dy), (far + dx / 3, centre + dy)]
            else:
                places = [(centre + dx, near + dy / 3), (centre + dx, far + dy / 3)]
            if scene.motion == "flying over":
                places[0] = (centre - 16 + 32 * index / (count - 1), places[0][1] + 2 * math.cos(4 * math.pi * t))
            for key, (x, y) in zip(keys, places, strict=True):
                self._draw(canvas, key, x, y, PAIR_SIZE, PAIR_SIZE)
            return np.asarray(canvas)

        size, x, y, stretch, pose, tilt, key = float(SIZES[scene.size]), centre + dx, centre + dy, 1.0, 0, 0.0, keys[0]
        match scene.motion:
            case "bouncing":
                y += 8 - 18 * abs(math.sin(2 * math.pi * t))
            case "spinning":
                stretch = math.cos(2 * math.pi * t)
                stretch = math.copysign(max(abs(stretch), 0.12), stretch)
            case "sliding":
                x += -14 + 28 * index / (count - 1)
            case "zooming":
                size *= 0.5 + 0.8 * index / (count - 1)
            case "shaking":
                x += 4 if index % 2 else -4
            case "rising":
                y += 14 - 28 * index / (count - 1)
            case "dancing" if "dancers" in world:
                key, pose = f"{POSED}/{scene.concepts[0]}", index
            case "dancing":  # from one foot to the other, once a half
                tilt, x = 24 * math.cos(4 * math.pi * t), x - 5 * math.cos(4 * math.pi * t)
            case _:
                assert scene.motion == STILL, scene.motion
        self._draw(canvas, key, x, y, size * stretch, size, pose, tilt)
        return np.asarray(canvas)

    def clip(self, scene: Scene) -> np.ndarray:
        """All frames: (frames, 64, 64, 3) uint8."""
        return np.stack([self.frame(scene, i) for i in range(self.world["frames"])])
