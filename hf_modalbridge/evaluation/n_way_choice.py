"""n-way caption choice: does the model find an item's caption among captions of other items?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["choice_credit", "draw_candidates"]


def draw_candidates(captions: Sequence[str], n: int, seed: int = 0) -> tuple[list[str], np.ndarray]:
    """Draw distractors: captions of other items that differ from the true one as texts.

    They depend on the captions and the seed alone, so all models compared see the same.

    Args:
        captions: True caption of each item.
        n: Captions to choose from, the true one among them.
        seed: Seed of the draw.

    Returns:
        The distinct captions, and positions in them `(items, n)` whose first column is the true caption.

    Raises:
        ValueError: If there are fewer than `n` distinct captions, or `n` is below 2.
    """
    distinct = list(dict.fromkeys(captions))
    if not 2 <= n <= len(distinct):
        raise ValueError(
            f"an {n}-way choice was asked for among {len(distinct)} distinct captions: give n from 2 to that "
            "number, or more items."
        )
    position = {caption: i for i, caption in enumerate(distinct)}
    rng = np.random.default_rng(seed)
    rows = np.empty((len(captions), n), dtype=np.int64)
    for row, caption in enumerate(captions):
        true = position[caption]
        others = rng.choice(len(distinct) - 1, size=n - 1, replace=False)
        rows[row] = [true, *(others + (others >= true))]
    return distinct, rows


def choice_credit(scores: np.ndarray, tolerance: float = 1e-5) -> np.ndarray:
    """Credit for choosing the first of each row's candidates.

    Args:
        scores: `(items, n)`, higher is better; the true caption is in the first column.
        tolerance: Scores this close to the best are ties. A model that does not see the item gives all
            candidates the same calibrated score but for rounding, and must come out at chance, not at luck.

    Returns:
        `(items,)`: 1 if the true caption is the only best, `1/k` if it is one of k best, else 0.
    """
    scores = np.asarray(scores, dtype=np.float64)
    best = scores >= scores.max(1, keepdims=True) - tolerance
    return best[:, 0] / best.sum(1)
