"""Time the point operators beside their naive form and beside compiled libraries.

    python benchmarks/points.py                       # 1,000, 8,000 and 100,000 points, 512 centres, 32 neighbours
    python benchmarks/points.py --sizes 1000 --repeats 5

Farthest point sampling and nearest neighbours of the centres it picks, on one cloud of normally distributed points
(float32, seed 0), on one thread:

    ours      hf_modalbridge.functional.points
    naive     what is found in many repositories: for sampling the loop over centres in NumPy; for neighbours the
              whole (centres, points, 3) difference at once, then a full sort
    fpsample  sampling compiled in C++ (package `fpsample`): the same loop, and the exact form that sorts points
              into buckets (QuickFPS)
    scipy     neighbours by `scipy.spatial.cKDTree`, building the tree included

Each runs in a process of its own, so that peak memory is its own: the largest resident set beyond what it was when the
cloud was there and the libraries were imported and warmed up. The quality of ours is 1: for sampling it is how far
the farthest point is from our centres over how far it is from theirs (the bucket form starts at a point of its own, so
its picks are others), for neighbours the share that is as near as ours. The median of the repeats counts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

RESULTS = Path(__file__).parent / "results" / "points.md"
SIZES = (1_000, 8_000, 100_000)
CENTERS, NEIGHBORS, SEED = 512, 32, 0
JOBS = {
    "farthest point sampling": ("ours", "naive", "fpsample", "fpsample buckets"),
    "nearest neighbours": ("ours", "naive", "scipy"),
}


def make_cloud(size: int) -> np.ndarray:
    """Draw a cloud `(size, 3)` float32."""
    return np.random.default_rng(SEED).standard_normal((size, 3), dtype=np.float32)


def start_point(points: np.ndarray) -> int:
    """The point farthest from the centroid, where ours starts."""
    return int(np.square(points - points.mean(0)).sum(1).argmax())


def naive_sampling(points: np.ndarray) -> np.ndarray:
    """The loop of PointNet++ in NumPy, one whole difference a centre."""
    picked, nearest = [start_point(points)], np.full(len(points), np.inf)
    for _ in range(CENTERS - 1):
        nearest = np.minimum(nearest, ((points - points[picked[-1]]) ** 2).sum(-1))
        picked.append(int(nearest.argmax()))
    return np.array(picked)


def naive_neighbors(points: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Sort the whole table of distances."""
    cloud = torch.from_numpy(points)
    difference = torch.from_numpy(centers)[:, None] - cloud[None]  # (centres, points, 3)
    return difference.square().sum(-1).argsort(-1)[:, :NEIGHBORS].numpy()


def make_job(task: str, way: str, points: np.ndarray) -> Callable[[], np.ndarray]:
    """Give what is timed, as a function of nothing that returns indices."""
    from hf_modalbridge.functional.points import farthest_point_sample, gather_points, nearest_neighbors

    cloud = torch.from_numpy(points)[None]
    if task == "farthest point sampling":
        if way == "ours":
            return lambda: farthest_point_sample(cloud, CENTERS)[0].numpy()
        if way == "naive":
            return lambda: naive_sampling(points)
        import fpsample

        if way == "fpsample":
            return lambda: fpsample.fps_sampling(points, CENTERS, start_idx=start_point(points))
        return lambda: fpsample.bucket_fps_kdline_sampling(points, CENTERS, h=7, start_idx=start_point(points))
    centers = gather_points(cloud, farthest_point_sample(cloud, CENTERS))
    if way == "ours":
        return lambda: nearest_neighbors(centers, cloud, NEIGHBORS)[0].numpy()
    rows = centers[0].numpy()
    if way == "naive":
        return lambda: naive_neighbors(points, rows)
    from scipy.spatial import cKDTree

    return lambda: cKDTree(points).query(rows, NEIGHBORS)[1]


def quality(task: str, index: np.ndarray, points: np.ndarray) -> float:
    """Farthest point from our picks over that from these (distances), or the share of neighbours as near as ours."""
    index = np.asarray(index).astype(np.int64)
    want = make_job(task, "ours", points)()
    if task == "farthest point sampling":
        from scipy.spatial import cKDTree

        ours, theirs = (cKDTree(points[picks]).query(points)[0].max() for picks in (want, index))
        return float(ours / theirs)
    centers = points[make_job("farthest point sampling", "ours", points)()][:, None]
    ours, theirs = (np.sort(np.linalg.norm(points[i] - centers, axis=2), 1) for i in (want, index))
    return float(np.mean(np.isclose(ours, theirs, atol=1e-6)))


def resident(key: str) -> float:
    """`VmRSS` or `VmHWM` of this process in MiB; zero where there is no /proc."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0.0
    return int(next(line for line in status.read_text().splitlines() if line.startswith(key)).split()[1]) / 1024


def run_job(task: str, way: str, size: int, repeats: int) -> None:
    """Time one way in this process and print its figures."""
    torch.set_num_threads(1)
    make_job(task, way, make_cloud(600))()  # imports and first calls are not what is timed
    points = make_cloud(size)
    job = make_job(task, way, points)
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5")  # makes the present size the largest so far
    before, times, cpu = resident("VmRSS"), [], []
    for _ in range(repeats):
        start, used = time.perf_counter(), time.process_time()
        index = job()
        times.append(time.perf_counter() - start)
        cpu.append(time.process_time() - used)
    memory = resident("VmHWM") - before
    figures = {"seconds": times, "cpu": cpu, "memory": memory, "quality": quality(task, index, points)}
    print(json.dumps(figures))


def main() -> None:
    """Run all jobs, print and save the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="*", default=list(SIZES), help="points of the clouds")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each; the median counts")
    parser.add_argument("--out", type=Path, help="file for the table; default for the full sizes: results/points.md")
    parser.add_argument("--job", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        run_job(*args.job, args.sizes[0], args.repeats)
        return
    report = measure(args.sizes, args.repeats)
    print(report)
    out = args.out or (RESULTS if tuple(args.sizes) == SIZES else None)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(report + "\n", encoding="utf-8")


def installed(way: str) -> str | None:
    """Version of the library of a way; None if it is not installed."""
    try:
        return version(way.split()[0])
    except PackageNotFoundError:
        return None


def measure(sizes: list[int], repeats: int) -> str:
    """Make the table."""
    peers = ", ".join(f"{name} {installed(name)}" for name in ("torch", "fpsample", "scipy"))
    lines = [
        f"# Point operators: {CENTERS} centres by farthest point sampling, {NEIGHBORS} neighbours of each",
        "",
        f"`python benchmarks/points.py --sizes {' '.join(map(str, sizes))} --repeats {repeats}`, seed {SEED}; one "
        f"thread of {os.cpu_count()} (load LOAD at the end), Python {platform.python_version()}, {peers}; median of "
        f"{repeats} runs, wall and processor time (a busy machine stretches the first only).",
        "",
        "| operator | points | way | seconds | processor seconds | memory, MiB | quality |",
        "|---|---:|---|---:|---:|---:|---:|",
    ]
    for task, ways in JOBS.items():
        for size in sizes:
            for way in ways:
                if way not in ("ours", "naive") and installed(way) is None:
                    lines.append(f"| {task} | {size:,} | {way} (not installed) | | | | |")
                    continue
                command = [sys.executable, __file__, "--job", task, way, "--sizes", str(size)]
                done = subprocess.run(
                    [*command, "--repeats", str(repeats)], capture_output=True, text=True, check=False
                )
                if done.returncode:
                    raise SystemExit(f"{way}, {task}, {size} points failed:\n{done.stderr}")
                figures = json.loads(done.stdout.splitlines()[-1])
                seconds, cpu = statistics.median(figures["seconds"]), statistics.median(figures["cpu"])
                lines.append(
                    f"| {task} | {size:,} | {way} | {seconds:.4f} | {cpu:.4f} | {figures['memory']:.0f} | "
                    f"{figures['quality']:.3f} |"
                )
    return "\n".join(lines).replace("LOAD", f"{os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
