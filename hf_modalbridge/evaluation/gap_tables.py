"""A gap report as tables: for the terminal, and in Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hf_modalbridge.evaluation.gap_metrics import METRICS, SECTIONS, Metric, metric
from hf_modalbridge.evaluation.gap_spectra import Estimate

if TYPE_CHECKING:
    from hf_modalbridge.evaluation.gap_report import GapReport

__all__ = ["Cell", "Section", "how_measured", "print_report", "printed", "sections", "to_markdown"]

_PER_TABLE = 8


@dataclass
class Cell:
    """One number as text.

    Attributes:
        value: The number; empty if there is none.
        interval: Its interval; empty if there is none.
        best: Whether it is the best of its column.
    """

    value: str = ""
    interval: str = ""
    best: bool = False


@dataclass
class Section:
    """One table.

    Attributes:
        title: Its heading.
        columns: The measures.
        rows: Name and cells of each set; references have names in parentheses.
    """

    title: str
    columns: list[Metric]
    rows: list[tuple[str, list[Cell]]]


def sections(report: GapReport, per_table: int = _PER_TABLE) -> Iterator[Section]:
    """Lay the report out as tables of sets by measures.

    Args:
        report: The report.
        per_table: Largest number of columns.

    Yields:
        The tables.
    """
    order = [m.name for m in METRICS]
    names = {name for estimates in report.sets.values() for name in estimates}
    recalls = sorted((n for n in names if "recall@" in n), key=lambda n: (n.startswith("mixed_"), int(n.split("@")[1])))
    at = order.index("mrr")
    order = [*order[:at], *recalls, *order[at:]]
    for key, title in SECTIONS.items():
        columns = [metric(n) for n in order if n in names and metric(n).section == key]
        parts = -(-len(columns) // per_table) or 1
        size = -(-len(columns) // parts)
        for start in range(0, len(columns), size or 1):
            part = columns[start : start + size]
            rows = [
                (name, [_cell(m, estimates.get(m.name), _best(m, report)) for m in part])
                for name, estimates in report.sets.items()
                if any(m.name in estimates for m in part)
            ]
            if any(m.name in report.target for m in part):
                rows.append(("(target)", [_cell(m, report.target.get(m.name), None) for m in part]))
            if any(m.name in report.references for m in part):
                chance = "(mixed)" if key == "overlap" else "(chance)"
                rows.append((chance, [_cell(m, _estimate(report.references.get(m.name)), None) for m in part]))
            yield Section(title, part, rows)


def printed(estimate: Estimate, digits: int) -> Cell:
    """Write a number and its interval.

    Args:
        estimate: The number.
        digits: Decimals.

    Returns:
        The texts.
    """
    if estimate.value != estimate.value:
        return Cell("n/a")
    ends = (estimate.low, estimate.high)
    known = all(end is not None and end == end for end in ends)
    return Cell(f"{estimate.value:.{digits}f}", " to ".join(f"{end:.{digits}f}" for end in ends) if known else "")


def to_markdown(report: GapReport) -> str:
    """Write the report in Markdown.

    Args:
        report: The report.

    Returns:
        Recommendation, warnings and tables.
    """
    lines = [_escape(report.recommendation), ""]
    lines += [f"- Warning: {_escape(warning)}" for warning in report.warnings] + [""] * bool(report.warnings)
    lines += ["| side | rows | length of the mean | trace | centroid gap to the target |", "|---|---|---|---|---|"]
    for name, s in report.sides.items():
        gap = "" if "target" in name else f"{s.gap:.6f}"
        lines.append(f"| {_escape(name)} | {s.rows:,} | {s.mean_norm:.4f} | {s.trace:.4f} | {gap} |")
    title = ""
    for section in sections(report):
        lines += ["", f"**{section.title}**", ""] if section.title != title else [""]
        title = section.title
        lines.append("| set | " + " | ".join(m.label for m in section.columns) + " |")
        lines.append("|---" * (len(section.columns) + 1) + "|")
        for name, cells in section.rows:
            texts = [f"{'**' * c.best}{c.value}{'**' * c.best}{f' ({c.interval})' * bool(c.interval)}" for c in cells]
            lines.append(f"| {_escape(name)} | " + " | ".join(texts) + " |")
    return "\n".join([*lines, "", how_measured(report)])


def how_measured(report: GapReport) -> str:
    """Say in a sentence what the numbers rest on.

    Args:
        report: The report.

    Returns:
        The sentence.
    """
    s = report.settings
    text = (
        f"Means and covariances of all rows; neighbours (k = {s['k']}) of {s['source_queries']:,} source and "
        f"{s['target_queries']:,} target rows among all; q = {s['q']}; "
    )
    text += f"{report.pairs:,} pairs; " if report.pairs else "no pairs; "
    if s["bootstrap"]:
        return (
            f"{text}95 % intervals from {s['bootstrap']} resamples; seed {s['seed']}. Bold is the best of its column."
        )
    return f"{text}no intervals; seed {s['seed']}. Bold is the best of its column."


def print_report(report: GapReport, console: Any = None) -> None:
    """Print the report as tables.

    Args:
        report: The report.
        console: A `rich.console.Console`; a new one by default.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = console or Console()
    table = Table(title="Sides", title_justify="left")
    for heading in ("side", "rows", "length of the mean", "trace", "centroid gap"):
        table.add_column(heading, justify="left" if heading == "side" else "right")
    for name, s in report.sides.items():
        gap = "" if "target" in name else f"{s.gap:.6f}"
        table.add_row(escape(name), f"{s.rows:,}", f"{s.mean_norm:.4f}", f"{s.trace:.4f}", gap)
    console.print(table)
    for section in sections(report):
        table = Table(title=section.title, title_justify="left")
        table.add_column("set", overflow="fold")
        for m in section.columns:
            table.add_column(m.label, justify="right")
        for name, cells in section.rows:
            texts = []
            for c in cells:
                value = f"[bold]{c.value}[/bold]" if c.best else c.value
                texts.append(value + (f"\n[dim]{c.interval}[/dim]" if c.interval else ""))
            table.add_row(escape(name), *texts)
        console.print(table)
    console.print(how_measured(report), style="dim", highlight=False)
    for warning in report.warnings:
        console.print(f"[yellow]warning[/yellow] {escape(warning)}", highlight=False)
    console.print(f"[bold]{escape(report.recommendation)}[/bold]", highlight=False)


def _estimate(value: float | None) -> Estimate | None:
    return None if value is None else Estimate(value)


def _cell(m: Metric, estimate: Estimate | None, best: float | None) -> Cell:
    if estimate is None:
        return Cell()
    cell = printed(estimate, m.digits)
    cell.best = best is not None and estimate.value == best
    return cell


def _best(m: Metric, report: GapReport) -> float | None:
    """Find the best value of a column, if it has one and there is something to compare."""
    values = [e[m.name].value for e in report.sets.values() if m.name in e and e[m.name].value == e[m.name].value]
    if not m.better or len(values) < 2 or len(set(values)) < 2:
        return None
    goals = {"low": lambda v: v, "high": lambda v: -v, "one": lambda v: abs(v - 1)}
    return min(values, key=goals[m.better])


def _escape(text: str) -> str:
    """Keep a name or sentence inside its cell and without markup."""
    flat = " ".join(text.split()).replace("\\", "\\\\")
    for mark in "|`*[]":
        flat = flat.replace(mark, f"\\{mark}")
    return flat.replace("<", "&lt;").replace(">", "&gt;")
