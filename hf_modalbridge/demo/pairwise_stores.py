"""The furniture set as separate pairwise sets, for the pairwise route: no object is ever seen in three modalities.

The train objects are cut into three disjoint parts by a hash of their id. Of the first part only caption and cloud are
used, of the second only picture and cloud, of the third only caption and picture, beside those of the clip art. An
object's caption, picture and cloud together, the triples, occur only in the validation and test splits.

The pictures' encoder is pretrained, as the image branch is in arXiv 2605.21059: the demo's dual encoder, whose heads
saw captions and pictures of the train split, never a cloud.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_modalbridge.demo.captions import load_captions
from hf_modalbridge.demo.clouds import FurnitureClouds, load_clouds
from hf_modalbridge.demo.models import dual_encoder, point_encoder
from hf_modalbridge.demo.point_batches import augment_cloud

__all__ = ["PARTS", "part_of", "prepare_pairwise_stores"]

PARTS = {"text-point": 0.5, "image-point": 0.3, "image-text": 0.2}
"""Shares of the train objects; pictures with captions are plentiful without furniture."""

COPIES = 4
_TURN = 0.5


def part_of(object_id: str) -> str:
    """Say in which pairwise set an object of the train split is.

    Args:
        object_id: Its id.

    Returns:
        "text-point", "image-point" or "image-text".
    """
    place = int.from_bytes(hashlib.sha256(f"pairwise:{object_id}".encode()).digest()[:6], "big") / 2**48
    for name, share in PARTS.items():
        if place < share:
            return name
        place -= share
    return "image-text"


def prepare_pairwise_stores(
    output: str | Path, encoder: str | Path | None = None, point_tokens: int = 1
) -> dict[str, Path]:
    """Embed the pairwise sets once; complete stores are left as they are.

    Args:
        output: Folder that receives the stores.
        encoder: Point encoder; None for the one that comes with the package.
        point_tokens: Tokens of a cloud: 1 for the encoder's pooled features, else as many as it gives.

    Returns:
        Paths by name. `text-point-points` (several turned and stretched copies of each cloud, column `text`);
        `image-point-points` and `image-point-images` (paired by the column `item`); `image-text-images` (column
        `text`); and of each other split `points-<split>` and `furniture-<split>` (pictures of the same objects in
        the same order). Rows are tokens end to end.
    """
    from hf_modalbridge.data.embed_tokens import embed_tokens
    from hf_modalbridge.encoders import load_encoder

    output = Path(output)
    folders = {"point": Path(encoder) if encoder is not None else point_encoder(), "image": dual_encoder()}
    tokens = {"point": point_tokens, "image": 1}
    loaded: dict[str, Any] = {}
    paths = {}
    for name, (modality, items) in _sets().items():
        paths[name], folder = output / name, folders[modality]
        if modality not in loaded:
            loaded[modality] = load_encoder(folder)
        embed_tokens(*loaded[modality], modality, items, paths[name], tokens[modality], id=folder.name, overwrite=True)
    return paths


def _sets() -> dict[str, tuple[str, Sequence]]:
    """Modality and items of each store by name."""
    pictures, clouds = load_captions("train"), load_clouds("train")
    part = {object_id: part_of(object_id) for object_id in clouds.ids}
    sets: dict[str, tuple[str, Sequence]] = {
        "text-point-points": ("point", _Clouds(clouds, [i for i in clouds.ids if part[i] == "text-point"], COPIES)),
        "image-point-points": ("point", _Clouds(clouds, [i for i in clouds.ids if part[i] == "image-point"], COPIES)),
        "image-point-images": ("image", _Pictures(pictures, [i for i in clouds.ids if part[i] == "image-point"])),
        "image-text-images": (
            "image",
            _Pictures(pictures, [i for i in pictures.ids if part.get(i, "image-text") == "image-text"]),
        ),
    }
    for split in ("validation", "test"):
        held, shown = load_clouds(split), load_captions(split)
        sets[f"points-{split}"] = ("point", _Clouds(held, held.ids, 0))
        sets[f"furniture-{split}"] = ("image", _Pictures(shown, held.ids))
    return sets


class _Clouds(Sequence):
    """Rows of clouds for `embed_tokens`: `copies` augmented ones of each object, or with 0 the cloud itself."""

    def __init__(self, clouds: FurnitureClouds, ids: Sequence[str], copies: int):
        self.clouds, self.ids, self.copies = clouds, list(ids), copies
        self.place = {object_id: i for i, object_id in enumerate(clouds.ids)}

    def __len__(self) -> int:
        return len(self.ids) * max(1, self.copies)

    def __getitem__(self, index):
        """Give a row as a dict."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        object_id, copy = self.ids[index // max(1, self.copies)], index % max(1, self.copies)
        row = self.place[object_id]
        points = self.clouds.points[row]
        if self.copies:
            rng = np.random.default_rng([row, copy])
            points = augment_cloud(points, rng, _TURN, len(points))
        return {
            "id": f"{object_id}/{copy}" if self.copies else object_id,
            "point": points,
            "item": object_id,
            "text": self.clouds.captions[row],
            "name": self.clouds.names[row],
            "category": self.clouds.categories[row],
        }

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[i] for i in range(len(self)))


class _Pictures(Sequence):
    """Rows of pictures for `embed_tokens`, decoded one at a time."""

    def __init__(self, pictures: Any, ids: Sequence[str]):
        self.pictures = pictures
        place = {picture_id: i for i, picture_id in enumerate(pictures.ids)}
        self.rows = [place[i] for i in ids]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index):
        """Give a row as a dict."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        item = self.pictures[self.rows[index]]
        return {"id": item["id"], "image": item["image"], "item": item["id"], "text": item["caption"]}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[i] for i in range(len(self)))
