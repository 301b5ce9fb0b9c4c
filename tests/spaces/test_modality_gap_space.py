"""The `evaluate` measurement, loaded from its folder without a network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from hf_modalbridge import GapReport

ROOT = Path(__file__).resolve().parents[2]
SPACE = ROOT / "spaces" / "modality_gap"

SCRIPT = """
import json, socket, sys

def refuse(*args, **kwargs):
    raise OSError("the network was used")

socket.socket.connect = refuse
import evaluate
import numpy as np

x, y, z = np.load(sys.argv[2], allow_pickle=False)
gap = evaluate.load(sys.argv[1])
whole = gap.compute(source=x, target=y, paired=True, corrected={"moved": z}, bootstrap=20)
for start in range(0, len(x), 16):
    gap.add_batch(source=x[start : start + 16], target=y[start : start + 16])
print(json.dumps({"whole": whole, "parts": gap.compute(bootstrap=0), "type": gap.module_type, "name": gap.name}))
"""


def test_measurement_loads_from_the_folder_and_gives_the_reports_numbers(tmp_path):
    pytest.importorskip("evaluate")
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=(3, 40, 6)) + np.array([1.0, -1.0, -1.0])[:, None, None]).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    environment = os.environ | {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(SPACE), str(tmp_path / "rows.npy")],
        capture_output=True, text=True, env=environment, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout.splitlines()[-1])
    expected = GapReport.compute(rows[0], rows[1], {"moved": rows[2]}, pairs=True, bootstrap=20).to_dict()
    assert got["type"] == "measurement" and got["name"] == "modality_gap"
    for name, estimate in expected["sets"]["source"].items():
        assert got["whole"][name] == pytest.approx(estimate["value"], abs=1e-6), name
    assert got["whole"]["corrected"]["moved"]["phi"]["value"] == pytest.approx(
        expected["sets"]["moved"]["phi"]["value"], abs=1e-6
    )
    assert got["whole"]["recommendation"] == expected["recommendation"]
    assert got["parts"]["gap"] == pytest.approx(got["whole"]["gap"]) and "recall@1" not in got["parts"]
    assert got["whole"]["intervals"]["gap"][0] < got["whole"]["gap"] < got["whole"]["intervals"]["gap"][1]


def test_the_folder_is_laid_out_as_a_space():
    front = yaml.safe_load((SPACE / "README.md").read_text().split("---\n")[1])
    assert front["sdk"] == "gradio" and {"evaluate", "measurement"} <= set(front["tags"])
    assert (SPACE / front["app_file"]).is_file()
    needs = (SPACE / "requirements.txt").read_text()
    assert all(name in needs for name in ("evaluate", "gradio", "hf-modalbridge"))
