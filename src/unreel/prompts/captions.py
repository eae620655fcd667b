"""Prompts and captions as people write them for video models, each with a gap for what it is about.

Knows English (`captions.txt`) and everyday words (`everyday.json`); knows no concept, no tokenizer and no model.

A frame is a sentence with choices in it: `{a|b}` takes one of the two, `<place>` one of the rule or the words of that name,
and `<a animal>` the same with an article. `@` is the subject where it is met first and `^` where it is met again, both with
an article or, for what has a name of its own, without.
"""

import json
import random
import re
from functools import cache
from importlib.resources import files
from typing import Literal, get_args

from unreel.prompts.grammar import with_articles

CaptionKind = Literal["object", "animal", "character", "face", "style", "motion"]
KINDS: tuple[CaptionKind, ...] = get_args(CaptionKind)
GAPS = {"style": "[style]", "motion": "[motion]"}  # every other kind's gap is [concept]

NAMED = {"character": 0.85, "face": 1.0, "animal": 0.15}  # how often the subject has no article; other kinds half the time
LONG = 0.3  # the share of captions that further sentences follow
TAGGED = 0.35  # the share of the rest that ends in tags
MOST_SENTENCES = 6
OFTEN = 2  # of a category's words, half of those said come from the first 2^-OFTEN of the list
LOWER = 0.4  # the share without capitals, as people type

_WITH_THE = """Netherlands, Maldives, Sahara, Gobi, Matterhorn, Grand Canyon, Nile, Amazon, Thames, Seine, Danube,
    Mississippi, Ganges, Rhine, Himalayas, Alps, Andes, Rocky Mountains, Pacific, Atlantic, Bronx"""


@cache
def everyday() -> dict[str, tuple[str, ...]]:
    """Thousands of everyday nouns, names of places and people, and actions, by category."""
    text = files("unreel.prompts").joinpath("everyday.json").read_text(encoding="utf-8")
    return {category: tuple(words) for category, words in json.loads(text).items()}


def common(rng: random.Random, category: str) -> str:
    """One of a category's words, those that are said often more often than others: they stand in that order."""
    words = everyday()[category]
    return words[int(len(words) * rng.random() ** OFTEN)]


@cache
def _rules() -> dict[str, tuple[str, ...]]:
    text = files("unreel.prompts").joinpath("captions.txt").read_text(encoding="utf-8")
    blocks = [block.strip().splitlines() for block in re.split("^= ", text, flags=re.MULTILINE)[1:]]
    return {name: tuple(lines) for name, *lines in blocks}


def frames(kind: CaptionKind) -> tuple[str, ...]:
    """The sentences that can be said about a subject of the kind; what lives can do all that a thing can."""
    if kind in GAPS or kind == "object":
        return _rules()[kind.upper()]
    return _rules()["OBJECT"] + _rules()["LIVING"]


def write(rng: random.Random, frame: str, kind: CaptionKind = "object", named: bool | None = None) -> str:
    """The frame with all its choices made, and at times with tags or more sentences behind it: a prompt about a subject of
    the kind, in a style or with a motion, which stands as its gap there (`[concept]`, ...).

    `named` says whether the subject is a name ("[concept]", not "a [concept]"); None leaves that to chance.
    """
    if named is None:
        named = rng.random() < NAMED.get(kind, 0.5)
    text = _expand(rng, frame)
    text = text.replace("@", "[concept]" if named else rng.choice(("a [concept]", "a [concept]", "the [concept]")))
    text = text.replace("^", "[concept]" if named else "the [concept]")
    if len(text.split()) > 4 and rng.random() < LONG:
        ends = "" if text[-1] in ".?!" else "."
        sentences = [_expand(rng, "<sentence>") for _ in range(rng.randint(1, MOST_SENTENCES))]
        text = f"{text}{ends} {'. '.join(sentences)}."
    elif text[-1] not in '.?!")' and rng.random() < TAGGED:
        text += _expand(rng, "<tags>")
    return _cased(rng, _mended(text))


def _expand(rng: random.Random, text: str) -> str:
    """Makes the choices in the text, and the choices in what was chosen."""
    out = []
    for part in _parts(text):
        if part[0] == "{":
            out.append(_expand(rng, rng.choice(_alternatives(part[1:-1]))))
        elif part[0] == "<":
            out.append(_filled(rng, part[1:-1]))
        else:
            out.append(part)
    return "".join(out)


@cache
def _parts(text: str) -> list[str]:
    """The text cut into its outermost choices and what is between them."""
    depth, out = 0, [""]
    for letter in text:
        if letter in "{<":
            out += [""] if depth == 0 else []
            depth += 1
        out[-1] += letter
        if letter in "}>":
            depth -= 1
            out += [""] if depth == 0 else []
    return [part for part in out if part]


@cache
def _alternatives(inner: str) -> list[str]:
    out = [""]
    for part in _parts(inner):
        first, *others = [part] if part[0] in "{<" else part.split("|")
        out[-1] += first
        out += others
    return out


def _filled(rng: random.Random, name: str) -> str:
    if name.startswith("a "):
        noun = _filled(rng, name[2:])
        return noun if _is_plural(noun) else f"a {noun}"
    if name == "land":
        word = rng.choice(everyday()["country"])
        return f"the {word}" if re.search(rf"\b{word}\b", _WITH_THE) else word
    return _expand(rng, rng.choice(_rules()[name])) if name in _rules() else common(rng, name)


def _is_plural(noun: str) -> bool:
    return bool(re.search(r"(?<![suix'])s$", noun)) or noun in ("people", "police", "jewelry", "scissors", "footage")


def _mended(text: str) -> str:
    """Articles before vowels, and no spaces where nothing was chosen."""
    return re.sub(r" ([,.?!:)])", r"\1", with_articles(text))


def _cased(rng: random.Random, text: str) -> str:
    if rng.random() < LOWER:
        return text
    text = re.sub(r"(?:^|(?<=[.?!] ))[a-z]", lambda letter: letter[0].upper(), text)
    return f"{text}." if text[-1].isalnum() and " " in text and rng.random() < 0.5 else text
