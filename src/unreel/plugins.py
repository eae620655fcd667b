"""Methods, judges, attacks and metrics by name: modules of unreel's own packages, and those that other packages announce.

Another package announces a module in its pyproject.toml, under the name that users call it by:

    [project.entry-points."unreel.methods"]      # or unreel.judges, unreel.attacks, unreel.metrics
    my-method = "my_package.my_method"

It offers what the docstring of that package of unreel's says; `examples/` has one of each. What is unreel's own goes first,
so that nobody can stand in for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pkgutil import iter_modules
from typing import Any

from unreel.errors import UnreelError


@dataclass(frozen=True)
class Registry:
    """What can be called by name: modules of `unreel.PACKAGE`, which lie in `path`, and those announced for it. `what` is
    the word for one of them; `hyphens` stand in names for what modules have underscores for.
    """

    package: str
    path: Sequence[str]
    what: str
    hyphens: bool = False

    def names(self) -> list[str]:
        return list(dict.fromkeys([*self._own(), *self._announced()]))

    def load(self, name: str) -> Any:
        """The module called `name`. Raises UnreelError for an unknown one, and for one of another package that cannot be
        imported.
        """
        own = self._own()
        if name in own:
            return import_module(f"unreel.{self.package}.{own[name]}")
        announced = self._announced()
        if name not in announced:
            raise UnreelError(f"unknown {self.what} {name!r}: choose from {', '.join(self.names())}")
        try:
            return announced[name].load()
        except Exception as error:  # whatever somebody else's code does when it is imported
            raise UnreelError(f"the {self.what} {name} of {announced[name].value} cannot be loaded: {error}") from error

    def _own(self) -> dict[str, str]:
        names = [module.name for module in iter_modules(self.path) if not module.name.startswith("_")]
        return {name.replace("_", "-") if self.hyphens else name: name for name in names}

    def _announced(self) -> dict[str, EntryPoint]:
        points = entry_points(group=f"unreel.{self.package}")
        return {point.name: point for point in sorted(points, key=lambda point: point.name)}
