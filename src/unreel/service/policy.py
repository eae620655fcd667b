"""Which erasures a tenant's requests get, as a file says, read anew when it changes.

Knows names of erasures; loads none.
"""

import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unreel.errors import UnreelError, shortened, summarise
from unreel.files import as_it_lies, parse_json
from unreel.service.refusals import RefusedError
from unreel.service.shelf import Shelf
from unreel.service.wish import names_in


@dataclass
class Policy:
    """Which erasures a tenant's requests are made with: those of all, and the tenant's own. Read from `file`, again
    whenever that changes: {"all": [names], "tenants": {tenant: [names]}}.
    """

    file: str | Path
    _read: tuple[tuple[int, ...], Mapping[str, Any]] = ((), {})  # what tells that the file has changed, and its rules
    _lock: Any = field(default_factory=threading.Lock, repr=False)

    def erasures_of(self, tenant: str) -> list[str]:
        """Their names. Raises UnreelError for a tenant that is not listed: nobody else's erasures are a guess."""
        return self.ruling(tenant)[0]

    def ruling(self, tenant: str) -> tuple[list[str], str]:
        """As `erasures_of`, and the digest of the file that says so."""
        rules = self._current()
        if tenant not in rules["tenants"]:
            raise RefusedError(f"there is no tenant {shortened(repr(tenant))}")
        return list(dict.fromkeys([*rules["all"], *rules["tenants"][tenant]])), rules["digest"]

    @property
    def names(self) -> set[str]:
        """Every erasure that it speaks of."""
        rules = self._current()
        return {*rules["all"], *(name for own in rules["tenants"].values() for name in own)}

    @property
    def tenants(self) -> list[str]:
        return list(self._current()["tenants"])

    def require(self, shelf: Shelf) -> None:
        """Raises UnreelError if it cannot be read, or speaks of erasures that are not on the shelf."""
        if missing := sorted(self.names - set(shelf.names)):
            raise UnreelError(f"{shelf.folder} has no erasure {summarise(missing)}, of which the policy speaks")

    def _current(self) -> Mapping[str, Any]:
        with self._lock:
            try:
                changed = as_it_lies(Path(self.file))
                if changed != self._read[0]:
                    # In one piece: no rules may stand beside what tells of others, or they would be kept for good.
                    self._read = changed, _rules(Path(self.file).read_text(encoding="utf-8"))
            except (OSError, ValueError, RecursionError) as error:
                raise UnreelError(
                    f'{self.file} is no policy, {{"all": [names], "tenants": {{tenant: [names]}}}}: {error}'
                ) from error
            return self._read[1]


def _rules(text: str) -> dict[str, Any]:
    """What a policy says. Raises ValueError for anything that would be passed over: erasures would be off in silence."""
    rules = parse_json(text)
    if not isinstance(rules, dict):
        raise ValueError("it is no object")
    if unknown := sorted(rules.keys() - {"all", "tenants"}):
        raise ValueError(f"it has no place for {summarise(map(repr, unknown))}")
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return {"all": names_in(rules.get("all", [])), "tenants": _tenants(rules.get("tenants", {})), "digest": digest}


def _tenants(value: Any) -> dict[str, list[str]]:
    if not isinstance(value, dict):
        raise ValueError(f"{value!r} lists no tenants")
    return {tenant: names_in(names) for tenant, names in value.items()}
