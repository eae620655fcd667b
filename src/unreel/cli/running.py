"""Commands that make videos: of prompts, over HTTP, in the browser."""

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from unreel.cli.app import app
from unreel.cli.options import (
    MOST,
    PLACE,
    PLACE_OF_THE_WHOLE,
    SAMPLING,
    T2I,
    T2V,
    AsJson,
    AuditFile,
    JudgeName,
    MadeOn,
    Overwrite,
    Quiet,
    TenantHeader,
    grouped,
    seed_of,
)
from unreel.cli.output import echo, print_result, tell
from unreel.errors import UnreelError


@app.command()
@grouped
def generate(
    prompt: Annotated[list[str], typer.Argument(help="one or more prompts")],
    erasure: Annotated[list[Path] | None, typer.Option(help="folder of an erasure to put on; may be repeated")] = None,
    t2v: MadeOn = None,
    seed: Annotated[int, typer.Option(callback=seed_of, help="random seed of the first prompt; further ones count up")] = 0,
    out: Annotated[Path, typer.Option(help="folder for the videos")] = Path("videos"),
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
    sampling: Any = SAMPLING,
    place: Any = PLACE,
) -> None:
    """Generate videos from prompts, with any number of erasures on.

    Each is written as soon as it is made. Run it again to continue where it stopped.
    """
    from unreel.workflow import GenerateJob
    from unreel.workflow import generate as run

    job = GenerateJob(prompt, erasure or (), t2v, seed, sampling, out, overwrite, place)
    for file in run(job, tell):
        echo(file)
    rows = zip(job.prompts, job.seeds, job.files, strict=True)
    print_result([{"prompt": text, "seed": number, "file": file} for text, number, file in rows])


@app.command()
@grouped
def serve(
    erasures: Annotated[Path, typer.Argument(help="folder that holds the folders of erasures, any number of them")],
    t2v: Annotated[str, typer.Option(help="text-to-video pipeline: a folder or hub id")] = "embedded",
    policy: Annotated[
        Path | None,
        typer.Option(
            help="JSON file that says which erasures a tenant's requests get (docs/using.md); without one, every request "
            "names its own",
            show_default=False,
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="address to listen on; whoever reaches it may ask for videos")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="port to listen on; 0: any free one")] = 8000,
    megabytes: Annotated[float, typer.Option(min=0, help="memory for loaded erasures, in MB")] = 512,
    waiting: Annotated[
        int,
        typer.Option(
            min=1,
            max=MOST,
            help="most requests in progress, the one being served included; one of several tenants has half of these at "
            "most; further ones get 503",
        ),
    ] = 64,
    audit: AuditFile = None,
    check: Annotated[
        bool, typer.Option("--check", help="try all that the policy speaks of as when it starts, and end: exit code 0 or 2")
    ] = False,
    tenant_header: TenantHeader = None,
    sampling: Any = SAMPLING,
    place: Any = PLACE,
) -> None:
    """Serve a model's videos over HTTP, each request with the erasures that are meant for it: POST /videos.

    It does no authentication: run it behind a proxy that authenticates callers and names the tenant.
    """
    from unreel.first_thread import FirstThread
    from unreel.models.pair import load_video_model
    from unreel.service import Audit, Policy, Server, Service, Shelf
    from unreel.service import serve as serve_from

    shelf, rules = Shelf(erasures, megabytes), Policy(policy) if policy else None
    if check and not rules:
        raise UnreelError("there is nothing to check without a policy: name one with --policy")
    if tenant_header and not rules:
        raise UnreelError("without a policy there are no tenants: name one with --policy, or leave --tenant-header out")
    if rules:
        rules.require(shelf)  # before the model is loaded, which takes long
    log = Audit(audit) if audit else None
    place.require()
    model = sampling.onto(load_video_model(t2v, **place.of_weights, offload=place.offload))
    worker = FirstThread()
    service = Service(model, shelf, rules, waiting, worker, log)
    if check:
        echo(f"checked  {policy}: videos can be made for every tenant")
        return
    with suppress(KeyboardInterrupt), Server(service, host, port, tenant_header) as server:
        echo(f"serving  {t2v} with {len(shelf.names)} erasures at {server.url}")
        serve_from(server, worker)


@app.command("app")
@grouped
def run_app(
    t2v: T2V = None,
    t2i: T2I = None,
    judge: JudgeName = None,
    host: Annotated[str, typer.Option(help="address to listen on; whoever reaches it may use the app")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="port to listen on; 0: any free one")] = 7860,
    share: Annotated[
        bool, typer.Option("--share", help="let gradio's servers give the app a public address for a while")
    ] = False,
    sampling: Any = SAMPLING,
    place: Any = PLACE_OF_THE_WHOLE,
) -> None:
    """Open an app in the browser: unlearn a concept, compare videos, evaluate, attack, download the erasure."""
    from unreel.first_thread import FirstThread
    from unreel.web.app import serve
    from unreel.web.visit import Host

    worker = FirstThread()
    serve(Host.load(t2v, t2i, judge, place, sampling, worker), worker, host, port, share=share, tell=echo)
