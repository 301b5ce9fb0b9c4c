"""All recipes in a row, each reading what the one before wrote, up to a model with its encoder."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from tiny_encoders import make_dual_encoder
from tiny_world import recipe
from transformers import AutoModel, AutoProcessor

from hf_modalbridge import AutoCorrection, EmbeddingStore

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


def picture_of(number: int) -> Image.Image:
    """One colour a picture: noise looks all the same to a tower with random weights."""
    return Image.new("RGB", (40, 32), tuple(np.random.default_rng(number).integers(0, 256, 3).tolist()))


@pytest.fixture
def run(monkeypatch):
    def run(name: str, *words: str) -> None:
        monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
        runpy.run_path(str(RECIPES / name), run_name="__main__")

    return run


def test_from_raw_items_to_a_measured_model(world, tmp_path, run, capsys):
    model, processor = make_dual_encoder()
    for parameter in model.parameters():
        if parameter.ndim == 4:  # random towers map all pictures to one point, unless their signal is kept up
            torch.nn.init.kaiming_normal_(parameter)
    model.save_pretrained(tmp_path / "encoder")
    processor.save_pretrained(tmp_path / "encoder")
    captions = [f"{a} {b}" for a in ("red", "a red", "the cat") for b in ("bicycle", "wall", "dog", "mat")]
    (tmp_path / "captions.jsonl").write_text(
        "".join(json.dumps({"id": i, "caption": c}) + "\n" for i, c in enumerate(captions))
    )
    table = ["id,file,text"]
    for i, caption in enumerate(captions):
        picture_of(i).save(tmp_path / f"{i}.png")
        table.append(f"{i},{i}.png,{caption}")
    (tmp_path / "images.csv").write_text("\n".join(table))
    common = [f"encoder={tmp_path / 'encoder'}", "dtype=float32", "batch_size=5"]
    run(
        "embed.py",
        *common,
        "modality=text",
        f"items={tmp_path}/captions.jsonl",
        "column=caption",
        f"output={tmp_path}/t",
    )
    run(
        "embed.py",
        *common,
        "modality=image",
        f"items={tmp_path}/images.csv",
        "column=file",
        f"output={tmp_path}/i",
    )
    run(
        "fit_correction.py",
        "type=c3",
        f"source={tmp_path}/t",
        f"target={tmp_path}/i",
        f"output={tmp_path}/c",
        "hyper.noise_norm=0.2",
    )
    assert AutoCorrection.from_pretrained(tmp_path / "c").correction_type == "c3"
    with pytest.raises(FileExistsError, match="already holds a correction"):
        run("fit_correction.py", f"source={tmp_path}/t", f"target={tmp_path}/i", f"output={tmp_path}/c")

    values = recipe(world, tmp_path / "out", stage1={"held_out_rows": 3}, stage2={"held_out_rows": 3})
    values["bridge"] |= {"encoder": str(tmp_path / "encoder"), "correction": str(tmp_path / "c")}
    values["stage1"]["store"] = str(tmp_path / "t")
    values["stage2"]["stores"] = {"image": str(tmp_path / "i")}
    chat = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]}
    (tmp_path / "chats.jsonl").write_text(
        "".join(
            json.dumps({"id": str(i), "messages": [chat, {"role": "assistant", "content": c}]}) + "\n"
            for i, c in enumerate(captions)
        )
    )
    values["stage2"]["chats"] = str(tmp_path / "chats.jsonl")
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(values))
    run("train_revision.py", "--config", tmp_path / "x.yaml", "--stage2.loop.max_steps", "2")

    finished = tmp_path / "out" / "stage2" / "model"
    bridge, processor = AutoModel.from_pretrained(finished), AutoProcessor.from_pretrained(finished)
    picture = picture_of(3)
    batch = processor.apply_chat_template(
        [
            {
                "role": "user",
                "content": [{"type": "image", "image": picture}, {"type": "text", "text": "What is this?"}],
            }
        ],
        tokenize=True,
        return_dict=True,
        add_generation_prompt=True,
    )
    from_picture = bridge(**batch).logits
    batch["modality_inputs"] = {"image": {"embeds": torch.from_numpy(EmbeddingStore.open(tmp_path / "i")[3:4])}}
    torch.testing.assert_close(bridge(**batch).logits, from_picture, rtol=1e-4, atol=1e-5)
    assert bridge.config.metadata["stage2"]["steps"] == 2
    command = "python recipes/train_revision.py --config x.yaml --stage2.loop.max_steps 2"
    assert bridge.config.metadata["stage2"]["command"] == command

    capsys.readouterr()
    words = [
        f"model={finished}",
        f"store={tmp_path}/i",
        "modality=image",
        "n=4",
        f"output={tmp_path}/result.json",
    ]
    run("evaluate.py", *words, "question=What is this?", "per_item=true")
    result = json.loads((tmp_path / "result.json").read_text())
    printed = json.loads(capsys.readouterr().out)
    assert result.pop("per_item").keys() == {"nll_per_token", "raw", "calibrated"}
    assert printed == result
    assert result["items"] == 12 and np.isfinite(result["nll_per_token"]["mean"])
