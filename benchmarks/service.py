"""What `unreel serve` costs, and whether a tenant ever gets another's erasures: `python -m benchmarks.service`.

2,000 erasures on disk, of the embedded pair, each one of a few that were learned in its own strength; 1,000 tenants, with
one to three of them each and one for all. Requests of tenants drawn at random come over HTTP from several clients at once;
some of the videos are compared with what the model makes alone with the same erasures on. Run it with nothing else running.
"""

import http.client
import json
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import typer

from benchmarks.common import machine, write_entry
from unreel import Erasure, active_interventions, generate, load_pair, unlearn
from unreel.files import write_json
from unreel.first_thread import FirstThread
from unreel.judges import load_judge
from unreel.models.deltas import LowRank
from unreel.models.pair import Pair, VideoModel
from unreel.models.sampling import encode_mp4
from unreel.service import Policy, Server, Service, Shelf, Wish

NAME = "service"
ERASURES, LEARNED, TENANTS, CLIENTS, REQUESTS, COMPARED = 2_000, 20, 1_000, 8, 160, 40
SEED = 7_700_000


def of_strength(erasure: Erasure, strength: float) -> Erasure:
    def weaker(change: torch.Tensor | LowRank) -> torch.Tensor | LowRank:
        return LowRank(change.up * strength, change.down) if isinstance(change, LowRank) else change * strength

    parts = [
        replace(part, deltas={name: weaker(change) for name, change in part.deltas.items()}) for part in erasure.components
    ]
    return Erasure(tuple(parts), erasure.provenance)


def fill(folder: Path, pair: Pair, names: list[str]) -> dict[str, list[str]]:
    """Write the erasures, and return which tenant wants which."""
    learned = [unlearn(name, pair) for name in names[:LEARNED]]
    for i in range(ERASURES):
        of_strength(learned[i % LEARNED], 1 - 0.3 * (i // LEARNED) / (ERASURES // LEARNED)).save_pretrained(
            folder / f"e{i}"
        )
    draw = np.random.default_rng(SEED)
    return {
        f"tenant-{i}": [f"e{k}" for k in draw.choice(np.arange(1, ERASURES), draw.integers(1, 4), replace=False)]
        for i in range(TENANTS)
    }


def milliseconds(seconds: list[float]) -> dict[str, float]:
    return {
        "median": round(1000 * float(np.median(seconds)), 2),
        "at most, of 95 %": round(1000 * float(np.quantile(seconds, 0.95)), 2),
    }


def switching(service: Service, tenants: list[str]) -> dict[str, dict[str, float]]:
    """What a request waits for before its video is made."""
    spent: dict[str, list[float]] = {"found": [], "put on": []}
    for tenant in tenants:
        begun = time.perf_counter()
        wanted = service.wanted(Wish("a cat", 0, tenant))
        looked_up = time.perf_counter()
        with service.with_on(wanted):
            spent["put on"].append(time.perf_counter() - looked_up)
        spent["found"].append(looked_up - begun)
    return {what: milliseconds(seconds) for what, seconds in spent.items()}


def over_http(port: int, wish: tuple[str, int, str]) -> tuple[bytes, float]:
    begun = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=3600)
    body = json.dumps(dict(zip(("prompt", "seed", "tenant"), wish, strict=True)))
    connection.request("POST", "/videos", body)
    answer = connection.getresponse()
    content = answer.read()
    if answer.status != 200:
        raise RuntimeError(content.decode())
    return content, time.perf_counter() - begun


def served(
    service: Service, worker: FirstThread, wishes: list[tuple[str, int, str]]
) -> tuple[list[tuple[bytes, float]], float]:
    """The answers to wishes of several clients at once, and videos a second."""

    def ask() -> tuple[list[tuple[bytes, float]], float]:
        begun = time.perf_counter()
        with ThreadPoolExecutor(CLIENTS) as clients:
            answers = list(clients.map(lambda wish: over_http(server.server_address[1], wish), wishes))
        return answers, len(wishes) / (time.perf_counter() - begun)

    with Server(service, "127.0.0.1", 0) as server, ThreadPoolExecutor(1) as pool:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        asking = pool.submit(ask)
        asking.add_done_callback(lambda _: worker.shutdown())
        worker.run()
        server.shutdown()
        return asking.result()


def alone(model: VideoModel, shelf: Shelf, wish: tuple[str, int, str], names: list[str]) -> bytes:
    """What the model makes with those erasures on, and nothing else going on."""
    for each in active_interventions(model.pipeline):
        each.remove(model.pipeline)
    for name in names:
        shelf.take(name).apply(model.pipeline)
    return encode_mp4(generate(model.pipeline, [wish[0]], [wish[1]], model.settings, what="")[0], model.settings.fps)


def main(device: str = "cpu") -> None:
    pair = load_pair(device=device)
    names = list(load_judge("embedded").world["concepts"])
    with tempfile.TemporaryDirectory() as temporary:
        folder, file = Path(temporary) / "erasures", Path(temporary) / "policy.json"
        folder.mkdir()
        erasures_of = fill(folder, pair, names)
        write_json(file, {"all": ["e0"], "tenants": erasures_of})
        model, begun = pair.video, time.perf_counter()
        worker = FirstThread()
        service = Service(model, Shelf(folder), Policy(file), CLIENTS, worker)
        started = time.perf_counter() - begun
        draw = np.random.default_rng(SEED + 1)
        wishes = [
            (f"a photo of a {draw.choice(names)}", SEED + i, f"tenant-{draw.integers(TENANTS)}") for i in range(REQUESTS)
        ]
        generate(model.pipeline, [wishes[0][0]], [0], model.settings, what="")  # warm up
        begun = time.perf_counter()
        for text, seed, _ in wishes[:COMPARED]:
            encode_mp4(generate(model.pipeline, [text], [seed], model.settings, what="")[0], model.settings.fps)
        bare = COMPARED / (time.perf_counter() - begun)
        spent = switching(service, [wish[2] for wish in wishes])
        answers, rate = served(service, worker, wishes)
        same = [
            alone(model, service.shelf, wish, ["e0", *erasures_of[wish[2]]]) == answer
            for wish, (answer, _) in zip(wishes[:COMPARED], answers, strict=False)
        ]
    result = {"erasures": ERASURES, "tenants": TENANTS, "clients": CLIENTS, "requests": REQUESTS, "started": started}
    result |= {"switching": spent, "videos_a_second": rate, "bare": bare, "compared": len(same), "same": sum(same)}
    write_entry(NAME, device, {**result, "machine": machine(device), "threads": torch.get_num_threads()})


if __name__ == "__main__":
    typer.run(main)
