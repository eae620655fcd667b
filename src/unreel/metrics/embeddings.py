"""How far did the text encoder's answers to unrelated prompts move?

For 1,000 prompts that do not ask for the concept, ||T'(p) - T(p)|| / ||T(p)|| over all that the pipeline gives to its
network, padding included where that attends to it, of all text encoders that the model reads prompts with; and the share
of prompts whose embeddings are the same bit for bit. Of what projects what they write (SAFREE, VideoEraser) neither: each
prompt would have to be read again without each of its tokens.
"""

from collections.abc import Iterator

import numpy as np
import torch

from unreel.evaluation.estimate import Estimate, Figure
from unreel.evaluation.run import Evaluation

BATCH = 100


def measure(run: Evaluation) -> Iterator[Figure]:
    if not run.unrelated_prompts or run.erasure.projects:  # a judge may know nothing but the concept
        return
    moved, same = changes(run) if run.erasure.edits_text_encoder else unchanged(len(run.unrelated_prompts))
    yield Figure(
        "embedding_shift", "embeddings of unrelated prompts moved by", "", None, Estimate.mean(moved), "%", "lower"
    )
    yield Figure(
        "embedding_same", "unrelated prompts read the same, to the last bit", "", None, Estimate.share(same), "%", "higher"
    )


def unchanged(count: int) -> tuple[np.ndarray, np.ndarray]:
    """As `changes`, of text encoders that are left as they are, without asking them."""
    return np.zeros(count), np.ones(count, dtype=bool)


def changes(run: Evaluation) -> tuple[np.ndarray, np.ndarray]:
    """How far each prompt's embeddings moved, and whether they are the same: (prompts,) each."""
    pipeline, prompts = run.model.pipeline, run.unrelated_prompts
    original = _encode(run, prompts)
    with run.erasure.on(pipeline):
        edited = _encode(run, prompts)
    pairs = list(zip(original, edited, strict=True))
    moved = torch.cat([(b.float() - a.float()).norm(dim=1) / b.float().norm(dim=1) for b, a in pairs])
    return moved.numpy(), torch.cat([(a == b).all(1) for b, a in pairs]).numpy()


@torch.inference_mode()
def _encode(run: Evaluation, prompts: list[str]) -> list[torch.Tensor]:
    """Of every batch of prompts, all that the network is given, zero where it is not to look: (batch, numbers)."""
    batches = [prompts[start : start + BATCH] for start in range(0, len(prompts), BATCH)]
    conditioners = run.conditioners
    return [torch.cat([reader.given(batch).cpu() for reader in conditioners], dim=1) for batch in batches]
