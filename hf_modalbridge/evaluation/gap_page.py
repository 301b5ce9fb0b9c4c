"""A gap report as one page that needs nothing from elsewhere."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from hf_modalbridge.evaluation.gap_plots import figure_svg, plot_report
from hf_modalbridge.evaluation.gap_tables import Section, how_measured, sections

if TYPE_CHECKING:
    from hf_modalbridge.evaluation.gap_report import GapReport

__all__ = ["to_html"]

_CAPTIONS = {
    "spectra": "Eigenvalues of the covariances by rank, each scaled to the target's trace",
    "angles": "Density of the cosines of pairs of rows inside each set; the target's shape is the goal",
    "view": "Each set (its colour) and its target (red) in the plane of the leading directions of source and target",
    "mixing": "Mixing of set and target, 1 as shuffled, and kept neighbourhoods; lines are 95 % intervals",
    "retrieval": "Own target among the k nearest: of all targets, and mixed with the other queries",
}

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2127; --soft: #5a6068; --line: #d9dde2; --paper: #ffffff; --mark: #fff6dd; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ed; --soft: #a3abb5; --line: #3a424c; --paper: #14181d; --mark: #38300f; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 62rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; margin: 0.5rem 0; } h2 { font-size: 1.15rem; margin: 2rem 0 0.5rem; }
p, li { max-width: 46rem; } .soft, figcaption { color: var(--soft); font-size: 0.9rem; }
.advice { border-left: 4px solid #54a24b; padding: 0.5rem 1rem; }
.warnings { background: var(--mark); padding: 0.5rem 1rem 0.5rem 2rem; border-radius: 4px; }
.table { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.9rem; }
th, td { padding: 0.3rem 0.6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: var(--paper);
  max-width: 11rem; overflow: hidden; text-overflow: ellipsis; }
td small { display: block; color: var(--soft); font-size: 0.75rem; } td.best { font-weight: 700; }
tr.reference td { color: var(--soft); }
figure { margin: 1rem 0; } svg { width: 100%; max-width: 44rem; height: auto; color: var(--soft); }
.figures { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }
dt { font-weight: 600; margin-top: 0.4rem; } dd { margin: 0 0 0 1rem; color: var(--soft); }
"""


def to_html(report: GapReport, title: str = "Modality gap report") -> str:
    """Make the page.

    Args:
        report: The report.
        title: Of the page.

    Returns:
        HTML without any outside resource or script.

    Raises:
        ImportError: If matplotlib is missing.
    """
    figures = plot_report(report)
    parts = [f"<h1>{escape(title)}</h1>", f'<p class="advice">{escape(report.recommendation)}</p>']
    if report.warnings:
        items = "".join(f"<li>{escape(warning)}</li>" for warning in report.warnings)
        parts.append(f'<ul class="warnings" aria-label="Warnings">{items}</ul>')
    parts.append(_sides(report))
    parts.append('<h2>Plots</h2><div class="figures">')
    for name, figure in figures.items():
        caption = escape(_CAPTIONS[name])
        parts.append(f"<figure>{figure_svg(figure, caption, name)}<figcaption>{caption}.</figcaption></figure>")
    parts.append("</div>")
    heading, legend = "", []
    for section in sections(report):
        if section.title != heading:
            heading = section.title
            parts.append(f"<h2>{escape(heading)}</h2>")
        parts.append(_table(section))
        legend += [f"<dt>{escape(m.label)}</dt><dd>{escape(m.reading)}</dd>" for m in section.columns]
    parts.append(f'<p class="soft">{escape(how_measured(report))}</p>')
    parts.append(f"<h2>How to read the measures</h2><dl>{''.join(legend)}</dl>")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def _sides(report: GapReport) -> str:
    rows = []
    for name, s in report.sides.items():
        gap = "" if "target" in name else f"{s.gap:.6f}"
        cells = "".join(f"<td>{text}</td>" for text in (f"{s.rows:,}", f"{s.mean_norm:.4f}", f"{s.trace:.4f}", gap))
        rows.append(f'<tr><td title="{escape(name)}">{escape(name)}</td>{cells}</tr>')
    heads = "".join(f"<th>{text}</th>" for text in ("side", "rows", "length of the mean", "trace", "centroid gap"))
    return f'<div class="table"><table><tr>{heads}</tr>{"".join(rows)}</table></div>'


def _table(section: Section) -> str:
    heads = "".join(f'<th title="{escape(m.reading)}">{escape(m.label)}</th>' for m in section.columns)
    rows = []
    for name, cells in section.rows:
        kind = ' class="reference"' if name.startswith("(") else ""
        texts = "".join(
            f"<td{' class=best' * c.best}>{c.value}{f'<small>{c.interval}</small>' * bool(c.interval)}</td>"
            for c in cells
        )
        rows.append(f'<tr{kind}><td title="{escape(name)}">{escape(name)}</td>{texts}</tr>')
    return f'<div class="table"><table><tr><th>set</th>{heads}</tr>{"".join(rows)}</table></div>'
