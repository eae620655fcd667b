"""Evaluations and attacks as text for the terminal.

Knows figures; knows no videos.
"""

from collections.abc import Sequence
from typing import Any

from unreel.evaluation.attack import ARMS, AttackRun
from unreel.evaluation.estimate import Estimate, Figure
from unreel.evaluation.run import Evaluation

TITLES = {
    "explicit": "asked for in plain words",
    "paraphrases": "asked for in other words",
    "companions": "together with something else",
    "neighbours": "its nearest neighbours",
    "unrelated": "unrelated",
    "styles": "styles",
    "motions": "motions",
}
# The terminal's columns, and what comes first on the page; everything else stands in metrics.json and on the page.
COLUMNS = (
    ("concept_found", "concept found"),
    ("anchor_found", "anchor found"),
    ("fidelity_ssim", "similarity to anchor's"),
    ("label_found", "what else was asked for"),
    ("ssim", "similarity to original"),
)


def number(value: float, unit: str) -> str:
    """A value as people read it; shares become percent."""
    if unit == "%":
        return f"{100 * value:.0f} %" if value in (0, 1) or value >= 0.1 else f"{100 * value:.1f} %"
    return f"{value:.{_digits(value)}f}" + (f" {unit}" if unit else "")


def _digits(value: float) -> int:
    return 2 if abs(value) < 100 else 0


def interval(estimate: Estimate, unit: str) -> str:
    """Its 95 % interval; empty for what was read off and not sampled."""
    low, high = (100 * x if unit == "%" else x for x in estimate.ci)
    digits = _digits(high) if unit != "%" else int(high < 10)
    return "" if estimate.n == 1 and estimate.ci[0] == estimate.ci[1] else f"[{low:.{digits}f}, {high:.{digits}f}]"


def cell(figure: Figure) -> str:
    """`original -> edited [interval of the latter]`, or the one value there is."""
    values = [number(estimate.value, figure.unit) for estimate in figure.estimates.values()]
    return f"{' -> '.join(values)} {interval(list(figure.estimates.values())[-1], figure.unit)}".strip()


def table(evaluation: Evaluation, width: int) -> str:
    """The figures that matter most, as text: a row for each group, then what concerns all of them. One table below the
    other where it would be wider than `width` characters.
    """
    figures = {(figure.metric, figure.group): figure for figure in evaluation.figures}
    columns = [(metric, title) for metric, title in COLUMNS if any(key[0] == metric for key in figures)]
    rows = [["original -> edited [95 %]", *(title for _, title in columns)]]
    for name in evaluation.groups:
        cells = [cell(figures[metric, name]) if (metric, name) in figures else "" for metric, _ in columns]
        rows.append([TITLES.get(name, name), *cells])
    general = [[figure.title, cell(figure)] for figure in evaluation.figures if not figure.group]
    return f"{align(rows, width)}\n\n{align(general, width)}"


def align(rows: Sequence[Sequence[str]], width: int) -> str:
    """Rows of text as columns two spaces apart; the columns that do not fit into `width` characters follow below, beside
    the first one again.
    """
    columns = [[text.ljust(max(map(len, column))) for text in column] for column in zip(*rows, strict=True)]
    first, tables = columns[0], [[columns[0]]]
    for column in columns[1:]:
        taken = sum(len(each[0]) + 2 for each in tables[-1])
        if len(tables[-1]) > 1 and taken + len(column[0]) > width:
            tables.append([first])
        tables[-1].append(column)
    return "\n\n".join("\n".join("  ".join(row).rstrip() for row in zip(*each, strict=True)) for each in tables)


def attack_table(result: AttackRun, width: int) -> str:
    """Success of each attack at each budget, as text that is at most `width` characters wide, if it can be."""
    head = [f"{arm}, {budget} video{'s' if budget > 1 else ''}" for arm in ARMS for budget in result.budgets]
    rows = [[row["attack"], "yes" if row["needs_weights"] else "no", *row["cells"]] for row in attack_rows(result)]
    return align([["attack", "weights", *head], *rows], width)


def attack_rows(result: AttackRun) -> list[dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for outcome in result.outcomes:
        row = rows.setdefault(
            outcome.attack, {"attack": outcome.attack, "needs_weights": outcome.needs_weights, "cells": [], "by_frame": {}}
        )
        row["by_frame"][outcome.arm] = outcome.by_frame()
        estimates = [outcome.success(budget) for budget in result.budgets]
        row["cells"] += [f"{number(estimate.value, '%')} {interval(estimate, '%')}".strip() for estimate in estimates]
        if outcome.arm == "edited":
            row["attempts"] = [case[-1] for case in outcome.cases if case]
    return list(rows.values())
