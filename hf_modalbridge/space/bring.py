"""The page Bring your modality: a table of embeddings and captions in, a connector that reads them out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from typing import Any

import gradio as gr
import numpy as np

from .files import drop_zone, empty_after
from .gap_figures import loss_figure
from .items import picture_uri
from .lessons import Lesson, held_out_losses, prepare_lesson, say, teach
from .tables import TABLE_FILES, Table, read_table
from .uploads import Refused, forget
from .words import empty, note, worded
from .world import World

__all__ = ["BringSession", "bring_page"]

_TEXT, _PAIRS = "Text alone: embeddings of the captions, moved by ReAlign", "Pairs: each row's own embedding"
_FORMATS = (
    "A .parquet or .npz with “embedding” and “caption”, or a .csv of captions with a .npy of embeddings. With "
    "“text_embedding” too, the captions by the same contrastive encoder, it can learn from text alone."
)
_SHOWN = 3
_LONGEST_MINUTES = 2.0


@dataclass
class BringSession:
    """What one visitor brought.

    Args:
        table: The rows.
        lesson: The connector that was trained on them.
        tried: Held-out rows that were asked for: row, caption, what the model said.
    """

    table: Table | None = None
    lesson: Lesson | None = None
    tried: list[tuple[int, str, str]] = field(default_factory=list)

    def forget(self) -> None:
        """Let go of everything; called when the session ends."""
        self.table = self.lesson = None
        self.tried = []


def bring_page(world: World) -> None:
    """Lay out the page; call it inside a tab.

    Args:
        world: What all sessions share.
    """
    session = gr.State(BringSession(), time_to_live=3600, delete_callback=BringSession.forget)
    gr.HTML(
        "<p>Bring embeddings of anything (pictures, sounds, a sensor) with captions. A new connector learns to let "
        "this Space's language model read them, in your session only: the model itself is never changed.</p>",
        elem_classes="mb-lead",
    )
    demo = _demo_table(world)
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            drop = drop_zone(
                label="A table of embeddings and captions",
                file_types=list(TABLE_FILES), file_count="multiple", height=150, elem_id="bring-drop",
            )  # fmt: skip
            example = gr.Button("Use the demo's table", size="sm", visible=demo is not None, elem_id="bring-demo")
            status = gr.HTML(empty(_FORMATS), elem_id="bring-status")
            how = gr.Radio([_TEXT, _PAIRS], value=_PAIRS, label="Learn from", elem_id="bring-how")
            minutes = gr.Slider(
                0.25, _LONGEST_MINUTES, 1, step=0.25, label="Minutes of training", elem_id="bring-minutes"
            )
            with gr.Row():
                go = gr.Button("Train", variant="primary", interactive=False, elem_id="bring-go")
                halt = gr.Button("Stop", variant="stop", visible=False, elem_id="bring-stop")
        with gr.Column(scale=3, min_width=300):
            said = gr.HTML(empty("The loss appears here while the connector learns."), elem_id="bring-said")
            plot = gr.Plot(show_label=False, visible=False, elem_id="bring-plot")
            with gr.Group(visible=False) as trying:
                place = gr.Slider(1, 2, 1, step=1, label="Row that it has not seen", elem_id="bring-row")
                ask = gr.Button("What is it?", elem_id="bring-ask")
            tried = gr.HTML(elem_id="bring-tried")

    read = [drop, status, how, go, session]

    def accept(table: Table, state: BringSession) -> tuple[Any, ...]:
        state.table, state.lesson, state.tried = table, None, []
        text = table.text_embeddings is not None
        known = "with" if text else "without"
        message = (
            f"{table.name}: {len(table):,} rows of width {table.embeddings.shape[1]}, {known} embeddings of the "
            f"captions. The first caption: “{table.captions[0][:120]}”."
        )
        choices = [_TEXT, _PAIRS] if text else [_PAIRS]
        return None, note(message), gr.update(choices=choices, value=choices[0]), gr.update(interactive=True), state

    @worded
    def bring(files: list[str] | None, state: BringSession) -> tuple[Any, ...]:
        paths = [str(path) for path in files or []]
        if not paths:
            raise Refused("No file arrived. Choose one first.")
        try:
            table = read_table(paths, world.limits)
        finally:
            forget(*paths)
        return accept(table, state)

    @worded
    def bring_demo(state: BringSession) -> tuple[Any, ...]:
        if demo is None:
            raise Refused("The demo's table is not here.")
        return accept(demo, state)

    @worded
    def run(choice: str, length: float, state: BringSession) -> Iterator[tuple[Any, ...]]:
        if state.table is None:
            raise Refused("Bring a table first, or use the demo's.")
        seconds = 60 * min(max(float(length), 0.05), _LONGEST_MINUTES)
        shared = world.models[0]
        hidden = gr.update(visible=False)
        yield note("Preparing: the connector starts from a closed form."), hidden, hidden, gr.update(), "", state
        with world.training:
            lesson = prepare_lesson(state.table, shared.model, shared.processor, paired=choice != _TEXT)
            state.lesson, state.tried = None, []
            learning = teach(lesson, seconds)
            try:
                for _ in learning:
                    drawn = (
                        gr.update(value=loss_figure(lesson.rows, lesson.total), visible=True) if lesson.rows else hidden
                    )
                    yield note(_progress(lesson)), drawn, hidden, gr.update(), "", state
            finally:
                learning.close()
        if not lesson.rows:
            raise Refused("It was stopped before the first step.")
        state.lesson = lesson
        drawn = gr.update(value=loss_figure(lesson.rows, lesson.total), visible=True)
        yield note("Measuring on rows that it has not seen."), drawn, hidden, gr.update(), "", state
        own, others = held_out_losses(lesson)
        count = len(lesson.held_out)
        summary = (
            f"{len(lesson.rows)} steps on {len(lesson.table):,} rows. On rows that it has not seen: {own:.2f} nats per "
            f"token with their own embedding, {others:.2f} with another row's. "
            + (
                "The difference is what it reads from the embedding."
                if own < others - 0.02
                else "There is hardly a difference: it has not learned to read the embedding yet. Train longer, or "
                "bring more rows."
            )
        )
        slider = gr.update(maximum=count, value=1)
        for row in range(min(_SHOWN, count)):
            state.tried.append((row, lesson.held_out.captions[row], say(lesson, row)))
            yield note(summary), drawn, gr.update(visible=True), slider, _tried(state, world), state

    @worded
    def try_row(number: float, state: BringSession) -> tuple[Any, ...]:
        if state.lesson is None:
            raise Refused("Train a connector first.")
        row = int(min(max(number, 1), len(state.lesson.held_out))) - 1
        found = (row, state.lesson.held_out.captions[row], say(state.lesson, row))
        state.tried = [found, *(one for one in state.tried if one[0] != row)][:8]
        return _tried(state, world), state

    event = drop.upload(
        bring,
        [drop, session],
        read,
        api_name="bring",
        concurrency_limit=2,
        show_progress="minimal",
        show_progress_on=[status],
    )
    empty_after(event, drop)
    example.click(bring_demo, [session], read, api_name="bring_demo", show_progress_on=[status])
    training = go.click(
        run, [how, minutes, session], [said, plot, trying, place, tried, session],
        api_name="train", concurrency_id="training", concurrency_limit=1, show_progress="minimal",
        show_progress_on=[said],
    )  # fmt: skip
    go.click(lambda: gr.update(visible=True), None, [halt], api_visibility="private", queue=False)
    training.then(lambda: gr.update(visible=False), None, [halt], api_visibility="private", queue=False)
    halt.click(
        lambda: (note("Stopped. Train again when you like."), gr.update(visible=False)), None, [said, halt],
        cancels=[training], api_visibility="private",
    )  # fmt: skip
    ask.click(
        try_row, [place, session], [tried, session], api_name="try", concurrency_id="model", show_progress="minimal"
    )


def _demo_table(world: World) -> Table | None:
    """The demo's train pictures and captions, to be tried on its test pictures."""
    names = [f"{side}-{split}" for split in ("train", "test") for side in ("images", "captions")]
    stores = [world.store(name) for name in names]
    tables = []
    for images, captions in (stores[:2], stores[2:]):
        if images is None or captions is None:
            return None
        rows = [np.asarray(store[:], np.float32) for store in (images, captions)]
        tables.append(Table(rows[0], images.column("text"), rows[1], "The demo's pictures", images.ids))
    tables[0].held_out = tables[1]
    return tables[0]


def _progress(lesson: Lesson) -> str:
    if not lesson.rows:
        return "Timing a step."
    return f"Step {len(lesson.rows)} of {lesson.total}: {lesson.rows[-1]['loss']:.2f} nats per token."


def _tried(state: BringSession, world: World) -> str:
    """Set what was tried as a table; captions are text, never markup."""
    ids = None if state.lesson is None else state.lesson.held_out.ids
    lines = []
    for row, caption, said in state.tried:
        place = None if ids is None else world.picture_place.get(ids[row])
        shown = ""
        if place is not None:
            shown = f'<img width="56" alt="" src="{picture_uri(world.pictures[place]["image"], 96)}">'
        lines.append(
            f"<tr><td>{row + 1}</td><td>{shown} {escape(caption)}</td><td><b>{escape(said) or '–'}</b></td></tr>"
        )
    head = "<tr><th>Row</th><th>Its caption</th><th>What the model says</th></tr>"
    return f'<div class="mb-wide"><table class="mb-rows">{head}{"".join(lines)}</table></div>'
