"""A writer that is killed loses the unfinished shard at most, and goes on exactly."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import numpy as np

from hf_modalbridge import EmbeddingStore, EmbeddingStoreWriter

ROWS, DIM, SHARD = 2500, 8, 50

WRITER = f"""
import sys
import numpy as np
from hf_modalbridge.store import EmbeddingStoreWriter
x = np.random.default_rng(0).normal(size=({ROWS}, {DIM})).astype(np.float32)
x /= np.linalg.norm(x, axis=1, keepdims=True)
with EmbeddingStoreWriter(sys.argv[1], dim={DIM}, rows_per_shard={SHARD}, resume=True) as writer:
    start = writer.rows_written
    print("from", start, flush=True)
    for i in range(start, {ROWS}):
        writer.append([str(i)], x[i : i + 1], {{"twice": [2 * i]}})
"""


def test_sigkill_and_resume(tmp_path):
    path = tmp_path / "s"
    starts = []
    for _ in range(2):
        command = [sys.executable, "-c", WRITER, str(path)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        starts.append(int(process.stdout.readline().split()[1]))
        before = len(list(path.glob("shard-*")))
        while len(list(path.glob("shard-*"))) < before + 3:
            assert process.poll() is None, "the writer ended before it could be killed"
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        process.stdout.close()
        kept = EmbeddingStore.open(path, allow_incomplete=True)
        kept.verify()
        assert len(kept) % SHARD == 0 and len(kept) >= starts[-1] + 2 * SHARD
        assert kept.ids == [str(i) for i in range(len(kept))]
    assert starts[0] == 0 and starts[1] >= 2 * SHARD, "the second run went on from the manifest"
    subprocess.run([sys.executable, "-c", WRITER, str(path)], check=True, capture_output=True)
    store = EmbeddingStore.open(path)
    x = np.random.default_rng(0).normal(size=(ROWS, DIM)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    assert np.array_equal(store[:], x.astype(np.float16))
    assert store.column("twice") == [2 * i for i in range(ROWS)]
    store.verify()
    assert not [p.name for p in path.iterdir() if p.name.startswith((".", "index-"))]


def test_every_moment_of_an_extension_can_be_its_last(tmp_path, monkeypatch):
    """Stop before each single rename while a complete store is extended; resuming must repair it."""
    import os

    x = np.eye(4, dtype=np.float32)
    real, moment = os.replace, 0
    while True:
        path = tmp_path / str(moment)
        with EmbeddingStoreWriter(path, dim=4, rows_per_shard=1) as writer:
            writer.append(["a", "b"], x[:2])
        calls = 0

        def replace(source, target, moment=moment):
            nonlocal calls
            if calls == moment:
                raise KeyboardInterrupt
            calls += 1
            real(source, target)

        monkeypatch.setattr(os, "replace", replace)
        try:
            writer = EmbeddingStoreWriter(path, dim=4, rows_per_shard=1, resume=True)
            writer.append(["c", "d"], x[2:])
            writer.close()
            finished = True
        except KeyboardInterrupt:
            finished = False
        monkeypatch.setattr(os, "replace", real)
        with EmbeddingStoreWriter(path, dim=4, rows_per_shard=1, resume=True) as writer:
            done = writer.rows_written
            assert done >= 2
            writer.append(list("abcd")[done:], x[done:])
        store = EmbeddingStore.open(path)
        store.verify()
        assert store.ids == list("abcd") and np.array_equal(store[:], x.astype(np.float16))
        if finished:
            break
        moment += 1
    assert moment >= 8
