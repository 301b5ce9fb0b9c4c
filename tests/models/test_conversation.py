from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_bridges import ask, make_bridge, make_correction, vectors
from typer.testing import CliRunner

from hf_modalbridge import EmbeddingStoreWriter
from hf_modalbridge.cli import app
from hf_modalbridge.models.conversation import Conversation


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A saved bridge with a correction, and a store of five embeddings that it reads."""
    folder = tmp_path_factory.mktemp("conversation")
    model, processor = make_bridge(modalities={"image": {"correction": make_correction()}})
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    with EmbeddingStoreWriter(folder / "store", dim=12, dtype="float32") as writer:
        rows = torch.nn.functional.normalize(vectors(5), dim=-1).numpy()
        writer.append([f"r{i}" for i in range(5)], rows)
    return folder, model, processor, rows


def by_hand(model, processor, messages, tokens=6):
    inputs = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)
    out = model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
    return processor.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()


def test_turns_equal_generation_by_hand(saved):
    folder, model, processor, rows = saved
    talk = Conversation.open(folder / "model", store=folder / "store", row="r3", max_new_tokens=6)
    first = talk.ask("what is this?")
    asked = ask(torch.from_numpy(rows[3].copy()))
    assert first == by_hand(model, processor, asked)
    again = [*asked, {"role": "assistant", "content": first}, {"role": "user", "content": "and the dog?"}]
    assert talk.ask("and the dog?") == by_hand(model, processor, again)


def test_the_command_answers_about_a_row_by_number(saved):
    folder, model, processor, rows = saved
    arguments = ["chat", str(folder / "model"), "--store", str(folder / "store"), "--row", "2"]
    result = CliRunner().invoke(app, [*arguments, "--ask", "what is this?", "--max-new-tokens", "6"])
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == by_hand(model, processor, ask(torch.from_numpy(rows[2].copy())))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "either a file, or a store"),
        ({"store": "store"}, ValueError, "either a file, or a store"),
        ({"file": "missing.png"}, FileNotFoundError, "missing.png"),
        ({"store": "store", "row": "r0", "modality": "touch"}, (ValueError, KeyError), "touch"),
    ],
)
def test_what_cannot_be_talked_about_is_named(saved, monkeypatch, arguments, error, message):
    monkeypatch.chdir(saved[0])
    with pytest.raises(error, match=message):
        Conversation.open("model", **arguments)


def test_a_store_of_another_encoder_is_refused(saved, tmp_path):
    folder = saved[0]
    model, processor = make_bridge(modalities={"image": {"correction": make_correction()}})
    model.model.corrections["image"].target_encoder = {"id": "org/one", "dim": 12, "probe": [0.5] * 8}
    model.config.modalities["image"].correction_config = model.model.corrections["image"].to_config()
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    with EmbeddingStoreWriter(tmp_path / "s", dim=12, encoder={"id": "org/two", "dim": 12, "probe": [-0.5] * 8}) as w:
        w.append(["a"], np.eye(12)[:1])
    with pytest.raises(ValueError, match=r"org/one[\s\S]*org/two"):
        Conversation.open(tmp_path / "model", store=tmp_path / "s", row="a")
    assert Conversation.open(tmp_path / "model", store=folder / "store", row="r0").ask("what is this?") is not None
