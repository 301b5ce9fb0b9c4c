from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from hub_server import HubServer

ROOT = Path(__file__).parents[2]


@pytest.fixture
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    """An empty Hub, whose token hf_test may write."""
    server = HubServer(tmp_path_factory.mktemp("hub")).start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def shared_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    """One Hub for the tests of a file."""
    server = HubServer(tmp_path_factory.mktemp("hub")).start()
    yield server
    server.stop()


def environment(server: HubServer, home: Path, token: str | None = "hf_test", **more: str) -> dict[str, str]:
    """What a process needs so that the client, which reads it when imported, talks to this Hub only."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    own = {"HF_ENDPOINT": server.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    own |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "OMP_NUM_THREADS": "1"}
    return {**kept, **own, **({"HF_TOKEN": token} if token else {}), **more}


def become_client(
    patch: pytest.MonkeyPatch, server: HubServer, home: Path, token: str | None = "hf_test", offline: bool = False
) -> None:
    """Turn this process into a user of a Hub, by what the client read from the environment when it was imported."""
    import huggingface_hub.constants as constants
    import transformers.utils.hub

    values = {
        "ENDPOINT": server.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_HUB_OFFLINE": offline,
        "HF_HUB_DISABLE_XET": True,
    }
    for name, value in values.items():
        patch.setattr(constants, name, value)
    patch.setattr(transformers.utils.hub, "_hf_api", None)  # it keeps the endpoint of its first use
    patch.delenv("HF_TOKEN", raising=False)
    if token:
        patch.setenv("HF_TOKEN", token)


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`client(server, home)` makes a user of this process: for what needs no fresh start, which costs seconds."""
    return partial(become_client, monkeypatch)


@pytest.fixture(scope="session")
def start() -> Callable[..., subprocess.Popen[str]]:
    """Start Python code in a fresh process whose Hub is the server given."""

    def start(server: HubServer, home: Path, code: str, *arguments: str, **env: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", code, *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=ROOT, env=environment(server, home, **env), **pipes)

    return start


@pytest.fixture(scope="session")
def run(start: Callable[..., subprocess.Popen[str]]) -> Callable[..., str]:
    """Run Python code in a fresh process to its end; gives what it printed, fails with what it complained."""

    def run(server: HubServer, home: Path, code: str, *arguments: str, **env: str) -> str:
        process = start(server, home, code, *arguments, **env)
        out, err = process.communicate(timeout=900)
        assert process.returncode == 0, err
        return out.strip()

    return run
