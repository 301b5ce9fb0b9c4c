"""The modality graph as data: what it refuses, and how a step's edge is drawn."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from hf_modalbridge.data.edge_plan import EdgePlan
from hf_modalbridge.training import build_config
from hf_modalbridge.training.pairwise_config import PairwiseRecipe

LOOP = {"learning_rate": 1e-3}


def recipe(**changes) -> PairwiseRecipe:
    values = {
        "output_dir": "out",
        "language_model": {"id": "lm"},
        "modalities": {"point": {"num_tokens": 5}, "image": {"num_tokens": 1}},
        "pairs": [
            {"source": "point", "target": "image", "stores": {"point": "p", "image": "i"}},
            {"source": "image", "target": "text", "stores": {"image": "i2"}, "active": 6},
        ],
        "stage1": {"loop": LOOP},
        "stage2": {"loop": LOOP},
        "aligner": {"width": 8, "heads": 2},
    }
    return build_config(PairwiseRecipe, {**values, **changes})


def test_a_modality_may_reach_the_language_model_by_way_of_another():
    graph = recipe(modalities={"point": {"num_tokens": 5, "surrogates": ["image"]}, "image": {"num_tokens": 1}}).graph()
    config = graph.aligner_config({"text": 7, "point": 6, "image": 3})
    assert [e.name for e in config.path("point", "text")] == ["point-image", "image-text"]
    assert config.active_entries("point", "text") == 6
    assert config.modalities["point"].reconstruction == 0.1 and config.modalities["text"].reconstruction == 1.0


@pytest.mark.parametrize(
    ("pairs", "reason"),
    [
        ([], "it has no pairs at all"),
        (
            [{"source": "point", "target": "image", "stores": {"point": "p", "image": "i"}}],
            "its pairs are with image only, and none of these has pairs that lead to text",
        ),
    ],
)
def test_a_modality_that_cannot_reach_the_language_model_is_refused_with_the_reason(pairs, reason):
    with pytest.raises(ValueError, match=f"cannot be reached from the modality 'point': {reason}"):
        recipe(pairs=pairs).graph()


def test_other_unsound_graphs_are_refused():
    text = {"source": "image", "target": "text", "stores": {"image": "i"}}
    point = {"source": "point", "target": "text", "stores": {"point": "p"}}
    with pytest.raises(ValueError, match="names 'sound', but the modalities are text, point, image"):
        recipe(pairs=[text, point, {"source": "sound", "target": "text", "stores": {"sound": "s"}}]).graph()
    with pytest.raises(ValueError, match=r"has stores of \['image', 'text'\], expected one of each of \['image'\]"):
        recipe(pairs=[{**text, "stores": {"image": "i", "text": "t"}}, point]).graph()
    with pytest.raises(ValueError, match="'text' cannot name a modality"):
        recipe(modalities={"text": {"num_tokens": 3}}).graph()
    with pytest.raises(ValueError, match="space of 'image', but no pairs join them: it has pairs with text"):
        modalities = {"point": {"num_tokens": 5, "surrogates": ["text", "image"]}, "image": {"num_tokens": 1}}
        recipe(modalities=modalities, pairs=[text, point]).graph()


def plan(processes: int = 1, batch: int = 4, seed: int = 3) -> EdgePlan:
    options = {"batch_size": batch, "num_processes": processes, "accumulation_steps": 1}
    return EdgePlan(30, sizes=[10, 20], weights=[1, 3], total_steps=200, seed=seed, **options)


def test_each_step_takes_one_edge_as_often_as_it_weighs_and_all_its_rows_in_turn():
    edges, seen = Counter(), Counter()
    for step in range(200):
        (rows,) = plan().micro_batches(step)
        assert len({int(r) < 10 for r in rows}) == 1
        edges[int(rows[0] >= 10)] += 1
        seen.update(rows.tolist())
    assert 0.15 < edges[0] / 200 < 0.35
    for part in (range(10), range(10, 30)):
        counts = [seen[i] for i in part]
        assert max(counts) - min(counts) <= 1


def test_the_plan_is_a_function_of_seed_and_step_and_processes_share_a_step():
    a, b = plan(), plan()
    assert all(np.array_equal(a.micro_batches(s)[0], b.micro_batches(s)[0]) for s in (7, 150, 3))
    two = plan(processes=2, batch=2)
    for step in range(20):
        joint = np.concatenate([two.micro_batches(step, p)[0] for p in (0, 1)])
        assert sorted(joint) == sorted(a.micro_batches(step)[0])
    assert any(not np.array_equal(plan(seed=4).micro_batches(s)[0], a.micro_batches(s)[0]) for s in range(5))


def test_sets_that_do_not_make_up_the_rows_are_refused():
    with pytest.raises(ValueError, match="do not make up 31 rows"):
        EdgePlan(31, sizes=[10, 20], weights=[1, 1], total_steps=5, batch_size=2)
    with pytest.raises(ValueError, match="one of them above 0"):
        EdgePlan(30, sizes=[10, 20], weights=[0, 0], total_steps=5, batch_size=2)
