"""The training data of the modern pair: scenes with their captions, read once by the language model, and their latents.

The reader is never trained, so a caption is embedded once, as the pipelines embed it, and kept. Embedding is what costs
(0.03 s a caption), so every caption has several pictures: the same content at other places, or other frames of its clip.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderDC
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from training.loop import autocast
from training.scenes import Renderer
from training.world import STILL, Scene, all_names, caption, sample_scene
from unreel.models.sampling import to_tensor

# The text before every prompt: the first token of a causal language model is an attention sink, so it must not be one of
# the prompt's own. Pipelines put the text there themselves (`complex_human_instruction`).
INSTRUCTION = "Picture: "
MAX_TOKENS = 48  # of a prompt with the sink, in the pipelines
WIDTH = 32  # the longest caption of the world, with the sink
NONE = -1
OTHER_WORDS = 0.5  # the share of captions in training that use any of a concept's words
DROPOUT = 0.1  # the share of captions that are left out, for guidance
IMAGE_SET, CLIP_SET = 21, 22


def described(world: dict, number: int, count: int, *, moving: float) -> tuple[list[Scene], list[str]]:
    """`count` scenes, about the share `moving` of them with motion, and two captions of each: first one for every scene,
    then another for every scene, in any of its concepts' words. Scene i is drawn from a generator of its own.
    """
    scenes, usual, other = [], [], []
    for i in range(count):
        rng = np.random.default_rng((number, i))
        scene = sample_scene(world, rng, motion=bool(rng.random() < moving))
        scenes.append(scene)
        usual.append(caption(world, scene, rng))
        other.append(caption(world, scene, rng, names=all_names, usual=0.0))
    return scenes, [*usual, *other]


def draw_captions(rng: np.random.Generator, scenes: np.ndarray, count: int) -> np.ndarray:
    """For some of `count` scenes, the number of one of the two captions of each, or now and then NONE, for guidance."""
    captions = scenes + count * (rng.random(len(scenes)) < OTHER_WORDS)
    return np.where(rng.random(len(scenes)) < DROPOUT, NONE, captions)


class Readings:
    """Captions as the language model reads them: the hidden `states` of all, one caption after the other, and where each
    `ends`; and `nothing`, the state of every token if there is no caption.
    """

    def __init__(self, states: np.ndarray, ends: np.ndarray, nothing: np.ndarray) -> None:
        self.states, self.ends, self.nothing = states, ends, nothing
        some = ends[:1000]
        self._spread = np.delete(states[: some[-1]], [0, *some[:-1]], axis=0).astype(np.float32).std(0)  # without the sinks

    def batch(self, chosen: np.ndarray, rng: np.random.Generator, most: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Hidden states (batch, WIDTH, width of the reader) and their mask (batch, WIDTH) of the captions `chosen`; NONE is
        no caption. All states but the sink carry noise, of a size for each caption from 0 to `most` standard deviations, so
        that states near those of a wording mean the same.
        """
        states = np.zeros((len(chosen), WIDTH, self.states.shape[1]), np.float32)
        mask = np.zeros((len(chosen), WIDTH), np.float32)
        for row, i in enumerate(chosen):
            if i == NONE:
                states[row] = self.nothing
                continue
            part = self.states[self.ends[i - 1] if i else 0 : self.ends[i]]
            noise = rng.standard_normal(part[1:].shape, np.float32) * self._spread * most * rng.random()
            states[row, 0], states[row, 1 : len(part)], mask[row, : len(part)] = part[0], part[1:] + noise, 1
        return torch.from_numpy(states), torch.from_numpy(mask)


@torch.no_grad()
def read(
    file: Path, texts: list[str], tokenizer: PreTrainedTokenizerBase, reader: PreTrainedModel, device: str
) -> Readings:
    """The texts' hidden states as `SanaPipeline.encode_prompt` gives them with `INSTRUCTION`: the first token, which is the
    sink, and the prompt's own. Kept in `file`. Raises ValueError for a text of more than WIDTH tokens.

    Without a prompt, which is what guidance leads away from, the pipelines give padding alone, all of it masked.
    """
    if not file.exists():
        start = len(tokenizer.encode(INSTRUCTION)) - 1  # the instruction's last space goes into the prompt's first token
        ids = [tokenizer.encode(INSTRUCTION + text.lower().strip()) for text in texts]
        if max(map(len, ids)) > WIDTH + start - 1:
            raise ValueError(f"a caption has {max(map(len, ids)) - start + 1} tokens, more than {WIDTH}")
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        states: list[np.ndarray] = [np.empty(0)] * len(ids)
        for at in tqdm(range(0, len(ids), 64), desc="reading captions", mininterval=10):
            part = order[at : at + 64]
            batch = torch.zeros(len(part), len(ids[part[-1]]), dtype=torch.long)
            for row, i in enumerate(part):
                batch[row, : len(ids[i])] = torch.tensor(ids[i])  # tokens of a causal model do not see what follows
            with autocast(device):
                hidden = reader(batch.to(device)).last_hidden_state.half().cpu().numpy()
            for row, i in enumerate(part):
                states[i] = np.concatenate([hidden[row, :1], hidden[row, start : len(ids[i])]])
        partial = file.with_suffix(".partial.npz")
        np.savez(partial, states=np.concatenate(states), ends=np.cumsum([len(each) for each in states]))
        partial.replace(file)
    padding = torch.full((1, 1), tokenizer.pad_token_id, device=device)
    nothing = reader(padding, attention_mask=torch.zeros_like(padding)).last_hidden_state[0, 0].float().cpu().numpy()
    kept = np.load(file)
    return Readings(kept["states"], kept["ends"], nothing)


def image_latents(
    file: Path, scenes: list[Scene], pictures: int, vae: AutoencoderDC, renderer: Renderer, device: str
) -> torch.Tensor:
    """Latents (scenes * pictures, channels, 8, 8) in float16, the pictures of a scene one after the other."""
    if not file.exists():
        parts, frames = [], renderer.world["frames"]
        for at in tqdm(range(0, len(scenes), 64), desc="encoding images", mininterval=10):
            drawn = []
            for i in range(at, min(at + 64, len(scenes))):
                rng = np.random.default_rng((IMAGE_SET, 1, i))
                for _ in range(pictures):
                    placed = replace(scenes[i], offset=(int(rng.integers(-3, 4)), int(rng.integers(-3, 4))))
                    moment = int(rng.integers(frames)) if scenes[i].motion != STILL else 0
                    drawn.append(renderer.frame(placed, moment))
            parts.append(encode(vae, np.stack(drawn), device))
        partial = file.with_suffix(".partial.npy")
        np.save(partial, np.concatenate(parts))
        partial.replace(file)
    return torch.from_numpy(np.load(file))


@torch.no_grad()
def encode(vae: AutoencoderDC, frames: np.ndarray, device: str) -> np.ndarray:
    """Frames (n, 64, 64, 3) of uint8 -> latents (n, channels, 8, 8) in float16."""
    with autocast(device):
        return vae.encode(to_tensor(frames).to(device)).latent.half().cpu().numpy()
