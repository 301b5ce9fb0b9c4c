"""A fingerprint knows its encoder at another precision and place, and no other encoder."""

from __future__ import annotations

import json

import pytest
import torch
from tiny_encoders import make_dual_encoder

from hf_modalbridge.encoders import (
    describe_fingerprint,
    encode,
    encoder_fingerprint,
    fingerprints_match,
    load_encoder,
    prepare_items,
    probe_item,
)


@pytest.fixture
def fingerprint(dual_encoder):
    return encoder_fingerprint(*dual_encoder, "text", id="org/encoder", revision="abc")


def test_probe_is_the_start_of_the_unit_embedding(dual_encoder, fingerprint):
    model, processor = dual_encoder
    with torch.no_grad():
        row = encode(model, "text", prepare_items(processor, "text", [probe_item("text")], model.config))[0]
    assert fingerprint["probe"] == pytest.approx((row[:8] * 12**0.5).tolist(), abs=1e-4)
    assert fingerprint["dim"] == 12 and fingerprint["normalized"] and fingerprint["modality"] == "text"
    assert json.loads(json.dumps(fingerprint)) == fingerprint


def test_same_encoder_matches_elsewhere_and_in_bfloat16(dual_encoder, fingerprint, tmp_path):
    model, processor = dual_encoder
    model.save_pretrained(tmp_path / "copy")
    processor.save_pretrained(tmp_path / "copy")
    copy, copy_processor = load_encoder(tmp_path / "copy", dtype=torch.bfloat16)
    other = encoder_fingerprint(copy, copy_processor, "text")
    assert other["id"] == "copy" and other["probe"] != fingerprint["probe"]
    assert fingerprints_match(fingerprint, other) and fingerprints_match(other, fingerprint)


def test_other_encoder_or_side_does_not_match(dual_encoder, fingerprint):
    other = encoder_fingerprint(*make_dual_encoder(1), "text", id="org/encoder", revision="abc")
    assert not fingerprints_match(fingerprint, other)
    image = encoder_fingerprint(*dual_encoder, "image", id="org/encoder", revision="abc")
    assert not fingerprints_match(fingerprint, image)
    assert not fingerprints_match(fingerprint, {**fingerprint, "dim": 13})
    assert not fingerprints_match(fingerprint, {**fingerprint, "normalized": False})


def test_names_decide_where_there_is_no_probe(fingerprint):
    bare = {**fingerprint, "probe": []}
    assert fingerprints_match(fingerprint, bare)
    assert not fingerprints_match(fingerprint, {**bare, "id": "org/other"})
    assert not fingerprints_match(fingerprint, {**bare, "revision": "def"})
    assert fingerprints_match(None, fingerprint) and fingerprints_match(fingerprint, None)


def test_description_names_the_encoder(fingerprint):
    assert describe_fingerprint(fingerprint) == "org/encoder@abc (text, 12-d)"
    assert describe_fingerprint(None) == "an unrecorded encoder"


def test_model_is_left_in_its_mode(dual_encoder):
    model, processor = dual_encoder
    model.train()
    encoder_fingerprint(model, processor, "image")
    assert model.training and model.image_head.training
