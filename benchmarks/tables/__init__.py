"""Measured figures in the documents: `python -m benchmarks.tables` puts them in.

A block between `<!-- NAME -->` and `<!-- /NAME -->` of a document is replaced by the table NAME of the module that has that
document's tables.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.tables import (
    comparison,
    embedded_pair,
    evaluation,
    families,
    method,
    modern_pair,
    readme,
    real_encoders,
    results,
    sharing,
    using,
)

ROOT = Path(__file__).parents[2]
NOT_YET = "Not measured yet."
Tables = Mapping[str, Callable[[], str]]
_MODULES = (
    comparison,
    embedded_pair,
    evaluation,
    families,
    method,
    modern_pair,
    readme,
    real_encoders,
    results,
    sharing,
    using,
)
DOCUMENTS: dict[str, Tables] = {document: module.TABLES for module in _MODULES for document in module.DOCUMENTS}


def render(text: str, tables: Tables) -> str:
    """The document with every table made anew, and NOT_YET for those whose result is not there. Raises KeyError for a block
    that no table is for."""

    def block(match: re.Match) -> str:
        try:
            content = tables[match[1]]()
        except FileNotFoundError:
            content = NOT_YET
        return f"<!-- {match[1]} -->\n{content}\n<!-- /{match[1]} -->"

    return re.sub(r"<!-- (\w+) -->\n.*?<!-- /\1 -->", block, text, flags=re.DOTALL)
