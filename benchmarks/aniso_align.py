"""Time AnisoAlign: the fit with its defaults, applying it, and the memory of both.

    python benchmarks/aniso_align.py                     # 100,000 x 512 float16 rows a side, one thread
    python benchmarks/aniso_align.py --rows 2000 --dim 64 --set score_steps=20 refine_steps=20

The rows are synthetic: unit rows with an own mean on each side and anisotropic residuals that share their leading
directions, as those of a contrastive dual encoder do. They lie in stores, and the fit streams them. Applying is
timed on blocks of float32 rows in memory, the median of several passes over 50,000 rows.

Besides seconds on the clock the table gives seconds of the processor, which other programs on the machine do not
lengthen; rows/s are counted by the clock, and by the processor beside it. Peak memory is the process's largest
resident set, Python and libraries included.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from hf_modalbridge import AnisoAlign, EmbeddingStore, EmbeddingStoreWriter

sys.path.insert(0, str(Path(__file__).parent))
from realign import peak

RESULTS = Path(__file__).parent / "results" / "aniso_align.md"
FULL_SIZE = (100_000, 512)
BLOCK = 10_000
SEED = 0


def make_rows(rows: int, dim: int, side: str, start: int) -> np.ndarray:
    """Draw unit rows of one side, float16; cov = sum of common and own leading directions."""
    rng = np.random.default_rng([SEED, side == "target", start])
    spectrum = np.arange(1, dim + 1, dtype=np.float32) ** (-0.9 if side == "target" else -0.65)
    spectrum *= 0.78 / np.linalg.norm(spectrum)
    mean = np.random.default_rng([SEED, 99, side == "target"]).normal(size=dim).astype(np.float32)
    mean *= 0.63 / np.linalg.norm(mean)
    # products of neighbouring factors tie the phases of different blocks, as no Gaussian would
    factors = rng.standard_normal((rows, dim), dtype=np.float32)
    tied = min(60, dim - 4)
    factors[:, 4 : 4 + tied] = 0.8 * factors[:, 4 : 4 + tied] + 0.6 * factors[:, :tied] * factors[:, 1 : 1 + tied]
    x = factors * spectrum + mean
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16)


def make_store(folder: Path, rows: int, dim: int, side: str) -> EmbeddingStore:
    """Write one side."""
    with EmbeddingStoreWriter(folder / side, dim=dim, total_rows=rows) as writer:
        for start in range(0, rows, BLOCK):
            x = make_rows(min(BLOCK, rows - start), dim, side, start)
            writer.append([f"{side}-{start + i}" for i in range(len(x))], x)
    return EmbeddingStore.open(folder / side)


def time_apply(correction: AnisoAlign, rows: torch.Tensor, repeats: int) -> tuple[float, float]:
    """Give rows/s by the clock and by the processor."""
    correction(rows[:BLOCK])
    clock, cpu = [], []
    for _ in range(repeats):
        start = time.perf_counter(), time.process_time()
        for block in rows.split(BLOCK):
            correction(block)
        clock.append(time.perf_counter() - start[0])
        cpu.append(time.process_time() - start[1])
    return len(rows) / statistics.median(clock), len(rows) / statistics.median(cpu)


def main() -> None:
    """Make the data, fit, apply, print and save the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="rows a side")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5, help="passes of applying; the median counts")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="hyper-parameters")
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder by default")
    parser.add_argument("--out", type=Path, help="Markdown file; default at full size: results/aniso_align.md")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    defaults = vars(AnisoAlign(args.dim).config)
    pairs = (item.split("=") for item in args.set)
    hyper = {name: value if isinstance(defaults[name], str) else type(defaults[name])(value) for name, value in pairs}
    with tempfile.TemporaryDirectory(prefix="aniso-", dir=args.folder) as folder:
        stores = [make_store(Path(folder), args.rows, args.dim, side) for side in ("source", "target")]
        before = peak()
        start = time.perf_counter(), time.process_time()
        correction = AnisoAlign.fit(*stores, device="cpu", progress=sys.stderr.isatty(), **hyper)
        clock, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
        after = peak()
    rows = torch.from_numpy(np.concatenate([make_rows(BLOCK, args.dim, "source", 10**9 + i) for i in range(5)])).float()
    moved = sum(tensor.numel() for tensor in correction.refinement.buffers())
    by_clock, by_cpu = time_apply(correction, rows, args.repeats)
    stages = {
        name: (looks[0]["held_out"], min(look["held_out"] for look in looks), looks[-1]["step"])
        for name, looks in correction.history.items()
    }
    chosen = " ".join(f" --set {' '.join(args.set)}" for _ in range(bool(args.set)))
    report = "\n".join(
        [
            f"# AnisoAlign: fit and apply, {args.rows:,} x {args.dim} float16 rows a side",
            "",
            f"`python benchmarks/aniso_align.py --rows {args.rows} --dim {args.dim} --threads {args.threads}{chosen}`, "
            f"seed {SEED}; {args.threads} of {os.cpu_count()} cores (load {os.getloadavg()[0]:.1f} at the end), "
            f"Python {platform.python_version()}, torch {torch.__version__}.",
            "",
            "| what | clock | processor |",
            "|---|---|---|",
            f"| fit, seconds | {clock:.0f} | {cpu:.0f} |",
            f"| apply, rows/s | {by_clock:,.0f} | {by_cpu:,.0f} |",
            "",
            f"- peak memory {after:.0f} MiB, {before:.0f} MiB of it before the fit",
            *(
                f"- stage {name}: held-out loss {first:.4f} at the start, {best:.4f} at best, stopped at step {step:,}"
                for name, (first, best, step) in stages.items()
            ),
            f"- refinement network of {moved:,} weights; rank {correction.config.rank}",
        ]
    )
    print(report)
    out = args.out or (RESULTS if (args.rows, args.dim) == FULL_SIZE and not args.set else None)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(report + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
