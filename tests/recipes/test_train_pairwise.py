"""The pairwise recipe as users start it: killed in each stage, on two processes, from the configurations we ship."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from pairwise_world import build_pairwise_world, pairwise_recipe
from safetensors.torch import load_file

from hf_modalbridge.training import build_config, load_config
from hf_modalbridge.training.pairwise_config import PairwiseRecipe

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes" / "train_pairwise.py"
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    "OMP_NUM_THREADS": "1",
    "ACCELERATE_USE_CPU": "true",
    "TOKENIZERS_PARALLELISM": "false",
}
STEPS = 30


@pytest.fixture(scope="module")
def pairwise_world(tmp_path_factory):
    return build_pairwise_world(tmp_path_factory.mktemp("pairwise"))


def write(values: dict, file: Path) -> Path:
    file.write_text(yaml.safe_dump(values))
    return file


def start(config: Path) -> subprocess.Popen:
    command = [sys.executable, str(RECIPE), "--config", str(config)]
    return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def kill_at(process: subprocess.Popen, losses: Path, step: int) -> None:
    """SIGKILL some moment after a step was logged."""
    for _ in range(100_000):
        if process.poll() is not None:
            pytest.fail(f"the run ended before step {step}:\n{process.communicate()[0]}")
        if losses.exists() and len(losses.read_bytes().splitlines()) >= step:
            time.sleep(random.uniform(0, 0.02))
            process.send_signal(signal.SIGKILL)
            process.wait()
            return
        time.sleep(0.002)
    pytest.fail("the run did not get on")


@pytest.mark.slow
def test_killed_in_each_stage_and_started_again_it_loses_no_bit(pairwise_world, tmp_path):
    loop = {"max_steps": STEPS, "save_steps": 4, "eval_steps": 7}

    def values(output: Path) -> dict:
        # dropout in both stages and a scheduled temperature, so that random numbers and the position matter
        made = pairwise_recipe(pairwise_world, output, stage1={"loop": dict(loop)}, stage2={"loop": dict(loop)})
        made["aligner"] |= {"temperature_mode": "scheduled", "temperature_end": 0.2}
        return made

    whole = start(write(values(tmp_path / "whole"), tmp_path / "whole.yaml"))
    assert whole.wait(timeout=600) == 0, whole.communicate()[0]
    config = write(values(tmp_path / "killed"), tmp_path / "killed.yaml")
    for stage in ("stage1", "stage2"):
        kill_at(start(config), tmp_path / "killed" / stage / "losses.jsonl", random.randint(1, STEPS - 6))
        assert not (tmp_path / "killed" / stage / "model").exists()
    last = start(config)
    output, _ = last.communicate(timeout=600)
    assert last.returncode == 0, output
    assert "stage1: 30 steps on 1 process" in output and "stage2: 30 steps on 1 process" in output
    for stage in ("stage1", "stage2"):
        a, b = tmp_path / "whole" / stage, tmp_path / "killed" / stage
        assert (a / "losses.jsonl").read_text() == (b / "losses.jsonl").read_text()
        for shard in [*(a / "model").glob("*.safetensors"), a / f"checkpoints/step-{STEPS:08d}/optimizer.safetensors"]:
            x, y = load_file(shard), load_file(b / shard.relative_to(a))
            assert x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)


@pytest.mark.slow
def test_two_processes_take_the_same_steps_as_one(pairwise_world, tmp_path):
    def values(output: Path, rows: int) -> dict:
        loop = {"per_device_batch_size": rows, "max_steps": 4, "save_steps": 2, "eval_steps": 0}
        made = pairwise_recipe(pairwise_world, output, stage1={"loop": dict(loop)}, stage2={"loop": dict(loop)})
        made["aligner"]["dropout"] = 0.0
        # captions of one length: the mean over real tokens is then the mean over processes
        for pair in made["pairs"]:
            pair["cross"] = 0.0 if pair["target"] == "text" else 1.0
            pair["contrast"] = 1.0
        made["text"]["reconstruction"] = 0.0
        return made

    one = start(write(values(tmp_path / "one", 8), tmp_path / "one.yaml"))
    assert one.wait(timeout=600) == 0, one.communicate()[0]
    command = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0"]
    command += ["--config_file", str(ROOT / "recipes" / "accelerate" / "cpu2.yaml"), str(RECIPE)]
    command += ["--config", str(write(values(tmp_path / "two", 4), tmp_path / "two.yaml"))]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    for stage in ("stage1", "stage2"):
        a, b = (
            [json.loads(line) for line in (tmp_path / n / stage / "losses.jsonl").read_text().splitlines()]
            for n in ("one", "two")
        )
        for row, expected in zip(b, a, strict=True):
            assert row["loss"] == pytest.approx(expected["loss"], rel=1e-4)
            assert row["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-2)


@pytest.mark.parametrize("file", sorted((ROOT / "recipes" / "configs").glob("*.yaml")), ids=lambda f: f.stem)
def test_the_pairwise_configurations_that_we_ship_are_read(file):
    if "pairs" not in yaml.safe_load(file.read_text()):
        pytest.skip("not a configuration of train_pairwise.py")
    recipe = load_config(PairwiseRecipe, file, ["--stage1.loop.max_steps", "3"])
    assert recipe.stage1.loop.max_steps == 3
    recipe.graph().aligner_config(dict.fromkeys(["text", *recipe.modalities], 8))


def test_the_real_configuration_is_of_the_papers_size():
    recipe = load_config(PairwiseRecipe, ROOT / "recipes" / "configs" / "pointbert_qwen.yaml")
    config = recipe.graph().aligner_config({"text": 2048, "point": 384, "touch": 768, "image": 2048})
    assert (config.width, config.num_latents, config.decoder_layers, config.temperature) == (512, 32, 6, 0.07)
    assert (config.active_entries("touch", "text"), config.active_entries("touch", "image")) == (400, 512)
    assert recipe.stage1.loop.per_device_batch_size * 8 == 128 and recipe.stage2.loop.per_device_batch_size * 8 == 64


def test_a_graph_that_cannot_work_is_refused_before_anything_is_read(pairwise_world, tmp_path):
    values = pairwise_recipe(pairwise_world, tmp_path / "out")
    values["pairs"] = values["pairs"][:1]
    with pytest.raises(ValueError, match="cannot be reached from the modality 'image': it has no pairs at all"):
        build_config(PairwiseRecipe, values).graph()
