"""The study's rows: kept runs, knobs chosen on validation alone, and choices without a language model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from study import MAIN_ROWS, NOISES, SEARCH_SEED, Bed, Settings, Study

from hf_modalbridge import EmbeddingStore


@pytest.fixture
def study(world, tmp_path):
    sides = {"captions": world.text_store, "images": world.image_store}
    stores = {f"{side}-{split}": path for side, path in sides.items() for split in ("train", "validation", "test")}
    settings = Settings(steps=2, batch_size=4, hidden_size=8, caption_copies=1)
    return Study(tmp_path, {**stores, "nouns": world.text_store}, Bed(world.language_model, settings, (2e-3, 1e-3)), 2)


@pytest.mark.parametrize("row", MAIN_ROWS)
def test_a_row_is_run_once_and_kept(study, monkeypatch, row):
    first = study.result(row, 0.5, 1e-3, 0, "validation")
    assert first["items"] == len(study.open("images-validation"))
    assert 0 <= first["calibrated_choice"] <= 1 and np.isfinite(first["nll"])
    ran = []
    monkeypatch.setattr(study, "run", lambda *knobs: ran.append(knobs) or first)
    assert study.result(row, 0.5, 1e-3, 0, "validation") == first
    assert not ran
    study.settings = replace(study.settings, steps=3)
    study.result(row, 0.5, 1e-3, 0, "validation")
    assert ran, "a result of other settings does not count"
    study.settings = replace(study.settings, steps=2)
    study.weights = "of another language model"
    study.result(row, 0.5, 1e-3, 0, "validation")
    assert len(ran) == 2, "nor does one of another language model"


def test_knobs_are_chosen_on_validation(study, monkeypatch):
    asked = []

    def result(row, noise, rate, seed, split):
        asked.append((split, seed))
        assert split == "validation" or (noise, rate) == (1.0, 2e-3)
        # the test split would choose otherwise
        return {"nll": abs(noise - 1.0) + rate * (-1 if split == "validation" else 1)}

    monkeypatch.setattr(study, "result", result)
    assert len(study.row("realign")) == 2
    assert {seed for split, seed in asked if split == "validation"} == {SEARCH_SEED}
    assert [seed for split, seed in asked if split == "test"] == [0, 1]
    assert 1.0 in NOISES


def test_choices_without_a_language_model(study, world):
    own, to_captions, to_tokens = study.ceilings("test").values()
    images, captions = (np.asarray(EmbeddingStore.open(path)[:]) for path in (world.image_store, world.text_store))
    texts = EmbeddingStore.open(world.text_store).column("text")
    credits = []  # by the formula: the chance that the own caption is nearer than nine others
    first = {text: i for i, text in reversed(list(enumerate(texts)))}
    for image, text in zip(images, texts, strict=True):
        near = {other: captions[row] @ image for other, row in first.items()}
        beaten = np.mean([near[text] > value for other, value in near.items() if other != text])
        credits.append(beaten**9)
    assert own == pytest.approx(np.mean(credits), abs=0.1)
    # a mean that all captions share takes the choice of a raw cosine; a map that the pairs give has none
    assert to_captions > own
    assert 0.3 < to_tokens <= 1
    study.stores["images-test"] = world.text_store
    assert next(iter(study.ceilings("test").values())) > 0.9
