"""The Space served on loopback, in a process of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

SERVE = """
import sys
from hf_modalbridge.space import serve

serve(model=sys.argv[1], points=sys.argv[2] or None, port=int(sys.argv[3]))
"""


@dataclass
class Server:
    """A Space that is running."""

    url: str
    process: subprocess.Popen
    temporary: Path
    log: Path

    @property
    def folder(self) -> Path:
        """Where it keeps uploads."""
        return next(self.temporary.glob("modalbridge-space-*"))

    def files(self) -> list[str]:
        """What visitors have left, without the examples that the page itself shows."""
        return sorted(str(p.relative_to(self.temporary)) for p in self.temporary.rglob("*") if p.is_file())


def serve(model: Path, points: Path | None, root: Path) -> Iterator[Server]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    temporary = root / "tmp"
    temporary.mkdir()
    log = root / "server.log"
    environment = os.environ | {
        "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(root / "hf"), "no_proxy": "127.0.0.1,localhost",
    }  # fmt: skip
    command = [sys.executable, "-c", SERVE, str(model), "" if points is None else str(points), str(port)]
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=root)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(process, port, log)
        yield Server(url, process, temporary, log)
    finally:
        process.terminate()
        process.wait(30)


def _wait(process: subprocess.Popen, port: int, log: Path) -> None:
    for _ in range(600):
        assert process.poll() is None, log.read_text()[-3000:]
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise TimeoutError(log.read_text()[-3000:])


def say(**figures: object) -> None:
    """Print figures, to be seen with -s."""
    print(json.dumps(figures))
