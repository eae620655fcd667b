"""What visitors of the app see: fields to fill in, videos as they are made, files to take along.

Knows widgets; everything that happens is `visit`'s. What people type is shown as text, never as markup.
"""

import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, get_args

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # nothing is collected

from unreel.errors import UnreelError, needs

try:
    import gradio
except ImportError as error:
    raise needs("the app", "gradio", "app") from error

from unreel.first_thread import FirstThread
from unreel.interventions.export import FORMATS
from unreel.methods import DEFAULT, available
from unreel.prompts.kinds import Kind
from unreel.web.visit import LONGEST_TEXT, MOST_CASES, MOST_VIDEOS, Host, Seen, Visit

AS_LISTED = "as the model lists it"
NOTHING = "nothing"
WAITING = 32  # visitors' jobs that may wait; more are turned away
HOUR = 3600
UPLOAD = "1kb"  # nothing is to be uploaded


class App:
    """The widgets of one page, and what each of its buttons does. What visitors make is kept within `visits`."""

    def __init__(self, host: Host, visits: Path) -> None:
        self.host, self.visits = host, visits
        with gradio.Blocks(title="unreel", delete_cache=(HOUR, HOUR)) as self.blocks:
            self.visit = gradio.State(None, time_to_live=HOUR, delete_callback=_leave)
            # Widgets that list the visitor's erasures, of which there will be more.
            self.on = gradio.CheckboxGroup([], label="Erasures that are on", render=False)
            self.measured = gradio.Dropdown([], label="Erasure", render=False)
            self.taken = gradio.Dropdown([], label="Erasure", render=False)
            gradio.Markdown("# unreel\nMake this text-to-video model forget.")
            with gradio.Tab("Forget"):
                self._forget()
            with gradio.Tab("Try it"):
                self._try()
            with gradio.Tab("Did it work?"):
                self._measure()
            with gradio.Tab("Take it along"):
                self._take()

    def _forget(self) -> None:
        with gradio.Row():
            concept = gradio.Textbox(label="What to forget", placeholder="Tokyo Tower", max_length=LONGEST_TEXT)
            also = gradio.Textbox(label="Other words for it, with ; between", max_length=LONGEST_TEXT)
            anchor = gradio.Textbox(label="What to make instead", placeholder="chosen for you", max_length=LONGEST_TEXT)
            keep = gradio.Textbox(label="What must stay, with ; between", max_length=LONGEST_TEXT)
        with gradio.Row():
            kind = gradio.Dropdown([AS_LISTED, *get_args(Kind)], value=AS_LISTED, label="Kind")
            method = gradio.Dropdown(list(available()), value=DEFAULT, label="Method")
            video_methods = [name for name, each in available().items() if each.NEEDS == "video"]
            on_top = gradio.Dropdown([NOTHING, *video_methods], value=NOTHING, label="On top, in the video model")
            videos = gradio.Slider(1, MOST_VIDEOS, value=4, step=1, label="Videos of it, and as many of what is near")
            weak = gradio.Checkbox(label="Keep it even if the self-check falls short")
        fields = [concept, also, anchor, keep, kind, method, on_top, videos, weak]

        def job(visit: Visit, *values: Any) -> Any:
            concept, also, anchor, keep, kind, method, on_top, videos, weak = values
            return visit.forget(
                concept,
                kind=None if kind == AS_LISTED else kind,
                synonyms=_between_semicolons(also),
                anchor=anchor.strip() or None,
                keep=_between_semicolons(keep),
                method=method,
                on_top=None if on_top == NOTHING else on_top,
                videos=int(videos),
                accept_weak=weak,
            )

        outputs = self._outputs(clips=True)
        self._job("Forget it", fields, job, outputs, adds=True)
        _render(outputs)

    def _try(self) -> None:
        prompt = gradio.Textbox(label="Prompt", placeholder="a bouncing Tokyo Tower", max_length=LONGEST_TEXT)
        seed = gradio.Number(0, minimum=0, maximum=2**31, precision=0, label="Seed")
        self.on.render()
        outputs = self._outputs(clips=True)
        fields = [prompt, seed, self.on]
        self._job("Make both videos", fields, lambda visit, text, seed, on: visit.make(text, int(seed or 0), on), outputs)
        _render(outputs)

    def _measure(self) -> None:
        self.measured.render()
        with gradio.Row():
            videos = gradio.Slider(1, MOST_VIDEOS, value=5, step=1, label="Videos for each group of prompts")
            cases = gradio.Slider(1, MOST_CASES, value=2, step=1, label="Cases for each attack")
        outputs = self._outputs(file=True)
        self._job("Evaluate", [self.measured, videos], lambda visit, name, n: visit.evaluate(name, int(n)), outputs)
        self._job("Attack", [self.measured, cases], lambda visit, name, n: visit.attack(name, int(n)), outputs)
        _render(outputs)

    def _take(self) -> None:
        self.taken.render()
        format = gradio.Dropdown(["erasure", *FORMATS], value="erasure", label="As")
        outputs = self._outputs(file=True)
        self._job("Pack", [self.taken, format], lambda visit, name, as_: visit.download(name, as_), outputs)
        _render(outputs)

    def _outputs(self, *, clips: bool = False, file: bool = False) -> list[Any]:
        """The widgets that show what a job does: lines, videos, a file; they stand below the buttons that start it."""
        out: list[Any] = [gradio.Textbox(label="What happens", lines=4, interactive=False, render=False)]
        if clips:
            about = {"label": "Original and edited, from the same seed", "columns": 4, "object_fit": "contain"}
            out.append(gradio.Gallery(**about, render=False))
        if file:
            out.append(gradio.File(label="To take along", interactive=False, render=False))
        return out

    def _job(
        self, title: str, fields: list[Any], job: Callable[..., Iterator[Seen]], outputs: list[Any], *, adds: bool = False
    ) -> None:
        """A button that starts a job on the values of `fields`, and one that stops it. A job that `adds` an erasure lets it
        be chosen elsewhere.
        """
        with gradio.Row():
            start, stop = gradio.Button(title, variant="primary"), gradio.Button("Stop")
        lists = [self.on, self.measured, self.taken] if adds else []

        def run(visit: Visit | None, *values: Any) -> Iterator[list[Any]]:
            visit = visit or Visit(self.host, self.visits)
            for seen in job(visit, *values):
                yield [visit, *(_shown(widget, seen) for widget in outputs), *(_listed(widget, visit) for widget in lists)]

        def halt(visit: Visit | None, happened: str) -> str:
            if visit:
                visit.stop.set()
            return "\n".join([*happened.splitlines(), "stopped"])

        shown = [self.visit, *outputs, *lists]
        started = start.click(run, [self.visit, *fields], shown, concurrency_id="model", api_name=False)
        # A job that waits in gradio's queue has not begun, and is taken out of the queue.
        stop.click(halt, [self.visit, outputs[0]], outputs[0], queue=False, api_name=False, cancels=[started])


def _between_semicolons(text: str) -> list[str]:
    return [each.strip() for each in text.split(";") if each.strip()]


def _render(widgets: list[Any]) -> None:
    for widget in widgets:
        widget.render()


def _shown(widget: Any, seen: Seen) -> Any:
    if isinstance(widget, gradio.Textbox):
        now = f"{seen.doing} {100 * seen.share:.0f} %" if seen.doing else ""
        return "\n".join([*seen.lines, now]).strip()
    if isinstance(widget, gradio.Gallery):
        return [(str(clip.file), clip.caption) for clip in seen.clips]
    return str(seen.file) if seen.file else None


def _listed(widget: Any, visit: Visit) -> Any:
    """The visitor's erasures to choose from; a widget that has one chosen gets the newest."""
    names = list(visit.erasures)
    if isinstance(widget, gradio.Dropdown) and names:
        return gradio.update(choices=names, value=names[-1])
    return gradio.update(choices=names)


def _leave(visit: Visit | None) -> None:
    with suppress(OSError):
        if visit:
            visit.close()


@contextmanager
def serving(host: Host, address: str, port: int | None, *, share: bool = False) -> Iterator[str]:
    """Gives the address of the app, which is open while the block lasts; without a `port`, at a free one.

    Visitors are only ever sent what they made themselves, and nothing of it is left behind. Raises UnreelError if
    nothing can be served.
    """
    # A job that nobody waits for any more may still write, which is no reason to fail.
    with tempfile.TemporaryDirectory(prefix="unreel-app-", ignore_cleanup_errors=True) as home:
        sent, visits = Path(home) / "sent", Path(home) / "visits"  # gradio sends any file that is in `sent`
        visits.mkdir()
        os.environ["GRADIO_TEMP_DIR"] = str(sent)
        blocks = App(host, visits).blocks.queue(max_size=WAITING, default_concurrency_limit=1)
        options: dict[str, Any] = {"max_file_size": UPLOAD, "ssr_mode": False, "quiet": True, "prevent_thread_lock": True}
        options["footer_links"] = []
        try:
            _, local_url, share_url = blocks.launch(server_name=address, server_port=port or None, share=share, **options)
        except OSError as error:
            raise UnreelError(f"cannot serve at {address}:{port}: {error}") from error
        try:
            yield share_url if share else local_url
        finally:
            blocks.close()


def serve(
    host: Host, worker: FirstThread, address: str, port: int, *, share: bool = False, tell: Callable[[str], None] = print
) -> None:
    """Serve the app until it is interrupted, or told to stop (SIGTERM); the host's `worker` computes in this thread."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C does, so that nothing is left behind
    with serving(host, address, port, share=share) as where, suppress(KeyboardInterrupt):
        tell(f"serving  {where}")
        worker.run()
