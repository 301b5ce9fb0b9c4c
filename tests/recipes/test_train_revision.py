"""The recipe as users start it: killed at any moment, on two processes, from our configurations."""

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
from safetensors.torch import load_file
from tiny_world import recipe

from hf_modalbridge.training import RevisionConfig, build_config, load_config, run_revision

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    "OMP_NUM_THREADS": "1",
    "ACCELERATE_USE_CPU": "true",
    "TOKENIZERS_PARALLELISM": "false",
}
STEPS = 30


def write(values: dict, file: Path) -> Path:
    file.write_text(yaml.safe_dump(values))
    return file


def start(config: Path) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "recipes" / "train_revision.py"), "--config", str(config)]
    return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def kill_at(process: subprocess.Popen, losses: Path, step: int, delay: float) -> None:
    """SIGKILL some moment after a step was logged."""
    for _ in range(60_000):
        if process.poll() is not None:
            pytest.fail(f"the run ended before step {step}:\n{process.communicate()[0]}")
        if losses.exists() and len(losses.read_bytes().splitlines()) >= step:
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
            process.wait()
            return
        time.sleep(0.002)
    pytest.fail("the run did not get on")


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_killed_in_each_stage_and_started_again_it_loses_no_bit(world, tmp_path, one_thread):
    loop = {"max_steps": STEPS, "save_steps": 4, "eval_steps": 7, "num_workers": 0}

    def values(output: Path) -> dict:
        # noise in stage 1 and dropout in stage 2, so that random numbers matter
        stages = {
            "stage1": {"loop": dict(loop), "warm_start": {"ridge": 0.5}},
            "stage2": {"loop": dict(loop)},
        }
        made = recipe(world, output, **stages)
        made["bridge"]["correction"] = str(world.c3)
        return made

    run_revision(build_config(RevisionConfig, values(tmp_path / "whole")))
    config = write(values(tmp_path / "killed"), tmp_path / "killed.yaml")
    for stage in ("stage1", "stage2"):
        step, delay = random.randint(1, STEPS - 6), random.uniform(0, 0.03)
        losses = tmp_path / "killed" / stage / "losses.jsonl"
        kill_at(start(config), losses, step, delay)
        assert not (tmp_path / "killed" / stage / "model").exists()
    output = finish(start(config))
    assert "stage1: 30 steps on 1 process" in output and "stage2: 30 steps on 1 process" in output
    for stage in ("stage1", "stage2"):
        whole, killed = tmp_path / "whole" / stage, tmp_path / "killed" / stage
        assert (whole / "losses.jsonl").read_text() == (killed / "losses.jsonl").read_text()
        for file in ("trained", "optimizer"):
            name = f"checkpoints/step-{STEPS:08d}/{file}.safetensors"
            a, b = load_file(whole / name), load_file(killed / name)
            assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
        for shard in (whole / "model").glob("*.safetensors"):
            a, b = load_file(shard), load_file(killed / "model" / shard.name)
            assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_two_processes_take_the_same_steps_as_one(world, tmp_path):
    def values(output: Path, rows: int) -> dict:
        loop = {"per_device_batch_size": rows, "max_steps": 4, "save_steps": 2, "eval_steps": 2}
        made = recipe(world, output, stage1={"loop": dict(loop)}, stage2={"loop": dict(loop)})
        made["stage2"]["lora"]["dropout"] = 0.0
        return made

    one = run_revision(build_config(RevisionConfig, values(tmp_path / "one", 4)))
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += [
        "--config_file",
        str(ROOT / "recipes" / "accelerate" / "cpu2.yaml"),
        "--main_process_port",
        "0",
    ]
    command += [str(ROOT / "recipes" / "train_revision.py")]
    command += ["--config", str(write(values(tmp_path / "two", 2), tmp_path / "two.yaml"))]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    for stage in ("stage1", "stage2"):
        assert f"{stage}: 4 steps on 2 process(es)" in done.stdout
        lines = (tmp_path / "two" / stage / "losses.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        assert len(rows) == 4
        for row, expected in zip(rows, one[stage].training.rows, strict=True):
            assert row["tokens"] == expected["tokens"]
            assert row["loss"] == pytest.approx(expected["loss"], rel=1e-5)
            assert row["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-3)
            assert row.get("held_out_loss", 0.0) == pytest.approx(expected.get("held_out_loss", 0.0), rel=1e-5)
        assert (tmp_path / "two" / stage / "model" / "config.json").exists()


@pytest.mark.parametrize("file", sorted((ROOT / "recipes" / "configs").glob("*.yaml")), ids=lambda f: f.stem)
def test_the_configurations_that_we_ship_are_read(file):
    if "bridge" not in yaml.safe_load(file.read_text()):
        pytest.skip("not a configuration of train_revision.py")
    config = load_config(RevisionConfig, file, ["--stage1.loop.max_steps", "3"])
    assert config.stage1.loop.max_steps == 3
    assert config.stage2.stores.keys() == {config.bridge.modality}


def test_the_real_configuration_is_of_real_size():
    config = load_config(RevisionConfig, ROOT / "recipes" / "configs" / "siglip_llama.yaml")
    assert (config.bridge.encoder, config.language_model.id) == (
        "google/siglip-large-patch16-384",
        "meta-llama/Llama-3.2-3B-Instruct",
    )
    assert config.stage2.language_model == "lora"
    # the global batch of ReVision on 8 GPUs, in both stages
    for loop in (config.stage1.loop, config.stage2.loop):
        assert loop.per_device_batch_size * loop.gradient_accumulation_steps * 8 == 256
        assert loop.mixed_precision == "bf16"


@pytest.mark.parametrize("name", ["cpu1", "cpu2", "ddp", "fsdp2"])
def test_accelerate_reads_its_configurations(name):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(ROOT / "recipes" / "accelerate" / f"{name}.yaml"))
    assert config.num_processes == {"cpu1": 1, "cpu2": 2, "ddp": 8, "fsdp2": 8}[name]


def test_an_unknown_key_on_the_command_line_is_named(world, tmp_path):
    config = write(recipe(world, tmp_path / "out"), tmp_path / "x.yaml")
    command = [sys.executable, str(ROOT / "recipes" / "train_revision.py"), "--config", str(config)]
    done = subprocess.run([*command, "--stage1.loop.max_stesp", "3"], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode != 0
    assert "unknown key 'stage1.loop.max_stesp': did you mean 'max_steps'?" in done.stderr
    assert not (tmp_path / "out").exists()
