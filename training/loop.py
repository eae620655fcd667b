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
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from tqdm.auto import tqdm

from unreel.files import write_json, write_tensors
from unreel.versions import versions


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
    """Momentum whose step for a matrix is orthogonalised, and scaled to the size of one of AdamW's (Jordan et al., 2024,
    https://kellerjordan.github.io/posts/muon; the size after Liu et al., arXiv 2502.16982). It needs fewer steps than
    AdamW.
    """

    def __init__(self, matrices: dict[str, nn.Parameter], weight_decay: float) -> None:
        self.matrices, self.weight_decay = matrices, weight_decay
        self.momentum = {key: torch.zeros_like(matrix) for key, matrix in matrices.items()}
        self._by_shape: dict[tuple[int, ...], list[str]] = {}  # matrices of one shape are multiplied together
        for key, matrix in matrices.items():
            self._by_shape.setdefault(tuple(matrix.squeeze().shape), []).append(key)

    @staticmethod
    def of(parameters: dict[str, nn.Parameter], weight_decay: float) -> "Muon":
        """For the matrices among the parameters of layers that are in lists; 1x1 convolutions are matrices too."""
        chosen = {
            key: p
            for key, p in parameters.items()
            if re.search(r"\.\d+\.", key) and p.squeeze().ndim == 2 and min(p.squeeze().shape) >= 32
        }
        return Muon(chosen, weight_decay)

    @torch.no_grad()
    def step(self, lr: float) -> None:
        for shape, keys in self._by_shape.items():
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


class _Run:
    """A model in training: the moving average of its weights, its optimisers, and the folder that holds all of them."""

    def __init__(self, home: Path, model: nn.Module, schedule: Schedule) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.home, self.model, self.schedule = home, model, schedule
        self.parameters = {key: p for key, p in model.named_parameters() if p.requires_grad}
        self.average = {key: p.detach().clone() for key, p in self.parameters.items()}
        self.muon = Muon.of(self.parameters if schedule.muon else {}, schedule.weight_decay)
        self.others = {key: p for key, p in self.parameters.items() if key not in self.muon.matrices}
        self.adam = torch.optim.AdamW(
            self.others.values(), lr=schedule.lr, betas=(0.9, 0.99), weight_decay=schedule.weight_decay, fused=True
        )
        self.begun, self.spent = time.monotonic(), 0.0
        self.loss: float | None = None  # a running mean

    @property
    def state_file(self) -> Path:
        return self.home / "state.safetensors"

    @property
    def seconds(self) -> float:
        """Seconds spent on training, those of killed runs included up to their last checkpoints."""
        return self.spent + time.monotonic() - self.begun

    @torch.no_grad()
    def resume(self, device: str) -> int:
        """Put everything back as it was at the last checkpoint; returns its step, 0 without one."""
        if not self.state_file.exists():
            return 0
        state = load_file(self.state_file, device=device)
        self.spent = float(state["seconds"])
        for key, buffer in self.model.named_buffers():
            buffer.copy_(state[f"buffer.{key}"])
        for key, parameter in self.parameters.items():
            parameter.copy_(state[f"model.{key}"])
            self.average[key].copy_(state[f"ema.{key}"])
        for key, momentum in self.muon.momentum.items():
            momentum.copy_(state[f"mean.{key}"])
        for key, parameter in self.others.items():
            self.adam.state[parameter] = {
                "step": state["step"].float(),
                "exp_avg": state[f"mean.{key}"],
                "exp_avg_sq": state[f"square.{key}"],
            }
        return int(state["step"])

    def save(self, step: int) -> None:
        """Write a checkpoint in place of the last one."""
        state = {"step": torch.tensor(step), "seconds": torch.tensor(self.seconds)}
        state |= {f"buffer.{key}": buffer for key, buffer in self.model.named_buffers()}
        for key, parameter in self.parameters.items():
            state |= {f"model.{key}": parameter.detach(), f"ema.{key}": self.average[key]}
        state |= {f"mean.{key}": momentum for key, momentum in self.muon.momentum.items()}
        for key, parameter in self.others.items():
            slot = self.adam.state[parameter]
            state |= {f"mean.{key}": slot["exp_avg"], f"square.{key}": slot["exp_avg_sq"]}
        write_tensors(self.state_file, state, {})

    def learn(self, loss: torch.Tensor, step: int) -> None:
        """Take an optimiser step, and move the average towards the new weights."""
        rate = _lr(self.schedule, step)
        for group in self.adam.param_groups:
            group["lr"] = rate
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters.values(), 1.0)
        self.adam.step()
        self.muon.step(rate)
        for parameter in self.parameters.values():
            parameter.grad = None
        decay = min(self.schedule.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.values()), list(self.parameters.values()), 1 - decay)
        self.loss = loss.item() if self.loss is None else 0.99 * self.loss + 0.01 * loss.item()

    def log(self, step: int) -> None:
        with (self.home / "log.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, "loss": self.loss, "seconds": self.seconds}) + "\n")

    def record(self, device: str) -> None:
        """Write what was done, and what an earlier run had done that ended by another schedule."""
        file = self.home / "record.json"
        earlier = {"continues": json.loads(file.read_text())} if file.exists() else {}
        done = {
            "name": self.home.name,
            "schedule": asdict(self.schedule),
            "device": device,
            "loss": self.loss,
            "seconds": round(self.seconds, 1),
            "parameters": sum(p.numel() for p in self.parameters.values()),
            "versions": versions(),
        }
        write_json(file, done | earlier)


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
    run = _Run(folder / name, model.to(device), schedule)
    start = run.resume(device)
    model.train()
    for step in tqdm(range(start, schedule.steps), desc=name, initial=start, total=schedule.steps, mininterval=10):
        rng = np.random.default_rng((schedule.seed, step))
        torch.manual_seed(int(rng.integers(2**31)))
        run.learn(loss(model, rng, schedule.batch), step)
        if (step + 1) % 100 == 0:
            run.log(step + 1)
        if (step + 1) % schedule.checkpoint_every == 0 or step + 1 == schedule.steps:
            run.save(step + 1)
    if start < schedule.steps:
        run.record(device)
    with torch.no_grad():
        for key, parameter in run.parameters.items():
            parameter.copy_(run.average[key])
    return model.eval()


def autocast(device: str):
    """bf16 matrix products on either device; parameters and optimiser stay in float32."""
    return torch.autocast(torch.device(device).type, torch.bfloat16)
