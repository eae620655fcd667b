"""Emoji sprites: fetch the pinned npm packages, rasterise every concept in every style, store one array file.

Knows icon sets and files; knows nothing about scenes, captions or models.
"""

import io
import json
import subprocess
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from training.world import POSED

SPRITE_SIZE = 96
ANIMATION_PACKAGES = [f"@lobehub/fluent-emoji-anim-{i}" for i in range(1, 5)]


def fetch(folder: Path, world: dict) -> Path:
    """Install the pinned icon packages with npm into `folder`; returns its node_modules."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = []
    for style in world["styles"].values():
        packages = ANIMATION_PACKAGES if style["package"].endswith("*") else [style["package"]]
        wanted += [f"{package}@{style['version']}" for package in packages]
    modules = folder / "node_modules"
    if not all((modules / name.rsplit("@", 1)[0]).is_dir() for name in wanted):
        (folder / "package.json").write_text('{"private": true}')
        command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--save-exact", *wanted]
        subprocess.run(command, cwd=folder, check=True)
    return modules


def _fit(frames: list[Image.Image]) -> np.ndarray:
    """Crop frames to their common bounding box, scale the longer side to SPRITE_SIZE, centre: (frames, S, S, 4)."""
    boxes = [frame.getchannel("A").point(lambda a: 255 if a > 16 else 0).getbbox() for frame in frames]
    boxes = [box for box in boxes if box]
    box = (min(b[0] for b in boxes), min(b[1] for b in boxes), max(b[2] for b in boxes), max(b[3] for b in boxes))
    scale = SPRITE_SIZE / max(box[2] - box[0], box[3] - box[1])
    size = (max(1, round((box[2] - box[0]) * scale)), max(1, round((box[3] - box[1]) * scale)))
    out = []
    for frame in frames:
        canvas = Image.new("RGBA", (SPRITE_SIZE, SPRITE_SIZE))
        scaled = frame.crop(box).resize(size, Image.Resampling.LANCZOS)
        canvas.paste(scaled, ((SPRITE_SIZE - size[0]) // 2, (SPRITE_SIZE - size[1]) // 2))
        out.append(np.asarray(canvas))
    return np.stack(out)


def _icon(icons: dict, name: str) -> Image.Image:
    import resvg_py

    while name not in icons["icons"]:
        name = icons["aliases"][name]["parent"]
    icon = icons["icons"][name]
    left, top = icon.get("left", 0), icon.get("top", 0)
    width = icon.get("width", icons.get("width", 16))
    height = icon.get("height", icons.get("height", 16))
    body = icon["body"].replace("currentColor", "#111111")
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}" width="256" height="256">{body}</svg>'
    )
    return Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg)))).convert("RGBA")


def _animation(file: Path, count: int) -> list[Image.Image]:
    image = Image.open(file)
    total = getattr(image, "n_frames", 1)
    frames = []
    for i in range(count):
        image.seek(i * total // count)
        frames.append(image.convert("RGBA"))
    return frames


def build(folder: Path, world: dict) -> Path:
    """Rasterise all sprites into `folder/sprites.npz`: style/concept: (1, S, S, 4), dancing/concept: (8, S, S, 4)."""
    target = folder / "sprites.npz"
    if target.exists():
        return target
    modules = fetch(folder / "npm", world)
    arrays = {}
    for style, source in world["styles"].items():
        animated = source["package"].endswith("*")
        icons = None if animated else json.loads((modules / source["package"] / "icons.json").read_text())
        for name, concept in tqdm(world["concepts"].items(), desc=f"sprites: {style}"):
            if icons is not None:
                arrays[f"{style}/{name}"] = _fit([_icon(icons, concept["icon"])])
                continue
            file = next(modules.glob(f"@lobehub/*/assets/{concept['code']}.webp"))
            frames = _fit(_animation(file, world["frames"]))
            arrays[f"{style}/{name}"] = frames[:1]
            if name in world.get("dancers", ()):
                arrays[f"{POSED}/{name}"] = frames
    partial = target.with_name("sprites.partial.npz")
    np.savez_compressed(partial, **arrays)
    partial.replace(target)
    return target
