"""How far did the text encoder's answers to unrelated prompts move?

For 1,000 prompts that do not ask for the concept, ||T'(p) - T(p)|| / ||T(p)|| over all that the pipeline gives to its
network, padding included where that attends to it, of all text encoders that the model reads prompts with; and the share
of prompts whose embeddings are the same bit for bit. Of what projects what they write (SAFREE, VideoEraser) neither: each
prompt would have to be read again without each of its tokens.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from unreel.evaluation.estimate import Estimate, Figure
from unreel.evaluation.run import Evaluation
from unreel.models.conditioner import Conditioner

BATCH, AT_ONCE = 24, 8  # prompts that are read at once, and batches of them without the changes, and then with them


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
    """How far each prompt's embeddings moved, and whether they are the same: (prompts,) each. Those of all prompts would be
    gigabytes: so few batches are read without the changes that they can be kept, and then with them.
    """
    pipeline, prompts, conditioners = run.model.pipeline, run.unrelated_prompts, run.conditioners
    batches = [prompts[start : start + BATCH] for start in range(0, len(prompts), BATCH)]
    moved, same = [], []
    for start in range(0, len(batches), AT_ONCE):
        some = batches[start : start + AT_ONCE]
        original = [_network_inputs(conditioners, batch) for batch in some]
        with run.erasure.on(pipeline):
            for before, batch in zip(original, some, strict=True):
                after = _network_inputs(conditioners, batch)
                moved.append((after.float() - before.float()).norm(dim=1) / before.float().norm(dim=1))
                same.append((after == before).all(1))
    return torch.cat(moved).numpy(), torch.cat(same).numpy()


@torch.no_grad()
def _network_inputs(conditioners: Sequence[Conditioner], prompts: list[str]) -> torch.Tensor:
    """What the network gets of a batch of prompts from all text encoders, zero where it is not to look: (batch,
    numbers).
    """
    return torch.cat([reader.network_inputs(prompts).cpu() for reader in conditioners], dim=1)
