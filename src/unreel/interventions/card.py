"""The model card that goes with every intervention.

Knows records and stored figures; knows no weights.
"""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unreel.errors import UnreelError, shortened
from unreel.interventions.record import CHECK
from unreel.models.loading import is_hub_id, shown

if TYPE_CHECKING:
    from unreel.interventions.base import Intervention

CARD_FILE = "README.md"


def card(of: "Intervention", source: str = "path/to/this/folder", figures: str = "") -> str:
    about = f"""{of.about}. Made with unreel {_version(of)}. What that did to videos stands in `metrics.json` and
`report.html` beside this card, or in folders beside it; without them, no videos of it are told of here."""
    use = f"""```python
from unreel import load_intervention

erasure = load_intervention("{source}")
erasure.apply(pipeline)   # any diffusers pipeline that it matches
erasure.remove(pipeline)  # bit for bit the original again
```"""
    return _page(of, "Erasure", "unreel", about, use, figures)


def export_card(of: "Intervention", library: str, about: str, use: str, figures: str = "") -> str:
    """The card of a file that loads without unreel; `library` is the hub's name for what loads it, `figures` are of the
    erasure itself.
    """
    about = f"{of.about}. Exported with unreel {_version(of)}. {about}"
    figures = f"{figures}\nThese figures are of the erasure itself.\n" if figures else ""
    return _page(of, "Export of an erasure", library, about, use, figures)


def _plain(value: Any) -> str:
    """What a record says, as text: whoever made it may have put links, pictures or headings of Markdown or HTML into it."""
    return re.sub(r"([\\`\[\]<>|])", r"\\\1", shortened(str(value)))


def _version(of: "Intervention") -> str:
    return _plain(of.provenance["versions"]["unreel"])


def _page(of: "Intervention", title: str, library: str, about: str, use: str, figures: str = "") -> str:
    rows = "\n".join(
        f"- **{_plain(part['concept'])}** ({_plain(part['kind'])}{_also(part)}): {_plain(part['method'])}, {_instead(part)}"
        + ", ".join(f"{_plain(key)} {_plain(value)}" for key, value in part["settings"].items())
        for part in of.provenance["parts"]
    )
    base = of.provenance["encoder"] if of.edits_text_encoder else of.model
    base_model = f"\nbase_model: {base.partition('@')[0]}" if is_hub_id(base) else ""
    return f"""---
library_name: {library}
tags: [concept-erasure, unlearning, text-to-video, text-to-image]{base_model}
---
# {title}: {_plain(", ".join(of.concepts))}

{about}

{rows}

{_checked(of)}
{figures}
## Use

{use}

## Limits

{of.limits}.
"""


def _checked(of: "Intervention") -> str:
    """The card's text about the self-check."""
    check = of.provenance.get(CHECK)
    if not check:
        if not of.edits_text_encoder:
            return "The text encoders stay as they are, so no self-check of what they write was made."
        return "**No self-check was made of this erasure.**"
    weak = "".join(f"\n- **Falls short:** {_plain(shortfall)}" for shortfall in check["shortfalls"])
    return f"Self-check on prompts that nothing was learned from: {_plain(check['summary'])}.{weak}"


def figures_of(file: Path, several: bool) -> str:
    """The card's text about an evaluation's figures, which names the concept if there are `several`; empty if no judge
    looked for it. Raises UnreelError if they cannot be read.
    """
    try:
        return _figures(json.loads(file.read_text(encoding="utf-8")), several)
    except OSError as error:
        raise UnreelError(f"cannot read {file}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise UnreelError(f"{file} is broken ({error}): evaluate again, or delete it") from error


def _figures(document: dict[str, Any], several: bool) -> str:
    def cell(estimates: dict[str, dict[str, Any]] | None) -> str:
        if not estimates:
            return ""
        low, high = list(estimates.values())[-1]["ci"]
        return (
            " → ".join(f"{100 * estimate['value']:.0f}" for estimate in estimates.values())
            + f" [{100 * low:.0f}, {100 * high:.0f}]"
        )

    detected = {
        group: (figures.get("concept_found"), figures.get("label_found")) for group, figures in document["figures"].items()
    }
    rows = [f"| {group} | {cell(concept)} | {cell(other)} |" for group, (concept, other) in detected.items() if concept]
    if not rows:
        return ""
    head = [
        "| prompts | concept found, % | what else was asked for found, % |",
        "| --- | --- | --- |",
    ]
    of = f" of {_plain(document['concept'])}" if several else ""
    judge, model = _plain(document["judge"]["name"]), shown(document["model"])
    note = f"Without → with the erasure [95 % interval], judged by the {judge}, on {model}."
    return "\n".join(["", f"## Figures{of}", "", *head, *rows, "", note, ""])


def _also(part: dict[str, Any]) -> str:
    """The card's text about other wordings that are forgotten with the name."""
    return f", and as {_plain(', '.join(part['synonyms']))}" if part.get("synonyms") else ""


def _instead(part: dict[str, Any]) -> str:
    """The card's text about the anchor."""
    if "anchor" not in part:
        return ""
    return f"{_plain(repr(part['anchor']))} in its place, " if part["anchor"] else "nothing in its place, "
