"""Time ReAlign over stores beside the four-pass script that its users would otherwise run.

    python benchmarks/realign.py                     # 100,000 x 1,280 float16 rows a side
    python benchmarks/realign.py --rows 2000 --dim 64

Three ways, each in a process of its own, on the same synthetic rows with a modality gap:

    plain     read both sides and write as many bytes as one side, nothing else: the floor
    ours      ReAlign.fit over two stores, apply, and write a store
    baseline  the passes of the method's published script as descriptions give them, written anew here:
              lists of dicts in pickles of 200,000, whole files in float64, four passes over the source and two over
              the target, float32 rows in pickles out

Wall time is that of the work, after the imports; what was written is synced to the disk in all three. Peak
memory is the process's largest resident set, Python and libraries included; the table also gives what it was
before the work began. The order of the runs alternates, and the median of the repeats counts. Pickle appears
here, and only here, because it is what the baseline is made of.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

PICKLE_ROWS = 200_000  # what the published embedding script puts into one file
RESULTS = Path(__file__).parent / "results" / "realign.md"
FULL_SIZE = (100_000, 1280)
SEED = 0


def make_rows(rows: int, dim: int, side: str, start: int) -> np.ndarray:
    """Draw unit rows of one side: an own mean plus an anisotropic residual, float16."""
    rng = np.random.default_rng([SEED, side == "target", start])
    spectrum = np.arange(1, dim + 1, dtype=np.float32) ** (-0.9 if side == "target" else -0.65)
    spectrum *= 0.78 / np.linalg.norm(spectrum)
    mean = np.random.default_rng([SEED, 99, side == "target"]).normal(size=dim).astype(np.float32)
    mean *= 0.63 / np.linalg.norm(mean)
    x = rng.standard_normal((rows, dim), dtype=np.float32) * spectrum + mean
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16)


def make_data(folder: Path, rows: int, dim: int) -> None:
    """Write both sides as stores and as pickles."""
    from hf_modalbridge.store import EmbeddingStoreWriter

    for side in ("source", "target"):
        with EmbeddingStoreWriter(folder / side, dim=dim, total_rows=rows) as writer:
            for start in range(0, rows, PICKLE_ROWS):
                x = make_rows(min(PICKLE_ROWS, rows - start), dim, side, start)
                ids = [f"{side}-{start + i}" for i in range(len(x))]
                writer.append(ids, x)
                records = [{"id": name, "embed": row.copy()} for name, row in zip(ids, x, strict=True)]
                with (folder / f"{side}-{start // PICKLE_ROWS}.pkl").open("wb") as file:
                    pickle.dump(records, file, protocol=4)


def run_plain(folder: Path) -> None:
    """Read both sides and write the bytes of one, through a buffer."""
    out = folder / "plain.bin"
    buffer = bytearray(4 << 20)
    with out.open("wb", buffering=0) as sink:
        for side in ("source", "target"):
            for shard in sorted((folder / side).glob("shard-*.safetensors")):
                with shard.open("rb", buffering=0) as file:
                    while size := file.readinto(buffer):
                        if side == "source":
                            sink.write(memoryview(buffer)[:size])
        os.fsync(sink.fileno())


def run_ours(folder: Path) -> None:
    """Fit, apply and write with the library."""
    from hf_modalbridge.corrections import ReAlign, apply_correction
    from hf_modalbridge.store import EmbeddingStore

    source, target = EmbeddingStore.open(folder / "source"), EmbeddingStore.open(folder / "target")
    apply_correction(ReAlign.fit(source, target), source, folder / "ours")


def run_baseline(folder: Path) -> None:
    """Do the passes of the published script over pickled lists of dicts."""
    chunk, eps = 10_000, 1e-10

    def shards(side: str):
        for path in sorted(folder.glob(f"{side}-*.pkl")):
            with path.open("rb") as file:
                records = pickle.load(file)  # noqa: S301  (the baseline's own files)
            yield path, records, np.stack([record["embed"] for record in records]).astype(np.float64)

    def chunks(matrix: np.ndarray):
        for start in range(0, len(matrix), chunk):
            yield np.nan_to_num(matrix[start : start + chunk])

    def unit(matrix: np.ndarray) -> np.ndarray:
        norms = np.linalg.norm(matrix, axis=1, keepdims=True)
        return matrix / np.where(norms < eps, 1.0, norms)

    mean, trace = {}, {}
    for side in ("source", "target"):  # pass 1: means
        total, count = 0.0, 0
        for _, _, matrix in shards(side):
            for block in chunks(matrix):
                total, count = total + unit(block).sum(0), count + len(block)
        mean[side] = total / count
    for side in ("source", "target"):  # pass 2: traces
        total, count = 0.0, 0
        for _, _, matrix in shards(side):
            for block in chunks(matrix):
                total, count = total + ((unit(block) - mean[side]) ** 2).sum(), count + len(block)
        trace[side] = total / count
    scale = np.sqrt(trace["target"] / (trace["source"] + eps))
    total, count = 0.0, 0
    for _, _, matrix in shards("source"):  # pass 3: the drift mean
        for block in chunks(matrix):
            total = total + unit(mean["target"] + scale * (unit(block) - mean["source"])).sum(0)
            count += len(block)
    drift = total / count
    for path, records, matrix in shards("source"):  # pass 4: apply and save
        moved = []
        for block in chunks(matrix):
            first = unit(mean["target"] + scale * (unit(block) - mean["source"]))
            moved.append(unit(first - drift + mean["target"]).astype(np.float32))
        rows = np.concatenate(moved)
        saved = []
        for record, row in zip(records, rows, strict=True):
            record = dict(record)
            record["embed"] = row
            saved.append(record)
        with (folder / f"baseline-{path.name}").open("wb") as file:
            pickle.dump(saved, file, protocol=4)
            file.flush()
            os.fsync(file.fileno())


def run_job(job: str, folder: Path) -> None:
    """Do one job in this process and print its figures."""
    if job == "ours":
        import hf_modalbridge.corrections  # noqa: F401  (imports are not what is timed)

    before, start = peak(), time.perf_counter()
    {"plain": run_plain, "ours": run_ours, "baseline": run_baseline}[job](folder)
    print(json.dumps({"seconds": time.perf_counter() - start, "peak": peak(), "before": before}))


def peak() -> float:
    """Give the largest resident set of this process so far, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss of a child starts at its parent's size on Linux
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1024)


def compare_outputs(folder: Path) -> float:
    """Give the largest difference of our rows from the baseline's."""
    from hf_modalbridge.store import EmbeddingStore

    ours, worst, start = EmbeddingStore.open(folder / "ours"), 0.0, 0
    for path in sorted(folder.glob("baseline-source-*.pkl")):
        with path.open("rb") as file:
            rows = np.stack([record["embed"] for record in pickle.load(file)])  # noqa: S301
        worst = max(worst, float(np.abs(ours[start : start + len(rows)] - rows).max()))
        start += len(rows)
    return worst


def main() -> None:
    """Make the data, run the jobs, print and save the table."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--rows", type=int, default=100_000, help="rows a side")
    parser.add_argument("--dim", type=int, default=1280)
    parser.add_argument("--repeats", type=int, default=3, help="runs of each job; the median counts")
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder by default")
    parser.add_argument(
        "--out", type=Path, help="Markdown file for the table; default at full size: results/realign.md"
    )
    parser.add_argument("--job", choices=["plain", "ours", "baseline"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        run_job(args.job, args.folder)
        return
    folder = Path(tempfile.mkdtemp(prefix="realign-", dir=args.folder))
    try:
        report = measure(folder, args.rows, args.dim, args.repeats)
    finally:
        shutil.rmtree(folder)
    print(report)
    out = args.out or (RESULTS if (args.rows, args.dim) == FULL_SIZE else None)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(report + "\n", encoding="utf-8")


def measure(folder: Path, rows: int, dim: int, repeats: int) -> str:
    """Run all jobs and make the table."""
    make_data(folder, rows, dim)
    figures: dict[str, list[dict[str, float]]] = {"plain": [], "ours": [], "baseline": []}
    for number in range(repeats):
        for job in sorted(figures, reverse=bool(number % 2)):
            if job == "ours":
                shutil.rmtree(folder / "ours", ignore_errors=True)
            command = [sys.executable, __file__, "--job", job, "--folder", str(folder)]
            output = subprocess.run(command, capture_output=True, text=True, check=False)
            if output.returncode:
                raise SystemExit(f"the job {job} failed:\n{output.stderr}")
            figures[job].append(json.loads(output.stdout.splitlines()[-1]))
    middle = {
        job: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for job, runs in figures.items()
    }
    worst = compare_outputs(folder)

    def ratio(a: str, b: str, key: str) -> float:
        return middle[a][key] / middle[b][key]

    lines = [
        f"# ReAlign: fit, apply and write, {rows:,} x {dim:,} float16 rows a side",
        "",
        f"`python benchmarks/realign.py --rows {rows} --dim {dim} --repeats {repeats}`, seed {SEED}; "
        f"{os.cpu_count()} cores (load {os.getloadavg()[0]:.1f} at the end), Python {platform.python_version()}, "
        f"median of {repeats} runs each.",
        "",
        "| way | seconds (all runs) | peak memory, MiB | of that before the work, MiB |",
        "|---|---|---|---|",
    ]
    names = {
        "plain": "plain read and write",
        "ours": "hf_modalbridge",
        "baseline": "four passes over pickles",
    }
    for job, name in names.items():
        runs, m = ", ".join(f"{run['seconds']:.2f}" for run in figures[job]), middle[job]
        lines.append(f"| {name} | **{m['seconds']:.2f}** ({runs}) | {m['peak']:.0f} | {m['before']:.0f} |")
    lines += [
        "",
        f"- {ratio('baseline', 'ours', 'seconds'):.1f} times as fast as the four passes (aim: at least 12)",
        f"- {ratio('ours', 'baseline', 'peak'):.3f} of their peak memory (aim: at most 0.2)",
        f"- {ratio('ours', 'plain', 'seconds'):.2f} times the plain read and write (aim: at most 2)",
        f"- largest difference from the baseline's float32 numbers: {worst:.1e} (float16 rounding)",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
