"""Requests over HTTP, and their answers, however slow clients are.

Does no authentication: a proxy in front of it authenticates callers and names the tenant.
"""

import io
import json
import signal
import socket
import threading
import time
from collections.abc import Mapping
from concurrent.futures import CancelledError
from dataclasses import replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from selectors import EVENT_READ, DefaultSelector
from typing import Any

from unreel.errors import UnreelError, shortened, summarise
from unreel.first_thread import FirstThread
from unreel.models.sampling import encode_mp4
from unreel.service.making import Service
from unreel.service.refusals import BusyError, RefusedError, tell_operator
from unreel.service.wish import Wish

NOT_MADE = "the video could not be made"
LONGEST_BODY = 2**16  # bytes of a request
LONGEST_ASKING = 30  # seconds that a client may take to send its request
SPARE = 64  # connections beside those whose requests may be in progress: others are closed at once
PIECE, SLOWEST = 2**16, 2**14  # bytes of an answer that are sent at once; that the slowest client takes in a second


class _Asking(io.RawIOBase):
    """A request as it arrives over a connection, piece by piece. Raises TimeoutError once the client has taken too long for
    a piece, or for all of it.
    """

    def __init__(self, connection: socket.socket, patience: float) -> None:
        self.connection, self.patience = connection, patience  # seconds that a piece may take
        self.deadline = time.monotonic() + max(patience, LONGEST_ASKING)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.connection.settimeout(min(left, self.patience))
        try:
            return self.connection.recv_into(buffer)
        finally:
            self.connection.settimeout(self.patience)


class _Handler(BaseHTTPRequestHandler):
    server: "Server"
    timeout = 10  # seconds that a client may take for each piece of its request and of the answer

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self.rfile = io.BufferedReader(_Asking(self.connection, self.timeout))
        self._looking = threading.Lock()  # the thread of the request and the worker both ask whether the client waits

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

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        if self.path != "/videos":
            self._nothing_there()
            return
        if self.headers.get("Sec-Fetch-Site") == "cross-site":  # a page of somebody else's, open in the operator's browser
            self._json(HTTPStatus.FORBIDDEN, {"error": "other sites' pages may not ask for videos"})
            return
        try:
            service = self.server.service
            frames = service.video(self._wish(), self._waits)
            video = encode_mp4(frames, service.model.settings.fps)
        except (BusyError, CancelledError):
            self._json(HTTPStatus.SERVICE_UNAVAILABLE, {"error": "too many requests wait: try again"}, {"Retry-After": "5"})
        except UnreelError as error:
            self._refuse(error)
        except Exception:
            self._json(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": NOT_MADE})
            raise
        else:
            self._send(HTTPStatus.OK, "video/mp4", video)

    def _wish(self) -> Wish:
        """What the request asks for. The tenant is named by the server's tenant header, which the proxy sets, if there is
        one; else by the request itself.
        """
        wish, header = Wish.read(self._body()), self.server.tenant_header
        if header is None:
            return wish
        named = self.headers.get_all(header) or []
        if wish.tenant is not None or len(named) != 1 or not named[0].strip(" \t"):
            raise RefusedError(f"the header {header} names the tenant here, once, and the request does not")
        return replace(wish, tenant=named[0].strip(" \t").encode("latin-1").decode("utf-8", "replace"))

    def _waits(self) -> bool:
        """Whether the client is still there for an answer."""
        with self._looking, DefaultSelector() as ready:
            ready.register(self.connection, EVENT_READ)
            try:  # of what comes after the request, nothing counts
                return not ready.select(0) or bool(self.connection.recv(PIECE))
            except OSError:
                return False

    def _body(self) -> bytes:
        """The request's body. Raises RefusedError if it is longer than is taken, or ends before its Content-Length."""
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
        """Tells the client of a mistake in its request, and the operator of what only the operator can mend."""
        if isinstance(error, RefusedError):
            self._json(HTTPStatus.BAD_REQUEST, {"error": shortened(str(error))})
        else:
            self._to_mend(error, NOT_MADE)

    def _to_mend(self, error: UnreelError, told: str) -> None:
        """Tells the operator of the error, and the client `told` in its place."""
        tell_operator(str(error))
        self._json(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": told})

    def _json(self, status: HTTPStatus, document: Any, headers: Mapping[str, str] | None = None) -> None:
        self._send(status, "application/json", json.dumps(document).encode() + b"\n", headers)

    def _send(self, status: HTTPStatus, kind: str, content: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        try:
            self.end_headers()
            content = b"" if getattr(self, "command", None) == "HEAD" else content
            deadline = time.monotonic() + self.timeout + len(content) / SLOWEST
            for start in range(0, len(content), PIECE):  # the timeout is for a piece: slow clients get all of it too
                if time.monotonic() > deadline:  # else stopping the server would wait for them
                    raise TimeoutError
                self.wfile.write(content[start : start + PIECE])
        except (TimeoutError, ConnectionError):  # the client has left
            self.close_connection = True

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What is no request as HTTP has it is answered as all else is."""
        self.close_connection = True
        self._json(HTTPStatus(code), {"error": shortened(message or HTTPStatus(code).phrase)})

    def version_string(self) -> str:
        return "unreel"

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing is collected, prompts least of all."""


class Server(ThreadingHTTPServer):
    """Serves until `shutdown`. Each request has a thread; the service makes their videos one by one. Closing the server
    waits for those that are being made. With a `tenant_header`, a proxy names each request's tenant in that header.
    """

    daemon_threads = False
    request_queue_size = 128

    def __init__(self, service: Service, host: str, port: int, tenant_header: str | None = None) -> None:
        if not host:
            raise UnreelError("name the address to listen on: an empty --host would be all of them")
        self.service, self.tenant_header = service, tenant_header
        self._connections = threading.BoundedSemaphore(service.places + SPARE)
        is_ipv6 = ":" in host
        self.address_family = socket.AF_INET6 if is_ipv6 else socket.AF_INET
        self._host = f"[{host}]" if is_ipv6 else host  # as addresses have it
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or error
            raise UnreelError(f"cannot serve at {self._host}:{port}: {why}") from error

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._connections.acquire(blocking=False):  # each has a thread
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._connections.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._connections.release()

    @property
    def url(self) -> str:
        return f"http://{self._host}:{self.server_address[1]}"


def serve(server: Server, worker: FirstThread) -> None:
    """Serve from another thread, and compute in this one, the first, until a signal says to stop.

    What was asked for by then is still made, unless a second signal comes, which raises KeyboardInterrupt.
    """

    def stop(*_: object) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.default_int_handler)
        server.shutdown()
        server.socket.close()  # later connections are refused at once instead of waiting
        worker.shutdown()

    threading.Thread(target=server.serve_forever, daemon=True).start()  # first: to shut down what does not serve yet waits
    for number in (signal.SIGINT, signal.SIGTERM):  # SIGTERM is how services are told to stop
        signal.signal(number, stop)
    worker.run()
