"""The versions of everything that decides what is learned and measured."""

from importlib.metadata import version

from unreel import __version__

PACKAGES = ("torch", "diffusers", "transformers", "safetensors", "numpy")


def versions() -> dict[str, str]:
    return {"unreel": __version__, **{package: version(package) for package in PACKAGES}}
