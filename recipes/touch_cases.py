"""The recordings of the touch study, as cases: what is trained on, and what is held out from it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hf_modalbridge.data.recordings import TouchRecordings, load_biotac
from hf_modalbridge.demo.touch import load_touch


@dataclass
class Case:
    """What is trained on and what is measured.

    Args:
        name: Of the data and the materials left out.
        train: Recordings with descriptions.
        tests: Held-out recordings by task, "20" or "4".
        ablate: Whether the pairwise route is taken apart, too.
    """

    name: str
    train: TouchRecordings
    tests: dict[str, TouchRecordings]
    ablate: bool = True


def brief(recordings: TouchRecordings) -> TouchRecordings:
    """Shorten descriptions to the material's name and ten words of the first sentence: the model reads 32 tokens."""
    texts = [
        f"{name.lower()}: {' '.join(text.split('. ')[0].split()[:10])}"
        for name, text in zip(recordings.materials, recordings.descriptions, strict=True)
    ]
    return TouchRecordings(recordings.ids, recordings.values, recordings.materials, texts)


def only(recordings: TouchRecordings, keep: Callable[[str], bool]) -> TouchRecordings:
    """Keep the recordings of some materials."""
    rows = [i for i, name in enumerate(recordings.materials) if keep(name)]
    parts = (recordings.ids, recordings.materials, recordings.descriptions)
    ids, materials, descriptions = ([part[i] for i in rows] for part in parts)
    return TouchRecordings(ids, recordings.values[rows], materials, descriptions)


def joined(*parts: TouchRecordings) -> TouchRecordings:
    """Join recordings."""
    return TouchRecordings(
        [i for part in parts for i in part.ids],
        np.concatenate([part.values for part in parts]),
        [m for part in parts for m in part.materials],
        [d for part in parts for d in part.descriptions],
    )


def load_cases(arguments: argparse.Namespace) -> list[tuple[Case, int]]:
    """Read or generate the data; gives each case with its seed, so ordered that the table fills evenly."""
    runs: list[tuple[Case, int]] = []
    if "generated" in arguments.sources:
        train_part, test, unseen = (cached_touch(split, arguments.output) for split in ("train", "test", "unseen"))
        case = Case("generated", train_part, {"20": test, "4": unseen})
        runs += [(case, seed) for seed in range(arguments.seeds)]
    if "biotac" in arguments.sources:
        train_part, test = (brief(load_biotac(arguments.biotac, split)) for split in ("train", "test"))
        runs += [(Case("biotac-all", train_part, {"20": test}), seed) for seed in range(arguments.seeds)]
        names = np.random.default_rng(0).permutation(sorted(set(train_part.materials))).tolist()
        for fold in range(5):
            left_out = set(names[4 * fold : 4 * fold + 4])
            seen = only(train_part, lambda name, left_out=left_out: name not in left_out)
            unseen = only(joined(train_part, test), lambda name, left_out=left_out: name in left_out)
            runs.append((Case(f"biotac-without-{fold}", seen, {"4": unseen}, ablate=False), fold))
    return sorted(runs, key=lambda run: run[1])


def cached_touch(split: str, output: Path) -> TouchRecordings:
    """Generate a split once."""
    path = output / "generated" / f"{split}.npz"
    if not path.exists():
        made = load_touch(split)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, ids=made.ids, values=made.values, materials=made.materials, descriptions=made.descriptions)
    with np.load(path, allow_pickle=False) as arrays:
        lists = (arrays[key].tolist() for key in ("ids", "materials", "descriptions"))
        ids, materials, descriptions = lists
        return TouchRecordings(ids, arrays["values"], materials, descriptions)
