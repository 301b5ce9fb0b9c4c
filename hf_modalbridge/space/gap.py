"""The page Gap explorer: two sets of embeddings in, what each correction makes of their gap out."""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import torch

from hf_modalbridge.corrections import AutoCorrection, Correction
from hf_modalbridge.evaluation import GapReport

from .files import SessionFolder, drop_zone, empty_after, one_file
from .gap_figures import FIGURES, gap_figure
from .tables import EMBEDDING_FILES, read_embeddings
from .uploads import Refused, forget
from .words import empty, note, worded
from .world import World

__all__ = ["GapSession", "correction_zip", "explore", "gap_page"]

CORRECTIONS = {
    "mean shift": "mean_shift",
    "ReAlign": "realign",
    "block covariance": "block_covariance",
    "role means": "gr",
    "Procrustes (from pairs)": "procrustes",
}
_DEMO, _OWN = "The demo's captions and pictures", "My two files"
_FEWEST = 40
_MEASURED = 1500


@dataclass
class GapSession:
    """What one visitor found.

    Args:
        report: The last report.
        fitted: Corrections by their name on the page, fitted on all rows.
        folder: Files to download.
    """

    report: GapReport | None = None
    fitted: dict[str, Correction] = field(default_factory=dict)
    folder: SessionFolder = field(default_factory=SessionFolder)

    def forget(self) -> None:
        """Let go of everything; called when the session ends."""
        self.report, self.fitted = None, {}
        self.folder.clear()


def explore(
    source: np.ndarray, target: np.ndarray, names: Sequence[str], paired: bool, seed: int = 0
) -> tuple[GapReport, dict[str, Correction]]:
    """Fit corrections on one half of the rows, measure them on the other, and fit them again on all.

    Args:
        source: `(n, dim)`.
        target: `(m, dim)`.
        names: Of `CORRECTIONS`.
        paired: Whether equal rows belong together.
        seed: Of the split.

    Returns:
        The report, and the corrections that were fitted on all rows.

    Raises:
        Refused: If the two do not fit each other.
    """
    if source.shape[1] != target.shape[1]:
        raise Refused(
            f"The source has width {source.shape[1]} and the target {target.shape[1]}: they are not from the two sides "
            "of one contrastive encoder."
        )
    if min(len(source), len(target)) < _FEWEST:
        raise Refused(f"There are {min(len(source), len(target))} rows on the smaller side; give {_FEWEST} or more.")
    if paired and len(source) != len(target):
        raise Refused(
            f"There are {len(source):,} source and {len(target):,} target rows, so they do not belong together row by "
            "row. Untick the box."
        )
    unknown = [name for name in names if name not in CORRECTIONS]
    if unknown:
        raise Refused(f"There is no correction called {unknown[0]!r} here.")
    if not paired:
        names = [name for name in names if not _kind(name).paired]
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(source))
    orders = order, order if paired else rng.permutation(len(target))
    sides = [torch.from_numpy(rows[order]) for rows, order in zip((source, target), orders, strict=True)]
    fit, held_out = [side[: len(side) // 2] for side in sides], [side[len(side) // 2 :] for side in sides]
    try:
        halves = {name: _kind(name).fit(*fit, seed=seed) for name in names}
        report = GapReport.compute(
            held_out[0], held_out[1], halves, pairs=paired, sample=_MEASURED, bootstrap=60, pool=20_000, seed=seed
        )
        whole = {name: _kind(name).fit(*sides, seed=seed) for name in names}
    except (ValueError, RuntimeError) as error:
        raise Refused(str(error)) from error
    report.settings["fitting_rows"] = [len(rows) for rows in fit]
    return report, whole


def correction_zip(correction: Correction) -> bytes:
    """Pack a correction as `save_pretrained` writes it.

    Args:
        correction: A fitted one.

    Returns:
        A .zip of config.json, correction.safetensors and a card.
    """
    buffer = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        correction.save_pretrained(folder)
        for file in sorted(Path(folder).iterdir()):
            archive.write(file, f"correction/{file.name}")
    return buffer.getvalue()


def gap_page(world: World) -> None:
    """Lay out the page; call it inside a tab.

    Args:
        world: What all sessions share.
    """
    session = gr.State(GapSession(), time_to_live=3600, delete_callback=GapSession.forget)
    stores = world.store("captions-test"), world.store("images-test")
    has_demo = stores[0] is not None and stores[1] is not None
    gr.HTML(
        "<p>How far are two sides of a contrastive space apart, and what closes the gap? Corrections are fitted on one "
        "half of the rows and measured on the other.</p>",
        elem_classes="mb-lead",
    )
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            origin = gr.Radio(
                [_DEMO, _OWN] if has_demo else [_OWN], value=_DEMO if has_demo else _OWN, label="Embeddings",
                elem_id="gap-origin",
            )  # fmt: skip
            with gr.Group(visible=not has_demo) as own:
                files = [
                    drop_zone(label=label, file_types=list(EMBEDDING_FILES), height=140, elem_id=f"gap-{label.lower()}")
                    for label in ("Source", "Target")
                ]
                gr.HTML(
                    "<p>Rows of embeddings of both sides, usually text and the modality: "
                    f"{', '.join(EMBEDDING_FILES)}.</p>",
                    elem_classes="mb-lead",
                    padding=True,
                )
                paired = gr.Checkbox(label="Row i of one belongs to row i of the other", elem_id="gap-paired")
            chosen = gr.CheckboxGroup(
                list(CORRECTIONS),
                value=["mean shift", "ReAlign"],
                label="Corrections to fit",
                elem_id="gap-corrections",
            )
            go = gr.Button("Measure", variant="primary", elem_id="gap-go")
        with gr.Column(scale=3, min_width=300):
            said = gr.HTML(empty("The gap, and what each correction makes of it, appears here."), elem_id="gap-said")
            view = gr.Radio(list(FIGURES), value="Seen from above", label="Plot", visible=False, elem_id="gap-view")
            plot = gr.Plot(show_label=False, visible=False, elem_id="gap-plot")
            with gr.Row(visible=False) as taking:
                which = gr.Dropdown([], label="Correction to download, fitted on all rows", elem_id="gap-which")
                download = gr.DownloadButton("Download", elem_id="gap-download")
            with gr.Accordion("All numbers", open=False, visible=False) as more:
                tables = gr.Markdown(elem_classes="mb-wide")

    @worded
    def measure(
        where: str, source: str | None, target: str | None, belong: bool, names: list[str], state: GapSession
    ) -> tuple[Any, ...]:
        try:
            if where == _DEMO and has_demo:
                sides = [np.asarray(store[:], np.float32) for store in stores if store is not None]
                belong = True
            else:
                if not source or not target:
                    raise Refused("Choose two files first: one of the source, one of the target.")
                sides = [read_embeddings(one_file(path), world.limits) for path in (source, target)]
        finally:
            forget(source, target)
        report, fitted = explore(sides[0], sides[1], list(names or []), bool(belong))
        state.folder.clear()
        state.report, state.fitted = report, fitted
        best = next((name for name in fitted if report.recommendation.startswith(f"Use {name}:")), None)
        name = best or next(iter(fitted), None)
        views = [kind for kind in FIGURES if kind != "Retrieval" or report.pairs]
        return (
            _summary(report),
            gr.update(choices=views, value=views[0], visible=True),
            gr.update(value=gap_figure(report, views[0]), visible=True),
            gr.update(visible=bool(fitted)),
            gr.update(choices=list(fitted), value=name),
            _download(state, name),
            gr.update(visible=True),
            report.to_markdown(),
            None,
            None,
            state,
        )

    @worded
    def draw(kind: str, state: GapSession) -> Any:
        if state.report is None or kind not in FIGURES:
            raise Refused("Measure a gap first.")
        return gap_figure(state.report, kind)

    @worded
    def take(name: str, state: GapSession) -> Any:
        return _download(state, name)

    origin.change(lambda where: gr.update(visible=where == _OWN), [origin], [own], api_visibility="private")
    event = go.click(
        measure, [origin, *files, paired, chosen, session],
        [said, view, plot, taking, which, download, more, tables, *files, session],
        api_name="measure", concurrency_id="measure", concurrency_limit=1, show_progress_on=[said],
    )  # fmt: skip
    empty_after(event, *files)
    view.input(draw, [view, session], [plot], api_visibility="private")
    which.input(take, [which, session], [download], api_visibility="private")


def _kind(name: str) -> Any:
    return AutoCorrection.from_type(CORRECTIONS[name])


def _download(state: GapSession, name: str | None) -> Any:
    if name is None or name not in state.fitted:
        return gr.update(value=None)
    data = correction_zip(state.fitted[name])
    path = state.folder.write(f"{CORRECTIONS[name]}.zip", data)
    return gr.update(value=path, label=f"Download ({len(data) / 1000:,.0f} kB)")


def _summary(report: GapReport) -> str:
    """Say what was found, in a sentence and a small table."""
    rows = []
    for name, found in report.sets.items():
        gap, floor = found["gap"], found["gap_floor"].value
        mixing = min(1.0, (found["mixing_z"].value + found["mixing_x"].value) / 2)
        recall = f"{found['mixed_recall@10'].value:.2f}" if "mixed_recall@10" in found else "–"
        title = "as it is" if name == "source" else name
        rows.append(
            f"<tr><th>{escape(title)}</th><td>{gap.value:.3f}</td><td>{floor:.3f}</td><td>{mixing:.2f}</td>"
            f"<td>{recall}</td></tr>"
        )
    head = "<tr><th>source</th><th>gap</th><th>chance</th><th>mixing</th><th>mixed R@10</th></tr>"
    fitting = report.settings.get("fitting_rows", [0, 0])
    small = (
        f"<figcaption>Fitted on {fitting[0]:,} source and {fitting[1]:,} target rows, measured on "
        f"{report.sides['source'].rows:,} and {report.sides['target'].rows:,} others.</figcaption>"
    )
    warnings = "".join(note(text, warn=True) for text in report.warnings)
    table = f'<div class="mb-wide"><table class="mb-rows">{head}{"".join(rows)}</table></div>'
    return note(report.recommendation) + table + small + warnings
