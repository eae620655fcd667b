"""Where a model comes from and how it is called, where it is to go, and what can go wrong while it is fetched or loaded,
each as one line that says what to do about it.

Knows the hub, and the errors of torch and safetensors; knows no models.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path

import torch

from unreel.errors import UnreelError, reason_of
from unreel.models.memory import no_memory

PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
SINGLE = (".safetensors", ".sft", ".gguf")  # whole models in one file

LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


def require_place(device: str, dtype: torch.dtype = torch.float32) -> None:
    """Raises UnreelError if nothing can be put on `device` in that precision."""
    try:
        if torch.empty(0, device=device).device.type == "meta":
            raise RuntimeError("nothing is there")
    except (RuntimeError, AssertionError) as error:
        raise UnreelError(f"device {device!r} is not available here: try --device cpu") from error
    try:
        torch.nn.functional.gelu(torch.ones(1, device=device, dtype=dtype))
    except (RuntimeError, TypeError) as error:
        raise UnreelError(f"device {device!r} cannot compute in {dtype}: try --dtype float32") from error


def repository(source: str) -> tuple[str, str]:
    """What is to be loaded and which version of it: the branch, tag or commit of "owner/name@VERSION", or the newest."""
    name, _, version = (source, "", "") if Path(source).exists() else source.partition("@")
    return name, version or "main"


def is_hub_id(source: str) -> bool:
    """Whether it reads like owner/name or owner/name@VERSION, whatever folders there are where one stands."""
    return _HUB_ID.fullmatch(source.partition("@")[0]) is not None


def recorded(source: str) -> str:
    """What to call a model that was loaded, in records, which are read elsewhere: no folder is called like a hub id."""
    return f"./{source}" if is_hub_id(source) and Path(source).exists() else source


def shown(source: str) -> str:
    """What cards call a model: by its hub id, or by the last part of its folder's path, the rest of which is private; in
    letters and digits, since whoever made a record may have called it anything.
    """
    return source if is_hub_id(source) else re.sub(r"[^\w.@-]+", " ", Path(source).name).strip(". ") or "a folder"


def require_source(source: str) -> None:
    """Raises UnreelError for what is neither on disk nor the name of a model on the hub."""
    if Path(source).is_file() and Path(source).suffix in PICKLES:
        raise UnreelError(f"{source} {REFUSED_PICKLE}")
    if Path(source).is_file() and Path(source).suffix in SINGLE:
        raise UnreelError(
            f"{source} is a single file, and unreel loads folders: in Python, load it with from_single_file of its class "
            "in diffusers, save_pretrained that into a folder, and give the folder"
        )
    if not Path(source).exists() and not is_hub_id(source):
        raise UnreelError(
            f"{source} does not exist: give a folder, a hub id such as owner/name or owner/name@VERSION, 'embedded' or "
            "'embedded:modern'"
        )


# What diffusers says of a repository on the hub, by the plain names or by those of the variant that is asked for.
NO_SAFETENSORS = "necessary `safetensors` weights"
REFUSED_PICKLE = (
    "is a pickle, which can run code when loaded: refused. Convert the weights to safetensors first: load them where you "
    "trust them, and save_pretrained them again."
)


@contextmanager
def loading(
    source: str, device: str = "cpu", dtype: torch.dtype = torch.float32, size: float | None = None
) -> Iterator[None]:
    """Raises what goes wrong inside as UnreelError. `size` is how many GiB the weights take."""
    from huggingface_hub import errors
    from safetensors import SafetensorError

    # What the hub's client raises for a connection that breaks is of the library that it uses, whichever that is.
    of_hub = (errors.HTTPError, errors.EntryNotFoundError, errors.CachedRepoTreeNotFoundError, errors.XetDownloadError)
    try:
        yield
    except (OSError, ValueError, RuntimeError, ImportError, MemoryError, SafetensorError, *of_hub) as error:
        if no_memory(error):
            raise UnreelError(_too_large(source, device, dtype, size)) from error
        raise UnreelError(at_the_hub(source, error) or _other(source, error)) from error


@contextmanager
def only_our_bars(bars: bool = False) -> Iterator[None]:
    """Inside, other libraries draw no progress bars, unless `bars`: of what is loaded in a moment, nobody reads one."""
    from diffusers.utils import logging as of_diffusers
    from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars
    from transformers.utils import logging as of_transformers

    shown = [logging for logging in (of_diffusers, of_transformers) if logging.is_progress_bar_enabled()]
    downloads = not are_progress_bars_disabled()
    try:
        for logging in shown if not bars else ():
            logging.disable_progress_bar()
        yield
    finally:
        for logging in shown:
            logging.enable_progress_bar()
        if downloads and are_progress_bars_disabled():  # transformers takes the hub's along
            enable_progress_bars()


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and those that led to it: libraries wrap what the hub raised in errors that say less."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _too_large(source: str, device: str, dtype: torch.dtype, size: float | None) -> str:
    needs = f", its weights alone take {size:.1f} GiB in {dtype}" if size else ""
    ways = ["--dtype bfloat16"] if dtype.itemsize > 2 else []
    ways += ["--device cpu"] if device != "cpu" else []
    return f"{source} does not fit into the memory of {device}{needs}: try {' or '.join(ways or ['a smaller model'])}"


def at_the_hub(source: str, error: BaseException) -> str | None:
    """What to do about an error of the hub, None for any other."""
    from huggingface_hub import errors

    chain = list(_chain(error))

    def met(*kinds: type[BaseException]) -> bool:
        return any(isinstance(each, kinds) for each in chain)

    if met(errors.GatedRepoError):
        return f"{source} is gated: ask for access at https://huggingface.co/{repository(source)[0]}, then {LOG_IN}"
    if met(errors.RepositoryNotFoundError):
        return f"there is no folder {source}, and the hub has none, or it is private: check the name, or {LOG_IN}"
    if met(errors.OfflineModeIsEnabled):
        return f"{source} is not complete in the local cache, and HF_HUB_OFFLINE forbids to fetch it: unset it"
    if met(errors.RemoteEntryNotFoundError) and "model_index.json" in reason_of(error):
        return f"{source} is no pipeline: it has no model_index.json; of a motion adapter, docs/families.md makes one"
    if met(errors.RemoteEntryNotFoundError):
        return f"{source} lacks what it should hold: {reason_of(error)}"
    codes = [getattr(getattr(each, "response", None), "status_code", None) for each in chain]
    if met(errors.LocalTokenNotFoundError) or HTTPStatus.UNAUTHORIZED in codes:
        return f"the hub wants a token that it knows for {source}: {LOG_IN}"
    if met(errors.HfHubHTTPError):
        return f"the hub refuses {source}: {reason_of(error)}"
    if met(errors.LocalEntryNotFoundError, errors.CachedRepoTreeNotFoundError, errors.HTTPError, ConnectionError):
        return (
            f"there is no folder {source}, it is not complete in the local cache, and the hub cannot be reached: connect "
            "and try again, what has been fetched is kept"
        )
    return None


def _other(source: str, error: BaseException) -> str:
    from safetensors import SafetensorError

    if NO_SAFETENSORS in str(error):
        return f"{source} has some part whose only weights {REFUSED_PICKLE.replace('is a pickle', 'are a pickle')}"
    if "trust_remote_code" in str(error):
        return f"{source} asks to run code of its own: refused"
    broken = any(isinstance(each, SafetensorError) for each in _chain(error))
    return f"cannot load {source}: {reason_of(error)}" + (" (broken or cut short: fetch it again)" if broken else "")
