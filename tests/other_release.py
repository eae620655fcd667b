"""What another release of transformers does with unreel: `python other_release.py make FOLDER` unlearns and exports there,
`python other_release.py read FOLDER` puts on what it finds. Either writes FOLDER/embeddings.safetensors.
"""

import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

from unreel import Erasure, TextAblationConfig, load_pair, unlearn
from unreel.interventions.export import export
from unreel.models.conditioner import Conditioner

PROMPTS = ["a photo of a castle", "a castle and a cat", "a cat"]
CONFIG = TextAblationConfig(steps=3, forget=20, retain=20, solve_retain=30)


def main(what: str, folder: Path) -> None:
    pair = load_pair()
    if what == "make":
        erasure = unlearn("castle", pair, CONFIG)
        erasure.save_pretrained(folder / "erasure")
        for format in ("lora", "text-encoder"):
            export(erasure, pair.t2v, folder / format, format=format)
    else:
        erasure = Erasure.from_pretrained(folder / "erasure")
    encoder = pair.t2v.text_encoder
    before = {name: weight.clone() for name, weight in encoder.named_parameters()}
    with torch.no_grad(), erasure.on(pair.t2v):
        embeddings = Conditioner.of(pair.t2v).encode(PROMPTS)
    if not all(torch.equal(weight, before[name]) for name, weight in encoder.named_parameters()):
        raise SystemExit("the weights are not as they were")
    save_file({"embeddings": embeddings.contiguous()}, folder / "embeddings.safetensors")
    print(transformers.__version__, next(iter(before)))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
