"""One resumable training loop for every model of the embedded pair.

Step i draws its batch from a generator seeded with (seed, i), so a killed run that resumes sees exactly the batches it
would have seen. Checkpoints are safetensors. Knows nothing about what is trained.
"""

import json
import math
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm.auto import tqdm


@dataclass(frozen=True)
class Schedule:
    steps: int
    batch: int
    lr: float = 1e-3
    warmup: int = 100
    weight_decay: float = 0.01
    ema: float = 0.999
    muon: bool = False  # for the matrices of layers, instead of AdamW
    seed: int = 0
    checkpoint_every: int = 500


class Muon:
    """Momentum whose every step, for a matrix, is made orthogonal, as large as one of AdamW's (Jordan et al., 2024,
    https://kellerjordan.github.io/posts/muon; the size after Liu et al., arXiv 2502.16982). Fewer steps do than of AdamW.
    """

    def __init__(self, matrices: dict[str, nn.Parameter], weight_decay: float) -> None:
        self.matrices, self.weight_decay = matrices, weight_decay
        self.momentum = {key: torch.zeros_like(matrix) for key, matrix in matrices.items()}
        self._alike: dict[tuple[int, ...], list[str]] = {}  # multiplied together
        for key, matrix in matrices.items():
            self._alike.setdefault(tuple(matrix.squeeze().shape), []).append(key)

    @staticmethod
    def of(parameters: dict[str, nn.Parameter], weight_decay: float) -> "Muon":
        """For the matrices among the parameters that stand in lists of layers; 1x1 convolutions are matrices too."""
        chosen = {
            key: p
            for key, p in parameters.items()
            if re.search(r"\.\d+\.", key) and p.squeeze().ndim == 2 and min(p.squeeze().shape) >= 32
        }
        return Muon(chosen, weight_decay)

    @torch.no_grad()
    def step(self, lr: float) -> None:
        for shape, keys in self._alike.items():
            ahead = []
            for key in keys:
                gradient, momentum = self.matrices[key].grad, self.momentum[key]
                assert gradient is not None
                momentum.lerp_(gradient, 0.05)
                ahead.append(torch.lerp(gradient, momentum, 0.95).reshape(shape))
            for key, step in zip(keys, _orthogonal(torch.stack(ahead)), strict=True):
                matrix = self.matrices[key]
                matrix.mul_(1 - lr * self.weight_decay)
                matrix.add_(step.reshape(matrix.shape), alpha=-lr * 0.2 * max(shape) ** 0.5)


def _orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """Matrices (n, rows, columns) with all their singular values near one: five Newton-Schulz steps."""
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = (matrices.mT if tall else matrices).bfloat16()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return (x.mT if tall else x).float()


def _lr(schedule: Schedule, step: int) -> float:
    """Linear warm-up, constant until half way, then a cosine to zero."""
    if step < schedule.warmup:
        return schedule.lr * (step + 1) / schedule.warmup
    half = schedule.steps / 2
    return schedule.lr * (0.5 + 0.5 * math.cos(math.pi * max(0.0, step - half) / half))


def train(
    name: str,
    folder: Path,
    model: nn.Module,
    loss: Callable[[nn.Module, np.random.Generator, int], torch.Tensor],
    schedule: Schedule,
    *,
    device: str,
) -> nn.Module:
    """Train `model` to `schedule.steps` and return it holding its moving-average weights.

    `loss(model, rng, batch)` gives a scalar. State lies in `folder/name`; a finished run returns at once.
    """
    home = folder / name
    home.mkdir(parents=True, exist_ok=True)
    record, state_file, log_file = home / "record.json", home / "state.safetensors", home / "log.jsonl"
    model.to(device)
    parameters = {k: p for k, p in model.named_parameters() if p.requires_grad}
    average = {k: p.detach().clone() for k, p in parameters.items()}
    muon = Muon.of(parameters if schedule.muon else {}, schedule.weight_decay)
    others = {key: parameter for key, parameter in parameters.items() if key not in muon.matrices}
    optimizer = torch.optim.AdamW(
        others.values(), lr=schedule.lr, betas=(0.9, 0.99), weight_decay=schedule.weight_decay, fused=True
    )
    start, spent = 0, 0.0
    if state_file.exists():
        state = load_file(state_file, device=device)
        start, spent = int(state["step"]), float(state["seconds"])
        with torch.no_grad():
            for key, buffer in model.named_buffers():
                buffer.copy_(state[f"buffer.{key}"])
            for key, parameter in parameters.items():
                parameter.copy_(state[f"model.{key}"])
                average[key].copy_(state[f"ema.{key}"])
            for key, momentum in muon.momentum.items():
                momentum.copy_(state[f"mean.{key}"])
            for key, parameter in others.items():
                optimizer.state[parameter] = {
                    "step": torch.tensor(float(start), device=device),
                    "exp_avg": state[f"mean.{key}"],
                    "exp_avg_sq": state[f"square.{key}"],
                }

    def save(step: int) -> None:
        state = {"step": torch.tensor(step), "seconds": torch.tensor(spent + time.monotonic() - begun)}
        state |= {f"buffer.{key}": buffer.contiguous() for key, buffer in model.named_buffers()}
        for key, parameter in parameters.items():
            state |= {f"model.{key}": parameter.detach().contiguous(), f"ema.{key}": average[key].contiguous()}
        state |= {f"mean.{key}": momentum.contiguous() for key, momentum in muon.momentum.items()}
        for key, parameter in others.items():
            slot = optimizer.state[parameter]
            state |= {f"mean.{key}": slot["exp_avg"].contiguous(), f"square.{key}": slot["exp_avg_sq"].contiguous()}
        partial = state_file.with_suffix(".partial")
        save_file(state, partial)
        partial.replace(state_file)

    begun, running = time.monotonic(), None
    model.train()
    for step in tqdm(range(start, schedule.steps), desc=name, initial=start, total=schedule.steps, mininterval=10):
        rng = np.random.default_rng((schedule.seed, step))
        torch.manual_seed(int(rng.integers(2**31)))
        for group in optimizer.param_groups:
            group["lr"] = _lr(schedule, step)
        value = loss(model, rng, schedule.batch)
        value.backward()
        nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimizer.step()
        muon.step(_lr(schedule, step))
        for parameter in parameters.values():
            parameter.grad = None
        decay = min(schedule.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.values()), list(parameters.values()), 1 - decay)
        running = value.item() if running is None else 0.99 * running + 0.01 * value.item()
        if (step + 1) % 100 == 0:
            line = {"step": step + 1, "loss": running, "seconds": spent + time.monotonic() - begun}
            with log_file.open("a") as log:
                log.write(json.dumps(line) + "\n")
        if (step + 1) % schedule.checkpoint_every == 0 or step + 1 == schedule.steps:
            save(step + 1)
    if start < schedule.steps:
        earlier = json.loads(record.read_text()) if record.exists() else None  # of a run that ended, by another schedule
        packages = ("torch", "diffusers", "transformers", "numpy", "pillow", "resvg_py")
        record.write_text(
            json.dumps(
                {
                    "name": name,
                    "schedule": asdict(schedule),
                    "device": device,
                    "loss": running,
                    "seconds": round(spent + time.monotonic() - begun, 1),
                    "parameters": sum(p.numel() for p in parameters.values()),
                    "versions": {package: version(package) for package in packages},
                    **({"continues": earlier} if earlier else {}),
                },
                indent=2,
            )
        )
    with torch.no_grad():
        for key, parameter in parameters.items():
            parameter.copy_(average[key])
    return model.eval()


def autocast(device: str):
    """bf16 matrix products on either device; parameters and optimiser stay in float32."""
    return torch.autocast(torch.device(device).type, torch.bfloat16)
