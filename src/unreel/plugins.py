"""Methods, judges, attacks and metrics by name: modules of unreel's own packages, and those that other packages announce;
and kinds of interventions, which are classes.

Another package announces a module in its pyproject.toml, under the name that users call it by:

    [project.entry-points."unreel.methods"]      # or unreel.judges, unreel.attacks, unreel.metrics, unreel.interventions
    my-method = "my_package.my_method"

It offers what the docstring of that package of unreel's says; `examples/` has one of each. unreel's own come first, so that
no other package can take their names.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pkgutil import iter_modules
from typing import Any

from unreel.errors import UnreelError


@dataclass(frozen=True)
class Registry:
    """Modules by name: those of `unreel.PACKAGE`, which are in `path`, and those announced for it. `what` is the word for
    one of them, `offers` are the names that each must have, and `unsound` says what else is wrong with one of another
    package, "" if nothing is. With `hyphens`, names have hyphens for the underscores of modules.
    """

    package: str
    path: Sequence[str]
    what: str
    offers: tuple[str, ...]
    hyphens: bool = False
    unsound: Callable[[Any], str] = lambda module: ""

    def names(self) -> list[str]:
        return list(dict.fromkeys([*self._own(), *self._announced()]))

    def load(self, name: str) -> Any:
        """The module called `name`. Raises UnreelError for an unknown one, and for one of another package that cannot be
        imported or does not offer what it has to.
        """
        own = self._own()
        if name in own:
            return import_module(f"unreel.{self.package}.{own[name]}")
        announced = self._announced()
        if name not in announced:
            raise UnreelError(f"unknown {self.what} {name!r}: choose from {', '.join(self.names())}")
        whose = f"the {self.what} {name} of {announced[name].value}"
        try:
            module = announced[name].load()
        except Exception as error:  # whatever somebody else's code does when it is imported
            raise UnreelError(f"{whose} cannot be loaded: {error}") from error
        missing = [each for each in self.offers if not hasattr(module, each)]
        reason = f"it has no {' and no '.join(missing)}" if missing else self.unsound(module)
        if reason:
            raise UnreelError(f"{whose} cannot be used: {reason}")
        return module

    def usable(self) -> dict[str, Any]:
        """All that can be loaded, by name. Those of other packages that cannot are left out, with a warning."""
        modules = {}
        for name in self.names():
            try:
                modules[name] = self.load(name)
            except UnreelError as error:
                warnings.warn(f"{error}: it is left out", stacklevel=2)
        return modules

    def _own(self) -> dict[str, str]:
        names = [module.name for module in iter_modules(self.path) if not module.name.startswith("_")]
        return {name.replace("_", "-") if self.hyphens else name: name for name in names}

    def _announced(self) -> dict[str, EntryPoint]:
        points = entry_points(group=f"unreel.{self.package}")
        return {point.name: point for point in sorted(points, key=lambda point: point.name)}
