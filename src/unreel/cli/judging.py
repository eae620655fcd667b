"""Commands that say whether it worked, whether it holds, and how several compare."""

from pathlib import Path
from typing import Annotated, Any

import typer

from unreel.cli.app import app
from unreel.cli.options import (
    MOST,
    PLACE,
    PLACE_OF_THE_WHOLE,
    SAMPLING,
    SAMPLING_OF_ATTACKS,
    AsJson,
    Clips,
    ConceptName,
    ErasureFolder,
    JudgeName,
    MadeOn,
    Overwrite,
    Quiet,
    Resumed,
    StudiedT2I,
    grouped,
    seed_of,
)
from unreel.cli.output import echo, print_result, tell, terminal_width
from unreel.files import require_new


@app.command()
@grouped
def evaluate(
    erasure: ErasureFolder,
    t2v: MadeOn = None,
    judge: JudgeName = None,
    concept: ConceptName = None,
    videos: Annotated[
        int,
        typer.Option(
            max=MOST, help="prompts in each group, of each of which both models make a video; 0: only those of --prompts"
        ),
    ] = 50,
    group: Annotated[
        list[str] | None,
        typer.Option(help="only this prompt group; may be repeated (default: all)", show_default=False),
    ] = None,
    prompts: Annotated[
        list[Path] | None, typer.Option(help="prompts of your own: JSON, CSV or text; may be repeated", show_default=False)
    ] = None,
    seed: Annotated[
        int, typer.Option(callback=seed_of, help="random seed of the first video; further ones count up")
    ] = 1000,
    out: Resumed = None,
    clips: Clips = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
    sampling: Any = SAMPLING,
    place: Any = PLACE,
) -> None:
    """Did it work, and what else broke? The same prompts and seeds without and with an erasure, judged and measured.

    Writes metrics.json and report.html into ERASURE/evaluation; if the erasure has several concepts, into a folder for
    each there. Run it again to continue where it stopped.
    """
    from unreel.report.table import table
    from unreel.workflow import EvaluateJob
    from unreel.workflow import evaluate as run

    asked: dict[str, Any] = {
        "judge": judge,
        "concept": concept,
        "prompts": prompts or (),
        "groups": group or (),
        "videos": videos,
    }
    job = EvaluateJob(erasure, t2v, seed=seed, sampling=sampling, out=out, clips=clips, place=place, **asked)
    evaluation, page = run(job, tell)
    echo(f"\n{table(evaluation, terminal_width())}\n\nreport   {page}")
    print_result({"report": page, **evaluation.run.document()})


@app.command()
@grouped
def attack(
    erasure: ErasureFolder,
    t2i: StudiedT2I = None,
    t2v: MadeOn = None,
    judge: JudgeName = None,
    concept: ConceptName = None,
    attacks: Annotated[
        list[str] | None,
        typer.Option(
            "--attack",
            help="only this attack; may be repeated (default: all that are possible here and study no whole videos)",
            show_default=False,
        ),
    ] = None,
    cases: Annotated[int, typer.Option(max=MOST, help="prompts for the concept that each attack works on")] = 12,
    budget: Annotated[
        list[int] | None,
        typer.Option(
            help="videos that an attack may make for each prompt; may be repeated (default: 1 and 3)", show_default=False
        ),
    ] = None,
    steps: Annotated[int, typer.Option(max=MOST, help="search steps for each video, for attacks that search")] = 30,
    seed: Annotated[
        int, typer.Option(callback=seed_of, help="random seed of the first case; further ones count up")
    ] = 2000,
    out: Resumed = None,
    clips: Clips = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
    sampling: Any = SAMPLING_OF_ATTACKS,
    place: Any = PLACE_OF_THE_WHOLE,
) -> None:
    """Try to bring the concept back, with attacks that know the model's weights and others that do not.

    As a control, the original model is attacked too. Writes attacks.json and report.html into ERASURE/attacks; if the
    erasure has several concepts, into a folder for each there. Run it again to continue where it stopped.
    """
    from unreel.report.table import attack_table
    from unreel.report.verdict import not_tried
    from unreel.workflow import AttackJob
    from unreel.workflow import attack as run

    models: dict[str, Any] = {"t2i": t2i, "t2v": t2v, "judge": judge, "sampling": sampling, "place": place}
    asked: dict[str, Any] = {
        "concept": concept,
        "attacks": attacks or (),
        "cases": cases,
        "steps": steps,
        "seed": seed,
        "out": out,
        "clips": clips,
    }
    asked |= {"budgets": budget} if budget else {}
    result, page = run(AttackJob(erasure, **models, **asked), tell)
    echo("\n".join(["", attack_table(result, terminal_width()), "", *not_tried(result), f"report   {page}"]))
    print_result({"report": page, **result.document()})


@app.command()
def compare(
    run: Annotated[list[Path], typer.Argument(help="folders of erasures that were evaluated, or of evaluations")],
    out: Annotated[Path, typer.Option(help="folder for the page")] = Path("comparison"),
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Put several evaluations side by side on one page: of methods, settings or erasures.

    They should be of the same prompts and seeds, by the same judge; the page says where they differ.
    """
    from unreel.report.comparison import COMPARISON_FILE, Compared, document, write_comparison
    from unreel.report.verdict import verdict

    require_new(out, overwrite, COMPARISON_FILE)
    runs = [Compared.load(folder) for folder in run]
    page = write_comparison(runs, out)
    for each in runs:
        echo(f"{each.title}\n  {verdict(each.run)}")
    compared = document(runs)
    if compared["differ"]:
        echo(f"not measured alike: {compared['differ']} differ")
    echo(f"report   {page}")
    print_result({"report": page, **compared})
