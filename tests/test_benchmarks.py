"""The benchmarks run at a small size and compare like with like."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_realign_benchmark(tmp_path):
    command = [sys.executable, "benchmarks/realign.py", "--rows", "1200", "--dim", "32", "--repeats", "1"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "table.md"), "--folder", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "table.md").read_text() == done.stdout
    worst = float(re.search(r"float32 numbers: (\S+)", done.stdout)[1])
    assert worst < 1e-3, "both ways give the same rows, up to float16"
    assert [p.name for p in tmp_path.iterdir()] == ["table.md"], "the benchmark cleans up"


@pytest.mark.slow
def test_points_benchmark(tmp_path):
    command = [sys.executable, "benchmarks/points.py", "--sizes", "600", "--repeats", "1"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "table.md")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "table.md").read_text() == done.stdout
    rows = [
        line.split("|") for line in done.stdout.splitlines() if line.startswith("| ") and "not installed" not in line
    ]
    assert {row[3].strip() for row in rows[1:]} >= {"ours", "naive"}
    assert all(float(row[7]) > 0.9 for row in rows[1:]), "all ways do the same"


@pytest.mark.slow
def test_aniso_align_benchmark(tmp_path):
    command = [sys.executable, "benchmarks/aniso_align.py", "--rows", "600", "--dim", "32", "--repeats", "1"]
    command += ["--set", "score_steps=4", "refine_steps=4", "--folder", str(tmp_path)]
    command += ["--out", str(tmp_path / "table.md")]
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "table.md").read_text() == done.stdout and "| apply, rows/s |" in done.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["table.md"], "the benchmark cleans up"
