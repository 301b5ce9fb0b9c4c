"""Plots of a gap report, as matplotlib figures that follow the page's colours."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hf_modalbridge.functional.gap import top_directions

if TYPE_CHECKING:
    from hf_modalbridge.evaluation.gap_report import GapReport

__all__ = ["figure_svg", "plot_report"]

INK = "#5a6068"  # readable on white and on black; `figure_svg` turns it into the page's own colour
PALETTE = ("#4c78a8", "#f58518", "#54a24b", "#b279a2", "#72b7b2", "#eeca3b", "#9d755d", "#ff9da6", "#439894", "#d6a5c9")
TARGET = "#e45756"
MOST_VIEWS = 12


def plot_report(report: GapReport) -> dict[str, Any]:
    """Draw the report.

    Args:
        report: A report that was computed here.

    Returns:
        Figures: "spectra", "angles", "view", "mixing" and, with pairs, "retrieval".

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If the report has no curves.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'hf-modalbridge[report]'.") from error
    if not report.curves:
        raise ValueError("this report holds numbers only, nothing to plot. Compute it with GapReport.compute.")
    style = {
        "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK,
        "axes.spines.top": False, "axes.spines.right": False, "font.size": 9, "axes.titlesize": 9, "text.usetex": False,
        "text.parse_math": False, "figure.facecolor": "none", "axes.facecolor": "none", "legend.frameon": False,
    }  # fmt: skip
    with matplotlib.rc_context(style):
        figures = {
            "spectra": _spectra(report, Figure),
            "angles": _angles(report, Figure),
            "view": _view(report, Figure),
            "mixing": _bars(report, Figure, ("mixing_z", "mixing_x", "omega"), ("M^Z", "M^X", "Omega_k")),
        }
        if report.pairs:
            cuts = [str(k) for k in report.settings["ks"]]
            keys = [f"recall@{k}" for k in cuts] + [f"mixed_recall@{k}" for k in cuts]
            figures["retrieval"] = _bars(
                report, Figure, keys, [f"R@{k}" for k in cuts] + [f"mixed R@{k}" for k in cuts]
            )
    return figures


def figure_svg(figure: Any, label: str, salt: str) -> str:
    """Write a figure as SVG to put into a page: no prologue, no metadata, text in the page's colour.

    Args:
        figure: From `plot_report`.
        label: Description for those who do not see it.
        salt: Makes ids differ from those of other figures in the page.

    Returns:
        An `<svg>` element.
    """
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": salt, "svg.fonttype": "path"}):
        buffer = io.StringIO()
        empty = {"Creator": None, "Date": None, "Format": None, "Type": None}
        figure.savefig(buffer, format="svg", metadata=empty, transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S).replace(INK, "currentColor")
    text = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{salt}-", text)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.S)  # matplotlib writes each label here, unescaped
    return re.sub(r"<svg [^>]*?(viewBox=\"[^\"]*\")[^>]*>", rf'<svg \1 role="img" aria-label="{label}">', text, count=1)


def _colours(report: GapReport) -> dict[str, str]:
    return {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(report.sets)}


def _spectra(report: GapReport, figure_type: Any) -> Any:
    """Draw eigenvalues, scaled to the target's trace, by rank."""
    figure = figure_type(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, colour in _colours(report).items():
        values = torch.tensor(report.curves[name]["spectrum"])
        scale = report.sides["target"].trace / report.sides[name].trace
        _positive(axes, values * scale, _short(name), colour)
    _positive(axes, torch.tensor(report.curves["source"]["goal_spectrum"]), "target", TARGET, width=2)
    axes.set(xscale="log", yscale="log", xlabel="rank", ylabel="eigenvalue, scaled to the target's trace")
    axes.legend(fontsize=8)
    return figure


def _positive(axes: Any, values: Tensor, label: str, colour: str, width: float = 1.2) -> None:
    shown = values > 1e-9 * values[0]
    ranks = torch.arange(1, len(values) + 1)
    axes.plot(ranks[shown].tolist(), values[shown].tolist(), label=label, color=colour, lw=width)


def _angles(report: GapReport, figure_type: Any) -> Any:
    """Draw densities of pairwise cosines inside each set."""
    figure = figure_type(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    lines = [(_short(n), report.curves[n]["density"], c, 1.2) for n, c in _colours(report).items()]
    lines.append(("target", report.curves["source"]["goal_density"], TARGET, 2.0))
    for label, density, colour, width in lines:
        points = len(density)
        x = [(i + 0.5) * 2 / points - 1 for i in range(points)]
        axes.plot(x, [value * points / 2 for value in density], label=label, color=colour, lw=width)
    seen = [i for _, density, *_ in lines for i, value in enumerate(density) if value * len(density) > 0.02]
    axes.set_xlim(min(seen) * 2 / 512 - 1, (max(seen) + 1) * 2 / 512 - 1)
    axes.set(xlabel="cosine of two rows of one set", ylabel="density")
    axes.legend(fontsize=8)
    return figure


def _view(report: GapReport, figure_type: Any) -> Any:
    """Draw each set and its target in the plane of the uncorrected two's leading directions."""
    names = list(report.sets)[:MOST_VIEWS]
    columns = min(3, len(names))
    lines = -(-len(names) // columns)
    figure = figure_type(figsize=(6, 2.2 * lines + 0.2), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).flatten()
    both = torch.cat([report.curves["source"]["rows"], report.curves["source"]["goal_rows"]])
    centre = both.mean(0)
    plane = top_directions((both - centre).T @ (both - centre), min(2, both.shape[1]))
    for panel, name in zip(panels, names, strict=False):
        for key, colour in (("goal_rows", TARGET), ("rows", _colours(report)[name])):
            points = (report.curves[name][key] - centre) @ plane
            panel.scatter(points[:, 0].tolist(), points[:, -1].tolist(), s=4, color=colour, alpha=0.6, linewidths=0)
        panel.set_title(_short(name))
        panel.set(xticks=[], yticks=[])
    for panel in panels[len(names) :]:
        panel.set_axis_off()
    return figure


def _bars(report: GapReport, figure_type: Any, keys: Sequence[str], labels: Sequence[str]) -> Any:
    """Draw measures as bars with intervals, one colour a set."""
    figure = figure_type(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(report.sets)
    for i, (name, colour) in enumerate(_colours(report).items()):
        found = [(j, report.sets[name][key]) for j, key in enumerate(keys) if key in report.sets[name]]
        x = [j + (i - (len(report.sets) - 1) / 2) * width for j, _ in found]
        axes.bar(x, [e.value for _, e in found], width * 0.92, color=colour, label=_short(name))
        for place, (_, e) in zip(x, found, strict=True):
            if e.low is not None and e.high is not None:
                axes.plot([place, place], [e.low, e.high], color=INK, lw=0.8)
    axes.set_xticks(range(len(keys)), list(labels))
    figure.legend(fontsize=8, ncols=4, loc="outside upper center")
    return figure


def _short(name: str) -> str:
    """Keep a name inside the plot. A leading underscore would hide it from the legend."""
    flat = " ".join(name.split()).lstrip("_") or "?"
    return flat if len(flat) <= 24 else flat[:23] + "…"
