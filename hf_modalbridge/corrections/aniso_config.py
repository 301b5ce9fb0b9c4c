"""The hyper-parameters of AnisoAlign, and the settings of its ablation."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

__all__ = ["ABLATIONS", "AnisoConfig"]

_CHOICES = {
    "start": ("realign", "quantile"),
    "mixing": ("identity", "random", "learned"),
    "v_scale": ("coordinate", "scalar"),
    "v_norm": ("tanh", "clip"),
}


@dataclass
class AnisoConfig:
    """All hyper-parameters of AnisoAlign (arXiv 2605.07825).

    The paper gives values for none of them. docs/anisoalign.md says which were chosen by experiment and how.

    Attributes:
        start: State that the refinement starts from. "quantile": the paper's (section 4.4), radial quantile maps
            in the frame and D_V outside it. "realign": the vector of ReAlign's step 2, mu_i + s (y - mu_t).
        rank: r, even: dimensions of the frame, two a block. None: a quarter of the width of the embeddings.
        ridge: lambda = ridge * tr(Sigma_t + Sigma_i) / dim (section 4.1).
        mixing: R (section 4.2). "identity": eigenvectors 1 and 2 are a block, 3 and 4, ...; "random": a random
            orthogonal matrix; "learned": one that makes phases concentrated and coherent on both sides.
        mixing_steps: Steps of Adam for "learned".
        quantile_knots: Knots of each radial distribution function; "quantile" only.
        v_scale: D_V of "quantile". "coordinate": standard deviations of each ambient coordinate, as in the paper;
            "scalar": one ratio for all.
        reproject: Whether v0 and v^ are projected onto V again, which D_V and tanh leave slightly.
        neighbours: p, edges that each block asks for in the phase graph (section 4.3).
        tau: Step along the drift, wrap(phi - tau grad Psi(phi)).
        sigma_min: Smallest sigma_t in rad; t is uniform in [0, 1] and sigma_t log-uniform.
        sigma_max: Largest sigma_t in rad.
        a_theta: Largest turn of a block in rad.
        a_rho: Largest change of a log radius.
        v_bound: beta_v, largest length of the move outside the frame; a_v = v_bound / sqrt(dim).
        v_norm: "tanh": v^ = v0 + a_v tanh(dv), as in the paper; "clip": dv shortened to v_bound, which keeps
            its direction and stays in V.
        lambda_score: Weight of L_II.
        lambda_phi: Weight of |E| L_Phi; the factor undoes one of L_Phi's two normalisations.
        lambda_0: Weight of L_0, which the paper does not have: sliced Wasserstein distance to the target. 0 for
            the written losses alone.
        penalty: Weight, inside L_0, of the mean of the squared refinements relative to their bounds.
        projections: Directions of the sliced distance, drawn anew for each batch.
        score_width: Width of the score network.
        score_layers: Its hidden layers.
        refine_width: Width of the refinement network; it is what applying costs.
        refine_layers: Its hidden layers.
        score_steps: Largest number of steps of stage I.
        refine_steps: Largest number of steps of stage II; 0 for the initialisation alone.
        score_batch: Rows of a step of stage I.
        refine_batch: Rows of a step of stage II.
        score_lr: Learning rate of AdamW in stage I, cosine to zero after a short warm-up.
        refine_lr: The same in stage II.
        weight_decay: Of AdamW, both stages.
        ema: Decay of the average of the score network's weights.
        held_out: Share of the sampled rows of each side that early stopping watches.
        eval_every: Steps between two looks at them, and between checkpoints.
        patience: Looks without improvement after which a stage stops.
        sample_rows: Rows of each side that are held in memory, float32, for batches, knots and R; drawn
            uniformly. Means, covariances, the phase graph and the final centroid use all rows.
    """

    start: str = "realign"
    rank: int | None = None
    ridge: float = 1e-4
    mixing: str = "identity"
    mixing_steps: int = 200
    quantile_knots: int = 1001
    v_scale: str = "coordinate"
    reproject: bool = False
    neighbours: int = 4
    tau: float = 0.1
    sigma_min: float = 0.05
    sigma_max: float = 1.0
    a_theta: float = 0.2
    a_rho: float = 0.15
    v_bound: float = 0.1
    v_norm: str = "tanh"
    lambda_score: float = 1.0
    lambda_phi: float = 1.0
    lambda_0: float = 1.0
    penalty: float = 0.01
    projections: int = 64
    score_width: int = 256
    score_layers: int = 3
    refine_width: int = 128
    refine_layers: int = 2
    score_steps: int = 2000
    refine_steps: int = 1500
    score_batch: int = 1024
    refine_batch: int = 1024
    score_lr: float = 1e-3
    refine_lr: float = 1e-3
    weight_decay: float = 0.01
    ema: float = 0.999
    held_out: float = 0.05
    eval_every: int = 100
    patience: int = 5
    sample_rows: int = 131_072

    def resolve(self, dim: int) -> AnisoConfig:
        """Check the values and fill in what depends on the width.

        Args:
            dim: Width of the embeddings.

        Returns:
            This config.

        Raises:
            ValueError: If a value is out of its range; what is allowed is said.
        """
        if self.rank is None:
            self.rank = max(2, dim // 8 * 2) if dim > 1 else 0
        if self.rank % 2 or not 0 <= self.rank <= dim:
            raise ValueError(f"rank is an even number within 0..{dim} (two dimensions a block), got {self.rank}.")
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is one of {', '.join(allowed)}; got {getattr(self, name)!r}.")
        for name in (
            "a_theta",
            "a_rho",
            "v_bound",
            "lambda_score",
            "lambda_phi",
            "lambda_0",
            "penalty",
            "tau",
            "ridge",
        ):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is a finite number >= 0, got {getattr(self, name)!r}.")
        if self.a_theta > math.pi:
            raise ValueError(f"a_theta is an angle of at most pi, got {self.a_theta}.")
        if not 0 < self.sigma_min <= self.sigma_max <= 2:
            raise ValueError(f"0 < sigma_min <= sigma_max <= 2 rad, got {self.sigma_min} and {self.sigma_max}.")
        if not 0 < self.held_out < 1 or not 0 <= self.ema < 1:
            raise ValueError(f"held_out is within (0, 1) and ema in [0, 1); got {self.held_out} and {self.ema}.")
        least = {"score_steps": 0, "refine_steps": 0, "mixing_steps": 0, "neighbours": 0, "quantile_knots": 2}
        counts = ("projections", "score_width", "score_layers", "refine_width", "refine_layers", "score_batch")
        for name in (*counts, "refine_batch", "eval_every", "patience", "sample_rows", *least):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least.get(name, 1):
                raise ValueError(f"{name} is an integer of at least {least.get(name, 1)}, got {value!r}.")
        return self

    @property
    def blocks(self) -> int:
        """m, the number of two-dimensional blocks, after `resolve`."""
        return (self.rank or 0) // 2

    @property
    def needs_score(self) -> bool:
        """Whether stage I runs: L_II has a weight, and stage II something to move."""
        return self.blocks > 0 and self.lambda_score > 0 and self.needs_refinement

    @property
    def needs_refinement(self) -> bool:
        """Whether stage II runs."""
        moves = (self.blocks > 0 and max(self.a_theta, self.a_rho) > 0) or self.v_bound > 0
        return self.refine_steps > 0 and moves and max(self.lambda_score, self.lambda_phi, self.lambda_0) > 0

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Names of all hyper-parameters."""
        return tuple(field.name for field in fields(cls))


# The rows of the paper's Table 4; its "+ refinement" row has no written loss, here it is trained by L_0 alone.
ABLATIONS: dict[str, dict[str, Any]] = {
    "initialisation": {"lambda_score": 0.0, "lambda_phi": 0.0, "lambda_0": 0.0, "refine_steps": 0},
    "refinement": {"lambda_score": 0.0, "lambda_phi": 0.0, "lambda_0": 1.0},
    "refinement+score": {"lambda_score": 1.0, "lambda_phi": 0.0, "lambda_0": 1.0},
    "refinement+phi": {"lambda_score": 0.0, "lambda_phi": 1.0, "lambda_0": 1.0},
    "all": {"lambda_score": 1.0, "lambda_phi": 1.0, "lambda_0": 1.0},
}
