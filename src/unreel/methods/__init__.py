"""Unlearning methods, one module each, found by name: `text-ablation` is text_ablation.py. A module, here or
announced by another package, offers

    Config               a frozen dataclass of settings; fields made by `option` are options of the command line too
    NEEDS                what it needs besides text encoders: "text", nothing; "images", the text-to-image model; "video",
                         the network of the text-to-video model
    AS_PUBLISHED         whether it is kept as others published it, or by measures of its own as concept ablation is, so
                         that what a self-check says only marks it
    learn(task, config)  what makes the model forget the task's concepts, an Intervention

A config that cannot learn while a text encoder waits in main memory has a property `refuses_offloading`, the reason in
words, which `require_offloadable` raises as an error. What methods are made of comes from here too: `Task`, `option` and
`require` for a Config, `descended` for steps down a loss.
"""

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, Protocol, get_type_hints

from unreel.errors import UnreelError
from unreel.interventions.base import Intervention
from unreel.methods._descent import descended
from unreel.methods._options import option, require, require_offloadable
from unreel.methods._task import Task
from unreel.models.pair import Settings
from unreel.plugins import Registry

__all__ = [
    "DEFAULT",
    "Method",
    "Task",
    "available",
    "configure",
    "descended",
    "load_method",
    "method_of",
    "name_of",
    "names",
    "option",
    "require",
    "require_offloadable",
]

DEFAULT = "text-ablation"


class Method(Protocol):
    """What a module in this package offers; its docstring says where the method comes from."""

    __name__: str
    Config: type
    NEEDS: Literal["text", "images", "video"]
    AS_PUBLISHED: bool

    def learn(self, task: Task, config: Any) -> Intervention: ...


def _unsound(module: Any) -> str:
    """What is wrong with a method of another package."""
    config = module.Config
    if not (isinstance(config, type) and is_dataclass(config)):
        return "its Config is no dataclass"
    if config.__module__.startswith("unreel."):
        return "its Config is that of another method, by which methods are told apart"
    bare = [each.name for each in fields(config) if each.default is MISSING and each.default_factory is MISSING]
    if bare:
        return f"its settings have no defaults: {', '.join(bare)}"
    try:
        get_type_hints(config)
    except Exception as error:  # a type is whatever its author wrote
        return f"the types of its settings cannot be read: {error}"
    return ""


_REGISTRY = Registry(
    "methods", __path__, "method", ("Config", "NEEDS", "AS_PUBLISHED", "learn"), hyphens=True, unsound=_unsound
)


def names() -> list[str]:
    """Those that can be loaded by name, the default first."""
    return sorted(_REGISTRY.names(), key=lambda name: (name != DEFAULT, name))


def load_method(name: str) -> Method:
    """The method called `name`. Raises UnreelError for an unknown one."""
    return _REGISTRY.load(name)


def available() -> dict[str, Method]:
    """All that can be loaded, by name, the default first."""
    loaded = _REGISTRY.usable()
    return {name: loaded[name] for name in names() if name in loaded}


def name_of(config: Any) -> str:
    """The name of the method whose settings they are. Raises UnreelError if they are nobody's."""
    for name, method in available().items():
        if type(config) is method.Config:
            return name
    raise UnreelError(f"a {type(config).__name__} holds no settings of a method: choose from {', '.join(names())}")


def method_of(config: Any) -> Method:
    """The method whose settings they are."""
    return load_method(name_of(config))


def configure(method: str, chosen: Mapping[str, Any], settings: Settings | None = None) -> Any:
    """The settings of the method called `method`: its own defaults, what a pair's `settings` have instead, then `chosen`.

    Raises UnreelError for an unknown method and for settings that it does not have or cannot use.
    """
    kind = load_method(method).Config
    for name in sorted(chosen.keys() - {field.name for field in fields(kind)}):
        having = [each for each, other in available().items() if name in {field.name for field in fields(other.Config)}]
        where = f"leave --{name.replace('_', '-')} out, or choose --method {' or '.join(having)}"
        own_names = f"its settings are {', '.join(field.name for field in fields(kind)) or 'none'}"
        raise UnreelError(f"the method {method} has no {name.replace('_', ' ')}: {where if having else own_names}")
    own = settings.methods.get(method, {}) if settings else {}
    return kind(**{**own, **chosen})
