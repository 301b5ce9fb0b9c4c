"""Diffusion-Link: noise a source embedding half-way and denoise it into a target embedding."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from hf_modalbridge.corrections.denoiser import Denoiser, train_denoiser
from hf_modalbridge.corrections.paired import PairedCorrection, joint_rows
from hf_modalbridge.corrections.streams import RowStream
from hf_modalbridge.functional.diffusion import reverse
from hf_modalbridge.functional.geometry import normalize_rows
from hf_modalbridge.functional.moments import Moments
from hf_modalbridge.functional.realign import unit_affine

__all__ = ["DiffusionLink"]


class DiffusionLink(PairedCorrection):
    """A denoiser across the gap, after Diffusion-Link (arXiv 2510.11330), fitted on pairs.

    From the paper: three residual MLP blocks predict the clean embedding of one side from a noised embedding of
    either side, trained on pairs with a topology loss that preserves the cosines inside a batch; to apply it,
    an embedding is noised to a middle step and brought back. The paper goes from audio to text; here the
    clean side is the target, so that the correction serves the same interface as the others.

    Ours, for the paper's values were not found: coordinates of unit variance about each side's own mean,
    u = (y - mu_y) sqrt(dim / T_y) (and x alike); the continuous cosine schedule; x_0 = a_t z_t + net; loss
    MSE + topology_weight dim L_topology; weights kept by the error on a tenth of the pairs. To apply it,
    z = u stands at t = `start`, which is where the noiseless forward process of a Gaussian of unit variance has
    it, and `reverse_steps` of DDIM without noise follow: the same output for the same input, smooth in it, and
    independent of the batch. y^ = N(mu_x + x_0 sqrt(T_x / dim)). As any regression it draws towards the mean
    where the pairs do not tell.

    The fit holds all pairs in memory (8 dim bytes a pair) and takes 20 of them at least: two are held out to
    choose the weights, and a batch for the topology needs company. It cannot be merged: fit again on all
    pairs. The weights are float32 and live in `correction.safetensors` like statistics.

    Args:
        dim: Width of the embeddings.
        hidden: Width inside a block; None: dim, at most 1024.
        blocks: Number of residual blocks.
        start: Time in (0, 1) at which the reverse process starts.
        reverse_steps: Its steps.
        steps: Most steps of training.
        batch_size: Pairs a step of training.
        learning_rate: Of AdamW. None: 0.02 / sqrt(dim), since weights are of size 1 / sqrt(dim).
        weight_decay: Of AdamW.
        topology_weight: Of the topology loss.
        **kwargs: As for `Correction`.
    """

    correction_type: ClassVar[str] = "diffusion_link"
    hyper_parameters: ClassVar[tuple[str, ...]] = (
        "hidden",
        "blocks",
        "start",
        "reverse_steps",
        "steps",
        "batch_size",
        "learning_rate",
        "weight_decay",
        "topology_weight",
    )
    min_pairs: ClassVar[int] = 20

    network: Denoiser

    def __init__(
        self,
        dim: int,
        *,
        hidden: int | None = None,
        blocks: int = 3,
        start: float = 0.5,
        reverse_steps: int = 5,
        steps: int = 1000,
        batch_size: int = 64,
        learning_rate: float | None = None,
        weight_decay: float = 0.05,
        topology_weight: float = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__(dim, **kwargs)
        self.hidden = min(dim, 1024) if hidden is None else hidden
        sizes = {
            "hidden": self.hidden,
            "blocks": blocks,
            "reverse_steps": reverse_steps,
            "steps": steps,
            "batch_size": batch_size,
        }
        for name, value in sizes.items():
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} of DiffusionLink is a positive integer, got {value!r}.")
        if not 0 < start < 1:
            raise ValueError(f"start of DiffusionLink is a time between 0 and 1, got {start!r}.")
        self.learning_rate = 0.02 / dim**0.5 if learning_rate is None else learning_rate
        rates = {"learning_rate": self.learning_rate, "weight_decay": weight_decay, "topology_weight": topology_weight}
        for name, rate in rates.items():
            if not 0 <= rate < float("inf"):
                raise ValueError(f"{name} of DiffusionLink is a finite number >= 0, got {rate!r}.")
        self.blocks, self.start, self.reverse_steps = blocks, start, reverse_steps
        self.steps, self.batch_size = steps, batch_size
        self.weight_decay, self.topology_weight = weight_decay, topology_weight
        self._add_network("network", Denoiser(dim, self.hidden, blocks))

    def _why_least(self) -> str:
        return "a tenth is held out to choose the weights, and batches of the rest have to show a geometry."

    def _fit(self, source: RowStream, target: RowStream, generator: torch.Generator, **options: Any) -> None:
        self._check_pairs(source.rows)
        sides = joint_rows(source, target)
        for side, rows in zip(("source", "target", "output"), (*sides, sides[1]), strict=True):
            self._set(side, Moments.of(rows))
        network = Denoiser(self.dim, self.hidden, self.blocks)
        network.init_weights(generator)
        train_denoiser(
            network,
            self._coordinates(sides[0], "source"),
            self._coordinates(sides[1], "target"),
            generator=generator,
            steps=self.steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            topology_weight=self.topology_weight,
            progress=source.progress,
        )
        self.network.load_state_dict(network.state_dict())

    def _coordinates(self, rows: Tensor, side: str) -> Tensor:
        """Bring rows of a side to mean zero and unit variance."""
        mean, trace = getattr(self, f"{side}_mean"), getattr(self, f"{side}_trace")
        factor = (self.dim / trace.clamp_min(1e-12)).sqrt().to(rows.dtype)
        return unit_affine(rows, factor, -factor * mean.to(rows.dtype))

    def _transform(self, source: Tensor, out: Tensor | None = None) -> Tensor:
        rows = self._coordinates(source, "source")

        def predict(z: Tensor, time: float) -> Tensor:
            return self.network(z, torch.full_like(z[:, :1], time))

        clean = reverse(rows, self.start, self.reverse_steps, predict)
        factor = (self.target_trace / self.dim).sqrt().to(source.dtype)
        return normalize_rows(torch.addcmul(self.target_mean.to(source.dtype), clean, factor), out=out)
