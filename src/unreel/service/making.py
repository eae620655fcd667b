"""Videos that are wished for, one after the other, each with the erasures that are meant for it, and with no others.

Knows wishes and who may have what; knows no HTTP.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np

from unreel.errors import UnreelError, summarise
from unreel.evaluation.selfcheck import MOST_EVERYDAY_MOVED
from unreel.interventions import active_interventions
from unreel.interventions.base import Intervention
from unreel.interventions.erasure import Erasure
from unreel.interventions.prompt import PromptIntervention
from unreel.models.adapter import undisturbed
from unreel.models.pair import VideoModel
from unreel.models.sampling import generate
from unreel.progress import track
from unreel.service.audit import Audit
from unreel.service.policy import Policy
from unreel.service.refusals import BusyError, RefusedError, tell_operator
from unreel.service.shelf import Shelf
from unreel.service.wish import Wish
from unreel.unlearning import Everyday


class Service:
    """Makes videos of one model, one after the other, each with its own erasures on and no others.

    What is on stays on until a request wants it otherwise, so that requests that want the same cost nothing. `worker` is
    who computes, whichever threads ask. With an `audit`, no video is made that is not in it.
    """

    def __init__(
        self,
        model: VideoModel,
        shelf: Shelf,
        policy: Policy | None = None,
        waiting: int = 64,
        worker: Executor | None = None,
        audit: Audit | None = None,
    ) -> None:
        self.model, self.shelf, self.policy, self.audit = model, shelf, policy, audit
        self.worker = worker or ThreadPoolExecutor(1)
        self._places = threading.BoundedSemaphore(waiting)
        if active_interventions(model.pipeline):
            raise UnreelError("the model has erasures on already: serve the original one")
        self._everyday, self._weighed = Everyday(model), set[frozenset[str]]()
        if policy:
            policy.require(shelf)
            self._try(policy)

    def _try(self, policy: Policy) -> None:
        """Each erasure goes on once, however many tenants have it, and each set of those that change prompts: whatever else
        goes on alone goes on with any other. Raises UnreelError for what cannot: none of its tenant's videos could be made.
        """
        own = {tenant: policy.erasures_of(tenant) for tenant in policy.tenants}
        tenants = {name: tenant for tenant, names in own.items() for name in names}
        try:
            prompts = [
                name
                for name, tenant in track(list(tenants.items()), "trying the policy", "erasure", brief=True)
                if _by_kind(self._tried([name], tenant, policy))[1]
            ]
            sets = {tuple(name for name in names if name in prompts): tenant for tenant, names in own.items()}
            for names, tenant in sets.items():
                self._tried(names, tenant, policy)
        finally:
            with self.with_on([]):
                pass

    def _tried(self, names: Sequence[str], tenant: str, policy: Policy) -> list[Intervention]:
        try:
            wanted = _distinct({name: self.shelf.take(name) for name in names})
            with self.with_on(wanted):
                return wanted
        except UnreelError as error:
            raise UnreelError(f"no video can be made for tenant {tenant!r} of {policy.file}: {error}") from error

    def health(self) -> dict[str, Any]:
        """The model, and how many erasures there are. Raises UnreelError while requests are refused that nothing is wrong
        with.
        """
        if self.policy:
            self.policy.require(self.shelf)
        if self.audit:
            self.audit.require()
        return {"model": self.model.source, "erasures": len(self.shelf.names)}

    def wanted(self, wish: Wish) -> list[Intervention]:
        """What is to be on. Raises UnreelError if that is not for the request to say, or not known."""
        return _distinct(self._named(wish)[0])

    def _named(self, wish: Wish) -> tuple[dict[str, Intervention], str | None]:
        """What is to be on by its names, which may be several for the same, and the digest of the policy that says so."""
        names, policy = self._asked_for(wish)
        return {name: self.shelf.take(name) for name in names}, policy

    def _asked_for(self, wish: Wish) -> tuple[Sequence[str], str | None]:
        if self.policy:
            if wish.erasures:
                raise RefusedError("the tenant decides about erasures here: leave them out")
            if wish.tenant is None:
                raise RefusedError("name the tenant")
            return self.policy.ruling(wish.tenant)
        if wish.tenant is not None:
            raise RefusedError("there is no policy for tenants here: name erasures")
        return wish.erasures, None

    @contextmanager
    def with_on(self, wanted: Sequence[Intervention]) -> Iterator[None]:
        """Inside, exactly `wanted` is on, for nobody else, whatever was on before.

        Changes of weights add up in any order. What changes prompts comes behind them and does not: each sees what those
        before it have made of a prompt, and may have read the concept with the weights as they were.
        """
        pipeline = self.model.pipeline
        with undisturbed(pipeline):
            on, prompts_on = _by_kind(active_interventions(pipeline))
            weights, prompts = _by_kind(wanted)
            gone, new = [each for each in on if each not in weights], [each for each in weights if each not in on]
            anew = gone or new or prompts_on != prompts
            for each in [*(prompts_on if anew else ()), *gone]:
                each.remove(pipeline)
            for each in [*new, *(prompts if anew else ())]:
                each.apply(pipeline)
            if new:
                self._weigh(weights)
            yield

    def _weigh(self, on: Sequence[Intervention]) -> None:
        """Tells the operator, once of a set that is on, where erasures that were made apart break the rest together."""
        apart = [each for each in on if isinstance(each, Erasure) and each.edits_text_encoder]
        these = frozenset(each.identity for each in apart)
        if len(these) < 2 or these in self._weighed:
            return
        self._weighed.add(these)
        moved = self._everyday.moved()
        if not moved <= MOST_EVERYDAY_MOVED:
            concepts = summarise([concept for each in apart for concept in each.concepts])
            tell_operator(
                f"{len(apart)} erasures that were made apart are on together and move everyday prompts by "
                f"{100 * moved:.0f} % (bar: {100 * MOST_EVERYDAY_MOVED:.0f} %), so that everything else may look wrong; "
                f"unlearn them together, in one command: {concepts}"
            )

    def video(self, wish: Wish) -> np.ndarray:
        """(frames, height, width, 3) uint8. Raises BusyError if too many wait, UnreelError for what cannot be made."""
        if not self._places.acquire(blocking=False):
            raise BusyError
        try:
            self.shelf.require(self._asked_for(wish)[0])  # before it waits
            return self._submitted(wish).result()
        finally:
            self._places.release()

    def _submitted(self, wish: Wish) -> Future[np.ndarray]:
        try:
            return self.worker.submit(self._made, wish)
        except RuntimeError:  # it was shut down
            raise BusyError from None

    def _made(self, wish: Wish) -> np.ndarray:
        # Read only now: of requests that wait, however many, none has erasures in memory, and all get the latest policy.
        named, policy = self._named(wish)
        with self.with_on(_distinct(named)):
            if self.audit:
                self.audit.note(wish, named, policy)  # now that they are on, and before minutes are spent
            return generate(self.model.pipeline, [wish.prompt], [wish.seed], self.model.settings, what="")[0]


def _distinct(named: Mapping[str, Intervention]) -> list[Intervention]:
    return list(dict.fromkeys(named.values()))


def _by_kind(interventions: Sequence[Intervention]) -> tuple[list[Intervention], list[Intervention]]:
    """Those that change weights, and those that change prompts."""
    prompts: list[Intervention] = [each for each in interventions if isinstance(each, PromptIntervention)]
    return [each for each in interventions if not isinstance(each, PromptIntervention)], prompts
