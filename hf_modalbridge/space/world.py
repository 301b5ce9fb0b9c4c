"""What all sessions share and none changes: the models, the demo's stores and its held-out pictures and clouds."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hf_modalbridge.store import EmbeddingStore

from .items import MODALITIES, Item, cloud_item, picture_item, touch_item
from .uploads import Limits

__all__ = ["LoadedModel", "World", "find_models"]

DEFAULT_MODEL = Path("runs/demo/realign/stage2/model")
POINTS_MODEL = Path("runs/modalbridge-pc/stage2/model")


@dataclass
class LoadedModel:
    """A model and its processor.

    Args:
        name: To show.
        model: `ModalBridgeForConditionalGeneration`, in evaluation mode.
        processor: Its processor.
        path: Where it was loaded from.
    """

    name: str
    model: Any = field(repr=False)
    processor: Any = field(repr=False)
    path: Path | None = None

    @classmethod
    def load(cls, path: str | Path) -> LoadedModel:
        """Load a model directory or repo.

        Args:
            path: Directory or repo id.

        Returns:
            The model.
        """
        from transformers import AutoModel, AutoProcessor

        import hf_modalbridge  # noqa: F401  registers the classes

        model = AutoModel.from_pretrained(str(path)).eval().requires_grad_(False)
        folder = Path(path)
        # runs/demo/realign/stage2/model is called demo/realign, which says more than "model"
        parts = [part for part in folder.parts if part not in ("model", "stage1", "stage2", "/")]
        known = parts[parts.index("runs") + 1 :] if "runs" in parts[:-1] else parts[-2:]
        name = "/".join(known[-2:]) if folder.is_dir() else str(path)
        return cls(name, model, AutoProcessor.from_pretrained(str(path)), folder if folder.is_dir() else None)

    def reads(self, modality: str) -> bool:
        """Tell whether it takes raw items of a modality: it knows it, and holds its encoder."""
        return modality in self.model.config.modalities and modality in self.model.model.encoders


class World:
    """Models, stores and examples.

    Args:
        models: The first that reads a modality is asked about it; Imagine and Bring use the first of all.
        stores: Folder of the demo's stores (`images-test`, ...); None looks beside the first model, then nowhere.
        limits: Of uploads.
        examples: How many examples of each modality the Chat page offers.
    """

    def __init__(
        self,
        models: Sequence[LoadedModel],
        stores: str | Path | None = None,
        limits: Limits | None = None,
        examples: int = 12,
    ) -> None:
        if not models:
            raise ValueError("the Space needs a model; give at least one.")
        self.models, self.limits, self._examples = list(models), limits or Limits(), examples
        self.stores = Path(stores) if stores is not None else _stores_beside(self.models[0].path)
        self.training = threading.Lock()  # accelerate keeps global state: one training at a time in a process

    def reader(self, modality: str) -> LoadedModel | None:
        """Find the model that reads a modality, if any does."""
        return next((loaded for loaded in self.models if loaded.reads(modality)), None)

    @property
    def readable(self) -> list[str]:
        """Modalities that some model reads."""
        return [name for name in MODALITIES if self.reader(name) is not None]

    @property
    def touch_channels(self) -> int:
        """Channels of the touch recordings that the model reads; the demo's, if none does."""
        loaded = self.reader("touch")
        processor = None if loaded is None else loaded.processor.encoder_processors.get("touch")
        return int(getattr(processor, "num_channels", 44))

    def store(self, name: str) -> EmbeddingStore | None:
        """Open one of the demo's stores, if it is there."""
        if self.stores is None or not (self.stores / name / "manifest.json").is_file():
            return None
        return EmbeddingStore.open(self.stores / name)

    @cached_property
    def pictures(self) -> Any:
        """The demo's held-out pictures; None if they are not there."""
        from hf_modalbridge.demo import load_captions

        try:
            return load_captions("test")
        except FileNotFoundError:
            return None

    @cached_property
    def picture_place(self) -> dict[str, int]:
        """Row of each held-out picture by its id."""
        return {} if self.pictures is None else {name: i for i, name in enumerate(self.pictures.ids)}

    @cached_property
    def examples(self) -> list[tuple[str, str]]:
        """Held-out items to click: modality and id, those first that were chosen by place and not by how they go."""
        found: list[tuple[str, str]] = []
        if self.pictures is not None and "image" in self.readable:
            found += [("image", self.pictures.ids[i]) for i in _spread(self.pictures.ids, self._examples)]
        if self.clouds is not None and "point" in self.readable:
            found += [("point", self.clouds.ids[i]) for i in _spread(self.clouds.ids, self._examples)]
        if self.touches is not None:
            found += [("touch", self.touches.ids[i]) for i in _spread(self.touches.ids, self._examples // 2)]
        return found

    @cached_property
    def clouds(self) -> Any:
        """The demo's held-out clouds; None if they are not there."""
        from hf_modalbridge.demo import load_clouds

        try:
            return load_clouds("test")
        except FileNotFoundError:
            return None

    @cached_property
    def touches(self) -> Any:
        """Generated touch recordings; None if no model reads touch."""
        from hf_modalbridge.demo import load_touch

        return load_touch("test", per_material=1) if "touch" in self.readable else None

    def example(self, modality: str, name: str) -> Item:
        """Make an item of an example.

        Args:
            modality: Of `examples`.
            name: Its id.

        Returns:
            The item.
        """
        if modality == "image":
            row = self.pictures[self.picture_place[name]]
            return picture_item(row["image"], row["caption"])
        if modality == "point":
            from hf_modalbridge.encoders.point_files import PointCloud

            place = self.clouds.ids.index(name)
            points = self.clouds.points[place].astype(np.float64)
            return cloud_item(PointCloud(points), self.clouds.names[place], self.limits)
        place = self.touches.ids.index(name)
        return touch_item(self.touches.values[place], name, self.touch_channels)

    def icon(self, modality: str, name: str) -> tuple[Any, str]:
        """Give a small picture of an example, and its caption."""
        if name in self.picture_place:
            row = self.pictures[self.picture_place[name]]
            kind = "3D: " if modality == "point" else ""
            return row["image"].convert("RGB"), kind + row["caption"]
        import base64
        import io

        from PIL import Image

        item = self.example(modality, name)
        data = item.html.split("base64,")[1].split('"')[0]
        return Image.open(io.BytesIO(base64.b64decode(data))), f"touch: {name.removeprefix('touch-')}"

    @torch.inference_mode()
    def embed_text(self, text: str, modality: str = "image") -> np.ndarray:
        """Embed a text by the contrastive encoder of the first model's modality.

        Args:
            text: The text.
            modality: Whose encoder.

        Returns:
            `(dim,)` float32, of length one.
        """
        from hf_modalbridge.encoders import encode, prepare_items

        loaded = self.models[0]
        encoder = loaded.model.model.encoders[modality]
        inputs = prepare_items(loaded.processor.encoder_processors[modality], "text", [text], encoder.config)
        return encode(encoder, "text", inputs)[0].cpu().numpy()


def find_models(model: str | Path | None = None, points: str | Path | None = None) -> list[LoadedModel]:
    """Load the models that a Space shows.

    Args:
        model: Directory or repo id; None takes what `make demo` leaves.
        points: One for point clouds; None takes what recipes/configs/modalbridge_pc.yaml leaves, if it is there.

    Returns:
        One or two models.

    Raises:
        FileNotFoundError: If there is no model.
    """
    if model is None:
        if not (DEFAULT_MODEL / "config.json").is_file():
            raise FileNotFoundError(
                f"there is no model in {DEFAULT_MODEL}. Make it with `make demo` (20 minutes), or name one: "
                "modalbridge demo --model DIRECTORY_OR_REPO."
            )
        model = DEFAULT_MODEL
    chosen: list[str | Path] = [model]
    if points is None and (POINTS_MODEL / "config.json").is_file() and Path(model) != POINTS_MODEL:
        points = POINTS_MODEL
    if points is not None:
        chosen.append(points)
    return [LoadedModel.load(path) for path in chosen]


def _stores_beside(path: Path | None) -> Path | None:
    """Find the stores of the run that a model directory lies in."""
    for folder in [] if path is None else list(path.resolve().parents)[:4]:
        if (folder / "stores" / "images-test").is_dir():
            return folder / "stores"
    return None


def _spread(ids: Sequence[str], count: int) -> list[int]:
    """Take rows evenly from the alphabet of their ids."""
    order = np.argsort(np.asarray(ids))
    return [int(order[i]) for i in np.linspace(0, len(ids) - 1, min(count, len(ids)) + 2)[1:-1].astype(int)]
