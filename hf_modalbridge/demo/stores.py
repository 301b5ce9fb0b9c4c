"""The demo's embedding stores: pictures, captions and nouns, embedded once by the demo's dual encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hf_modalbridge.demo.captions import SPLITS, describe, load_captions
from hf_modalbridge.demo.models import dual_encoder
from hf_modalbridge.demo.wordnet import wordnet_glosses

__all__ = ["prepare_stores"]


def prepare_stores(
    output: str | Path, nouns: bool = False, splits: Sequence[str] = SPLITS, every: int = 1
) -> dict[str, Path]:
    """Embed what the demo works on; a complete store is left as it is, one that was cut off goes on.

    Args:
        output: Folder that receives the stores.
        nouns: Embed WordNet's nouns too, in the style of the captions: a larger text for stage 1.
        splits: Of the pictures with captions.
        every: Embed every n-th train picture alone. Statistics settle with fewer, and pictures take most of the time.

    Returns:
        Paths by name: `images-<split>`, `captions-<split>` and, if asked for, `nouns`. Unless train pictures are left
        out, row i of `images-<split>` and of `captions-<split>` belong together. All have a column `text`: captions
        with their keywords.
    """
    from hf_modalbridge.data.embed import embed_items
    from hf_modalbridge.encoders import load_encoder
    from hf_modalbridge.store.manifest import Manifest

    output, encoder = Path(output), dual_encoder()
    model = processor = None
    rows: dict[str, tuple[str, Sequence]] = {}
    for split in splits:
        pictures = load_captions(split)
        rows[f"images-{split}"] = ("image", pictures[:: every if split == "train" else 1])
        rows[f"captions-{split}"] = ("text", list(zip(pictures.ids, pictures.descriptions, strict=True)))
    if nouns:
        # every third is enough to know the words of what no picture shows, in a third of the time
        rows["nouns"] = ("text", [(gloss.id, gloss.description) for gloss in wordnet_glosses()[::3]])
    paths = {}
    for name, (modality, items) in rows.items():
        paths[name] = output / name
        stale = False
        if (paths[name] / "manifest.json").exists():
            manifest = Manifest.read(paths[name])
            # the folder's name holds a hash of the heads and towers: another name, other embeddings
            stale = manifest.rows > 0 and (manifest.encoder or {}).get("id") != encoder.name
            stale = stale or (manifest.complete and manifest.rows != len(items))
            if manifest.complete and not stale:
                continue
        if model is None:
            model, processor = load_encoder(encoder)
        embed_items(model, processor, modality, Rows(modality, items), paths[name], id=encoder.name, overwrite=stale)
    return paths


class Rows(Sequence):
    """Rows as `embed_items` takes them, made when they are asked for, so that pictures are decoded one at a time.

    Args:
        modality: "image" or "text".
        items: Rows of `load_captions`, or pairs of id and text.
    """

    def __init__(self, modality: str, items: Sequence):
        self.modality, self.items = modality, items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index):
        """Give a row as a dict."""
        item = self.items[index]
        if self.modality == "image":
            return {
                "id": item["id"],
                "image": item["image"],
                "text": describe(item["caption"], item.get("keywords") or ()),
            }
        return {"id": item[0], "text": item[1]}
