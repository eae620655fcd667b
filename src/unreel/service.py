"""A small HTTP service beside a hosted model: each request's video is made with the erasures that are meant for it, and
with no others, out of any number on disk.

Knows requests and who may want what; how erasures go on and videos are made is for others. It does no
authentication: a proxy in front of it authenticates callers and names the tenant.
"""

import errno
import hashlib
import json
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from unreel.errors import UnreelError, is_text, shortened, summarise
from unreel.evaluation.selfcheck import MOST_EVERYDAY_MOVED
from unreel.files import parse_json
from unreel.first_thread import FirstThread
from unreel.interventions import active_interventions, load_intervention
from unreel.interventions.base import RECORD_FILE, Intervention
from unreel.interventions.erasure import Erasure
from unreel.interventions.prompt import PromptIntervention
from unreel.models.adapter import undisturbed
from unreel.models.pair import VideoModel
from unreel.models.sampling import encode_mp4, generate
from unreel.progress import track
from unreel.prompts.suite import LAST_SEED
from unreel.unlearning import Everyday

LONGEST_BODY = 2**16  # bytes of a request
PIECE, SLOWEST = 2**16, 2**14  # bytes of an answer, that are sent at once, and in a second by the slowest client
ROOM = 2**20  # bytes that are free where there is room for lines of an audit
MEGABYTE = 10**6
MENDED_HERE = "the video could not be made"


class BusyError(Exception):
    """Too many requests wait, or no more are taken."""


class RefusedError(UnreelError):
    """The request is invalid, or asks for something its tenant may not. Says nothing that its tenant may not know."""


class Shelf:
    """Erasures by the names of their folders in `folder`. Those used last stay in memory, `megabytes` of them at most."""

    def __init__(self, folder: str | Path, megabytes: float = 512) -> None:
        folder = Path(folder)
        if not folder.is_dir():
            raise UnreelError(f"{folder} is no folder of erasures")
        self.folder, self.megabytes = folder, megabytes
        self._folders: dict[str, Path] = {}
        self._loaded: OrderedDict[str, tuple[int, Intervention]] = OrderedDict()  # with the time of its record
        self._lock = threading.Lock()
        self.look()

    def look(self) -> None:
        """See what is there now. Raises UnreelError if that cannot be seen."""
        try:
            # Names that begin with a dot are those of folders that are being written, or were when it was killed.
            there = [each for each in sorted(self.folder.iterdir()) if not each.name.startswith(".")]
        except OSError as error:
            raise UnreelError(f"cannot look into {self.folder}: {error.strerror}") from error
        folders = {each.name: each for each in there if (each / RECORD_FILE).is_file()}
        with self._lock:
            self._folders = folders
            self._loaded = OrderedDict((name, one) for name, one in self._loaded.items() if name in folders)

    @property
    def names(self) -> list[str]:
        """Of what is there now."""
        self.look()
        return list(self._folders)

    def require(self, names: Sequence[str]) -> None:
        """Raises UnreelError for the first of them that is not there."""
        for name in names:
            if name not in self._folders and name not in self.names:  # it may be new
                raise _unknown(name)

    def take(self, name: str) -> Intervention:
        """The erasure of that name, as it is on disk now. Raises UnreelError if there is none, or it is broken."""
        self.require([name])
        try:
            # Once, since another thread may look any time; and as nothing that the hub has, should it be gone by then.
            folder = self._folders[name].absolute()
            made = (folder / RECORD_FILE).stat().st_mtime_ns
        except (KeyError, OSError):
            raise _unknown(name) from None
        with self._lock:
            known, loaded = self._loaded.get(name, (0, None))
            if loaded and known == made:
                self._loaded.move_to_end(name)
                return loaded
        try:
            loaded = load_intervention(folder)
        except (UnreelError, OSError):
            if (folder / RECORD_FILE).is_file():
                raise
            raise _unknown(name) from None
        with self._lock:
            self._loaded[name] = made, loaded
            self._loaded.move_to_end(name)
            while len(self._loaded) > 1 and self._nbytes > self.megabytes * MEGABYTE:
                self._loaded.popitem(last=False)
        return loaded

    @property
    def _nbytes(self) -> int:
        return sum(loaded.nbytes for _, loaded in self._loaded.values())


def _unknown(name: str) -> UnreelError:
    return UnreelError(f"there is no erasure {shortened(repr(name))}")


@dataclass
class Policy:
    """Which erasures a tenant's requests are made with: those of all, and the tenant's own. Read from `file`, again
    whenever that changes: {"all": [names], "tenants": {tenant: [names]}}.
    """

    file: str | Path
    _read: tuple[tuple[int, int], Mapping[str, Any]] = ((0, 0), {})  # what tells that the file has changed, and its rules
    _lock: Any = field(default_factory=threading.Lock, repr=False)

    def erasures_of(self, tenant: str) -> list[str]:
        """Their names. Raises UnreelError for a tenant that is not listed: nobody else's erasures are a guess."""
        return self.ruling(tenant)[0]

    def ruling(self, tenant: str) -> tuple[list[str], str]:
        """As `erasures_of`, and the digest of the file that says so."""
        rules = self._current()
        if tenant not in rules["tenants"]:
            raise RefusedError(f"there is no tenant {shortened(repr(tenant))}")
        return list(dict.fromkeys([*rules["all"], *rules["tenants"][tenant]])), rules["digest"]

    @property
    def names(self) -> set[str]:
        """Every erasure that it speaks of."""
        rules = self._current()
        return {*rules["all"], *(name for own in rules["tenants"].values() for name in own)}

    @property
    def tenants(self) -> list[str]:
        return list(self._current()["tenants"])

    def require(self, shelf: Shelf) -> None:
        """Raises UnreelError if it cannot be read, or speaks of erasures that are not on the shelf."""
        if missing := sorted(self.names - set(shelf.names)):
            raise UnreelError(f"{shelf.folder} has no erasure {summarise(missing)}, of which the policy speaks")

    def _current(self) -> Mapping[str, Any]:
        with self._lock:
            try:
                about = Path(self.file).stat()
                changed = about.st_mtime_ns, about.st_size
                if changed != self._read[0]:
                    # In one piece: no rules may stand beside what tells of others, or they would be kept for good.
                    self._read = changed, _rules(Path(self.file).read_text(encoding="utf-8"))
            except (OSError, ValueError, RecursionError) as error:
                raise UnreelError(
                    f'{self.file} is no policy, {{"all": [names], "tenants": {{tenant: [names]}}}}: {error}'
                ) from error
            return self._read[1]


def _rules(text: str) -> dict[str, Any]:
    """What a policy says. Raises ValueError for anything that would be passed over: erasures would be off in silence."""
    rules = parse_json(text)
    if not isinstance(rules, dict):
        raise ValueError("it is no object")
    if unknown := sorted(rules.keys() - {"all", "tenants"}):
        raise ValueError(f"it has no place for {summarise(map(repr, unknown))}")
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return {"all": _names(rules.get("all", [])), "tenants": _tenants(rules.get("tenants", {})), "digest": digest}


def _names(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"{value!r} is no list of names")
    return value


def _tenants(value: Any) -> dict[str, list[str]]:
    if not isinstance(value, dict):
        raise ValueError(f"{value!r} lists no tenants")
    return {tenant: _names(names) for tenant, names in value.items()}


class Audit:
    """A file with a line of JSON for each video: when, for whom, from which seed and with which erasures; never the prompt.

    A line is appended in one piece, and the file opened for it, so that several services may share one, and it may be
    renamed meanwhile.
    """

    def __init__(self, file: str | Path) -> None:
        self.file = Path(file)
        self._lock = threading.Lock()
        self.require()

    def require(self) -> None:
        """Raises UnreelError unless lines can be appended, as far as that shows beforehand."""
        self._append(b"")
        if shutil.disk_usage(self.file.absolute().parent).free < ROOM:
            raise self._unwritten(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))

    def note(self, wish: "Wish", on: Mapping[str, Intervention], policy: str | None) -> None:
        """That a video is made with what is `on`, by its names, as the `policy` of that digest says. Raises UnreelError if
        that cannot be written.
        """
        about = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "tenant": wish.tenant,
            "seed": wish.seed,
            "erasures": {name: each.identity for name, each in on.items()},
            "policy": policy,
        }
        self._append(json.dumps(about).encode() + b"\n")

    def _append(self, line: bytes) -> None:
        try:
            with self._lock, self.file.open("ab+", buffering=0) as file:
                if line and file.seek(0, os.SEEK_END):
                    file.seek(-1, os.SEEK_END)
                    line = line if file.read(1) == b"\n" else b"\n" + line  # behind one that was cut short
                if file.write(line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise self._unwritten(error) from error

    def _unwritten(self, error: OSError) -> UnreelError:
        return UnreelError(f"cannot write {self.file}, and no video is made without: {error.strerror}")


@dataclass(frozen=True)
class Wish:
    """What one request asks for; `tenant` where a policy decides, else the names of `erasures`."""

    prompt: str
    seed: int = 0
    tenant: str | None = None
    erasures: tuple[str, ...] = ()

    @staticmethod
    def read(body: bytes) -> "Wish":
        """From JSON. Raises UnreelError if that is invalid."""
        try:
            wish = parse_json(body)
        except (ValueError, RecursionError) as error:
            raise RefusedError(f"the request is no JSON: {shortened(str(error))}") from None
        if not isinstance(wish, dict) or not set(wish) <= {"prompt", "seed", "tenant", "erasures"}:
            raise RefusedError("a request is an object with prompt and, optionally, seed and tenant or erasures")
        prompt, seed = wish.get("prompt"), wish.get("seed", 0)
        if not isinstance(prompt, str) or not prompt.strip() or not is_text(prompt):
            raise RefusedError("the prompt is a text that is not empty")
        if type(seed) is not int or not 0 <= seed <= LAST_SEED:
            raise RefusedError("the seed is a whole number from 0 on")
        if not isinstance(wish.get("tenant"), (str, type(None))):
            raise RefusedError("the tenant is a text")
        try:
            return Wish(prompt, seed, wish.get("tenant"), tuple(_names(wish.get("erasures", []))))
        except (ValueError, RecursionError):
            raise RefusedError("erasures are a list of names") from None


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
            wanted = _each_once({name: self.shelf.take(name) for name in names})
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
        return _each_once(self._named(wish)[0])

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
            _tell_operator(
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
        with self.with_on(_each_once(named)):
            if self.audit:
                self.audit.note(wish, named, policy)  # now that they are on, and before minutes are spent
            return generate(self.model.pipeline, [wish.prompt], [wish.seed], self.model.settings, what="")[0]


def _each_once(named: Mapping[str, Intervention]) -> list[Intervention]:
    return list(dict.fromkeys(named.values()))


def _by_kind(interventions: Sequence[Intervention]) -> tuple[list[Intervention], list[Intervention]]:
    """Those that change weights, and those that change prompts."""
    prompts: list[Intervention] = [each for each in interventions if isinstance(each, PromptIntervention)]
    return [each for each in interventions if not isinstance(each, PromptIntervention)], prompts


def _tell_operator(what: str) -> None:
    print(f"unreel: {what}", file=sys.stderr, flush=True)


class _Handler(BaseHTTPRequestHandler):
    server: "Server"
    timeout = 10  # seconds that a client may take to say what it wants, and for each piece of the answer

    def do_GET(self) -> None:
        service = self.server.service
        try:
            if self.path == "/health":
                self._json(HTTPStatus.OK, service.health())
            elif self.path == "/erasures" and not service.policy:  # a tenant need not know of others
                self._json(HTTPStatus.OK, service.shelf.names)
            else:
                self._nothing_there()
        except UnreelError as error:
            self._to_mend(error, "the erasures cannot be served: standard error says why")

    def do_POST(self) -> None:
        if self.path != "/videos":
            self._nothing_there()
            return
        try:
            service = self.server.service
            frames = service.video(Wish.read(self._body()))
            video = encode_mp4(frames, service.model.settings.fps)
        except (BusyError, CancelledError):
            self._json(HTTPStatus.SERVICE_UNAVAILABLE, {"error": "too many requests wait: try again"}, {"Retry-After": "5"})
        except UnreelError as error:
            self._refuse(error)
        except Exception:
            self._json(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": MENDED_HERE})
            raise
        else:
            self._send(HTTPStatus.OK, "video/mp4", video)

    def _body(self) -> bytes:
        """Of the request. Raises RefusedError unless it is as long as was said, and that is no more than what is taken."""
        length = self.headers.get("Content-Length", "").lstrip("0")
        if not length.isdecimal() or len(length) > len(str(LONGEST_BODY)) or int(length) > LONGEST_BODY:
            raise RefusedError(f"POST /videos takes JSON of at most {LONGEST_BODY} bytes")
        try:
            body = self.rfile.read(int(length))
        except (TimeoutError, ConnectionError):
            body = b""
        if len(body) < int(length):
            raise RefusedError(f"the request ends before the {length} bytes that it was to have")
        return body

    def _nothing_there(self) -> None:
        there = ["GET /health", *(() if self.server.service.policy else ("GET /erasures",)), "POST /videos"]
        self._json(HTTPStatus.NOT_FOUND, {"error": f"there is {summarise(there)}"})

    def _refuse(self, error: UnreelError) -> None:
        """Tells whose request it is what they did; what the operator has to mend, the operator."""
        if isinstance(error, RefusedError) or not self.server.service.policy:
            self._json(HTTPStatus.BAD_REQUEST, {"error": shortened(str(error))})
        else:
            self._to_mend(error, MENDED_HERE)

    def _to_mend(self, error: UnreelError, told: str) -> None:
        """`told` is what whoever asked is told."""
        _tell_operator(shortened(str(error)))
        self._json(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": told})

    def _json(self, status: HTTPStatus, document: Any, headers: Mapping[str, str] | None = None) -> None:
        self._send(status, "application/json", json.dumps(document).encode() + b"\n", headers)

    def _send(self, status: HTTPStatus, kind: str, content: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        try:
            self.end_headers()
            deadline = time.monotonic() + self.timeout + len(content) / SLOWEST
            for start in range(0, len(content), PIECE):  # each may take as long: slow clients get all of it too
                if time.monotonic() > deadline:  # or stopping would wait for them
                    raise TimeoutError
                self.wfile.write(content[start : start + PIECE])
        except (TimeoutError, ConnectionError):  # who asked has left
            self.close_connection = True

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing is collected, prompts least of all."""


class Server(ThreadingHTTPServer):
    """Serves until `shutdown`; a thread for each request, whose videos the service makes one by one. Closing it waits for
    those that are being made.
    """

    daemon_threads = False

    def __init__(self, service: Service, host: str, port: int) -> None:
        self.service = service
        is_ipv6 = ":" in host
        self.address_family = socket.AF_INET6 if is_ipv6 else socket.AF_INET
        self._host = f"[{host}]" if is_ipv6 else host  # as addresses have it
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or error
            raise UnreelError(f"cannot serve at {self._host}:{port}: {why}") from error

    @property
    def url(self) -> str:
        return f"http://{self._host}:{self.server_address[1]}"


def serve(server: Server, worker: FirstThread) -> None:
    """Serve from another thread, and compute in this one, the first, until a signal says to stop.

    What was asked for by then is still made, unless a second signal comes, which raises KeyboardInterrupt.
    """

    def stop(number: int, _: object) -> None:
        signal.signal(number, signal.default_int_handler)
        server.shutdown()
        server.socket.close()  # who comes now is told so by their own machine, instead of waiting
        worker.shutdown()

    for number in (signal.SIGINT, signal.SIGTERM):  # SIGTERM is how services are told to stop
        signal.signal(number, stop)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    worker.run()
