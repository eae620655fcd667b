"""Whether unlearning fits 24 GB with T5 v1.1 XXL, the largest text encoder of many families.

`python -m benchmarks.large_encoder ROW`: LTX-Video at full size with random weights in bfloat16 (nothing is downloaded),
which take what real ones do; of its autoencoder, which few-shot never uses here, a tiny one. Rows, one a run so that none
counts what another left behind: a few-shot step of low rank on frames of 512 x 704 pixels, as it is, with gradient
checkpointing, with offloading, with both; and a concept by text ablation with the default settings, without and with
checkpointing, for which a GPU is needed (`--device cuda`).

Where the device is the CPU, offloading saves nothing there: what a card would hold is counted, as what the process takes at
most in each turn less the weights whose turn it is not.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated, Any
from unittest.mock import patch

import torch
import typer
from diffusers import AutoencoderKLLTXVideo, FlowMatchEulerDiscreteScheduler, LTXPipeline, LTXVideoTransformer3DModel
from torch import nn
from transformers import AutoTokenizer, T5Config, T5EncoderModel

from benchmarks.common import machine, stored_entries, write_entry
from unreel import FewShotConfig, TextAblationConfig, unlearn
from unreel.cost import Cost
from unreel.models.pair import Pair, Settings
from unreel.models.pipelines import move
from unreel.models.shipped import EMBEDDED_FOLDER
from unreel.prompts.vocabulary import EVERYDAY

NAME = "large_encoder"
# The encoder half of google/t5-v1_1-xxl.
T5_XXL = {
    "vocab_size": 32128,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}
FEW_SHOT = FewShotConfig(shots=2, epochs=1, rank=16)  # one step
CHECKPOINTED = replace(FEW_SHOT, gradient_checkpointing=True)


def main(
    row: Annotated[int, typer.Argument(help="which to run, from 0")],
    device: Annotated[str, typer.Option(help="cpu, or cuda for a card")] = "cpu",
) -> None:
    rows = dict(stored_entries(NAME).get(device, {}).get("rows", {}))
    name, work = list(ROWS.items())[row]
    rows[name] = {"machine": machine(device), "threads": torch.get_num_threads(), **work(device)}
    print(name, rows[name], flush=True)
    write_entry(NAME, device, {"counted": counted(), "rows": rows})


def counted() -> dict[str, float]:
    """What need not be run to be known: numbers of weights, and what training of the paper's takes in float32, in GiB."""
    with torch.device("meta"):
        pipeline = build("meta")
    encoder = pipeline.text_encoder
    weights = sum(weight.numel() for weight in encoder.parameters())
    mlps = ("wi_0", "wi_1", "wo")
    last = f"block.{T5_XXL['num_layers'] - 1}.layer.0.SelfAttention."
    trained = sum(w.numel() for n, w in encoder.named_parameters() if n.split(".")[-2] in mlps or last in n)
    network = sum(weight.numel() for weight in pipeline.transformer.parameters())
    # Float32 weights of the encoder; of those that learn a copy, gradients and Adam's two moments; the network in half.
    whole = (4 * weights + 4 * 4 * trained + 2 * network) / 2**30
    return {"weights": weights, "trained": trained, "network": network, "whole_gib": whole}


def few_shot(config: FewShotConfig, offload: bool, device: str) -> dict[str, Any]:
    pipeline = build(device)
    move(pipeline, NAME, device, offload=offload)
    pair = Pair(pipeline, pipeline, NAME, NAME, Settings(steps=2, size=(512, 704)))
    with turns(pipeline) as peaks:
        erasure = unlearn("castle", pair, config)
    part = erasure.provenance["parts"][0]
    row = {"seconds": part["seconds"], "megabytes": erasure.nbytes / 1e6, "peak_memory_gib": part["peak_memory_gib"]}
    if not offload:
        return row
    if device == "cpu":
        encoder, network = (
            sum(weight.nbytes for weight in part.parameters()) / 2**30
            for part in (pipeline.text_encoder, pipeline.transformer)
        )
        # The last three turns are the step's; those before made the shots.
        reading, denoising, back = peaks[-3:]
        row["peak_memory_gib"] = max(reading - network, denoising - encoder, back - network)
    return row | {"counted": device == "cpu"}


def text_ablation(config: TextAblationConfig, device: str) -> dict[str, Any]:
    pipeline = build(device, text_only=True)
    erasure = unlearn("castle", Pair(pipeline, pipeline, NAME, NAME, vocabulary=EVERYDAY), config)
    part = erasure.provenance["parts"][0]
    return {"seconds": part["seconds"], "megabytes": erasure.nbytes / 1e6, "peak_memory_gib": part["peak_memory_gib"]}


ROWS: dict[str, Callable[[str], dict[str, Any]]] = {
    "few-shot, rank 16": lambda device: few_shot(FEW_SHOT, False, device),
    "few-shot, rank 16, gradient checkpointing": lambda device: few_shot(CHECKPOINTED, False, device),
    "few-shot, rank 16, offloaded": lambda device: few_shot(FEW_SHOT, True, device),
    "few-shot, rank 16, gradient checkpointing, offloaded": lambda device: few_shot(CHECKPOINTED, True, device),
    "text ablation": lambda device: text_ablation(TextAblationConfig(), device),
    "text ablation, gradient checkpointing": lambda device: text_ablation(
        TextAblationConfig(gradient_checkpointing=True), device
    ),
}


@contextmanager
def turns(pipeline: LTXPipeline) -> Iterator[list[float]]:
    """Peak GiB of the process in every turn of an offloaded pipeline's parts while the block runs."""
    peaks: list[float] = []
    free = pipeline.maybe_free_model_hooks
    cost = Cost()

    def ended() -> None:
        cost.__exit__()
        peaks.append(cost.peak_memory_gib)

    def next_turn() -> None:
        ended()
        free()
        cost.__enter__()

    with patch.object(pipeline, "maybe_free_model_hooks", next_turn), cost:
        yield peaks
        ended()


@torch.no_grad()
def build(device: str, *, text_only: bool = False) -> LTXPipeline:
    torch.manual_seed(0)
    vae = None if text_only else AutoencoderKLLTXVideo(block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4)
    return LTXPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae if vae is None else vae.to(torch.bfloat16),
        text_encoder=_random(lambda: T5EncoderModel(T5Config(**T5_XXL)), device),
        tokenizer=AutoTokenizer.from_pretrained(EMBEDDED_FOLDER / "video" / "tokenizer"),
        transformer=None if text_only else _random(LTXVideoTransformer3DModel, device),
    )


def _random(make: Callable[[], nn.Module], device: str) -> nn.Module:
    """A module with random weights, in bfloat16 from the start: in float32 they would take twice the memory."""
    with torch.device("meta"):
        module = make().to(torch.bfloat16)
    module.to_empty(device=device).eval()
    for weight in module.parameters():
        weight.uniform_(-0.02, 0.02)
    return module


if __name__ == "__main__":
    typer.run(main)
