"""The furniture as separate pairwise sets: what is in which, without running an encoder."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from hf_modalbridge.data import embed_tokens as embedding
from hf_modalbridge.demo import load_clouds, pairwise_stores


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    made = {}

    def embed_tokens(model, processor, modality, items, out, num_tokens, **options):
        made[out.name] = (modality, items, num_tokens)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedding, "embed_tokens", embed_tokens)
        patch.setattr("hf_modalbridge.encoders.load_encoder", lambda folder: (folder, None))
        patch.setattr(pairwise_stores, "dual_encoder", lambda: tmp_path_factory.getbasetemp())
        folder = tmp_path_factory.mktemp("stores")
        paths = pairwise_stores.prepare_pairwise_stores(folder, tmp_path_factory.getbasetemp(), point_tokens=7)
    assert paths == {name: folder / name for name in made}
    return made


def objects(sets, name: str) -> set[str]:
    return {row["item"] for row in sets[name][1]} if sets[name][0] == "point" else set(picture_ids(sets[name][1]))


def picture_ids(items) -> list[str]:
    return [items.pictures.ids[row] for row in items.rows]


def test_no_object_of_the_train_split_is_in_two_sets(sets):
    furniture = set(load_clouds("train").ids)
    parts = [objects(sets, n) & furniture for n in ("text-point-points", "image-point-points", "image-text-images")]
    assert sum(map(len, parts)) == len(set.union(*parts)) == len(furniture)
    assert all(abs(len(p) / len(furniture) - share) < 0.06 for p, share in zip(parts, (0.5, 0.3, 0.2), strict=True))
    assert objects(sets, "image-point-images") == parts[1], "the same objects, as pictures"
    assert objects(sets, "image-text-images") - furniture, "and the clip art"


def test_held_out_objects_are_not_trained_on_and_rows_belong_together(sets):
    train = {row for name in sets if not name.endswith(("-validation", "-test")) for row in objects(sets, name)}
    for split in ("validation", "test"):
        ids = [row["item"] for row in sets[f"points-{split}"][1]]
        assert ids == load_clouds(split).ids == picture_ids(sets[f"furniture-{split}"][1])
        assert not train & set(ids)


def test_copies_of_a_cloud_are_seeded_and_differ(sets):
    modality, items, num_tokens = sets["text-point-points"]
    assert (modality, num_tokens) == ("point", 7) and sets["points-test"][2] == 7
    counts = Counter(row["item"] for row in items)
    assert set(counts.values()) == {pairwise_stores.COPIES}
    one, other = items[0], items[1]
    assert one["item"] == other["item"] and one["id"] != other["id"] and one["text"] == other["text"]
    assert not np.array_equal(one["point"], other["point"]) and np.array_equal(one["point"], items[0]["point"])
    held = sets["points-test"][1][0]
    assert np.array_equal(held["point"], load_clouds("test").points[0]) and held["category"]
