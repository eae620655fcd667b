"""How far did the embeddings of unrelated prompts move?

For 1,000 prompts that do not ask for the concept: ||T'(p) - T(p)|| / ||T(p)||, where T(p) is all that the pipeline gives to
its network from all text encoders, padding included if the network attends to it; and the share of prompts whose embeddings
are the same bit for bit. Neither is measured of interventions that project embeddings (SAFREE, VideoEraser): each prompt
would have to be encoded again without each of its tokens.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from unreel.evaluation.estimate import Estimate, Figure
from unreel.evaluation.run import Evaluation
from unreel.evaluation.selfcheck import AT_ONCE, BATCH
from unreel.models.conditioner import Conditioner


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
    """As `changes`, for text encoders that are left as they are, without running them."""
    return np.zeros(count), np.ones(count, dtype=bool)


def changes(run: Evaluation) -> tuple[np.ndarray, np.ndarray]:
    """How far each prompt's embeddings moved, and whether they are the same: (prompts,) each. A few batches at a time are
    read without the changes and then with them: the embeddings of all prompts would take gigabytes.
    """
    pipeline, prompts, conditioners = run.model.pipeline, run.unrelated_prompts, run.conditioners
    batches = [prompts[start : start + BATCH] for start in range(0, len(prompts), BATCH)]
    moved, same = [], []
    for start in range(0, len(batches), AT_ONCE):
        some = batches[start : start + AT_ONCE]
        originals = [_network_inputs(conditioners, batch) for batch in some]
        with run.erasure.on(pipeline):
            for original, batch in zip(originals, some, strict=True):
                edited = _network_inputs(conditioners, batch)
                moved.append((edited.float() - original.float()).norm(dim=1) / original.float().norm(dim=1))
                same.append((edited == original).all(1))
    return torch.cat(moved).numpy(), torch.cat(same).numpy()


@torch.no_grad()
def _network_inputs(conditioners: Sequence[Conditioner], prompts: list[str]) -> torch.Tensor:
    """What the network gets for a batch of prompts from all text encoders, with zeros where it does not attend: (batch,
    numbers).
    """
    return torch.cat([reader.network_inputs(prompts).cpu() for reader in conditioners], dim=1)
