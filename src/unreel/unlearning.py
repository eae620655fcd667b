"""Unlearn concepts in a pair: gather what the method needs, run it, wrap the result as an Erasure."""

import json
import random
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, fields, replace
from functools import partial
from importlib.metadata import version
from itertools import product, zip_longest
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from unreel import __version__, captions
from unreel.concept import Concept
from unreel.corpus import Corpus
from unreel.cost import Cost
from unreel.errors import UnreelError
from unreel.interventions.card import CHECK
from unreel.interventions.erasure import Edit, Erasure
from unreel.methods.anchored import AnchoredConfig, anchored
from unreel.methods.few_shot import FewShotConfig, few_shot
from unreel.methods.text_ablation import TextAblationConfig, text_ablation
from unreel.models.adapter import fewer_steps, image_size, makes_pictures
from unreel.models.conditioner import Conditioner, whole_words
from unreel.models.denoiser import Denoiser
from unreel.models.memory import enough_memory
from unreel.models.pair import Pair, Settings
from unreel.models.reading import as_anchors
from unreel.models.sampling import generate_images, load_images, to_tensor
from unreel.models.weights import Change, Fingerprint, held_weights, is_quantized
from unreel.prompt_pairs import PromptPair, Prompts, own_words
from unreel.selfcheck import Exam, SelfCheck
from unreel.vocabulary import EVERYDAY, Vocabulary, nearest

Config = TextAblationConfig | AnchoredConfig | FewShotConfig
Shots = TypeVar("Shots", FewShotConfig, AnchoredConfig)
AS_PUBLISHED = ("anchored", "few-shot")  # kept as others published them, whatever a self-check says of them
# The changes of every text encoder, and what is to be known about how they were made.
Result = tuple[list[dict[str, Change]], dict[str, Any]]

METHODS: dict[str, type[Config]] = {
    "text-ablation": TextAblationConfig,
    "anchored": AnchoredConfig,
    "few-shot": FewShotConfig,
}

TOO_NEAR = 10  # one in so many things is too much like the concept to be made instead of it
LONGEST, LONGEST_HELD_OUT = 28, 80  # tokens of a prompt to learn from and to measure on; what is learned carries over
NEAR, LOOKED_AT = 20, 240  # nearest things to keep by name, among so many everyday words
ALONE = ("a photo of {}", "{} at night", "a picture of {} in the rain")
READ_AS = 0.25  # the share of the squared distance to the anchor below which words are taken for the concept
STILL = "standing"  # what is done where nothing else is
SAFE = "everyday life"  # what is unsafe is no thing, so no thing can stand in for it

PACKAGES = ("torch", "diffusers", "transformers", "safetensors", "numpy")


def versions() -> dict[str, str]:
    return {"unreel": __version__, **{package: version(package) for package in PACKAGES}}


def make_shots(pair: Pair, concept: Concept, config: FewShotConfig | AnchoredConfig) -> np.ndarray:
    """Images of the concept from the pair's own image model: (shots, height, width, 3) uint8."""
    settings = replace(pair.settings, steps=config.shot_steps or pair.settings.steps)
    with fewer_steps(pair.t2i) if config.shot_steps else nullcontext():
        return generate_images(pair.t2i, *_asked(concept, config), settings)


def _asked(concept: Concept, config: FewShotConfig | AnchoredConfig) -> tuple[list[str], list[int]]:
    """The prompts and seeds of the shots."""
    rng = np.random.default_rng(config.seed)
    prompts = [str(prompt) for prompt in rng.choice(concept.forget_prompts, config.shots)]
    return prompts, [int(seed) for seed in rng.integers(2**31, size=config.shots)]


def configure(method: str, given: Mapping[str, Any], settings: Settings | None = None) -> Config:
    """The settings of the method called `method`: its own defaults, what a pair's `settings` have instead, then `given`.

    Raises UnreelError for an unknown method and for settings that it does not have or cannot use.
    """
    if method not in METHODS:
        raise UnreelError(f"unknown method {method!r}: choose from {', '.join(METHODS)}")
    kind = METHODS[method]
    for name in sorted(given.keys() - {field.name for field in fields(kind)}):
        having = [other for other, config in METHODS.items() if name in {field.name for field in fields(config)}]
        raise UnreelError(
            f"the method {method} has no {name.replace('_', ' ')}: leave --{name.replace('_', '-')} out, or choose "
            f"--method {' or '.join(having)}"
        )
    own = getattr(settings, method.replace("-", "_")) if settings else {}
    return kind(**{**own, **given})


def require_offloadable(config: Config) -> None:
    """Raises UnreelError if the method cannot learn while a text encoder waits in main memory."""
    if isinstance(config, AnchoredConfig):
        raise UnreelError("few-shot with a brake cannot be offloaded: leave --offload out, or take another method")
    if isinstance(config, FewShotConfig) and not config.rank:
        raise UnreelError("weights that learn cannot be offloaded: train low-rank changes, with --rank 16")


def unlearn(
    concepts: Concept | str | Sequence[Concept | str],
    pair: Pair,
    config: Config | None = None,
    *,
    images: Path | None = None,
    keep: Sequence[str] = (),
) -> Erasure:
    """Unlearn one concept, or several together, with the method whose settings `config` holds; by default concept
    ablation in text space.

    The pair's weights are left as they were found. Erasures that are on the image model stay on while learning, so the
    result is what to add on top of them. `images` is a folder of pictures for the few-shot method to use in place of
    generated ones. `keep` names what methods that learn from text are to protect besides everything else.
    What a self-check on held-out prompts says of the erasure stands in its provenance.
    Raises UnreelError if a concept cannot be spelled or does not fit into the prompt, the method cannot do what is asked,
    the images cannot be read or the numbers break down.
    """
    if not isinstance(pair, Pair):
        raise UnreelError(
            f"unlearn takes a pair, not a {type(pair).__name__}: load_pair(...), or Pair(pipeline, pipeline, ...)"
        )
    if isinstance(keep, str) or not isinstance(concepts, (Concept, str, Sequence)):
        raise UnreelError("concepts are names or Concepts, and what to keep is a list of names")
    wanted = [concepts] if isinstance(concepts, (Concept, str)) else list(concepts)
    these = [Concept(concept) if isinstance(concept, str) else concept for concept in wanted]
    if not these:
        raise UnreelError("name at least one concept to forget")
    config = config or configure("text-ablation", {}, pair.settings)
    conditioners = list(pair.conditioners().values())
    if not conditioners:
        raise UnreelError(f"{pair.t2v_source} has no text encoder that reads prompts")
    conditioner = conditioners[0]
    _require_readable(these, conditioners)
    device = conditioner.device
    with Cost(device) as cost, enough_memory("unlearning", device, _ways_to_save(config, conditioner)):
        if isinstance(config, TextAblationConfig):
            if images is not None:
                raise UnreelError("this method learns from text alone: give images to --method few-shot")
            changes, record = _from_text(these, pair, conditioners, config, keep)
        else:
            if len(these) > 1 or keep:
                raise UnreelError(
                    "methods that learn from images unlearn one concept and keep nothing by name: use the default method"
                )
            if isinstance(config, FewShotConfig) and these[0].anchor is not None:
                raise UnreelError(
                    "few-shot makes nothing in particular instead: leave --replace out, or take another method"
                )
            learn = _anchored if isinstance(config, AnchoredConfig) else _few_shot
            changes, record = learn(these[0], pair, conditioners, config, images)  # type: ignore[arg-type]
    anchors, near = record.pop("anchors", {}), record.pop("near", ())
    method = next(name for name, kind in METHODS.items() if type(config) is kind)
    parts = [
        {
            "concept": concept.name,
            "kind": concept.kind,
            "synonyms": list(concept.synonyms),
            "method": method,
            **({"anchor": anchors[concept.name]} if concept.name in anchors else {}),
            **record,
            "seconds": round(cost.seconds / len(these), 3),  # an equal share of the time all took together
            "peak_memory_gib": round(cost.peak_memory_gib, 3),
        }
        for concept in these
    ]
    provenance = {
        "encoder": pair.t2i_source,
        "device": str(device),
        "dtype": str(conditioner.text_encoder.dtype).removeprefix("torch."),
        "versions": versions(),
        "parts": parts,
    }
    edits = [
        Edit({name: change.cpu() for name, change in of.items()}, Fingerprint.of(reader.text_encoder))
        for of, reader in zip(changes, conditioners, strict=True)
    ]
    erasure = Erasure(tuple(edits), provenance)
    return replace(erasure, provenance={**provenance, CHECK: check(erasure, pair, seed=config.seed, near=near).document()})


def was_asked_for(
    erasure: Erasure,
    concepts: Sequence[Concept],
    pair: Pair,
    config: Config,
    images: Path | None = None,
    keep: Sequence[str] = (),
) -> bool:
    """Whether it is the erasure that `unlearn` makes of the same arguments, with its self-check. Of one that was learned
    from given `images` nobody knows.
    """
    parts, conditioners = erasure.provenance["parts"], list(pair.conditioners().values())
    wanted = json.loads(json.dumps(asdict(config) | ({"keep": list(keep)} if keep else {})))
    made_on = (pair.t2i_source, str(conditioners[0].text_encoder.dtype).removeprefix("torch."))

    def same(part: dict[str, Any], concept: Concept) -> bool:
        said = (part["concept"], part["kind"], tuple(part["synonyms"]), METHODS.get(part["method"]), part["settings"])
        if said != (concept.name, concept.kind, concept.synonyms, type(config), wanted):
            return False
        if "anchor" not in part:
            return concept.anchor is None
        return part["anchor"] == anchor_for(concept, concepts, conditioners[0], pair.vocabulary)

    return (
        CHECK in erasure.provenance
        and images is None
        and made_on == (erasure.provenance.get("encoder"), erasure.provenance.get("dtype"))
        and len(parts) == len(concepts)
        and all(map(same, parts, concepts))
    )


def _require_readable(concepts: Sequence[Concept], conditioners: Sequence[Conditioner]) -> None:
    """Raises UnreelError unless every text encoder can learn, and reads all that names the concepts."""
    for reader in conditioners:
        if any(is_quantized(weight) for weight in held_weights(reader.text_encoder).values()):
            raise UnreelError(
                f"the {type(reader.text_encoder).__name__} is quantized, and learns nothing exactly: unlearn with the "
                "original, export that as a text encoder, and quantize it then"
            )
        if any(weight.is_inference() for weight in held_weights(reader.text_encoder).values()):
            raise UnreelError(
                f"the {type(reader.text_encoder).__name__} was loaded under torch.inference_mode, where nothing learns: "
                "load it outside"
            )
    for concept, reader in product(concepts, conditioners):
        reader.require_known([*concept.wordings, concept.anchor or ""])
        reader.require_room_for(concept.forget_prompts)


def check(erasure: Erasure, pair: Pair, *, seed: int = 0, near: Sequence[Sequence[str] | None] = ()) -> SelfCheck:
    """How far the erasure goes and what else it moves in the pair's text encoders, on held-out prompts; of several
    encoders, the worst.

    Distances are to the anchors that the erasure records; if it records none for some concept, nothing is said about them.
    `near` is what `near_to` says for each text encoder, as far as that is known; it is found out otherwise.
    Raises UnreelError if it has an edit for none of the encoders.
    """
    conditioners = list(pair.conditioners().values())
    parts = erasure.provenance["parts"]
    concepts = [Concept(part["concept"], part["kind"], tuple(part["synonyms"]), part.get("anchor")) for part in parts]
    # As recorded, even where a sum of erasures forgets one's anchor too.
    said = [
        concept
        if concept.anchor is not None
        else replace(concept, anchor=anchor_for(concept, concepts, conditioners[0], pair.vocabulary))
        for concept in concepts
    ]
    grades = []
    for conditioner, known in zip_longest(conditioners, near):
        for edit in erasure.edits:
            if edit.fingerprint.fits(conditioner.text_encoder):
                prompts = prompts_for(said, pair, conditioner, seed, held_out=True)
                about = near_to(said, conditioner, pair.vocabulary) if known is None else known
                exam = Exam(conditioner, prompts, about, anchored=all("anchor" in part for part in parts))
                grades.append(exam.grade(edit.changes))
    if not grades:
        raise UnreelError(
            f"the erasure of {', '.join(erasure.concepts)} was made for another text encoder than this model's"
        )
    return SelfCheck.worst_of(grades)


def require_strong(erasure: Erasure) -> None:
    """Raises UnreelError if the erasure's self-check falls short of the stated bars, or it has none."""
    if CHECK not in erasure.provenance:
        raise UnreelError(
            f"the erasure of {', '.join(erasure.concepts)} has no self-check: add --accept-weak, or make it again"
        )
    shortfalls = erasure.provenance[CHECK]["shortfalls"]
    if shortfalls:
        raise UnreelError(
            f"the erasure of {', '.join(erasure.concepts)} falls short on held-out prompts: {'; '.join(shortfalls)}. "
            "Nothing was written: make something else instead with --replace, or write it all the same with --accept-weak"
        )


def _ways_to_save(config: Config, conditioner: Conditioner) -> list[str]:
    """Options that make unlearning need less memory, those that cost least first."""
    ways = {"--dtype bfloat16": conditioner.text_encoder.dtype == torch.float32}
    if isinstance(config, TextAblationConfig):
        ways["--gradient-checkpointing"] = not config.gradient_checkpointing
        ways["fewer --layers"] = True
    elif isinstance(config, (AnchoredConfig, FewShotConfig)):
        ways["--batch-size 1"] = config.batch_size > 1
    if isinstance(config, FewShotConfig):
        ways["--gradient-checkpointing"] = not config.gradient_checkpointing
        ways["--rank 16"] = not config.rank
        ways["--offload"] = config.rank > 0 and conditioner.device.type != "cpu"
    return [way for way, helps in ways.items() if helps]


def _from_text(
    concepts: Sequence[Concept],
    pair: Pair,
    conditioners: Sequence[Conditioner],
    config: TextAblationConfig,
    keep: Sequence[str],
) -> Result:
    """What the record says of each text encoder is a list if there are several."""
    names = [name for name in keep if any(concept.is_named_in(name) for concept in concepts)]
    if names:
        raise UnreelError(f"{names[0]!r} is both to be forgotten and to be kept")
    # The first chooses the anchors, so that all say the same instead.
    said = _with_anchors(concepts, conditioners[0], pair.vocabulary)
    learned = [_ablated(said, pair, conditioner, config, keep) for conditioner in conditioners]
    records = [record for _, record in learned]
    near = [record.pop("near", None) for record in records]
    record = records[0] if len(records) == 1 else {name: [it[name] for it in records] for name in records[0]}
    settings = asdict(config) | ({"keep": list(keep)} if keep else {})
    anchors = {concept.name: concept.anchor for concept in said}
    return [changes for changes, _ in learned], {"settings": settings, "anchors": anchors, "near": near, **record}


def _with_anchors(concepts: Sequence[Concept], conditioner: Conditioner, vocabulary: Vocabulary) -> list[Concept]:
    """The concepts with what is made instead of each. Raises UnreelError if that is to be forgotten too, or too long."""
    said = [replace(c, anchor=anchor_for(c, concepts, conditioner, vocabulary)) for c in concepts]
    for concept in said:
        anchor = concept.anchor or ""
        if any(other.is_named_in(anchor) for other in concepts):
            raise UnreelError(f"{anchor!r} is to be forgotten too: make something else instead of {concept.name!r}")
        if anchor.strip():
            conditioner.require_room_for(Concept(anchor, concept.kind).forget_prompts)
    return said


def _ablated(
    concepts: Sequence[Concept], pair: Pair, conditioner: Conditioner, config: TextAblationConfig, keep: Sequence[str]
) -> tuple[dict[str, Change], dict[str, Any]]:
    prompts = prompts_for(concepts, pair, conditioner, config.seed)
    near = near_to(concepts, conditioner, pair.vocabulary)
    more = len(concepts) ** 0.5  # as many more as steps
    changes, record = text_ablation(
        conditioner,
        prompts.pairs(round(config.forget * more)),
        prompts.everyday(max(config.solve_retain, round(config.retain * more))),
        prompts.neighbours([*near, *keep], round(config.retain * more)),
        config,
        concepts=len(concepts),
    )
    return dict(changes), {**record, "near": near}


def prompts_for(
    concepts: Sequence[Concept], pair: Pair, conditioner: Conditioner, seed: int, held_out: bool = False
) -> Prompts:
    """What to forget `concepts` by, which say what is made instead of them, or what is `held_out` to check that on."""
    anchors = {concept.name: concept.anchor or "" for concept in concepts}
    corpus = Corpus(pair.vocabulary, list(whole_words(conditioner.tokenizer)), seed + held_out)
    longest = LONGEST_HELD_OUT if held_out else LONGEST
    own = [words for concept in concepts for words in _words_to_keep(concept, conditioner)]
    return Prompts(concepts, anchors, corpus, partial(conditioner.has_room_for, most=longest), held_out, own)


@torch.no_grad()
def _words_to_keep(concept: Concept, conditioner: Conditioner) -> list[str]:
    """A name's own words, less those that the encoder takes for the concept itself ("Picasso"), so that to keep them would
    be to keep it: they are far nearer to it than the anchor is.
    """

    def way(instead: str) -> float:
        about = [PromptPair(text.format(concept.name), text.format(instead), concept.name) for text in ALONE]
        aim = as_anchors(conditioner, about)
        return float(aim.distances(conditioner.encode_tokens(aim.tokens)).sum())

    found = own_words(concept)
    far = READ_AS * way(concept.anchor or "") if found else 0.0
    return [words for words in found if way(words) >= far]


def near_to(concepts: Sequence[Concept], conditioner: Conditioner, vocabulary: Vocabulary) -> list[str]:
    """What the text encoder takes to be most like each of the concepts, among things of its kind."""
    out: dict[str, None] = {}
    for concept in concepts:
        names = [
            name
            for name in (*_of_kind(concept, vocabulary), *random.Random(0).sample(*_everyday_of_kind(concept)))
            if not any(other.is_named_in(name) for other in concepts) and conditioner.has_room_for(name)
        ]
        out |= dict.fromkeys(nearest(conditioner, concept.name, names)[:NEAR])
    return list(out)


def _everyday_of_kind(concept: Concept) -> tuple[list[str], int]:
    """Everyday words of the concept's kind, and how many of them to look at."""
    words = captions.everyday()
    kinds = {"style": ("famous",), "motion": ("action",), "face": ("famous", "person"), "character": ("famous", "person")}
    others = tuple(name for name in words if name not in ("action", "famous", "city", "country"))
    found = [word for name in kinds.get(concept.kind, others) for word in words[name]]
    return found, min(LOOKED_AT, len(found))


def _of_kind(concept: Concept, vocabulary: Vocabulary) -> list[str]:
    if concept.kind in ("character", "face") and "person" in vocabulary:
        return vocabulary["person"]
    return vocabulary[concept.kind if concept.kind in ("style", "motion") else "concept"]


def anchor_for(concept: Concept, concepts: Sequence[Concept], conditioner: Conditioner, vocabulary: Vocabulary) -> str:
    """What to make instead of `concept`: what it asks for, standing for a motion, or nothing where a pair has a world of
    its own, everyday life for what is unsafe, else something of its kind that is not to be forgotten too: what the text
    encoder takes to be nearest, less the nearest tenth, because what is nearest is easily taken for the concept
    (benchmarks/anchor_choice.py). Raises UnreelError if there is no such thing.
    """
    if concept.anchor is not None:
        return concept.anchor
    if concept.kind == "motion":  # captions of a world of its own say nothing of what stands still; people say what is done
        forgotten = any(other.is_named_in(STILL) for other in concepts)
        return "" if forgotten or vocabulary is not EVERYDAY else STILL
    if concept.kind == "unsafe":
        return SAFE
    others = [word for word in _of_kind(concept, vocabulary) if not any(other.is_named_in(word) for other in concepts)]
    if not others:
        raise UnreelError(f"there is nothing left to make instead of {concept.name!r}: say what with --replace")
    return nearest(conditioner, concept.name, others)[len(others) // TOO_NEAR]


def _few_shot(
    concept: Concept, pair: Pair, conditioners: Sequence[Conditioner], config: FewShotConfig, images: Path | None
) -> Result:
    config, denoiser, latents = _shots(concept, pair, config, images)
    with denoiser.channels_last():
        changes, losses = few_shot(conditioners, denoiser, concept, config, latents)
    record = {"settings": asdict(config), "losses": losses}
    return changes, record | {"images": "generated" if images is None else "given"}


def _anchored(
    concept: Concept, pair: Pair, conditioners: Sequence[Conditioner], config: AnchoredConfig, images: Path | None
) -> Result:
    if len(conditioners) > 1 or not makes_pictures(pair.t2i):
        raise UnreelError(
            f"few-shot with a brake needs a Stable Diffusion pipeline with one text encoder, not "
            f"{type(pair.t2i).__name__}: leave --method out, or use --method few-shot"
        )
    conditioner = conditioners[0]
    config, denoiser, latents = _shots(concept, pair, config, images)
    said = _with_anchors([concept], conditioner, pair.vocabulary)
    anchors = {concept.name: said[0].anchor}
    corpus = Corpus(pair.vocabulary, list(whole_words(conditioner.tokenizer)), config.seed)
    twins = corpus.forget(concept, {wording.lower(): said[0].anchor or "" for wording in concept.wordings}, config.forget)
    twins = [twin for twin in twins if all(map(conditioner.has_room_for, twin))]
    others = [text for text in corpus.retain(config.retain) if not concept.is_named_in(text)]
    with denoiser.channels_last():
        changes, record = anchored(conditioner, denoiser, twins, others, config, latents)
    record = {"settings": asdict(config), "anchors": anchors, **record}
    return [dict(changes)], record | {"images": "generated" if images is None else "given"}


def _shots(concept: Concept, pair: Pair, config: Shots, images: Path | None) -> tuple[Shots, Denoiser, torch.Tensor]:
    """The settings with the number of shots there are, the denoiser, and latents of the shots, each with its mirror image:
    (shots, 2, channels, height, width).

    Latents that are not pictures, or single frames of a video model, stay as the model made them, and are their own mirror
    images.
    """
    denoiser = Denoiser.of(pair.t2i, pair.settings.size if pair.t2i is pair.t2v else None)
    if denoiser.offloaded:
        require_offloadable(config)
    if not makes_pictures(pair.t2i):
        if images is not None:
            raise UnreelError(f"{type(pair.t2i).__name__} learns from images that it makes itself: leave --images out")
        latents = denoiser.sample(*_asked(concept, config), config.shot_steps or pair.settings.steps)
        return config, denoiser, torch.stack([latents, latents], dim=1)
    if images is None:
        shots = make_shots(pair, concept, config)
    else:
        shots = load_images(images, image_size(pair.t2i))
        config = replace(config, shots=len(shots))
    # One at a time, so that memory does not grow with their number.
    pictures = to_tensor(shots).split(1)
    encoded = [torch.cat([denoiser.encode(image), denoiser.encode(image.flip(-1))]) for image in pictures]
    return config, denoiser, torch.stack(encoded)
