"""What holds in a fresh interpreter, where nothing has been imported before."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tiny_bridges import make_bridge, make_correction

ROOT = Path(__file__).parents[2]


def run(code: str, *arguments: str) -> str:
    command = [sys.executable, "-W", "error::RuntimeWarning", "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("bridge")
    model, processor = make_bridge(modalities={"image": {"correction": make_correction()}})
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return str(path)


def test_importing_the_package_loads_neither_torch_nor_transformers():
    code = "import sys, hf_modalbridge; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    assert run(code) == "[]"


def test_import_then_auto_classes_without_pillow_or_torchvision(directory):
    code = """
import sys
sys.modules["PIL"] = sys.modules["torchvision"] = None  # as if they were not installed
import hf_modalbridge
from transformers import AutoModel, AutoProcessor
model, info = AutoModel.from_pretrained(sys.argv[1], output_loading_info=True)
print(type(model).__name__, type(AutoProcessor.from_pretrained(sys.argv[1])).__name__, info["missing_keys"])
"""
    assert run(code, directory) == "ModalBridgeForConditionalGeneration ModalBridgeProcessor set()"


def test_any_order_of_imports_works(directory):
    code = """
import os, sys
import transformers.generation.utils  # loads torch, and none of the tables
ORDERS = [
    "from transformers import AutoConfig, AutoProcessor; import hf_modalbridge",
    "import hf_modalbridge.encoders",
    "import hf_modalbridge.models.processing_modalbridge",
    "import hf_modalbridge.models.modeling_base",
    "import hf_modalbridge.models.connectors",
    "from hf_modalbridge import ReAlign, ModalBridgeForConditionalGeneration",
]
for order in ORDERS:
    child = os.fork()
    if child == 0:
        try:
            exec(order)
            from transformers import AutoConfig, AutoModel, AutoProcessor
            import hf_modalbridge as mb
            assert type(AutoProcessor.from_pretrained(sys.argv[1])) is mb.ModalBridgeProcessor
            assert type(AutoConfig.from_pretrained(sys.argv[1])) is mb.ModalBridgeConfig
            assert type(AutoModel.from_pretrained(sys.argv[1])) is mb.ModalBridgeForConditionalGeneration
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), order)
"""
    lines = run(code, directory).splitlines()
    assert len(lines) == 6 and [line for line in lines if not line.startswith("0 ")] == []


def test_public_names_are_listed_and_an_unknown_one_is_an_attribute_error():
    import hf_modalbridge

    assert {"ReAlign", "EmbeddingStore", "GapReport", "register_encoder", "ModalBridgeConfig"} <= set(
        dir(hf_modalbridge)
    )
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        hf_modalbridge.Nothing  # noqa: B018
