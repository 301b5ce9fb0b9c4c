"""The page Chat: drop something, look at it, ask about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from typing import Any

import gradio as gr

from .answers import stream_answer
from .files import SessionFolder, drop_zone, empty_after, one_file
from .items import ITEM_FILES, MODALITIES, Item, read_item
from .uploads import Refused, forget
from .words import empty, note, worded
from .world import World

__all__ = ["ChatSession", "chat_page"]

_QUESTIONS = {
    "image": ("What is in this picture? Answer in a few words.", "What colour is it?", "What could one do with it?"),
    "point": ("What is this?", "What is it used for?"),
    "touch": ("What is this?", "Is it rough or smooth?"),
}
_LONGEST_QUESTION = 500
_TURNS = 6


@dataclass
class ChatSession:
    """What one visitor talks about.

    Args:
        item: The thing; None before there is one.
        messages: Earlier questions and answers.
        folder: Files that the viewer fetches.
    """

    item: Item | None = None
    messages: list[dict[str, str]] = field(default_factory=list)
    folder: SessionFolder = field(default_factory=SessionFolder)

    def forget(self) -> None:
        """Let go of everything; called when the session ends."""
        self.item, self.messages = None, []
        self.folder.clear()


def chat_page(world: World) -> None:
    """Lay out the page; call it inside a tab.

    Args:
        world: What all sessions share.
    """
    session = gr.State(ChatSession(), time_to_live=3600, delete_callback=ChatSession.forget)
    readable = ", ".join(f"{MODALITIES[name]}s" for name in world.readable) or "nothing raw"
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            drop = drop_zone(
                label="Picture, 3D file or touch recording",
                file_types=list(ITEM_FILES),
                height=150,
                elem_id="chat-drop",
            )
            shown = gr.HTML(empty("What you drop, or choose below, appears here."), elem_id="chat-shown")
            viewer = gr.Model3D(
                label="Drag to turn it", interactive=False, visible="hidden", height=320, elem_id="chat-viewer"
            )
            gr.HTML("<h3>Or choose one that the model has never seen</h3>", visible=bool(world.examples))
            gallery = gr.Gallery(
                [world.icon(*example) for example in world.examples],
                label="Examples", show_label=False,
                columns=5, height=190, allow_preview=False, interactive=False, object_fit="contain", buttons=[],
                elem_id="chat-examples", visible=bool(world.examples),
            )  # fmt: skip
        with gr.Column(scale=3, min_width=300):
            status = gr.HTML(note(f"This model reads {readable}."), elem_id="chat-status")
            talk = gr.Chatbot(
                label="Conversation", show_label=False, height=360, render_markdown=False, allow_tags=False,
                buttons=[], feedback_options=None, placeholder="Ask something about what you chose.",
                elem_id="chat-talk",
            )  # fmt: skip
            question = gr.Textbox(
                label="Question", value="", placeholder="What is this?", max_length=_LONGEST_QUESTION, lines=1,
                submit_btn="Ask", elem_id="chat-question",
            )  # fmt: skip
            with gr.Row(elem_classes="mb-chips"):
                chips = [
                    gr.Button(text, size="sm", visible=bool(text), elem_classes="mb-chip") for text in _chip_texts(None)
                ]
            with gr.Accordion("Parameters", open=False):
                length = gr.Slider(4, 128, 32, step=4, label="Longest answer, in tokens")
                temperature = gr.Slider(
                    0,
                    1.5,
                    0,
                    step=0.1,
                    label="Temperature",
                    info="0 takes the likeliest word; more is more varied.",
                )

    looked = [drop, shown, viewer, status, talk, question, *chips, session]

    def present(state: ChatSession, item: Item) -> tuple[Any, ...]:
        state.folder.clear()
        state.item, state.messages = item, []
        path = None if item.glb is None else state.folder.write("shape.glb", item.glb)
        loaded = world.reader(item.modality)
        kind = MODALITIES[item.modality]
        if loaded is None:
            message = note(
                f"This is a {kind}, and the loaded model reads no {kind}s: it reads {readable}. You can look at it, "
                "but not ask about it.",
                warn=True,
            )
        else:
            message = note(f"{item.name}: ask away. {loaded.name} will answer.")
        texts = _chip_texts(item.modality)
        return (
            None,
            gr.update(value=item.html, visible=item.glb is None),
            gr.update(value=path, visible=True if path is not None else "hidden"),
            message,
            [],
            texts[0],
            *(gr.update(value=text, visible=bool(text) and loaded is not None) for text in texts),
            state,
        )

    @worded
    def look(file: str | None, state: ChatSession) -> tuple[Any, ...]:
        path = one_file(file)
        try:
            item = read_item(path, world.limits, world.touch_channels)
        finally:
            forget(path)
        return present(state, item)

    @worded
    def choose(state: ChatSession, event: gr.SelectData) -> tuple[Any, ...]:
        return present(state, world.example(*world.examples[int(event.index)]))

    @worded
    def ask(text: str, longest: float, heat: float, state: ChatSession) -> Iterator[tuple[Any, ...]]:
        text = " ".join(str(text or "").split())
        item = state.item
        if item is None:
            raise Refused("Choose something to talk about first: drop a file, or click one of the examples.")
        loaded = world.reader(item.modality)
        if loaded is None:
            raise Refused(f"The loaded model reads no {MODALITIES[item.modality]}s, so it cannot be asked about this.")
        if not text:
            raise Refused("Write a question first.")
        if len(text) > _LONGEST_QUESTION:
            raise Refused(f"The question has {len(text)} characters; at most {_LONGEST_QUESTION} are taken.")
        earlier = state.messages[-2 * _TURNS :]
        asked = [*earlier, {"role": "user", "content": text}]
        busy = gr.update(value="", submit_btn=False, stop_btn="Stop")
        yield _shown([*asked, {"role": "assistant", "content": "…"}]), busy, state
        content = {"type": item.modality, item.modality: item.value}
        messages: list[dict[str, Any]] = [dict(message) for message in asked]
        messages[0]["content"] = [content, {"type": "text", "text": messages[0]["content"]}]
        answer = ""
        longest, heat = int(min(max(longest, 1), 128)), min(max(float(heat), 0.0), 1.5)
        for answer in stream_answer(loaded.model, loaded.processor, messages, longest, heat):  # noqa: B007
            yield _shown([*asked, {"role": "assistant", "content": answer}]), gr.update(), state
        done = {"role": "assistant", "content": answer or "(The model said nothing.)"}
        if state.item is item:  # and not another that was dropped meanwhile
            state.messages = [*asked, done]
        yield _shown([*asked, done]), _ready(), state

    def clear(state: ChatSession) -> ChatSession:
        state.messages = []
        return state

    def halt(state: ChatSession) -> tuple[Any, ...]:
        return _shown(state.messages), _ready(), state

    event = drop.upload(look, [drop, session], looked, api_name="look", concurrency_limit=4, show_progress="hidden")
    empty_after(event, drop)
    gallery.select(choose, [session], looked, api_visibility="private", concurrency_limit=4, show_progress="hidden")
    answering = {"inputs": [question, length, temperature, session], "outputs": [talk, question, session]}
    # the page says what goes on in the answer itself; an overlay would hide it, and stay after a refusal
    shared = {"concurrency_id": "model", "concurrency_limit": 1, "show_progress": "hidden"}
    events = [question.submit(ask, **answering, **shared, api_name="ask")]
    for chip in chips:
        inputs = [chip, length, temperature, session]
        events.append(chip.click(ask, inputs, answering["outputs"], **shared, api_visibility="private"))
    question.stop(halt, [session], answering["outputs"], cancels=events, queue=False, api_visibility="private")
    talk.clear(clear, [session], [session], api_visibility="private")


def _shown(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """Set messages as text: the page would read them as HTML."""
    return [{**message, "content": escape(message["content"], quote=False)} for message in messages]


def _ready() -> Any:
    return gr.update(submit_btn="Ask", stop_btn=False)


def _chip_texts(modality: str | None) -> list[str]:
    """Give three questions for a modality, blank where there are fewer."""
    texts = list(_QUESTIONS.get(modality or "", ()))[:3]
    return texts + [""] * (3 - len(texts))
