"""What an erasure does on a text encoder whose weights are quantized: `python -m benchmarks.quantized`.

Learned on the embedded text encoder as it is, put on copies of it that libraries have quantized: how far its effect on
embeddings is from what it is on the original, and, to compare with, how far quantizing alone moved them. Needs
`pip install bitsandbytes optimum-quanto torchao`.
"""

from collections.abc import Callable

import torch
from diffusers.hooks import apply_layerwise_casting
from torch import nn

from benchmarks.common import write_result
from unreel import load_pair, unlearn
from unreel.models.conditioner import Conditioner

NAME = "quantized"
CONCEPT = "castle"
PROMPTS = [f"{text} {CONCEPT}" for text in ("a photo of a", "a video of a red", "a cat next to a", "look at this")]


def quanto(bits: int, encoder: nn.Module) -> None:
    from optimum.quanto import freeze, qint4, qint8, quantize

    quantize(encoder, weights=qint4 if bits == 4 else qint8)
    freeze(encoder)


def torchao(bits: int, encoder: nn.Module) -> None:
    from torchao.quantization import IntxWeightOnlyConfig, quantize_

    quantize_(encoder, IntxWeightOnlyConfig(weight_dtype=torch.int4 if bits == 4 else torch.int8))


def bitsandbytes(bits: int, encoder: nn.Module) -> None:
    from bitsandbytes.nn import Int8Params, Linear4bit, Linear8bitLt, Params4bit

    for module in list(encoder.modules()):
        for name, part in list(module.named_children()):
            if type(part) is nn.Linear:
                size, weight = (part.in_features, part.out_features), part.weight.detach().clone()
                if bits == 4:
                    layer = Linear4bit(*size, compute_dtype=torch.float32, quant_type="nf4")
                    layer.weight = Params4bit(weight, requires_grad=False, quant_type="nf4")
                else:
                    layer = Linear8bitLt(*size, has_fp16_weights=False)
                    layer.weight = Int8Params(weight, requires_grad=False, has_fp16_weights=False)
                layer.bias = part.bias
                setattr(module, name, layer.to("cpu"))  # which quantizes


WAYS: dict[str, Callable[[nn.Module], None]] = {
    "bitsandbytes, int8": lambda encoder: bitsandbytes(8, encoder),
    "bitsandbytes, nf4": lambda encoder: bitsandbytes(4, encoder),
    "quanto, int8": lambda encoder: quanto(8, encoder),
    "quanto, int4": lambda encoder: quanto(4, encoder),
    "torchao, int8": lambda encoder: torchao(8, encoder),
    "torchao, int4": lambda encoder: torchao(4, encoder),
    "layerwise casting, float8": lambda encoder: apply_layerwise_casting(encoder, torch.float8_e4m3fn, torch.float32),
}


@torch.no_grad()
def main() -> None:
    with torch.enable_grad():
        erasure = unlearn(CONCEPT, load_pair())

    def read(pipeline) -> torch.Tensor:
        return Conditioner.of(pipeline).encode(PROMPTS)

    original = load_pair().t2v
    plain = read(original)
    with erasure.on(original):
        effect = read(original) - plain
    rows = {}
    for name, quantize in WAYS.items():
        pipeline = load_pair().t2v
        quantize(pipeline.text_encoder)
        quantized = read(pipeline)
        with erasure.on(pipeline):
            done = read(pipeline) - quantized
        rows[name] = {
            "apart": float((done - effect).norm() / effect.norm()),
            "quantizing": float((quantized - plain).norm() / plain.norm()),
            "comes_off": torch.equal(read(pipeline), quantized),
        }
        print(name, rows[name], flush=True)
    write_result(NAME, {"concept": CONCEPT, "rows": rows})


if __name__ == "__main__":
    main()
