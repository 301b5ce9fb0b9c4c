from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_bridges import make_bridge

from hf_modalbridge.hub import hook

ROOT = Path(__file__).parents[2]


def test_install_status_and_remove(tmp_path):
    assert not hook.installed(tmp_path) and hook.remove(tmp_path) == []
    written = hook.install(tmp_path)
    assert hook.installed(tmp_path) and all(path.exists() for path in written)
    assert hook.install(tmp_path) == written
    assert sorted(hook.remove(tmp_path)) == sorted(written) and not list(tmp_path.iterdir())


def test_a_package_that_is_gone_does_not_disturb_the_start_of_python(tmp_path):
    hook.install(tmp_path)
    code = f"import site, sys; sys.modules['hf_modalbridge'] = None; site.addsitedir({str(tmp_path)!r}); print('fine')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert (done.stdout.strip(), done.stderr) == ("fine", "")


@pytest.mark.slow
def test_a_plain_automodel_finds_the_model_where_the_hook_is_on(tmp_path):
    bridge, processor = make_bridge()
    bridge.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    environment = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / "bin" / "python"
    site = next(environment.glob("lib/python*/site-packages"))
    outer = Path(next(p for p in sys.path if p.endswith("site-packages")))
    (site / "_outer.pth").write_text(f"{outer}\n{ROOT}\n")
    code = """
import sys
assert "transformers" not in sys.modules and "torch" not in sys.modules
from transformers import AutoModel, AutoProcessor
print(type(AutoModel.from_pretrained(sys.argv[1])).__name__, type(AutoProcessor.from_pretrained(sys.argv[1])).__name__)
"""

    def attempt() -> subprocess.CompletedProcess[str]:
        command = [python, "-c", code, tmp_path / "model"]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)

    assert "does not recognize this architecture" in attempt().stderr
    command = [python, "-m", "hf_modalbridge.hub.hook"]
    assert "wrote" in subprocess.run([*command, "install"], capture_output=True, text=True, cwd=tmp_path).stdout
    done = attempt()
    assert done.stdout.strip() == "ModalBridgeForConditionalGeneration ModalBridgeProcessor", done.stderr
    assert "removed" in subprocess.run([*command, "remove"], capture_output=True, text=True, cwd=tmp_path).stdout
    assert "does not recognize this architecture" in attempt().stderr
    shutil.rmtree(environment)
