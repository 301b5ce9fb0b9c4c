from __future__ import annotations

import numpy as np
import pytest

from hf_modalbridge.data import BatchPlan


def plan(rows: int = 37, total_steps: int = 12, **changes) -> BatchPlan:
    settings = {"batch_size": 4, "accumulation_steps": 2, "seed": 3, "total_steps": total_steps, **changes}
    return BatchPlan(rows, **settings)


@pytest.mark.parametrize("lengths", [None, np.arange(37) % 11])
def test_steps_cover_every_row_equally_often(lengths):
    rows = 37
    steps = plan(rows, total_steps=37, lengths=lengths)  # 37 steps of 8 rows: exactly 8 epochs
    counts = np.bincount(np.concatenate([steps.step_rows(s) for s in range(37)]), minlength=rows)
    assert (counts == 8).all()
    assert steps.epoch(37) == 8.0


def test_a_step_has_the_same_rows_however_it_is_split():
    lengths = np.random.default_rng(0).integers(1, 50, 37)
    whole = plan(lengths=lengths, batch_size=8, accumulation_steps=1)
    split = plan(lengths=lengths, batch_size=2, accumulation_steps=2, num_processes=2)
    for step in range(12):
        parts = [split.micro_batches(step, process) for process in range(2)]
        assert [len(p) for p in parts] == [2, 2]
        got = np.concatenate([row for process in parts for row in process])
        assert sorted(got) == sorted(whole.step_rows(step))


def test_any_step_can_be_asked_for_first():
    lengths = np.random.default_rng(0).integers(1, 50, 37)
    forward = [plan(lengths=lengths).step_rows(s).tolist() for s in range(12)]
    one_plan = plan(lengths=lengths)
    assert [one_plan.step_rows(s).tolist() for s in reversed(range(12))] == forward[::-1]


def test_orders_differ_between_epochs_and_seeds():
    a = plan(rows=16, batch_size=16, accumulation_steps=1, bucket_steps=1)
    assert a.step_rows(0).tolist() != a.step_rows(1).tolist()
    assert sorted(a.step_rows(0)) == sorted(a.step_rows(1)) == list(range(16))
    b = plan(rows=16, batch_size=16, accumulation_steps=1, bucket_steps=1, seed=4)
    assert a.step_rows(0).tolist() != b.step_rows(0).tolist()


def test_bucketing_saves_padding():
    lengths = np.random.default_rng(1).integers(1, 100, 4000)

    def padded(bucket_steps: int, lengths_given: np.ndarray | None) -> int:
        p = BatchPlan(4000, batch_size=8, total_steps=100, lengths=lengths_given, bucket_steps=bucket_steps)
        return sum(lengths[rows].max() * len(rows) for s in range(100) for rows in p.micro_batches(s))

    assert padded(32, lengths) < 0.7 * padded(1, None)


@pytest.mark.parametrize("changes", [{"rows": 0}, {"batch_size": 0}, {"total_steps": 0}])
def test_impossible_sizes_are_refused(changes):
    with pytest.raises(ValueError, match="no rows|at least 1"):
        plan(**changes)


def test_lengths_must_match_rows():
    with pytest.raises(ValueError, match="5 lengths for 37 rows"):
        plan(lengths=np.ones(5))
