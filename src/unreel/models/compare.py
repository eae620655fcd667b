"""What models on disk hold, and which read prompts with the same text encoder, told from files without loading a model.

Knows files and tensors; knows no pipeline classes.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, TypeVar

import torch

from unreel.errors import UnreelError, shortened
from unreel.models.loading import PICKLES, REFUSED_PICKLE, loading, repository, require_source
from unreel.models.tokenizer import load_tokenizer

INDEX_FILE = "model_index.json"
VOCABULARY = "tokenizer vocabulary"
# Of a model on the hub: a pipeline's text encoders and tokenizers, or a repository that is a text encoder.
_TOKENIZER_FILES = (
    "tokenizer*",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "special_tokens_map.json",
    "added_tokens.json",
)
_WEIGHTS_FILES = ("config.json", "model.safetensors", "model-*.safetensors", "model.safetensors.index.json")
ENCODER_FILES = (*_TOKENIZER_FILES, *_WEIGHTS_FILES)
HALVED = ("fp16", "bf16")  # the variants that models on the hub mostly have, some of them alone


def files_of(variant: str) -> tuple[str, ...]:
    """The patterns of an encoder's weights in that variant."""
    return f"model.{variant}*.safetensors", f"model.safetensors.index.{variant}.json"


_FETCHED = (INDEX_FILE, *ENCODER_FILES, *(f"text_encoder*/{name}" for name in _WEIGHTS_FILES))

_WRAPPERS = re.compile(r"^(?:text_model\.|language_model\.|model\.)+")  # there or not, by the version that saved
# What no prompt passes through: T5's decoder, the vision of models that see too, and numbers that follow from the shape.
_IGNORED = re.compile(r"(?:^decoder\.|^lm_head\.|^visual\.|(?:^|\.)position_ids$|\.inv_freq$)")
FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_EMBEDDING = "shared.weight"  # of T5, which saves it under the encoder's name, its own, or both


@dataclass(frozen=True)
class Stored:
    """A tensor that lies in a safetensors file under `key`, not read yet; `dtype` as the file calls it."""

    file: Path
    key: str
    shape: tuple[int, ...]
    dtype: str

    def read(self, *, sample: bool = False) -> torch.Tensor:
        """All of it, or its middle row. The file is opened anew, so that what was read of it leaves the memory too."""
        from safetensors import safe_open

        with loading(str(self.file)), safe_open(self.file, "pt") as file:
            if not sample or not self.shape:
                return file.get_tensor(self.key)
            middle = self.shape[0] // 2
            return file.get_slice(self.key)[middle : middle + 1]


@dataclass(frozen=True, eq=False)
class Encoder:
    """A text encoder on disk: `name` is what the pipeline calls it, "" if it is one alone; `kind` is its class."""

    source: str
    name: str
    kind: str
    tensors: dict[str, Stored]
    tokenizer: Path  # a folder

    @property
    def title(self) -> str:
        return f"{self.name} of {self.source}" if self.name else self.source

    @property
    def weights(self) -> int:
        return sum(prod(tensor.shape) for tensor in self.tensors.values())

    @property
    def dtypes(self) -> tuple[str, ...]:
        return tuple(tensor.dtype for _, tensor in sorted(self.tensors.items()))

    @property
    def precision(self) -> str:
        return " and ".join(sorted({FLOATS.get(dtype, dtype) for dtype in self.dtypes}))

    @cached_property
    def vocabulary(self) -> dict[str, int]:
        return load_tokenizer(self.tokenizer).get_vocab()


@dataclass
class Group:
    """Encoders that are the same. `differs` says where the first one does not agree with `nearest`, if there is one."""

    members: list[Encoder]
    nearest: Encoder | None = None
    differs: list[str] = field(default_factory=list)

    @property
    def shared(self) -> bool:
        return len({member.source for member in self.members}) > 1

    def __str__(self) -> str:
        first, precisions = self.members[0], dict.fromkeys(member.precision for member in self.members)
        lines = [member.title for member in self.members]
        verdict = "shared" if self.shared else "not shared"
        lines.append(f"    {first.kind}, {first.weights / 1e6:.1f} M weights, {' or '.join(precisions)}: {verdict}")
        if self.nearest:
            tensors = [name for name in self.differs if name != VOCABULARY]
            where = [f"{len(tensors)} of {len(first.tensors)} tensors, first {tensors[0]}"] if tensors else []
            where += [f"the {VOCABULARY}"] if VOCABULARY in self.differs else []
            lines.append(f"    differs from {self.nearest.title} in {' and in '.join(where)}")
        return "\n".join(lines)

    def document(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "encoders": [
                {"model": member.source, "name": member.name, "precision": member.precision} for member in self.members
            ],
            "class": self.members[0].kind,
            "weights": self.members[0].weights,
            "shared": self.shared,
            "nearest": self.nearest.title if self.nearest else None,
            "differs": self.differs,
        }


def read_json(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UnreelError(f"{file} is not valid JSON ({error}): fetch the model again") from error
    if not isinstance(document, dict):
        raise UnreelError(f"{file} is no model's configuration: fetch the model again")
    return document


def components(index: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Where the class of each part of a pipeline comes from and what it is called, without parts that are left empty."""
    out = {}
    for name, value in index.items():
        if isinstance(value, (list, tuple)) and value and value[0] and not name.startswith("_"):
            if len(value) != 2:
                raise UnreelError(f"{INDEX_FILE} names no library and class for {name}: fetch the model again")
            _require_inside(name, INDEX_FILE)
            out[name] = (str(value[0]), str(value[1]))
    return out


def _require_inside(name: str, index: str) -> None:
    """Raises UnreelError for what an index calls a file or folder in its own, and that would lie elsewhere: whoever made
    the model would choose what is opened.
    """
    if name != Path(name).name or name == "..":
        raise UnreelError(f"{index} names {shortened(repr(name))}, which leads out of its folder: refused")


def weight_files(folder: Path, stem: str = "model") -> list[Path]:
    """The safetensors files of a model, the shards if it has several. Raises UnreelError if they are not there."""
    single, sharded = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
    variants = (*sorted(folder.glob(f"{stem}.safetensors.index.*.json")), *sorted(folder.glob(f"{stem}.*.safetensors")))
    file = next((file for file in (single, sharded, *variants) if file.is_file()), None)
    if file is None:
        pickle = next((file for file in sorted(folder.glob("*")) if file.suffix in PICKLES), None)
        raise UnreelError(f"{pickle} {REFUSED_PICKLE}" if pickle else f"{folder} has no weights: expected {single.name}")
    if file.suffix != ".json":
        return [file]
    shards = read_json(file).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise UnreelError(f"{file} names no shards: fetch the model again")
    names = sorted({str(name) for name in shards.values()})
    for name in names:
        _require_inside(name, str(file))
    files = [folder / name for name in names]
    for shard in files:
        if not shard.is_file():
            raise UnreelError(f"{folder} is incomplete: {shard.name} is missing; fetch the model again")
    return files


def variant_of(folder: Path, stem: str = "model") -> str | None:
    """What the weights of a model have in their names where there are none by the plain name, such as "fp16"."""
    named = re.fullmatch(rf"{stem}\.(\w+)(?:-\d+-of-\d+)?\.safetensors", weight_files(folder, stem)[0].name)
    return named[1] if named else None


def stored(folder: Path, stem: str = "model") -> list[Stored]:
    """All tensors of a model, from the headers of its files."""
    return [tensor for path in weight_files(folder, stem) for tensor in tensors_in(path)]


def tensors_in(file: Path) -> list[Stored]:
    """All tensors of a safetensors file, from its header."""
    from safetensors import safe_open

    with loading(str(file)), safe_open(file, "pt") as opened:
        pieces = {key: opened.get_slice(key) for key in opened.keys()}  # noqa: SIM118 (it is no dictionary)
        return [Stored(file, key, tuple(piece.get_shape()), piece.get_dtype()) for key, piece in pieces.items()]


def weight_name(key: str) -> str | None:
    """What a tensor is called within the part of a model that reads or denoises, whichever version saved it; None for what
    no prompt passes through.
    """
    name = _WRAPPERS.sub("", key)
    name = _EMBEDDING if name == "encoder.embed_tokens.weight" else name
    return None if _IGNORED.search(name) else name


def tokenizer_folder(text_encoder: Path) -> Path:
    """Where a text encoder's tokenizer lies: in the same folder or in the one beside it that pipelines put it in.

    Raises UnreelError if it is in neither.
    """
    whole = text_encoder.absolute()  # "." has no name
    beside = whole.with_name(whole.name.replace("text_encoder", "tokenizer"))
    for folder in (text_encoder, beside):
        if (folder / "tokenizer_config.json").is_file():
            return folder
    raise UnreelError(f"{text_encoder} has no tokenizer, nor is there one in {beside}")


def fetch(source: str) -> Path:
    """The folder of a model; of one on the hub only text encoders and tokenizers are fetched, and weights of a variant only
    where there are no others.
    """
    require_source(source)
    if Path(source).exists():
        return Path(source)
    from huggingface_hub import snapshot_download

    with loading(source):
        name, version = repository(source)
        folder = Path(snapshot_download(name, revision=version, allow_patterns=list(_FETCHED)))
        encoders = [part for part in (folder, *folder.glob("text_encoder*")) if (part / "config.json").is_file()]
        for variant in HALVED:
            bare = [part.relative_to(folder) for part in encoders if not any(part.glob("*.safetensors"))]
            if bare:
                patterns = [(part / file).as_posix() for part in bare for file in files_of(variant)]
                snapshot_download(name, revision=version, allow_patterns=patterns)
        return folder


def fetch_parts(source: str, names: Sequence[str]) -> Path:
    """The folder of a pipeline; of one on the hub, only the parts whose names are such are fetched, and their weights by
    the plain names. Raises UnreelError for what is no pipeline.
    """
    require_source(source)
    folder = Path(source)
    if not folder.exists():
        from huggingface_hub import snapshot_download

        stems = ("model", "diffusion_pytorch_model")
        files = ["config.json", *(f"{stem}{end}" for stem in stems for end in (".safetensors", "-*.safetensors", "*.json"))]
        wanted = [INDEX_FILE, *(f"{name}/{file}" for name in names for file in files)]
        with loading(source):
            name, version = repository(source)
            folder = Path(snapshot_download(name, revision=version, allow_patterns=wanted))
    if not (folder / INDEX_FILE).is_file():
        raise UnreelError(
            f"{source} is no pipeline: it has no {INDEX_FILE}; fetch it, and give the folder or file of weights"
        )
    return folder


def encoders_of(folder: Path, source: str) -> list[Encoder]:
    """The text encoders of a pipeline's folder, or the one that the folder itself is.

    Raises UnreelError for anything else, and if a file is missing or broken.
    """
    if (folder / INDEX_FILE).is_file():
        parts = components(read_json(folder / INDEX_FILE))
        kinds = {name: kind for name, (_, kind) in sorted(parts.items()) if name.startswith("text_encoder")}
        if not kinds:
            raise UnreelError(f"{source} has no text encoder")
        for name in kinds:
            if not (folder / name).is_dir():
                raise UnreelError(f"{source} is incomplete: its {name} folder is missing")
        return [_encoder(folder / name, source, name, kind) for name, kind in kinds.items()]
    if not (folder / "config.json").is_file():
        raise UnreelError(f"{source} is no model: it has neither {INDEX_FILE} nor config.json")
    names = read_json(folder / "config.json").get("architectures")
    if not isinstance(names, list) or not names:
        raise UnreelError(f"{source} holds no text encoder: give the folder of a pipeline or of its text_encoder")
    return [_encoder(folder, source, "", str(names[0]))]


def _encoder(folder: Path, source: str, name: str, kind: str) -> Encoder:
    named = {weight_name(tensor.key): tensor for tensor in stored(folder)}
    tensors = {key: tensor for key, tensor in named.items() if key is not None}
    return Encoder(source, name, kind, tensors, tokenizer_folder(folder))


T = TypeVar("T", torch.Tensor, Stored)


def differing(a: Mapping[str, T], b: Mapping[str, T], same: Callable[[T, T], bool]) -> list[str]:
    """Names of the tensors that are only in one, have other shapes, or are not the `same`."""
    out = [f"{name} (only in one)" for name in sorted(a.keys() ^ b.keys())]
    for name in sorted(a.keys() & b.keys()):
        first, second = tuple(a[name].shape), tuple(b[name].shape)
        if first != second:
            out.append(f"{name} ({first} against {second})")
        elif not same(a[name], b[name]):
            out.append(name)
    return out


def same_values(first: torch.Tensor, second: torch.Tensor, precision: torch.dtype | None = None) -> bool:
    """Bit for bit, in that precision, or else in the lower of theirs."""
    lower = first.dtype if first.dtype.itemsize <= second.dtype.itemsize else second.dtype
    lower = precision if precision and lower.is_floating_point else lower
    return torch.equal(first.to(lower), second.to(first.device, lower))


def _same_place(first: Stored, second: Stored) -> bool:
    """Also through links, of which the hub's cache is made."""
    return first.key == second.key and first.file.samefile(second.file)


def _same_rows(first: Stored, second: Stored) -> bool:
    return _same_place(first, second) or same_values(first.read(sample=True), second.read(sample=True))


def _same_stored(first: Stored, second: Stored) -> bool:
    return _same_place(first, second) or same_values(first.read(), second.read())


def _same_vocabulary(a: Encoder, b: Encoder) -> bool:
    """Where the files agree to the byte, there is no need to read them as tokenizers."""
    ours, theirs = _tokenizer_files(a.tokenizer), _tokenizer_files(b.tokenizer)
    return ("tokenizer.json" in ours and ours == theirs) or a.vocabulary == b.vocabulary


def _tokenizer_files(folder: Path) -> dict[str, bytes]:
    """Those that have a say in the vocabulary, where one of them is tokenizer.json; the folder may hold weights as well."""
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.suffix in (".json", ".txt", ".model")}


def _differences(a: Encoder, b: Encoder) -> list[str]:
    """As `pair.differences`, of encoders on disk."""
    words = [] if _same_vocabulary(a, b) else [VOCABULARY]
    return differing(a.tensors, b.tensors, _same_stored) + words


def _alike(a: Encoder, b: Encoder) -> bool:
    """Whether at least half of the tensors have the same names and shapes: else there is nothing to compare."""
    ours, theirs = ({(name, tensor.shape) for name, tensor in encoder.tensors.items()} for encoder in (a, b))
    return 2 * len(ours & theirs) >= max(len(ours), len(theirs))


def grouped(encoders: Iterable[Encoder]) -> list[Group]:
    """Put encoders together that are the same in every weight and in the tokenizer's vocabulary.

    Compares names and shapes first, then one row of each tensor, then everything; holds two tensors at a time.
    """
    groups: list[Group] = []
    for encoder in encoders:
        alike = [group for group in groups if _alike(group.members[0], encoder)]
        sampled = [len(differing(group.members[0].tensors, encoder.tensors, _same_rows)) for group in alike]
        near = sorted(zip(sampled, alike, strict=True), key=lambda one: one[0])
        new = Group([encoder])
        # A row that differs rules a group out; the nearest is compared all the same, to say how many tensors differ.
        for group in [group for count, group in near if not count] or [group for _, group in near[:1]]:
            # In the lower of two precisions "the same" is not transitive, within one precision it is.
            each = list({member.dtypes: member for member in reversed(group.members)}.values())[::-1]
            nearest, differs = max(
                ((member, _differences(member, encoder)) for member in each), key=lambda one: len(one[1])
            )
            if not differs:
                group.members.append(encoder)
                break
            if new.nearest is None or len(differs) < len(new.differs):
                new.nearest, new.differs = nearest, differs
        else:
            groups.append(new)
    return groups
