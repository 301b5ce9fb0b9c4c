"""Plots of a gap report for the page: the same curves as `GapReport.plot`, to zoom and to point at."""

from __future__ import annotations

from typing import Any

import torch

from hf_modalbridge.evaluation import GapReport
from hf_modalbridge.functional.gap import top_directions

__all__ = ["FIGURES", "gap_figure", "loss_figure"]

_INK = "#7b8494"  # readable on white and on black
_GRID = "rgba(128,136,150,0.25)"
_PALETTE = ("#4c78a8", "#f58518", "#54a24b", "#b279a2", "#72b7b2", "#eeca3b", "#9d755d", "#ff9da6")
_TARGET = "#e45756"
_MOST_POINTS = 600


def gap_figure(report: GapReport, kind: str) -> Any:
    """Draw one view of a report.

    Args:
        report: A report that was computed here.
        kind: One of `FIGURES`.

    Returns:
        A plotly figure.
    """
    return FIGURES[kind](report)


def loss_figure(rows: list[dict[str, Any]], total: int) -> Any:
    """Draw a loss curve while it grows.

    Args:
        rows: `{"step", "loss"}` of each step so far.
        total: Steps that there will be.

    Returns:
        A plotly figure.
    """
    import plotly.graph_objects as go

    steps, losses = [row["step"] for row in rows], [row["loss"] for row in rows]
    smooth: list[float] = []
    for loss in losses:
        smooth.append(loss if not smooth else 0.85 * smooth[-1] + 0.15 * loss)
    figure = go.Figure()
    figure.add_scatter(x=steps, y=losses, mode="lines", line={"color": _INK, "width": 1}, opacity=0.6, name="each step")
    figure.add_scatter(x=steps, y=smooth, mode="lines", line={"color": _PALETTE[0], "width": 2.5}, name="smoothed")
    _style(figure, "step", "loss, nats per token")
    figure.update_xaxes(range=[0, max(total, 2)])
    return figure


def _colours(report: GapReport) -> dict[str, str]:
    return {name: _PALETTE[i % len(_PALETTE)] for i, name in enumerate(report.sets)}


def _view(report: GapReport) -> Any:
    """Draw each set beside the target in the plane of the uncorrected two's leading directions."""
    from plotly.subplots import make_subplots

    names = list(report.sets)
    columns = min(3, len(names))
    lines = -(-len(names) // columns)
    titles = [f"{name} (target red)" if not i else name for i, name in enumerate(names)]
    figure = make_subplots(
        lines, columns, subplot_titles=titles, shared_xaxes="all", shared_yaxes="all",
        horizontal_spacing=0.02, vertical_spacing=0.12,
    )  # fmt: skip
    both = torch.cat([report.curves["source"]["rows"], report.curves["source"]["goal_rows"]])
    centre = both.mean(0)
    plane = top_directions((both - centre).T @ (both - centre), min(2, both.shape[1]))
    for i, (name, colour) in enumerate(_colours(report).items()):
        for key, tint, label in (("goal_rows", _TARGET, "target"), ("rows", colour, name)):
            points = ((report.curves[name][key][:_MOST_POINTS] - centre) @ plane).tolist()
            figure.add_scatter(
                x=[p[0] for p in points], y=[p[-1] for p in points], mode="markers", name=label, legendgroup=label,
                showlegend=key == "rows" or i == 0, marker={"size": 4, "color": tint, "opacity": 0.6},
                hoverinfo="name", row=i // columns + 1, col=i % columns + 1,
            )  # fmt: skip
    _style(figure, "", "", height=230 * lines + 110)
    figure.update_xaxes(showticklabels=False, title=None)
    figure.update_yaxes(showticklabels=False, title=None)
    figure.update_layout(showlegend=False)  # each panel has its name
    figure.update_annotations(font={"color": _INK, "size": 12})
    return figure


def _spectra(report: GapReport) -> Any:
    """Draw eigenvalues, scaled to the target's trace, by rank."""
    import plotly.graph_objects as go

    figure = go.Figure()
    curves = [(n, report.curves[n]["spectrum"], c, report.sides[n].trace) for n, c in _colours(report).items()]
    curves.append(("target", report.curves["source"]["goal_spectrum"], _TARGET, report.sides["target"].trace))
    for name, values, colour, trace in curves:
        kept = [(i + 1, v * report.sides["target"].trace / trace) for i, v in enumerate(values) if v > 1e-9 * values[0]]
        width = 3 if name == "target" else 1.8
        figure.add_scatter(
            x=[r for r, _ in kept], y=[v for _, v in kept], name=name, line={"color": colour, "width": width}
        )
    _style(figure, "rank", "eigenvalue, scaled to the target's trace")
    figure.update_xaxes(type="log")
    figure.update_yaxes(type="log", exponentformat="power")
    return figure


def _angles(report: GapReport) -> Any:
    """Draw densities of pairwise cosines inside each set."""
    import plotly.graph_objects as go

    figure = go.Figure()
    curves = [(n, report.curves[n]["density"], c) for n, c in _colours(report).items()]
    curves.append(("target", report.curves["source"]["goal_density"], _TARGET))
    for name, density, colour in curves:
        points = len(density)
        places = [i for i, value in enumerate(density) if value * points > 0.02]
        x = [(i + 0.5) * 2 / points - 1 for i in places]
        width = 3 if name == "target" else 1.8
        y = [density[i] * points / 2 for i in places]
        figure.add_scatter(x=x, y=y, name=name, line={"color": colour, "width": width})
    _style(figure, "cosine of two rows of one set", "density")
    return figure


def _bars(report: GapReport, keys: list[str], labels: list[str], title: str) -> Any:
    import plotly.graph_objects as go

    figure = go.Figure()
    for name, colour in _colours(report).items():
        found = [
            (label, report.sets[name][key]) for label, key in zip(labels, keys, strict=True) if key in report.sets[name]
        ]
        low = [e.value - (e.value if e.low is None else e.low) for _, e in found]
        high = [(e.value if e.high is None else e.high) - e.value for _, e in found]
        figure.add_bar(
            x=[label for label, _ in found], y=[e.value for _, e in found], name=name, marker={"color": colour},
            error_y={"type": "data", "array": high, "arrayminus": low, "color": _INK, "thickness": 1, "width": 2},
        )  # fmt: skip
    _style(figure, "", title)
    return figure


def _gap(report: GapReport) -> Any:
    return _bars(report, ["gap"], ["distance of the means"], "centroid gap")


def _mixing(report: GapReport) -> Any:
    keys, labels = ["mixing_z", "mixing_x", "omega"], ["mixing of targets", "mixing of sources", "kept neighbours"]
    return _bars(report, keys, labels, "1 is perfect")


def _retrieval(report: GapReport) -> Any:
    keys = [f"{kind}@{k}" for kind in ("recall", "mixed_recall") for k in report.settings["ks"]]
    labels = [f"{kind} R@{k}" for kind in ("pure", "mixed") for k in report.settings["ks"]]
    return _bars(report, keys, labels, "recall")


def _style(figure: Any, x: str, y: str, height: int = 380) -> None:
    figure.update_layout(
        height=height, margin={"l": 50, "r": 10, "t": 40, "b": 45}, paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)", font={"color": _INK, "family": "system-ui, sans-serif", "size": 12},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}, hovermode="closest", dragmode=False,
    )  # fmt: skip
    figure.update_xaxes(title=x, gridcolor=_GRID, zeroline=False)
    figure.update_yaxes(title=y, gridcolor=_GRID, zeroline=False)


FIGURES = {
    "Seen from above": _view,
    "Gap": _gap,
    "Mixing": _mixing,
    "Spectra": _spectra,
    "Angles": _angles,
    "Retrieval": _retrieval,
}
"""Views by name."""
