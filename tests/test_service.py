"""A service gives every request the erasures that are meant for it, and no others, however many ask at once."""

import http.client
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from unittest.mock import MagicMock
from urllib.request import urlopen

import numpy as np
import pytest
import torch
from conftest import make_pair, same, weights

from unreel import Concept, Erasure, UnreelError, active_interventions, generate, unlearn
from unreel.first_thread import FirstThread
from unreel.interventions.base import RECORD_FILE, WEIGHTS_FILE, Intervention
from unreel.interventions.prompt import PromptRewrite
from unreel.interventions.safree import VideoEraser
from unreel.methods import configure
from unreel.methods.video_eraser import VideoEraserConfig
from unreel.models.deltas import LowRank
from unreel.service import Audit, BusyError, Policy, Server, Service, Shelf, Wish, serve
from unreel.service.http import _Asking, _Handler
from unreel.service.refusals import RefusedError

NAMES = ("pizza", "tokyo-tower", "robot", "cat")


@pytest.fixture(scope="module")
def model():
    return make_pair().video


@pytest.fixture(autouse=True)
def plain(model):
    """What a service has left on is taken off after each test."""
    yield
    for each in active_interventions(model.pipeline):
        each.remove(model.pipeline)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four erasures of a tiny model, made hastily."""
    from unreel.evaluation import selfcheck
    from unreel.methods import text_ablation
    from unreel.models import anchors

    folder = tmp_path_factory.mktemp("erasures")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_ablation, "STEPS", 5)
        for name in ("PAIRS", "NEIGHBOURS", "EVERYDAY_PROMPTS"):
            patch.setattr(selfcheck, name, 4)
        patch.setattr(anchors, "LOOKED_AT", 12)
        for name in NAMES:
            unlearn(Concept(name.replace("-", " ")), make_pair()).save_pretrained(folder / name)
    return folder


def policy(tmp_path, **tenants):
    file = tmp_path / "policy.json"
    file.write_text(json.dumps({"all": ["pizza"], "tenants": tenants}))
    return Policy(file)


@pytest.fixture
def served(model, folder):
    """What starts a service and gives its port; all are shut down at the end."""
    servers = []

    def serve(*more, tenant_header=None, home=folder, **options):
        server = Server(Service(model, Shelf(home), *more, **options), "127.0.0.1", 0, tenant_header)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return server.server_address[1]

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def ask(port, method="POST", path="/videos", body=None, **headers):
    """Status, headers and content of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    connection.request(method, path, content, headers)
    answer = connection.getresponse()
    return answer.status, dict(answer.getheaders()), answer.read()


def test_each_tenant_gets_its_own_erasures_whoever_else_asks(model, folder, served, tmp_path):
    own = {"a": ["tokyo-tower"], "b": ["robot", "cat"], "c": []}
    service = Service(model, Shelf(folder), policy(tmp_path, **own))
    before = weights(model.pipeline.text_encoder)
    expected = {}
    for tenant, names in own.items():
        for name in ["pizza", *names]:
            Shelf(folder).take(name).apply(model.pipeline)
        expected[tenant] = generate(model.pipeline, ["a cat"], [3], model.settings)[0]
        for each in active_interventions(model.pipeline):
            each.remove(model.pipeline)
    assert len({video.tobytes() for video in expected.values()}) == 3
    tenants = ["a", "b", "c"] * 6
    with ThreadPoolExecutor(6) as threads:
        videos = list(threads.map(lambda tenant: service.video(Wish("a cat", 3, tenant)), tenants))
    assert all(np.array_equal(video, expected[tenant]) for tenant, video in zip(tenants, videos, strict=True))
    for each in active_interventions(model.pipeline):
        each.remove(model.pipeline)
    assert same(before, weights(model.pipeline.text_encoder))


def rewrite(concept, anchor):
    return PromptRewrite({"parts": [{"concept": concept, "synonyms": [], "anchor": anchor}]})


FIRST, SECOND = rewrite("a robot", "a cat"), rewrite("a cat", "a dog")


def video_eraser(concept):
    return VideoEraser({"parts": [{"concept": concept, "synonyms": [], "settings": asdict(VideoEraserConfig())}]})


@pytest.mark.parametrize(
    ("before", "wanted"),
    [
        ([SECOND], [FIRST, SECOND]),
        ([video_eraser("robot")], ["cat", video_eraser("robot")]),
        (["cat", video_eraser("robot")], [video_eraser("robot")]),
        (["cat", "pizza", FIRST], [FIRST, "robot"]),
    ],
)
def test_what_a_request_gets_does_not_depend_on_those_before_it(model, folder, before, wanted):
    service = Service(model, Shelf(folder))
    before, wanted = ([service.shelf.take(e) if isinstance(e, str) else e for e in some] for some in (before, wanted))
    made = {}
    for when, earlier in (("alone", []), ("after another", before)):
        with service.with_on(earlier):
            pass
        service._named = lambda wish: (dict(enumerate(wanted)), None)
        made[when] = service._made(Wish("a robot in the snow", 3))
        with service.with_on([]):
            assert not active_interventions(model.pipeline)
    assert np.array_equal(made["alone"], made["after another"])


def test_it_speaks_http(served, model):
    port = served()
    status, headers, content = ask(port, body={"prompt": "a cat", "seed": 3, "erasures": ["pizza"]})
    assert (status, headers["Content-Type"]) == (200, "video/mp4") and content[4:8] == b"ftyp"
    assert ask(port, body={"prompt": "a cat", "seed": 3, "erasures": ["pizza"]})[2] == content
    assert ask(port, body={"prompt": "a cat", "seed": 3})[2] != content
    assert json.loads(ask(port, "GET", "/erasures")[2]) == sorted(NAMES)
    assert json.loads(ask(port, "GET", "/health")[2]) == {"model": model.source, "erasures": 4}
    status, headers, content = ask(port, "HEAD", "/health")
    assert (status, headers["Server"], content) == (200, "unreel", b"") and int(headers["Content-Length"]) > 0
    status, headers, content = ask(port, "PUT", "/videos")
    assert (status, headers["Content-Type"]) == (501, "application/json") and json.loads(content)["error"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "no JSON"),
        (b"[" * 5000, "no JSON"),
        (b'{"prompt": "a cat", "tenant": "a", "tenant": "b"}', "no JSON: it has 'tenant' twice"),
        ([], "a request is an object"),
        ({"prompt": "a cat", "sed": 1}, "a request is an object"),
        ({"prompt": " "}, "the prompt is a text"),
        ({"prompt": ["a cat"]}, "the prompt is a text"),
        (b'{"prompt": "a \\ud800 cat"}', "the prompt is a text"),
        ({"prompt": "a cat", "negative_prompt": ["fog"]}, "the negative_prompt is a text"),
        ({"prompt": "a cat", "seed": -1}, "the seed is a whole number"),
        ({"prompt": "a cat", "seed": True}, "the seed is a whole number"),
        ({"prompt": "a cat", "erasures": "pizza"}, "erasures are a list"),
        ({"prompt": "a cat", "erasures": ["pizza"] * 33}, "at most 32 erasures"),
        ({"prompt": "a cat", "erasures": ["../pizza"]}, "there is no erasure '../pizza'"),
        ({"prompt": "a cat", "erasures": ["."]}, "there is no erasure"),
        ({"prompt": "a cat", "tenant": "a"}, "no policy for tenants"),
        ({"prompt": "x" * 70_000}, "at most 65536 bytes"),
    ],
)
def test_what_cannot_be_meant_is_answered_in_one_line(served, body, says):
    status, _, content = ask(served(), body=body)
    assert status == 400 and says in json.loads(content)["error"] and content.count(b"\n") == 1


@pytest.mark.parametrize(
    ("announced", "waits", "says"),
    [("9" * 5000, False, "at most 65536"), ("-1", False, "at most 65536"), ("100", False, "ends"), ("100", True, "ends")],
)
def test_a_body_that_is_not_as_long_as_it_says_is_refused(served, monkeypatch, announced, waits, says):
    """At once if the connection ends, else when patience does."""
    monkeypatch.setattr("unreel.service.http._Handler.timeout", 5 if waits else 60)
    with socket.create_connection(("127.0.0.1", served()), 60) as connection:
        connection.sendall(f'POST /videos HTTP/1.1\r\nContent-Length: {announced}\r\n\r\n{{"prompt": "a"}}'.encode())
        if not waits:
            connection.shutdown(socket.SHUT_WR)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert answer.status == 400 and says in json.loads(answer.read())["error"]


class Client:
    """What an answer is written to, by a client that leaves, or takes nothing any more, behind so many bytes."""

    def __init__(self, takes=np.inf):
        self.pieces, self.takes = [], takes

    def write(self, piece):
        if sum(map(len, self.pieces)) + len(piece) > self.takes:
            raise TimeoutError
        self.pieces.append(piece)

    def flush(self):
        pass


@pytest.mark.parametrize("takes", [np.inf, 3 * 2**16, 0])
def test_a_slow_client_gets_all_of_a_video_and_nothing_else_if_it_leaves(model, folder, monkeypatch, takes):
    """A socket's timeout bounds each piece; what is written behind a part of a video would be taken for the rest of it."""
    video, client = np.random.default_rng(0).bytes(10 * 2**16 + 1), Client(takes)
    monkeypatch.setattr("unreel.service.http.encode_mp4", lambda frames, fps: video)
    handler = object.__new__(_Handler)
    handler.server = MagicMock(service=Service(model, Shelf(folder)), tenant_header=None)
    handler.path, (handler.connection, _), handler._looking = "/videos", socket.socketpair(), threading.Lock()
    body = b'{"prompt": "a cat"}'
    handler.headers, handler.rfile, handler.wfile = {"Content-Length": str(len(body))}, io.BytesIO(body), client
    handler.request_version, handler.requestline, handler.close_connection = "HTTP/1.1", "POST /videos HTTP/1.1", False
    handler.do_POST()
    head, _, sent = b"".join(client.pieces).partition(b"\r\n\r\n")
    assert max(map(len, client.pieces), default=0) <= 2**16
    if takes == np.inf:
        assert b" 200 " in head and sent == video and not handler.close_connection
    else:
        assert video.startswith(sent) and len(sent) < len(video) and handler.close_connection


def test_a_client_that_takes_next_to_nothing_does_not_hold_up_for_ever(monkeypatch):
    client, times = Client(), iter(range(0, 10**6, 9))  # seconds: just within the timeout of each piece
    monkeypatch.setattr("unreel.service.http.time", MagicMock(monotonic=lambda: next(times)))
    handler = object.__new__(_Handler)
    handler.wfile, handler.request_version, handler.requestline, handler.close_connection = client, "HTTP/1.1", "", False
    handler._send(200, "video/mp4", bytes(10 * 2**20))
    assert handler.close_connection and 1 < len(client.pieces) < 10 * 2**20 / 2**16


def test_a_request_may_lead_away_from_more_than_the_service_does(model, folder):
    wish = Wish.read(b'{"prompt": "a cat", "seed": 3, "negative_prompt": "fog"}')
    assert wish == Wish("a cat", 3, negative_prompt="fog")
    led = Service(model, Shelf(folder)).video(wish)
    own = Service(model, Shelf(folder)).video(Wish("a cat", 3))
    everyone = replace(model, settings=replace(model.settings, negative_prompt="fog"))
    assert (led == Service(everyone, Shelf(folder)).video(Wish("a cat", 3))).all() and not (led == own).all()
    assert (own == Service(everyone, Shelf(folder)).video(Wish("a cat", 3, negative_prompt=""))).all()
    unguided = Service(replace(model, settings=replace(model.settings, guidance=1.0)), Shelf(folder), worker=MagicMock())
    with pytest.raises(RefusedError, match="leave negative_prompt out"):
        unguided.video(wish)
    unguided.worker.submit.assert_not_called()


@pytest.mark.parametrize("asked", [{"erasures": ["cat", "secret"]}, {"tenant": "a"}])
def test_requests_that_wait_hold_no_erasures(model, folder, asked):
    """Nor are they made to wait for what can never be made."""
    service, taken = Service(model, Shelf(folder), worker=MagicMock()), []
    service.shelf.take = taken.append
    with pytest.raises(UnreelError, match="there is no"):
        service.video(Wish("a cat", **asked))
    service.worker.submit.assert_not_called()
    service.video(Wish("a cat", erasures=("cat",)))
    service.worker.submit.assert_called_once()
    assert not taken


def test_a_video_is_made_for_nobody_who_has_left(model, folder, served, tmp_path, monkeypatch):
    audit = tmp_path / "audit.jsonl"
    service = Service(model, Shelf(folder), audit=Audit(audit))
    with pytest.raises(CancelledError):
        service.video(Wish("a cat"), waits=lambda: False)
    assert not audit.read_text() and service.video(Wish("a cat"), waits=lambda: True).ndim == 4
    said, gone = threading.Event(), []
    monkeypatch.setattr(Service, "video", lambda self, wish, waits: (said.wait(60), gone.append(waits()), np.zeros(1))[2])
    monkeypatch.setattr("unreel.service.http.encode_mp4", lambda frames, fps: b"video")
    port, body = served(), b'{"prompt": "a cat"}'
    asked = b"POST /videos HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    for leaves in (True, False):
        with socket.create_connection(("127.0.0.1", port), 60) as connection:
            connection.sendall(asked)
            if not leaves:
                said.set()
                assert connection.recv(99).startswith(b"HTTP/1.0 200")
        said.set()
        for _ in range(6000):
            if len(gone) == (1 if leaves else 2):
                break
            time.sleep(0.01)
        said.clear()
    assert gone == [False, True]


@pytest.mark.parametrize(
    ("headers", "body", "says"),
    [
        ({"X-Tenant": "a"}, {}, None),
        ({"X-Tenant": "bjørnà".encode()}, {}, None),
        ({}, {}, "the header X-Tenant names the tenant here"),
        ({"X-Tenant": " "}, {}, "the header X-Tenant names the tenant here"),
        ({"X-Tenant": "a"}, {"tenant": "c"}, "the header X-Tenant names the tenant here"),
        ({"X-Tenant": "nobody"}, {}, "there is no tenant"),
    ],
)
def test_the_proxy_may_name_the_tenant_in_a_header_and_then_nobody_else_does(served, tmp_path, headers, body, says):
    audit = tmp_path / "audit.jsonl"
    port = served(policy(tmp_path, a=["robot"], c=[], **{"bjørnà": ["cat"]}), audit=Audit(audit), tenant_header="X-Tenant")
    status, _, content = ask(port, body={"prompt": "a cat", **body}, **headers)
    if says:
        assert status == 400 and says in json.loads(content)["error"] and not audit.read_text()
    else:
        own = {"a": "robot", "bjørnà": "cat"}
        (line,) = lines(audit)
        assert status == 200 and list(line["erasures"]) == ["pizza", own[line["tenant"]]]


def test_a_tenant_that_is_named_twice_is_nobody(served, tmp_path):
    body = b'{"prompt": "a cat"}'
    port = served(policy(tmp_path, a=[], b=[]), tenant_header="X-Tenant")
    with socket.create_connection(("127.0.0.1", port), 60) as connection:
        head = f"POST /videos HTTP/1.1\r\nX-Tenant: a\r\nX-Tenant: b\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        assert b" 400 " in connection.recv(99)


def test_who_takes_for_ever_to_say_what_they_want_is_not_waited_for(served, monkeypatch):
    """However little of it comes in time."""
    monkeypatch.setattr("unreel.service.http._Handler.timeout", 5)
    monkeypatch.setattr("unreel.service.http._Asking", lambda connection, patience: Impatient(connection, patience))

    class Impatient(_Asking):
        def readinto(self, buffer):
            self.deadline -= 10  # seconds, for each piece
            return super().readinto(memoryview(buffer)[:1])

    with socket.create_connection(("127.0.0.1", served()), 60) as connection:
        connection.sendall(b'POST /videos HTTP/1.1\r\nContent-Length: 19\r\n\r\n{"prompt": "a cat"}')
        assert not connection.recv(99)


def test_pages_of_other_sites_ask_in_vain_and_nobody_listens_everywhere_by_mistake(model, folder, served):
    for site, status in (("cross-site", 403), ("same-origin", 200), ("none", 200)):
        assert ask(served(), body={"prompt": "a cat"}, **{"Sec-Fetch-Site": site})[0] == status
    with pytest.raises(UnreelError, match="an empty --host would be all of them"):
        Server(Service(model, Shelf(folder)), "", 0)


def test_what_breaks_here_is_not_the_clients_doing(model, folder, served, monkeypatch, capfd):
    """With a policy or without one; and where nothing can be made any more, the service is not healthy."""
    port = served()

    def fail(*_, **__):
        raise UnreelError("the card is gone")

    with monkeypatch.context() as broken:
        broken.setattr("unreel.service.making.generate", fail)
        for _ in range(3):
            assert ask(port, "GET", "/health")[0] == 200
            assert ask(port, body={"prompt": "a cat"})[0] == 500
        assert capfd.readouterr().err.count("the card is gone") == 3
        assert ask(port, body={"prompt": "a cat", "erasures": ["nowhere"]})[0] == 400
        assert ask(port, "GET", "/health")[0] == 500
    assert ask(port, body={"prompt": "a cat"})[0] == 200 and ask(port, "GET", "/health")[0] == 200


def test_what_would_be_on_and_do_nothing_is_refused_at_the_start(model, folder, tmp_path):
    home = shutil.copytree(folder, tmp_path / "shelf")
    unlearn(Concept("castle"), make_pair(), configure("negative-prompt", {})).save_pretrained(home / "negative-prompt")
    slight = Shelf(home).take("cat")
    deltas = {name: LowRank(change.up * 1e-6, change.down) for name, change in slight.components[0].deltas.items()}
    replace(slight, components=(replace(slight.components[0], deltas=deltas),)).save_pretrained(home / "slight")
    unguided = replace(model, settings=replace(model.settings, guidance=1.0))
    half = replace(model, pipeline=make_pair().t2v.to(torch.bfloat16))
    for served_from, name, says in (
        (unguided, "negative-prompt", "a negative-prompt needs guidance, and at --guidance 1"),
        (half, "slight", "is rounded away"),
    ):
        Service(model, Shelf(home), policy(tmp_path, a=[name]))
        with pytest.raises(UnreelError, match=f"^no video can be made for tenant 'a' of .*: .*{says}"):
            Service(served_from, Shelf(home), policy(tmp_path, a=[name]))
        assert not active_interventions(served_from.pipeline)


def test_a_rewrite_does_not_ask_for_what_one_before_it_forgets(model, tmp_path):
    for name, each in (("robot", FIRST), ("cat", SECOND)):
        parts = [
            {"kind": "object", "method": "prompt-rewrite", "settings": {}, **part} for part in each.provenance["parts"]
        ]
        whole = each.with_record(encoder="tiny", versions={"unreel": "0"}, parts=parts)
        whole.save_pretrained(tmp_path / "shelf" / name)
    file = tmp_path / "policy.json"
    for names, fine in ((["robot", "cat"], True), (["cat", "robot"], False)):
        file.write_text(json.dumps({"tenants": {"a": names}}))
        if fine:
            Service(model, Shelf(tmp_path / "shelf"), Policy(file))
            continue
        with pytest.raises(UnreelError, match="it puts 'a cat' into prompts, which another that is on forgets"):
            Service(model, Shelf(tmp_path / "shelf"), Policy(file))
    assert not active_interventions(model.pipeline)


def test_the_operator_is_told_where_one_erasure_makes_what_another_forgets(model, folder, tmp_path, capfd):
    home, anchored = tmp_path / "shelf", {"anchor": "a small Tokyo Tower"}
    for name in ("cat", "tokyo-tower"):
        each = Shelf(folder).take(name)
        more = anchored if name == "cat" else {}
        each.with_record(parts=[{**part, **more} for part in each.provenance["parts"]]).save_pretrained(home / name)
    service = Service(model, Shelf(home))
    for _ in range(2):
        for names in (("cat",), ("cat", "tokyo-tower")):
            with service.with_on(service.wanted(Wish("a cat", erasures=names))):
                pass
    with service.with_on([]):
        pass
    said = capfd.readouterr().err
    assert said.count("for cat, 'a small Tokyo Tower' is made, which another erasure that is on with it forgets") == 1


def test_weights_that_arrive_after_their_record_are_found(model, folder, tmp_path):
    """As a copy of a folder brings them, name by name."""
    home = shutil.copytree(folder, tmp_path / "shelf")
    shelf, old, new = Shelf(home), Shelf(folder).take("cat"), louder(Shelf(folder).take("cat"), 2)
    new.save_pretrained(tmp_path / "made")
    assert shelf.take("cat") == old
    shutil.copy(tmp_path / "made" / RECORD_FILE, home / "cat" / RECORD_FILE)
    shelf.take("cat")
    shutil.copy(tmp_path / "made" / WEIGHTS_FILE, home / "cat" / WEIGHTS_FILE)
    assert shelf.take("cat") == new != old


def test_it_speaks_ipv6(model, folder):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with Server(Service(model, Shelf(folder)), "::1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert server.url == f"http://[::1]:{server.server_address[1]}"
        with urlopen(f"{server.url}/health") as answer:
            assert json.load(answer)["erasures"] == 4
        with pytest.raises(UnreelError, match=r"^cannot serve at \[::1\]:\d+: Address already in use$"):
            Server(server.service, "::1", server.server_address[1])
        server.shutdown()


def test_a_tenant_learns_nothing_of_others(served, tmp_path):
    port = served(policy(tmp_path, a=["robot"]))
    assert ask(port, "GET", "/erasures")[0] == 404
    for wish, says in (
        ({"prompt": "a cat"}, "name the tenant"),
        ({"prompt": "a cat", "tenant": "b"}, "there is no tenant 'b'"),
        ({"prompt": "a cat", "tenant": "a", "erasures": []}, None),
        ({"prompt": "a cat", "tenant": "a", "erasures": ["cat"]}, "the tenant decides"),
    ):
        status, _, content = ask(port, body=wish)
        assert (status, says) == (200, None) or says in json.loads(content)["error"]
        assert b"robot" not in content


def test_a_policy_is_read_again_when_it_changes_and_a_broken_one_makes_nothing(model, folder, tmp_path):
    rules = policy(tmp_path, a=[])
    service = Service(model, Shelf(folder), rules)
    assert [each.concepts for each in service.wanted(Wish("a cat", tenant="a"))] == [["pizza"]]
    policy(tmp_path, a=["robot"])
    assert [each.concepts for each in service.wanted(Wish("a cat", tenant="a"))] == [["pizza"], ["robot"]]
    misspelt = '{"All": ["pizza"], "tenants": {"a": []}}'
    twice = '{"tenants": {"a": ["pizza"], "a": []}}'
    for broken in (
        *("{", "[]", '{"all": "pizza"}', '{"tenants": {"a": [1]}}', misspelt, '{"a": ["pizza"]}', "[" * 100_000),
        *(twice, '{"all": ["pizza"], "all": [], "tenants": {"a": []}}'),
    ):
        rules.file.write_text(broken)
        with pytest.raises(UnreelError, match="is no policy"):
            service.wanted(Wish("a cat", tenant="a"))
    policy(tmp_path, a=["gone"])
    with pytest.raises(UnreelError, match="there is no erasure 'gone'"):
        service.wanted(Wish("a cat", tenant="a"))
    with pytest.raises(UnreelError, match="has no erasure gone"):
        Service(model, Shelf(folder), rules)


def test_health_is_that_of_requests_and_names_nobodys_erasures(folder, served, tmp_path, capfd):
    rules, home = policy(tmp_path, a=["robot"]), shutil.copytree(folder, tmp_path / "shelf")
    port, sound = served(rules, home=home), rules.file.read_text()
    unknown = json.dumps({"all": ["secret"], "tenants": {"a": []}})
    for broken, says in (("{", "is no policy"), (unknown, "no erasure secret")):
        rules.file.write_text(broken)
        status, _, content = ask(port, "GET", "/health")
        assert status == 500 and "cannot be served" in json.loads(content)["error"] and b"secret" not in content
        assert says in capfd.readouterr().err
        assert ask(port, body={"prompt": "a cat", "tenant": "a"})[0] == 500
    rules.file.write_text(sound)
    assert ask(port, "GET", "/health")[0] == 200
    (home / "pizza" / WEIGHTS_FILE).write_bytes(b"broken")  # of an erasure that is on for everybody
    assert ask(port, "GET", "/health")[0] == 500 and "is broken" in capfd.readouterr().err


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_an_audit_says_of_each_video_what_it_was_made_with_and_no_prompt(model, folder, served, tmp_path):
    """Before it is sent, whoever else asks."""
    file, shelf = tmp_path / "audit.jsonl", Shelf(folder)
    rules = policy(tmp_path, a=["robot"], b=[])
    port = served(rules, audit=Audit(file))
    with ThreadPoolExecutor(4) as threads:
        asked = [{"prompt": "a secret cat", "seed": i, "tenant": "ab"[i % 2]} for i in range(4)]
        assert [status for status, *_ in threads.map(lambda wish: ask(port, body=wish), asked)] == [200] * 4
    digests = {line["policy"] for line in lines(file)}
    assert [line["seed"] for line in sorted(lines(file), key=lambda line: line["seed"])] == [0, 1, 2, 3]
    for line in lines(file):
        names = ["pizza", "robot"] if line["tenant"] == "a" else ["pizza"]
        assert line["erasures"] == {name: shelf.take(name).identity for name in names}
        assert datetime.fromisoformat(line["time"]).utcoffset() == timedelta(0)
    policy(tmp_path, a=["cat"], b=[])
    assert ask(port, body={"prompt": "a secret cat", "tenant": "nobody"})[0] == 400
    assert ask(port, body={"prompt": "a secret cat", "tenant": "a"})[0] == 200
    assert list(lines(file)[-1]["erasures"]) == ["pizza", "cat"] and len(lines(file)) == 5
    assert lines(file)[-1]["policy"] not in digests and len(digests) == 1 and "secret" not in file.read_text()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full disk to try")
def test_what_cannot_be_written_down_is_not_served(model, folder, served, tmp_path, monkeypatch, capfd):
    with pytest.raises(UnreelError, match=f"cannot write {tmp_path}/nowhere/audit.jsonl, and no video is made without: No"):
        Audit(tmp_path / "nowhere" / "audit.jsonl")
    file = tmp_path / "audit.jsonl"
    file.write_bytes(b'{"cut sho')  # as it was left where the disk was full
    audit, wish = Audit(file), {"prompt": "a cat", "tenant": "a"}
    port = served(policy(tmp_path, a=[]), audit=audit)
    with monkeypatch.context() as full:
        full.setattr("unreel.service.making.generate", lambda *_, **__: pytest.fail("it was made"))
        full.setattr(audit, "file", Path("/dev/full"))
        assert (ask(port, body=wish)[0], ask(port, "GET", "/health")[0]) == (500, 500)
        assert capfd.readouterr().err.count("cannot write /dev/full, and no video is made without: No space left") == 2
    with monkeypatch.context() as full:
        full.setattr("unreel.service.audit.shutil.disk_usage", lambda _: MagicMock(free=0))
        assert ask(port, "GET", "/health")[0] == 500
    assert ask(port, body=wish)[0] == 200 and ask(port, "GET", "/health")[0] == 200
    assert file.read_bytes().startswith(b'{"cut sho\n{"time": ') and file.read_bytes().endswith(b"}\n")


def test_the_command_tries_a_policy_without_serving_it(model, folder, tmp_path, command, monkeypatch):
    monkeypatch.setattr("unreel.models.pair.load_video_model", lambda *_, **__: model)
    monkeypatch.setattr("unreel.service.Server", lambda *_: pytest.fail("it serves"))
    home = shutil.copytree(folder, tmp_path / "shelf")
    for name in ("one", "other"):
        unlearn(Concept(name), make_pair(), configure("safree", {})).save_pretrained(home / name)
    rules = policy(tmp_path, a=["one"], b=["robot"])
    code, out, _ = command("serve", home, "--policy", rules.file, "--check")
    assert code == 0 and "videos can be made for every tenant" in out
    policy(tmp_path, a=["one", "other"])
    code, _, said = command("serve", home, "--policy", rules.file, "--check")
    assert code == 2 and "no video can be made for tenant 'a'" in said and said.count("\n") == 1
    code, _, said = command("serve", home, "--check")
    assert code == 2 and "nothing to check without a policy" in said


def test_a_policy_that_can_never_be_met_is_refused_at_the_start(model, folder, tmp_path):
    home = shutil.copytree(folder, tmp_path / "shelf")
    for name in ("one", "other"):
        unlearn(Concept(name), make_pair(), configure("safree", {})).save_pretrained(home / name)
    Service(model, Shelf(home), policy(tmp_path, a=["one"], b=["other", "cat"]))
    assert not active_interventions(model.pipeline)
    with pytest.raises(UnreelError, match=r"^no video can be made for tenant 'c' of .*policy.json: a safree is already on"):
        Service(model, Shelf(home), policy(tmp_path, a=["one"], c=["one", "other"]))
    assert not active_interventions(model.pipeline)


def test_a_large_policy_is_tried_erasure_by_erasure(model, folder, tmp_path, monkeypatch):
    """Not set by set: how many tenants there are, and how many erasures all of them have, costs nothing."""
    tried, apply = [], Erasure.apply
    monkeypatch.setattr(Erasure, "apply", lambda erasure, on: tried.append(*erasure.concepts) or apply(erasure, on))
    own = [["robot"], ["robot", "cat"], ["cat"], ["tokyo-tower", "robot"], []]
    Service(model, Shelf(folder), policy(tmp_path, **{f"tenant-{i}": own[i % len(own)] for i in range(40)}))
    assert sorted(tried) == ["cat", "pizza", "robot", "tokyo tower"] and not active_interventions(model.pipeline)


def louder(erasure, factor):
    """The same changes, so many times as large."""
    components = [
        replace(one, deltas={name: LowRank(change.up * factor, change.down) for name, change in one.deltas.items()})
        for one in erasure.components
    ]
    return replace(erasure, components=tuple(components))


@pytest.mark.parametrize(("factor", "times"), [(0.001, 0), (100, 1)])
def test_erasures_that_break_the_rest_together_are_told_the_operator_once(model, folder, tmp_path, capfd, factor, times):
    home = tmp_path / "shelf"
    for name in ("cat", "robot", "pizza"):
        louder(Shelf(folder).take(name), factor).save_pretrained(home / name)
    service = Service(model, Shelf(home), policy(tmp_path, alone=[], some=["cat", "robot"]))
    for tenant in ("alone", "some", "alone", "some"):
        with service.with_on(service.wanted(Wish("a cat", tenant=tenant))):
            pass
    with service.with_on([]):
        pass
    said = capfd.readouterr().err
    assert said.count("3 erasures that were made apart are on together and move everyday prompts by") == times
    assert said.count("unlearn them together, in one command: pizza, cat, robot") == times


def test_the_command_reads_the_policy_before_it_loads_the_model(folder, command, tmp_path, monkeypatch):
    monkeypatch.setattr("unreel.models.pair.load_video_model", lambda *_, **__: pytest.fail("it was loaded"))
    code, _, said = command("serve", folder, "--policy", tmp_path / "nowhere.json")
    assert code == 2 and "nowhere.json is no policy" in said
    code, _, said = command("serve", folder, "--policy", policy(tmp_path, a=["gone"]).file)
    assert code == 2 and "has no erasure gone" in said
    Path("twice.json").write_text('{"tenants": {"a": ["pizza"], "b": [], "a": ["robot"]}}')
    code, out, said = command("serve", folder, "--policy", "twice.json")
    assert code == 2 and not out and said.count("\n") == 1
    assert "twice.json is no policy" in said and "it has 'a' twice, of which the last would count: keep one of them" in said


def test_a_policy_is_utf8_wherever_it_is_read(tmp_path):
    file = tmp_path / "policy.json"
    file.write_bytes('{"tenants": {"københavn": ["pizza"]}}'.encode())
    code = "import sys; from unreel.service import Policy; print(ascii(list(Policy(sys.argv[1]).tenants)))"
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, "-c", code, file], env=environment, capture_output=True, text=True)
    assert done.stdout == "['k\\xf8benhavn']\n", done.stderr


def test_a_new_erasure_is_found_and_memory_is_bounded(folder, tmp_path):
    home = shutil.copytree(folder, tmp_path / "shelf")
    shutil.rmtree(home / "cat")
    shelf = Shelf(home, megabytes=0)
    with pytest.raises(UnreelError, match="no erasure 'cat'"):
        shelf.take("cat")
    shutil.copytree(folder / "cat", home / "cat")
    assert shelf.take("cat").concepts == ["cat"]
    shelf.take("robot")
    assert list(shelf._loaded) == ["robot"]
    assert shelf.take("robot") is shelf.take("robot")


def test_what_is_listed_is_what_is_there_now_and_whole(model, folder, served, tmp_path, capfd):
    home = shutil.copytree(folder, tmp_path / "shelf")
    shutil.copytree(folder / "cat", home / ".cat-k2j4")  # as a write that was killed leaves it
    server = Server(Service(model, Shelf(home)), "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port = server.server_address[1]
    assert json.loads(ask(port, "GET", "/erasures")[2]) == sorted(NAMES)
    assert b"no erasure '.cat-k2j4'" in ask(port, body={"prompt": "a cat", "erasures": [".cat-k2j4"]})[2]
    shutil.rmtree(home / "cat")
    assert json.loads(ask(port, "GET", "/erasures")[2]) == sorted(set(NAMES) - {"cat"})
    assert json.loads(ask(port, "GET", "/health")[2])["erasures"] == 3
    shutil.rmtree(home)
    assert ask(port, "GET", "/health")[0] == 500 and "cannot look into" in capfd.readouterr().err
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("meanwhile", ["it is looked for in memory", "it is loaded"])
def test_an_erasure_that_goes_while_it_is_taken_is_an_unknown_one(folder, tmp_path, monkeypatch, meanwhile):
    from unreel.service import shelf as module

    shelf, load = Shelf(shutil.copytree(folder, tmp_path / "shelf")), module.load_intervention

    def gone(*_):
        """As another thread finds out."""
        shutil.rmtree(shelf.folder / "cat", ignore_errors=True)
        shelf._folders = {}

    if meanwhile == "it is loaded":
        monkeypatch.setattr(module, "load_intervention", lambda folder: gone() or load(folder))
    else:
        shelf._lock = MagicMock()
        shelf._lock.__enter__.side_effect = gone
    with pytest.raises(UnreelError, match=r"^there is no erasure 'cat'$"):
        shelf.take("cat")


def test_what_the_operator_has_to_mend_is_no_news_for_tenants(served, tmp_path, capfd):
    rules = policy(tmp_path, a=["robot"])
    port = served(rules)
    for broken in ('{"tenants": {"other": "secret"}}', json.dumps({"all": ["secret"], "tenants": {"a": []}})):
        rules.file.write_text(broken)
        status, _, content = ask(port, body={"prompt": "a cat", "tenant": "a"})
        assert (status, json.loads(content)) == (500, {"error": "the video could not be made"})
        assert "secret" in capfd.readouterr().err


def test_an_erasure_that_was_made_again_is_the_one_that_is_put_on(folder, tmp_path):
    home = shutil.copytree(folder, tmp_path / "shelf")
    shelf = Shelf(home)
    before = shelf.take("cat")
    shutil.rmtree(home / "cat")
    shutil.copytree(home / "robot", home / "cat")
    os.utime(home / "cat" / "erasure.json")
    assert shelf.take("cat") == shelf.take("robot") != before
    shutil.rmtree(home / "cat")
    with pytest.raises(UnreelError, match="no erasure 'cat'"):
        shelf.take("cat")


def test_too_many_requests_are_turned_away(model, folder):
    service = Service(model, Shelf(folder), waiting=1)
    started, go = threading.Event(), threading.Event()

    def slow(wish):
        started.set()
        go.wait(60)
        return {}, None

    service._named = slow
    first = threading.Thread(target=service.video, args=(Wish("a cat"),))
    first.start()
    assert started.wait(60)
    with pytest.raises(BusyError):
        service.video(Wish("a cat"))
    go.set()
    first.join()


def waiting(service, *tenants):
    """Has the service wait before it makes anything, and asks it for a video for each tenant. Gives what lets it go on, and
    the threads that ask.
    """
    go, made, askers = threading.Event(), service._made, []
    service._made = lambda wish, waits: go.wait(60) and made(wish, waits)
    for tenant in tenants:
        asker = threading.Thread(target=service.video, args=(Wish("a cat", tenant=tenant),))
        asker.start()
        askers.append(asker)
    while service._asking.total() < len(tenants):
        time.sleep(0.01)
    return go, askers


def test_no_tenant_takes_all_places(model, folder, tmp_path):
    service = Service(model, Shelf(folder), policy(tmp_path, a=[], b=[]), waiting=4)
    go, askers = waiting(service, "a", "a", "b")
    with pytest.raises(BusyError):
        service.video(Wish("a cat", tenant="a"))
    with ThreadPoolExecutor(1) as thread:
        other = thread.submit(service.video, Wish("a cat", tenant="b"))
        go.set()
        assert other.result().ndim == 4
    for asker in askers:
        asker.join()
    assert not service._asking and service.video(Wish("a cat", tenant="a")).ndim == 4
    with service.with_on([]):
        alone = Service(model, Shelf(folder), policy(tmp_path, a=[]), waiting=2)
    go, askers = waiting(alone, "a", "a")  # who shares with nobody has all places
    go.set()
    for asker in askers:
        asker.join()


def test_who_leaves_while_others_videos_are_made_gives_the_place_back(model, folder, monkeypatch):
    """Also who sends more than was announced, and leaves then."""
    monkeypatch.setattr("unreel.service.making.BETWEEN_LOOKS", 0.01)
    service = Service(model, Shelf(folder), waiting=2)
    go, (first,) = waiting(service, None)
    with Server(service, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with socket.create_connection(server.server_address, 60) as connection:
            connection.sendall(b'POST /videos HTTP/1.1\r\nContent-Length: 19\r\n\r\n{"prompt": "a cat"}')
            while service._asking.total() < 2:
                time.sleep(0.01)
            connection.sendall(b" and more")
        while service._asking.total() == 2:
            time.sleep(0.01)
        go.set()
        first.join()
        server.shutdown()


def test_more_connections_than_are_served_are_closed(model, folder, monkeypatch):
    monkeypatch.setattr("unreel.service.http.SPARE", 1)
    with Server(Service(model, Shelf(folder), waiting=1), "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with socket.create_connection(server.server_address, 60), socket.create_connection(server.server_address, 60):
            while server._connections._value:
                time.sleep(0.01)
            with socket.create_connection(server.server_address, 60) as third:
                assert third.recv(1) == b""
        while not server._connections._value:
            time.sleep(0.01)
        assert ask(server.server_address[1], "GET", "/health")[0] == 200
        server.shutdown()


def test_a_takedown_counts_for_a_video_that_is_being_made(model, folder, tmp_path, monkeypatch):
    service, generated = Service(model, Shelf(folder), policy(tmp_path, a=[])), []

    def generate_meanwhile(*args, **options):
        generated.append([each.concepts for each in active_interventions(model.pipeline)])
        policy(tmp_path, a=["robot"])
        return generate(*args, **options)

    monkeypatch.setattr("unreel.service.making.generate", generate_meanwhile)
    service.video(Wish("a cat", tenant="a"))
    assert generated == [[["pizza"]], [["pizza"], ["robot"]]]


def test_what_memory_ran_out_for_half_way_is_not_taken_for_being_on(model, folder, tmp_path, monkeypatch):
    service = Service(model, Shelf(folder), policy(tmp_path, a=["robot"], b=["cat"]))
    before, made = weights(model.pipeline.text_encoder), service.video(Wish("a cat", tenant="a"))
    with monkeypatch.context() as patch:

        def short(*_):
            raise torch.OutOfMemoryError

        patch.setattr("unreel.models.applied._Applied.sum", short)
        with pytest.raises(torch.OutOfMemoryError), pytest.warns(UserWarning, match="all erasures were taken off"):
            service.video(Wish("a cat", tenant="b"))
    assert not active_interventions(model.pipeline) and same(before, weights(model.pipeline.text_encoder))
    assert np.array_equal(made, service.video(Wish("a cat", tenant="a")))


def test_what_reads_its_concept_with_the_encoder_goes_on_with_several_erasures(model, folder, tmp_path):
    home = shutil.copytree(folder, tmp_path / "shelf")
    unlearn(Concept("one"), make_pair(), configure("safree", {})).save_pretrained(home / "safree")
    service = Service(model, Shelf(home))
    service.video(Wish("a cat", erasures=("pizza", "robot", "safree")))
    assert [type(each).__name__ for each in active_interventions(model.pipeline)] == ["Erasure", "Erasure", "Safree"]


def test_what_nobody_can_tell_to_be_on_is_not_served(model, folder):
    @dataclass(frozen=True, eq=False, repr=False)
    class OfAnotherPackage(Intervention):
        provenance: dict
        identity, nbytes, limits, about = "mine", 0, "", ""
        model, wordings, concepts = "m", (), ("cat",)

        def require_matching(self, pipeline): ...

        def apply(self, pipeline):
            pipeline.mine = True

        def remove(self, pipeline):
            del pipeline.mine

        def save_pretrained(self, folder, *, overwrite=False): ...

    service = Service(model, Shelf(folder))
    with pytest.raises(UnreelError, match="OfAnotherPackage is neither"), service.with_on([OfAnotherPackage({})]):
        pass
    assert not hasattr(model.pipeline, "mine")


@pytest.fixture
def signals():
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


def test_what_was_asked_for_before_it_is_told_to_stop_is_still_made(model, folder, signals):
    worker, answers, makers = FirstThread(), [], []
    service = Service(model, Shelf(folder), worker=worker)
    made = service._made

    def told_to_stop_meanwhile(wish, waits):
        makers.append(threading.get_ident())
        os.kill(os.getpid(), signal.SIGTERM)
        return made(wish, waits)

    service._made = told_to_stop_meanwhile
    with Server(service, "127.0.0.1", 0) as server:
        asking = threading.Thread(
            target=lambda: answers.append(ask(server.server_address[1], body={"prompt": "a cat"})), daemon=True
        )
        asking.start()
        serve(server, worker)
    asking.join(60)
    assert makers == [threading.get_ident()]
    ((status, _, content),) = answers
    assert status == 200 and content[4:8] == b"ftyp"
    with pytest.raises(BusyError):
        service.video(Wish("a cat"))


def test_the_command_serves_until_it_is_told_to_stop(folder, tmp_path):
    model = tmp_path / "model"
    make_pair().t2v.save_pretrained(model)
    command = [sys.executable, "-u", "-m", "unreel.cli", "serve", folder, "--t2v", model, "--port", "0", "--steps", "2"]
    process = subprocess.Popen(
        [*map(str, command), "--frames", "4"], stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    line = process.stdout.readline()
    assert "with 4 erasures at http://127.0.0.1:" in line
    status, _, content = ask(int(line.rpartition(":")[2]), body={"prompt": "a cat", "erasures": ["cat"]})
    assert status == 200 and content[4:8] == b"ftyp"
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
