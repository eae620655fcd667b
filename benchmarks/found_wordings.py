"""Which words are found for concepts, and how many of them are right: `python -m benchmarks.found_wordings`.

`unreel wordings` for the eight concepts of the experiment `modern-wordings`, among all words of the second pair's
captions, a list of words for 64 concepts in which nobody says which belongs to which, and among everyday words. Words that
no training saw are not among them: those are what the experiment asks for afterwards.
"""

from dataclasses import asdict
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.cells import FOUND, WORDINGS, cells_of
from benchmarks.common import stored_entries, write_result
from benchmarks.over_concepts import share_over
from unreel import Concept, find_wordings, load_pair
from unreel.models.shipped import world_of

PAIR = "embedded:modern"
SOURCES = ("words of all captions", "everyday words")
CONCEPTS = [Concept(**cell.concept) for cell in cells_of("modern-wordings") if cell.run == "text-ablation"]


def captions() -> dict[str, str]:
    """Every word of the captions, and the concept that it is for."""
    concepts: dict[str, Any] = (world_of(PAIR) or {})["concepts"]
    return {word: name for name, known in concepts.items() for part in WORDINGS[:-1] for word in known[part]}


def main(
    source: Annotated[list[str] | None, typer.Option(help=f"only {' or '.join(SOURCES)}; may be repeated")] = None,
) -> None:
    pair, known = load_pair(t2v=PAIR), captions()
    out: dict[str, Any] = stored_entries(FOUND)
    out |= {"concepts": [asdict(concept) for concept in CONCEPTS], "phrases": len(known)}
    for each in source or SOURCES:
        phrases = list(known) if each == SOURCES[0] else None
        wordings = find_wordings(CONCEPTS, pair, phrases)
        texts = {name: [row.text for row in rows] for name, rows in wordings.items()}
        out[each] = {"found": texts}
        print(each, out[each], flush=True)
        if phrases:
            out |= _graded(texts, known)
        write_result(FOUND, out)


def _graded(texts_of: dict[str, list[str]], known: dict[str, str]) -> dict[str, Any]:
    """How many of the phrases found are the concepts' own, and how many of those were found."""
    right = [np.array([known[text] == name.lower() for text in texts]) for name, texts in texts_of.items()]
    sought = []
    for concept in CONCEPTS:
        own = [word for word, name in known.items() if name == concept.name.lower() and not concept.is_named_in(word)]
        sought.append(np.array([word in texts_of[concept.name] for word in own]))
    return {
        name: asdict(share_over([each for each in of if len(each)])) for name, of in (("right", right), ("of_all", sought))
    }


if __name__ == "__main__":
    typer.run(main)
