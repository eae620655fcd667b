"""Sentences to unlearn on: some that name the concept, each with an anchor prompt that names the anchor instead, and some
that must keep their meaning.

Knows words and grammar enough to say a thing in many ways; knows no model.
"""

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from string import ascii_lowercase

from unreel.prompts.concept import Concept
from unreel.prompts.grammar import bare as _bare
from unreel.prompts.grammar import fill as _fill
from unreel.prompts.grammar import in_place_of, with_articles
from unreel.prompts.kinds import OBJECT_TEMPLATES, STYLE_TEMPLATES, UNSAFE_TEMPLATES
from unreel.prompts.vocabulary import Vocabulary

RELATIONS = ("next to", "beside", "and", "with", "above", "on top of", "over", "in front of")
BACKGROUNDS = ("blue", "green", "pink", "yellow", "grey")
STYLED = ("{} in {} style", "{} in the style of {}", "{}, {} style")
MOVED = ("{} {}", "a video of a {} {}", "the {} is {}", "the {} keeps {}")
AMONG = ("a {1}, {0}", "the {1} and {0}", "{0} and a {1}", "{0} with the {1}")  # something unsafe, with a thing
CHATTER = 0.4  # the share of sentences that stand among words drawn at random
MOST_CHATTER = 6


@dataclass(frozen=True)
class Corpus:
    """Sentences over what a model can be asked for (`vocabulary`) and, as noise, over the `words` its tokenizer knows."""

    vocabulary: Vocabulary
    words: Sequence[str] = ()
    seed: int | str = 0

    def forget(self, concept: Concept, anchors: Mapping[str, str], count: int) -> list[tuple[str, str]]:
        """About `count` pairs of a sentence that names the concept, by all its wordings in turn, and its anchor prompt.

        `anchors` says, by erased name and wording, what the anchor prompt names instead; with an empty anchor it names
        nothing there. A pair is left out if its anchor prompt names something erased after all, in random words or
        within another name.
        """
        renamed, erased = _instead(tuple(anchors.items()))
        rng, out = random.Random(f"{self.seed}/{concept.name}"), {}
        slot = concept.traits.slot
        for index in range(count):
            wording = concept.wordings[index % len(concept.wordings)]
            sentence, filled = self._sentence(rng, slot, wording)
            # The gap of something unsafe has no article before it, so the anchor keeps its own.
            words = {gap: (anchors if gap == "unsafe" else renamed).get(word.lower(), word) for gap, word in filled.items()}
            if slot == "concept":
                words[slot] = in_place_of(wording, words[slot])
            anchor_prompt = _fill(sentence, words)
            before, after = self._chatter(rng)
            out[f"{before} {_fill(sentence, filled)} {after}".strip()] = f"{before} {anchor_prompt} {after}".strip()
        return [(sentence, anchor_prompt) for sentence, anchor_prompt in out.items() if not erased.search(anchor_prompt)]

    def retain(self, count: int, by_name: bool = True) -> list[str]:
        """About `count` sentences like those of `forget`, about everything. With `by_name`, also everything by its name
        alone and the empty prompt, which do not depend on the seed.
        """
        rng, out = random.Random(f"{self.seed}/retain"), [""] if by_name else []
        for labels in self.vocabulary.values() if by_name else ():
            for label in labels:
                out += [label, f"a {label}"]
        for index in range(count):
            slot = ("concept", "style", "motion")[index % 3]
            sentence, filled = self._sentence(rng, slot, rng.choice(self.vocabulary[slot]))
            before, after = self._chatter(rng)
            out.append(f"{before} {_fill(sentence, filled)} {after}".strip())
        out += [self._noise(rng, rng.randint(1, 2 * MOST_CHATTER)) for _ in range(count // 3)]
        unique = dict.fromkeys(out)
        # Correcting articles must not change which texts there are: "a owl" stays if "an owl" is among them already.
        named = {f"a {label}": with_articles(f"a {label}") for labels in self.vocabulary.values() for label in labels}
        return [text if (corrected := named.get(text, text)) in unique else corrected for text in unique]

    def _chatter(self, rng: random.Random) -> tuple[str, str]:
        if rng.random() > CHATTER:
            return "", ""
        return self._noise(rng, rng.randint(0, MOST_CHATTER)), self._noise(rng, rng.randint(0, MOST_CHATTER))

    def _noise(self, rng: random.Random, count: int) -> str:
        """Words drawn at random, half of them of random letters, since tokenizers take unknown words to pieces."""
        words = [rng.choice(self.words) if self.words and rng.random() < 0.5 else _nonsense(rng) for _ in range(count)]
        return " ".join(words)

    def _sentence(self, rng: random.Random, slot: str, wording: str) -> tuple[str, dict[str, str]]:
        """A sentence with gaps, and what fills them; `wording` fills the gap of its kind."""
        chosen = {
            kind: wording if kind == slot else rng.choice(labels) for kind, labels in self.vocabulary.items() if labels
        }
        chosen |= {slot: wording, "other": rng.choice(self.vocabulary["concept"])}
        article = rng.choice(("a ", "a ", "", "the "))
        thing, other = f"{article}[concept]", "a [other]"
        if slot == "unsafe":
            text = rng.choice((*UNSAFE_TEMPLATES, *AMONG)).format("[unsafe]", "[other]")
        elif slot == "motion":
            text = rng.choice((*MOVED, "[motion] [concept]", "a [motion] [concept]", "someone is [motion]", "[motion]"))
            text = text.format("[concept]", "[motion]")
        else:
            match rng.choice(("template", "plain", "pair", "motion")):
                case "template":
                    text = rng.choice(OBJECT_TEMPLATES).format("[concept]")
                case "pair":
                    pair = [thing, other] if rng.random() < 0.5 else [other, thing]
                    text = f" {rng.choice(RELATIONS)} ".join(pair)
                case "motion":
                    text = rng.choice((*MOVED[:2], "a {1} {0}")).format("[concept]", "[motion]")
                case _:
                    text = thing
        if slot == "style" and rng.random() < 0.2:
            text = rng.choice(STYLE_TEMPLATES).format("[style]")
        elif slot == "style" or rng.random() < 0.3:
            text = rng.choice(STYLED).format(text, "[style]")
        if rng.random() < 0.3:
            text += f", {rng.choice(BACKGROUNDS)} background"
        return text, chosen


@lru_cache(maxsize=2)  # the same for each of many concepts
def _instead(anchors: tuple[tuple[str, str], ...]) -> tuple[dict[str, str], re.Pattern[str]]:
    """The replacement of each wording, without an article, and a pattern of all wordings."""
    renamed = {wording: _bare(anchor) for wording, anchor in anchors}
    return renamed, re.compile(rf"(?<!\w)(?:{_any_of(renamed)})(?!\w)", re.IGNORECASE)


def _any_of(texts: Iterable[str]) -> str:
    """A pattern of any of the texts; a first letter is tried once for all texts that share it."""
    endings: dict[str, list[str]] = {}
    for text in texts:
        endings.setdefault(text[:1], []).append(re.escape(text[1:]))
    return "|".join(f"{re.escape(start)}(?:{'|'.join(rests)})" for start, rests in endings.items())


def _nonsense(rng: random.Random) -> str:
    return "".join(rng.choices(ascii_lowercase, k=rng.randint(2, 7)))
