"""The Space on a tiny model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from space_server import Server, serve


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model's directory with stores beside it."""
    pytest.importorskip("gradio")
    from space_world import build_run

    return build_run(tmp_path_factory.mktemp("space-run"))


@pytest.fixture(scope="module")
def server(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    yield from serve(tiny_run, None, tmp_path_factory.mktemp("space-server"))
