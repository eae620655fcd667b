"""What `unreel check` costs on encoders of CLIP ViT-L/14's size: `python -m benchmarks.check_cost`.

Random weights (nothing is downloaded) and the embedded tokenizer, each twice, in a temporary folder of 2 GB. Every
comparison runs in a process of its own, with the files in the page cache; seconds are of the whole command, those of the
comparison alone, and peak memory is the resident set, which counts the parts of files that are mapped into it. Beside
them, what it takes to load both encoders and to compare them in memory.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from benchmarks.common import write_result
from unreel.models.shipped import EMBEDDED_FOLDER

RUNS = 3
CHECK = """
from unreel.models.compare import encoders_of, fetch, grouped
groups = lambda *sources: grouped([encoder for source in sources for encoder in encoders_of(fetch(source), source)])
"""
LOAD = """
import transformers
from unreel.models.pair import differences
from unreel.models.pipelines import load_text_model
def groups(*sources):
    a, b = (load_text_model(Path(source)) for source in sources)
    return differences(a.text_encoder, b.text_encoder, a.tokenizer, b.tokenizer) or [a]
"""
MEASURE = """
import json, sys
from pathlib import Path
from unreel.cost import Cost
{how}
with Cost() as cost:
    groups_found = groups(*sys.argv[1:])
print(json.dumps(dict(shared=len(groups_found) == 1, compare=cost.seconds, gib=cost.peak_memory_gib)))
"""


def save(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write a text encoder alone, with a tokenizer."""
    shutil.copytree(EMBEDDED_FOLDER / "image" / "tokenizer", folder)
    config = CLIP.to_dict() | {"architectures": ["CLIPTextModel"], "dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


CLIP = CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)


def measure(how: str, *folders: Path) -> dict[str, Any]:
    rows = []
    for _ in range(RUNS):
        begun = time.perf_counter()
        command = [sys.executable, "-c", MEASURE.format(how=how), *map(str, folders)]
        row = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
        rows.append(row | {"seconds": time.perf_counter() - begun})
    return {key: median(row[key] for row in rows) for key in ("seconds", "compare", "gib")} | {"shared": rows[0]["shared"]}


def main() -> None:
    torch.manual_seed(0)
    tensors = {name: tensor.contiguous() for name, tensor in CLIPTextModel(CLIP).state_dict().items()}
    learned = {**tensors, "embeddings.token_embedding.weight": tensors["embeddings.token_embedding.weight"].clone()}
    learned["embeddings.token_embedding.weight"][7] += 1
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    with tempfile.TemporaryDirectory() as made:
        home = Path(made)
        save(home / "model", tensors)
        save(home / "copy", tensors)
        save(home / "half", {name: tensor.half() for name, tensor in tensors.items()})
        save(home / "one word learned", learned)
        save(home / "tuned", {name: tensor + 1e-3 for name, tensor in tensors.items()})
        shutil.copytree(home / "model", home / "link", copy_function=os.link)
        rows = {
            name: measure(CHECK, home / "model", home / name)
            for name in ("copy", "link", "half", "one word learned", "tuned")
        }
        rows["copy, both loaded"] = measure(LOAD, home / "model", home / "copy")
    for name, row in rows.items():
        print(f"{name:<20}", *(f"{value:8.2f}" for value in row.values()))
    write_result("check_cost", {"pairs": rows, "megabytes": size / 1e6, "runs": RUNS, "cores": os.cpu_count()})


if __name__ == "__main__":
    main()
