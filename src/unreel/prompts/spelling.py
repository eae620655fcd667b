"""How people write a name: which spellings count as the same, and the forms an English word takes.

Knows letters and a little grammar; knows no concept and no model.
"""

import re
import unicodedata
from collections.abc import Iterator
from itertools import pairwise

# Scripts without spaces: Thai and Lao, Tibetan, Burmese, Khmer, Japanese, Bopomofo, Chinese.
_UNSPACED = "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u312f\u31f0-\u31ff"
_UNSPACED += "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
# Letters that continue a word in a script with spaces; `\w` leaves out the vowel signs of Indian scripts.
_LETTER = rf"(?:[^\W_{_UNSPACED}]|[\u0900-\u0963\u0966-\u0dff])"
# Signs that continue a word in a script without spaces: they change the letter before.
_SIGN = "[\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ecd\u102b-\u103e\u17b6-\u17d3\u30fc]"
# Korean writes these at the end of a word.
_PARTICLES = "(?:들?(?:은|는|이|가|을|를|의|에게?|에서|으?로|와|과|도|만|처럼|까지|부터)|들)?"

_UNREAD = re.compile("[\u00ad\u200b-\u200f\u2060\ufe0e\ufe0f\ufeff\u2120\u2122]")  # invisible marks, and TM
# As NFKD puts them, after their letter. Short i and u of Cyrillic are letters of their own; Hebrew and Arabic may leave
# vowels out.
_ACCENTS = re.compile("(?<![ИиУу])[\u0300-\u036f]|[\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0640\u064b-\u065f]")
# What Unicode joins to the character before, in Latin and other scripts, jamo and kana too; and what `fold` leaves out.
_JOINING = "\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u093c\u1160-\u11ff\u3099\u309a\uff9e\uff9f"
_JOINING += "\u00ad\u200b-\u200f\u2060\ufe0e\ufe0f\ufeff\u2120\u2122"
_APOSTROPHES, _HYPHENS = "\u0060\u00b4\u02b9\u02bc\u2018\u2019\u2032\uff07", "\u2010\u2011\u2012\u2013\u2212\ufe63\uff0d"
_ALIKE = str.maketrans(dict.fromkeys(_APOSTROPHES, "'") | dict.fromkeys(_HYPHENS, "-"))
_PLAIN = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "\u0131": "i", "æ": "ae", "œ": "oe"})  # NFKD leaves them whole

_GAP = re.compile(r"\s+|(?<=[^\W_])[-_・·]+(?=[^\W_])")

# Endings of English words and what they become in the plural; the first that fits counts.
_PLURALS = [
    (re.compile(ending, re.IGNORECASE), plural)
    for ending, plural in (
        (r"(sheep|fish|deer|moose|bison|salmon|series|species|aircraft)$", r"\1"),
        (r"((?:hu|ro|ger|nor|sha|otto|cai)man|talisman)$", r"\1s"),
        (r"(m)an$", r"\1en"),
        (r"(p)erson$", r"\1eople"),
        (r"(child)$", r"\1ren"),
        (r"(m)ouse$", r"\1ice"),
        (r"(f)oot$", r"\1eet"),
        (r"(t)ooth$", r"\1eeth"),
        (r"(?<!mon)(g)oose$", r"\1eese"),
        (r"\b(ox)$", r"\1en"),
        (r"(kni|li|wi)fe$", r"\1ves"),
        (r"(wol|lea|loa|hal|cal|shel|el|thie|shea|hoo|scar|whar|dwar)f$", r"\1ves"),
        (r"([^aeiou])y$", r"\1ies"),
        (r"(s)is$", r"\1es"),
        (r"(s|x|z|ch|sh)$", r"\1es"),
        (r"(her|potat|tomat|ech|torped|volcan|mosquit|mang|buffal|domin)o$", r"\1oes"),
        (r"$", "s"),
    )
]
_SINGULARS = [
    *(("men", "man"), ("people", "person"), ("children", "child"), ("mice", "mouse"), ("feet", "foot"), ("teeth", "tooth")),
    *(("geese", "goose"), ("oxen", "ox"), ("ves", "f"), ("ves", "fe")),
]
_NO_PLURALS = {"news", "lens", "mars", "means", "goods", "shorts", "tights"}


def says_something(name: str) -> bool:
    """Whether a name has letters or digits, or emoji, which mean something too, and is no article alone."""
    meant = any(letter.isalnum() or unicodedata.category(letter) == "So" for letter in name)
    return meant and bool(fold(name).strip()) and name.strip().lower() not in ("a", "an", "the")


def fold(text: str) -> str:
    """A text without what makes no difference between spellings: capitals, accents, kinds of apostrophe and hyphen,
    invisible marks, and how Unicode composes letters.
    """
    if text.isascii():  # most is, and this is asked of many sentences
        return text.lower().replace("`", "'")
    apart = unicodedata.normalize("NFKD", _UNREAD.sub("", text).translate(_ALIKE))
    return unicodedata.normalize("NFC", _ACCENTS.sub("", apart).casefold()).translate(_PLAIN)


def folded(text: str) -> tuple[str, str, list[int]]:
    """The text, the text folded, and where in the text each folded character comes from, its end last.

    Where that cannot be told character by character, the text itself is folded.
    """
    whole, starts, pieces = fold(text), list[int](), []
    for letter in re.finditer(rf".[{_JOINING}]*", text, re.DOTALL):
        pieces.append(fold(letter[0]))
        starts += [letter.start()] * len(pieces[-1])
    if "".join(pieces) != whole:
        text, starts = whole, list(range(len(whole)))
    return text, whole, [*starts, len(text)]


def parts_of(name: str) -> list[str]:
    """The words of a name, divided at spaces and at the hyphens and dots between letters; other signs belong to their
    words.
    """
    return [word for word in _GAP.split(name.translate(_ALIKE)) if word]


def pattern(names: tuple[str, ...]) -> re.Pattern[str]:
    """A pattern that finds any of `names` in a folded text: in the singular, the plural and the possessive, as whole
    words, or anywhere inside a text that is written without spaces. Between the words of a name may stand spaces or
    hyphens, or nothing where a name may be joined. Signs are taken as they are. Without names, the pattern finds
    nothing; with thousands it is nearly as fast as with one.
    """
    spelled = dict.fromkeys(fold(text).strip() for name in names for text in (name, joined(name)) if text)
    endings: dict[str, list[str]] = {}  # by the beginning, which is tried once for all names that share it
    for name in spelled:
        start, rest = _whole(name)
        endings.setdefault(start, []).append(rest)
    return re.compile("|".join(f"{start}(?:{'|'.join(rests)})" for start, rests in endings.items()) or "(?!)")


def _whole(name: str) -> tuple[str, str]:
    """The pattern of one folded name as (beginning, rest). The lookbehind stands after the first letter, so that texts
    without that letter are skipped quickly.
    """
    words = parts_of(name)
    forms = [_literal(form) for form in sorted(_forms(words[-1]), key=len, reverse=True)]
    end = re.escape(words[-1][0])  # every form begins with it
    pieces = [*map(_literal, words[:-1]), f"{end}(?:{'|'.join(form.removeprefix(end) for form in forms)}){_PARTICLES}"]
    gaps = [r"[\s_・·-]" + ("*" if _is_unspaced(a[-1] + b[0]) else "+") for a, b in pairwise(words)]
    whole = "".join(piece + gap for piece, gap in zip(pieces, [*gaps, ""], strict=True))
    start = re.escape(name[0])
    before = "" if _is_unspaced(name[0]) else f"(?<!{_LETTER}{start})"
    after = "" if _is_unspaced(name[-1]) else f"(?!{_LETTER})"
    return f"{start}{before}", f"{whole.removeprefix(start)}{after}(?!{_SIGN})"


def _is_unspaced(letters: str) -> bool:
    return re.fullmatch(f"[{_UNSPACED}]+", letters) is not None


def _literal(word: str) -> str:
    """A pattern of the word; the apostrophe within a word is often left out."""
    return re.sub(r"(?<=\w)'(?=\w)", "'?", re.escape(word))


def _forms(word: str) -> Iterator[str]:
    """A folded word, its plurals if it is English, and what it may be the plural of."""
    yield word
    if _is_english(word):
        yield from dict.fromkeys((_plural(word), word if word.endswith("s") else word + "s"))
        yield from _singulars(word)


def _is_english(name: str) -> bool:
    """Whether endings of English can go after the name."""
    end = fold(name)[-1:]
    return end.isascii() and end.isalnum() and not fold(name).endswith("'s")


def _plural(name: str) -> str:
    ending, becomes = next(rule for rule in _PLURALS if rule[0].search(name))
    return ending.sub(becomes, name, count=1)


def _singulars(word: str) -> list[str]:
    """The words that a word may be the plural of; mostly none if it is no plural."""
    word = word.lower()
    if word in _NO_PLURALS or word.endswith(("ss", "us", "is")):
        return []
    irregular = [word.removesuffix(ending) + stem for ending, stem in _SINGULARS if word.endswith(ending)]
    regular = [word[:-1], word[:-2], word[:-3] + "y"]
    fitting = [stem for stem in (*irregular, *regular) if len(stem) > 2 and stem != word and _plural(stem) == word]
    return [stem for stem in fitting if stem in irregular] or fitting


def pluralised(name: str) -> str:
    """The plural of an English name; "" where it has none or is one already."""
    last = parts_of(name)[-1] if _is_english(name) else ""
    return _plural(name) if last and not _singulars(last) and not re.fullmatch(r"\d+s", last) else ""


def possessive(name: str) -> str:
    """What stands before something that is of an English name; "" for others."""
    if not _is_english(name):
        return ""
    return f"{name}'" if name.endswith("s") and _singulars(parts_of(name)[-1]) else f"{name}'s"


def names_someone(name: str) -> bool:
    """Whether a style is called after a person, as far as capitals tell: Vincent van Gogh, not Impressionism."""
    words = parts_of(name)
    return words[0][0].isupper() and words[-1][0].isupper() and not fold(name).endswith(("ism", " art"))


def joined(name: str) -> str:
    """A name in one word, as people write one with a hyphen (Spiderman) or one in capitals (TokyoTower); "" for others,
    which might turn into another word.
    """
    words = parts_of(name)
    if len(words) == 1 or not all(word.isalnum() for word in words):
        return ""
    if not re.search(r"\s", name.strip()):
        return words[0] + "".join(words[1:]).lower()
    return "".join(words) if all(word[0].isupper() for word in words) else ""


def titled(name: str) -> str:
    """A name with a capital at every word and otherwise as it is."""
    return re.sub(r"(^|[\s-])(\w)", lambda start: start[1] + start[2].upper(), name)
