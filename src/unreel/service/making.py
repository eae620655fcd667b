"""Videos that are wished for, one after the other, each with the erasures that are meant for it, and with no others.

Knows wishes and who may have what; knows no HTTP.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from unreel.checking import Everyday
from unreel.errors import UnreelError, summarise
from unreel.evaluation.selfcheck import MOST_EVERYDAY_MOVED
from unreel.interventions import active_interventions
from unreel.interventions.base import Intervention
from unreel.interventions.erasure import Erasure, take_all_off
from unreel.interventions.prompt import PromptIntervention
from unreel.models.adapter import quiet, require_negative_prompt, undisturbed
from unreel.models.loading import shown
from unreel.models.pair import Settings, VideoModel
from unreel.models.sampling import generate
from unreel.progress import track
from unreel.prompts.concept import Concept
from unreel.service.audit import Audit
from unreel.service.policy import Policy
from unreel.service.refusals import BusyError, RefusedError, tell_operator
from unreel.service.shelf import Shelf
from unreel.service.wish import Wish

MOST_FAILED = 3  # videos in a row: then more is wrong than a single request
BETWEEN_LOOKS = 1.0  # seconds between two looks at whether a client that waits is still there


class Service:
    """Makes videos of one model, one after the other, each with its own erasures on and no others.

    Erasures stay on until a request wants others, so that requests for the same erasures cost nothing more. `worker`
    computes all videos, whichever threads ask. With an `audit`, each video is noted there before it is made.
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
        self.places, self._asking, self._counting = waiting, Counter[str | None](), threading.Lock()  # requests, by tenant
        if active_interventions(model.pipeline):
            raise UnreelError("the model has erasures on already: serve the original one")
        self._everyday, self._weighed, self._felt = Everyday(model), set[frozenset[str]](), set[str]()
        self._failed = 0  # how many of the last videos, in a row
        if policy:
            policy.require(shelf)
            self._try(policy)

    def _try(self, policy: Policy) -> None:
        """Put each erasure on once, and each set of prompt changes once; all other combinations follow from these.
        Raises UnreelError for what cannot go on: none of that tenant's videos could be made.
        """
        names_of = policy.tenants
        tenant_of = {name: tenant for tenant, names in names_of.items() for name in names}
        try:
            prompts = [
                name
                for name, tenant in track(list(tenant_of.items()), "trying the policy", "erasure", brief=True)
                if _by_kind(self._tried([name], tenant, policy))[1]
            ]
            sets = {tuple(name for name in names if name in prompts): tenant for tenant, names in names_of.items()}
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
        """The model, and how many erasures there are. Raises UnreelError while good requests are refused too, and once
        videos cannot be made any more.
        """
        if self._failed >= MOST_FAILED:
            raise UnreelError(f"the last {self._failed} videos could not be made: look above, and start again")
        if self.policy:
            self.policy.require(self.shelf)
            for name in self.policy.everybody:
                self.shelf.require_sound(name)
        if self.audit:
            self.audit.require()
        return {"model": shown(self.model.source), "erasures": len(self.shelf.names)}

    def wanted(self, wish: Wish) -> list[Intervention]:
        """The interventions that a request wants on. Raises UnreelError if the request may not choose them, or they are
        unknown.
        """
        return _distinct(self._named(wish)[0])

    def _named(self, wish: Wish) -> tuple[dict[str, Intervention], str | None]:
        """The interventions that a request wants on, by name, several of which may be the same; and the digest of the
        policy that decides, if there is one.
        """
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
        """Inside, exactly `wanted` is on, whatever was on before, and no other thread changes that.

        Changes of weights add up in any order. Changes of prompts come after them, in the order of `wanted`: each sees
        the prompt as those before it have left it, and may have read its concept with the weights as they were then.
        """
        pipeline = self.model.pipeline
        with undisturbed(pipeline):
            on, prompts_on = _by_kind(active_interventions(pipeline))
            weights, prompts = _by_kind(wanted)
            gone, new = [each for each in on if each not in weights], [each for each in weights if each not in on]
            anew = gone or new or prompts_on != prompts
            self._require_listed(new)
            self._require_felt([*new, *(prompts if anew else ())])
            with self._all_or_nothing():
                for each in [*(prompts_on if anew else ()), *gone]:
                    each.remove(pipeline)
                for each in new:
                    each.apply(pipeline)
                if new:
                    self._weigh(weights)  # before changes of prompts, some of which read their concepts with the encoder
                for each in prompts if anew else ():
                    each.apply(pipeline)
            yield

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """If what is inside ends half-way, as where memory runs out, all erasures come off: the next request is not to take
        one for being on that is not.
        """
        try:
            yield
        except UnreelError:
            raise
        except BaseException:
            self._failed += 1
            take_all_off(self.model.pipeline)
            raise

    def _require_listed(self, wanted: Sequence[Intervention]) -> None:
        """Raises UnreelError for another package's kind of intervention, of which a pipeline does not tell that it is on:
        it would stay on for requests that do not want it.
        """
        if unlisted := [type(each).__name__ for each in wanted if not isinstance(each, Erasure)]:
            raise UnreelError(
                f"{unlisted[0]} is neither an Erasure nor a PromptIntervention, and nobody can tell from a pipeline "
                "whether it is on: it cannot be served"
            )

    def _require_felt(self, wanted: Sequence[Intervention]) -> None:
        """Raises UnreelError for an intervention that would be on and do nothing; each is checked only once."""
        for each in wanted:
            if each.identity not in self._felt:
                each.require_felt(self.model.pipeline, self.model.settings.guidance)
                self._felt.add(each.identity)

    def _weigh(self, on: Sequence[Intervention]) -> None:
        """Tells the operator, once for each set that is on, if erasures that were made apart together move everyday
        prompts too far, or if one makes what another is to forget.
        """
        apart = [each for each in on if isinstance(each, Erasure) and each.edits_text_encoder]
        these = frozenset(each.identity for each in apart)
        if len(these) < 2 or these in self._weighed:
            return
        self._weighed.add(these)
        for concept, anchor in _forgotten_anchors(apart):
            tell_operator(
                f"for {concept}, {anchor!r} is made, which another erasure that is on with it forgets: make it again with "
                "another --replace, or unlearn the two together, in one command"
            )
        moved = self._everyday.moved()
        if not moved <= MOST_EVERYDAY_MOVED:
            concepts = summarise([concept for each in apart for concept in each.concepts])
            tell_operator(
                f"{len(apart)} erasures that were made apart are on together and move everyday prompts by "
                f"{100 * moved:.0f} % (bar: {100 * MOST_EVERYDAY_MOVED:.0f} %), so that everything else may look wrong; "
                f"unlearn them together, in one command: {concepts}"
            )

    def video(self, wish: Wish, waits: Callable[[], bool] = lambda: True) -> np.ndarray:
        """The video: (frames, height, width, 3) uint8. `waits` tells whether the client still waits; it is asked every
        second, by this thread and by the worker.

        Raises BusyError if too many wait, CancelledError if the client has left, RefusedError for what cannot be asked
        for, and UnreelError for what cannot be made.
        """
        with self._place_of(wish.tenant):
            self._settings_of(wish)  # before it waits
            with self._theirs():
                self.shelf.require(self._asked_for(wish)[0])
            made = self._submitted(wish, waits)
            while True:
                try:
                    return made.result(BETWEEN_LOOKS)
                except TimeoutError:
                    if made.done():
                        return made.result()
                    if not waits():
                        made.cancel()  # unless it is being made already

    @contextmanager
    def _place_of(self, tenant: str | None) -> Iterator[None]:
        """One of the places for requests in progress; where there are several tenants, each gets half of them at most.
        Raises BusyError if there is none.
        """
        shared = self.policy is not None and len(self.policy.tenants) > 1
        most = (self.places + 1) // 2 if shared else self.places
        with self._counting:
            if self._asking.total() >= self.places or self._asking[tenant] >= most:
                raise BusyError
            self._asking[tenant] += 1
        try:
            yield
        finally:
            with self._counting:
                self._asking -= Counter([tenant])  # which forgets those that ask for nothing

    def _submitted(self, wish: Wish, waits: Callable[[], bool]) -> Future[np.ndarray]:
        try:
            return self.worker.submit(self._made, wish, waits)
        except RuntimeError:  # it was shut down
            raise BusyError from None

    def _made(self, wish: Wish, waits: Callable[[], bool] = lambda: True) -> np.ndarray:
        while waits():
            with ExitStack() as on:
                with self._theirs():
                    # Only now: of requests that wait, however many, none has erasures in memory, and all get the latest
                    # policy.
                    named, policy = self._named(wish)
                    on.enter_context(self.with_on(_distinct(named)))
                if self.audit:
                    self.audit.note(wish, named, policy)  # now that they are on, and before minutes are spent
                made = self._generated(wish)
            if set(self._asked_for(wish)[0]) <= set(named):  # else a takedown came meanwhile, and counts for this video too
                return made
        raise CancelledError

    def _generated(self, wish: Wish) -> np.ndarray:
        try:
            with quiet():  # no prompt is to be written down anywhere
                made = generate(self.model.pipeline, [wish.prompt], [wish.seed], self._settings_of(wish), what="")[0]
        except Exception:
            self._failed += 1
            raise
        self._failed = 0
        return made

    @contextmanager
    def _theirs(self) -> Iterator[None]:
        """Inside, an UnreelError becomes a RefusedError, for the client to mend, if clients themselves choose the
        erasures.
        """
        try:
            yield
        except UnreelError as error:
            if self.policy or isinstance(error, RefusedError):
                raise
            raise RefusedError(str(error)) from error

    def _settings_of(self, wish: Wish) -> Settings:
        """Raises RefusedError for a negative prompt that the model would pass over."""
        settings, negative = self.model.settings, wish.negative_prompt
        if negative is None:
            return settings
        try:
            require_negative_prompt(self.model.pipeline, settings.guidance)
        except UnreelError:
            raise RefusedError("this model is not guided by a negative prompt: leave negative_prompt out") from None
        return replace(settings, negative_prompt=negative)


def _forgotten_anchors(on: Sequence[Erasure]) -> Iterator[tuple[str, str]]:
    """The concepts whose anchor another of the erasures forgets, each with that anchor."""
    parts = [(each, part) for each in on for part in each.provenance["parts"]]
    for each, part in parts:
        anchor = part.get("anchor", "")
        if any(other is not each and Concept.recorded(theirs).is_named_in(anchor) for other, theirs in parts):
            yield part["concept"], anchor


def _distinct(named: Mapping[str, Intervention]) -> list[Intervention]:
    return list(dict.fromkeys(named.values()))


def _by_kind(interventions: Sequence[Intervention]) -> tuple[list[Intervention], list[Intervention]]:
    """Those that change weights, and those that change prompts."""
    prompts: list[Intervention] = [each for each in interventions if isinstance(each, PromptIntervention)]
    return [each for each in interventions if not isinstance(each, PromptIntervention)], prompts
