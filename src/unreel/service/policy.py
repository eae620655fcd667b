"""Which erasures a tenant's requests get, as a file says.

Knows names of erasures; loads none.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unreel.errors import UnreelError, shortened, summarise
from unreel.files import parse_json
from unreel.service.refusals import RefusedError
from unreel.service.shelf import Shelf
from unreel.service.wish import names_in


@dataclass(frozen=True)
class Policy:
    """Which erasures a tenant's requests are made with: those for all tenants, and the tenant's own. Read from `file` each
    time that it is asked: {"all": [names], "tenants": {tenant: [names]}}.
    """

    file: str | Path

    def ruling(self, tenant: str) -> tuple[list[str], str]:
        """The names of a tenant's erasures, and the digest of the file that says so. Raises UnreelError for a tenant that
        is not listed.
        """
        rules = self._current()
        if tenant not in rules["tenants"]:
            raise RefusedError(f"there is no tenant {shortened(repr(tenant))}")
        return rules["tenants"][tenant], rules["digest"]

    @property
    def names(self) -> set[str]:
        """The names of all erasures that it speaks of."""
        rules = self._current()
        return {*rules["all"], *(name for own in rules["tenants"].values() for name in own)}

    @property
    def everybody(self) -> list[str]:
        """The names of the erasures that are on for all tenants."""
        return self._current()["all"]

    @property
    def tenants(self) -> dict[str, list[str]]:
        """By tenant, the names of the erasures that are on, those for all tenants first."""
        return self._current()["tenants"]

    def require(self, shelf: Shelf) -> None:
        """Raises UnreelError if it cannot be read, or speaks of erasures that are not on the shelf."""
        if missing := sorted(self.names - set(shelf.names)):
            raise UnreelError(f"{shelf.folder} has no erasure {summarise(missing)}, of which the policy speaks")

    def _current(self) -> dict[str, Any]:
        try:
            return _rules(Path(self.file).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise UnreelError(
                f'{self.file} is no policy, {{"all": [names], "tenants": {{tenant: [names]}}}}: {error}'
            ) from error


def _rules(text: str) -> dict[str, Any]:
    """The rules in a policy's text. Raises ValueError for anything that would be passed over, since erasures might be off
    in silence.
    """
    rules = parse_json(text)
    if not isinstance(rules, dict):
        raise ValueError("it is no object")
    if unknown := sorted(rules.keys() - {"all", "tenants"}):
        raise ValueError(f"it has no place for {summarise(map(repr, unknown))}")
    everybody, tenants = names_in(rules.get("all", [])), rules.get("tenants", {})
    if not isinstance(tenants, dict):
        raise ValueError(f"{tenants!r} lists no tenants")
    own = {tenant: list(dict.fromkeys([*everybody, *names_in(names)])) for tenant, names in tenants.items()}
    return {"all": everybody, "tenants": own, "digest": hashlib.sha256(text.encode()).hexdigest()[:16]}
