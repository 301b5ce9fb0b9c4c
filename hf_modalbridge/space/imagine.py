"""The page Imagine: where a text's embedding lands among real pictures, before and after the correction."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from html import escape

import gradio as gr
import numpy as np
import torch

from .items import picture_uri
from .uploads import Refused
from .words import empty, note, worded
from .world import World

__all__ = ["Neighbourhood", "Pool", "imagine_page"]

_TEXTS = ("a red chair", "a dog", "a glass of wine", "playing card", "a ship on the sea", "musical instrument")
_SHOWN = 8
_NEAR = 20
_LONGEST = 200


@dataclass
class Neighbourhood:
    """What an embedding lands beside.

    Args:
        pictures: Rows of the nearest pictures, nearest first.
        cosines: Their cosines.
        mixed: The nearest of pictures and captions together: whether it is a picture, row, cosine.
        share: How many of the nearest twenty of both are pictures.
    """

    pictures: list[int]
    cosines: list[float]
    mixed: list[tuple[bool, int, float]]
    share: int


class Pool:
    """Held-out pictures and captions by their embeddings, for one text to be put among.

    Args:
        world: What all sessions share.

    Raises:
        Refused: If the model has no correction for pictures, or its stores are not there or of another encoder.
    """

    def __init__(self, world: World) -> None:
        inner = world.models[0].model.model
        images, captions = world.store("images-test"), world.store("captions-test")
        if "image" not in inner.corrections or "image" not in inner.encoders:
            raise Refused(
                "The loaded model has no correction from text to pictures, so a text cannot stand in for one."
            )
        if images is None or captions is None or world.pictures is None:
            raise Refused(
                "The demo's embedded pictures are not beside this model. `make demo` embeds them; or start the Space "
                "with --stores FOLDER."
            )
        self.world, self.correction = world, inner.corrections["image"]
        try:
            self.correction.check_encoder(images.encoder, "target")
        except ValueError as error:
            raise Refused(str(error)) from error
        self.images, self.captions = (_unit(np.asarray(side[:], np.float32)) for side in (images, captions))
        with torch.inference_mode():
            self.targets = _unit(self.correction.transform_target(torch.from_numpy(self.images)).float().numpy())
        self.ids, self.texts = images.ids, captions.column("text")

    def place(self, text: str) -> tuple[Neighbourhood, Neighbourhood]:
        """Embed a text and find what is beside it.

        Args:
            text: The text.

        Returns:
            Before the correction, and after it.
        """
        raw = self.world.embed_text(text)
        with torch.inference_mode():
            moved = self.correction(torch.from_numpy(raw)[None]).float().numpy()
        return self._around(_unit(raw[None])[0], self.images), self._around(_unit(moved)[0], self.targets)

    def _around(self, query: np.ndarray, pictures: np.ndarray) -> Neighbourhood:
        to_pictures, to_captions = pictures @ query, self.captions @ query
        nearest = np.argsort(-to_pictures, kind="stable")[:_SHOWN]
        both = np.concatenate([to_pictures, to_captions])
        order = np.argsort(-both, kind="stable")[:_NEAR]
        count = len(pictures)
        mixed = [(bool(i < count), int(i % count) if i < count else int(i - count), float(both[i])) for i in order]
        return Neighbourhood(
            nearest.tolist(), to_pictures[nearest].tolist(), mixed, sum(is_picture for is_picture, _, _ in mixed)
        )

    def tile(self, row: int, cosine: float) -> str:
        """Show a picture with its cosine."""
        place = self.world.picture_place.get(self.ids[row])
        if place is None:
            return self.word(self.ids[row], cosine)
        picture = self.world.pictures[place]
        name = escape(str(picture["caption"]))
        image = f'<img loading="lazy" alt="{name}" src="{self._icon(place)}">'
        return f"<figure>{image}<figcaption><b>{cosine:.2f}</b> {name}</figcaption></figure>"

    def word(self, text: str, cosine: float) -> str:
        """Show a caption with its cosine."""
        tile = f'<div class="mb-text">{escape(text.split(":")[0])}</div>'
        return f"<figure>{tile}<figcaption><b>{cosine:.2f}</b> caption</figcaption></figure>"

    @cached_property
    def _icons(self) -> dict[int, str]:
        return {}

    def _icon(self, place: int) -> str:
        if place not in self._icons:
            self._icons[place] = picture_uri(self.world.pictures[place]["image"], 128)
        return self._icons[place]

    def show(self, text: str) -> str:
        """Set both neighbourhoods side by side.

        Args:
            text: The text.

        Returns:
            HTML.
        """
        before, after = self.place(text)
        kind = escape(self.correction.correction_type)
        sides = []
        for title, found in (("Before the correction", before), (f"After it ({kind})", after)):
            tiles = "".join(self.tile(row, c) for row, c in zip(found.pictures, found.cosines, strict=True))
            mixed = "".join(
                self.tile(row, c) if is_picture else self.word(self.texts[row], c)
                for is_picture, row, c in found.mixed[:12]
            )
            sides.append(
                f"<section><h3>{title}</h3><p>Among {len(self.images):,} pictures and {len(self.captions):,} captions, "
                f"<b>{found.share} of its {len(found.mixed)} nearest</b> are pictures.</p>"
                f'<div class="mb-grid">{tiles}</div>'
                f'<details><summary>The nearest of pictures and captions together</summary><div class="mb-grid">{mixed}'
                "</div></details></section>"
            )
        return f'<div class="mb-sides">{"".join(sides)}</div>'


def imagine_page(world: World) -> None:
    """Lay out the page; call it inside a tab.

    Args:
        world: What all sessions share.
    """
    gr.HTML(
        "<p>A text and the picture that it describes have embeddings in the same space, but apart. Type a text: on the "
        "left what its embedding lands beside as it is, on the right after it was moved onto the pictures.</p>",
        elem_classes="mb-lead",
    )
    try:
        pool = Pool(world)
    except Refused as refusal:
        gr.HTML(note(str(refusal), warn=True))
        return
    text = gr.Textbox(
        label="Text", placeholder=_TEXTS[0], max_length=_LONGEST, submit_btn="Imagine", elem_id="imagine-text"
    )
    with gr.Row(elem_classes="mb-chips"):
        chips = [gr.Button(example, size="sm") for example in _TEXTS]
    result = gr.HTML(
        empty("The pictures beside your text appear here, nearest first, with their cosine."), elem_id="imagine-result"
    )

    @worded
    def imagine(words: str) -> str:
        words = " ".join(str(words or "").split())
        if not words:
            raise Refused("Type a text first.")
        if len(words) > _LONGEST:
            raise Refused(f"The text has {len(words)} characters; at most {_LONGEST} are taken.")
        return pool.show(words)

    def both(words: str) -> tuple[str, str]:
        return words, imagine(words)

    text.submit(imagine, [text], [result], api_name="imagine", concurrency_limit=2, show_progress="minimal")
    for chip in chips:
        chip.click(both, [chip], [text, result], api_visibility="private", concurrency_limit=2, show_progress="minimal")


def _unit(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True), np.float32)
