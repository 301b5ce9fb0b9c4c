"""The study's tables: intervals over seeds, differences seed by seed, what the knobs were chosen from."""

from __future__ import annotations

import numpy as np
import pytest
from reproduce import differences, searched, table
from scipy import stats

SEEDS = 5


def make_runs(mean: float, noise: float, shared: np.ndarray) -> list[dict]:
    """Make runs whose spread is that of the seeds, the same in every row."""
    return [
        {"nll": mean + s, "choice": mean / 10 - s, "calibrated_choice": mean / 9 + s, "centroid_gap": None}
        | {"noise": noise, "learning_rate": 0.003}
        for s in shared
    ]


@pytest.fixture
def results():
    shared = np.random.default_rng(0).normal(size=SEEDS) * 0.05
    return {"none": make_runs(4.0, 2.0, shared), "realign": make_runs(3.5, 1.0, shared)}


def cells(text: str, row: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| {row} |"))
    return [cell.strip() for cell in line.split("|")[2:-1]]


def test_a_row_is_a_mean_and_a_t_interval(results):
    values = [run["nll"] for run in results["none"]]
    low, high = stats.t.interval(0.95, SEEDS - 1, np.mean(values), stats.sem(values))
    nll, _, _, gap, noise, rate = cells(table(results, {"cosine": 0.7}), "none")
    assert nll == f"{np.mean(values):.3f} ± {(high - low) / 2:.3f}"
    assert (gap, noise, rate) == ("", "2", "0.003")
    assert cells(table(results, {"cosine": 0.7}), "*cosine*")[2] == "0.700"


def test_differences_are_of_the_same_seed_and_more_is_better(results):
    # the seeds' own spread is the same in both rows, so it is gone
    assert cells(differences(results), "realign") == ["+0.500 ± 0.000", "-0.050 ± 0.000", "-0.056 ± 0.000", "", "", ""]
    assert cells(differences(results), "none")[3:] == ["-0.500 ± 0.000", "+0.050 ± 0.000", "+0.056 ± 0.000"]


def test_the_search_shows_what_was_tried():
    first, other = 0.003, 0.006
    searches = {
        "blind": {(0.0, first): 4.5, (0.0, other): 4.4},
        "realign": {(0.0, first): 5.0, (1.0, first): 4.3, (2.0, first): 4.2, (3.0, first): 4.25, (2.0, other): 4.1},
    }
    text = searched(searches, (other, first))
    assert cells(text, "blind") == ["4.500", "", "", "", "4.400"]
    assert cells(text, "realign") == ["5.000", "4.300", "4.200", "4.250", "4.100"]
