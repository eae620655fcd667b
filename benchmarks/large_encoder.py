"""Whether T5 v1.1 XXL, the largest text encoder of many families, fits 24 GB: `python -m benchmarks.large_encoder`.

Its encoder with random weights in bfloat16 (nothing is downloaded), which take what real ones do, in an LTX-Video pipeline
whose network and autoencoder are tiny: what the text encoder costs is asked here. One step of low rank. The closed form's
equations, 10,240 unknowns a layer, are for a GPU.
"""

from typing import Annotated, Any

import torch
import typer
from diffusers import AutoencoderKLLTXVideo, FlowMatchEulerDiscreteScheduler, LTXPipeline, LTXVideoTransformer3DModel
from transformers import AutoTokenizer, T5Config, T5EncoderModel

from benchmarks.common import write_result
from unreel import FewShotConfig, unlearn
from unreel.conditioner import Conditioner
from unreel.pair import EMBEDDED_FOLDER, Pair, Settings

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
RANK = 16


def main(device: Annotated[str, typer.Option(help="cpu, or cuda for a card")] = "cpu") -> None:
    pipeline = build(device)
    encoder = pipeline.text_encoder
    trained = sum(weight.numel() for weight in Conditioner.of(pipeline).trainable(FewShotConfig().trainable).values())
    count = sum(weight.numel() for weight in encoder.parameters())
    pair = Pair(pipeline, pipeline, "T5-XXL", "T5-XXL", Settings(steps=2, size=(32, 32)))
    erasure = unlearn("castle", pair, FewShotConfig(shots=2, epochs=1, rank=RANK))
    part = erasure.provenance["parts"][0]
    row = {"peak_memory_gib": part["peak_memory_gib"], "seconds": part["seconds"], "megabytes": erasure.nbytes / 1e6}
    rows: dict[str, Any] = {f"few-shot, rank {RANK}": row}
    # Float32 weights of the whole encoder; of those that learn a copy, gradients and Adam's two moments.
    whole = (4 * count + 4 * 4 * trained) / 2**30
    result = {"device": device, "parameters": count, "trained": trained, "rows": rows, "whole_gib": whole}
    write_result(NAME, result)


@torch.no_grad()
def build(device: str) -> LTXPipeline:
    torch.manual_seed(0)
    with torch.device("meta"):
        encoder = T5EncoderModel(T5Config(**T5_XXL)).to(torch.bfloat16)
    encoder.to_empty(device=device).eval()
    for weight in encoder.parameters():
        weight.uniform_(-0.02, 0.02)
    network = LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        num_layers=1,
        caption_channels=T5_XXL["d_model"],
    )
    vae = AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
    )
    pipeline = LTXPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae.to(torch.bfloat16),
        text_encoder=encoder,
        tokenizer=AutoTokenizer.from_pretrained(EMBEDDED_FOLDER / "video" / "tokenizer"),
        transformer=network.to(torch.bfloat16),
    ).to(device)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


if __name__ == "__main__":
    typer.run(main)
