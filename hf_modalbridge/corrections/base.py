"""What all corrections share: fitting, statistics that keep their precision, saving and loading."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from hf_modalbridge.corrections.saving import SavedCorrection
from hf_modalbridge.corrections.statistics import unit_moments
from hf_modalbridge.corrections.streams import BATCH_ROWS, Embeddings, RowStream
from hf_modalbridge.fingerprint import describe_fingerprint, fingerprints_match
from hf_modalbridge.functional.geometry import check_rows, normalize_rows
from hf_modalbridge.functional.moments import Moments

__all__ = ["Correction"]


class Correction(SavedCorrection):
    """A map from a source (text) to a target modality's side of a contrastive embedding space.

    A correction is fitted once on unpaired embeddings (`fit`) and then works as a module without trainable
    parameters, alone or inside a model: `forward` moves source embeddings to the target's side during
    training, `transform_target` is what a real target embedding goes through at inference, and `standardize`
    brings either to the fixed scale that a connector reads.

    Statistics are persistent float64 buffers, and weights of networks inside are buffers too (`_add_network`):
    neither ever trains with a model around it. They follow the module to other devices and ignore `.half()`,
    `.to(torch.bfloat16)` and `from_pretrained(dtype=...)`.

    `paired` says whether `fit` takes rows that correspond, and `merges` whether `from_moments` builds the
    correction from statistics gathered in parts; the others have to be fitted again on all parts together
    (a list of parts is one side of a fit).

    Args:
        dim: Width of the embeddings.
        source_encoder: Fingerprint of the encoder of the source, or None.
        target_encoder: Fingerprint of the encoder of the target, or None.
        source_rows: Rows of the source that it was fitted on; 0 before the fit.
        target_rows: Rows of the target.
    """

    correction_type: ClassVar[str]
    hyper_parameters: ClassVar[tuple[str, ...]] = ()
    fit_options: ClassVar[tuple[str, ...]] = ()  # of `_fit` alone: how to fit, not what, and not in the config
    paired: ClassVar[bool] = False
    merges: ClassVar[bool] = False

    source_mean: Tensor
    source_trace: Tensor
    target_mean: Tensor
    target_trace: Tensor
    output_mean: Tensor
    output_trace: Tensor

    def __init__(
        self,
        dim: int,
        *,
        source_encoder: Mapping[str, Any] | None = None,
        target_encoder: Mapping[str, Any] | None = None,
        source_rows: int = 0,
        target_rows: int = 0,
    ) -> None:
        super().__init__()
        if not isinstance(dim, int) or dim < 1:
            raise ValueError(f"dim of a correction is a positive integer, got {dim!r}.")
        self.dim = dim
        self.source_encoder = dict(source_encoder) if source_encoder else None
        self.target_encoder = dict(target_encoder) if target_encoder else None
        self.source_rows, self.target_rows = source_rows, target_rows
        for side in ("source", "target", "output"):
            self._add_statistic(f"{side}_mean", dim)
            self._add_statistic(f"{side}_trace")

    @classmethod
    def fit(
        cls,
        source: Embeddings | Sequence[Embeddings],
        target: Embeddings | Sequence[Embeddings],
        *,
        seed: int = 0,
        batch_size: int = BATCH_ROWS,
        progress: bool = False,
        pairs: str | None = None,
        source_encoder: Mapping[str, Any] | None = None,
        target_encoder: Mapping[str, Any] | None = None,
        **hyper: Any,
    ) -> Self:
        """Fit on embeddings, streaming in float64; memory does not grow with the rows unless the class says so.

        Rows are normalised on the way. Unless the class is `paired`, source and target need neither the same
        number of rows nor any order. Fit on data of the domain that will be corrected, and not on the pairs
        of an evaluation.

        Args:
            source: Array or tensor `(n, dim)`, an `EmbeddingStore`, or a list of such parts.
            target: The same, `(m, dim)`.
            seed: For corrections that draw random numbers while fitting; the closed-form ones do not.
            batch_size: Rows read at once.
            progress: Whether to show progress bars.
            pairs: For corrections that are `paired`, given two stores: the column of both whose equal values
                pair rows; by default their ids. Rows of anything else correspond by position.
            source_encoder: Fingerprint of the source's encoder; a store brings its own.
            target_encoder: The same for the target.
            **hyper: Hyper-parameters of this correction.

        Returns:
            The fitted correction, in eval mode.

        Raises:
            ValueError: If a side is empty, the widths differ, a row is not finite or zero, or rows of a paired
                correction do not correspond or are too few.
            TypeError: If a hyper-parameter is unknown.
        """
        if cls.paired:
            from hf_modalbridge.corrections.joining import join_pairs

            source, target = join_pairs(source, target, pairs)
        elif pairs is not None:
            raise ValueError(
                f"{cls.__name__} is fitted on unpaired rows and has no use for pairs={pairs!r}. Leave it out, or "
                "fit a paired correction such as Procrustes."
            )
        streams = [RowStream(d, what, batch_size, progress) for d, what in ((source, "source"), (target, "target"))]
        if streams[0].dim != streams[1].dim:
            raise ValueError(
                f"source and target differ in width: {streams[0].dim} and {streams[1].dim}. A correction works inside "
                "one contrastive space; take both from the two towers of one dual encoder."
            )
        options = {name: hyper.pop(name) for name in cls.fit_options if name in hyper}
        unknown = sorted(set(hyper) - set(cls.hyper_parameters))
        if unknown:
            raise TypeError(
                f"{cls.__name__} has no hyper-parameter {', '.join(unknown)}; it has "
                f"{', '.join(cls.hyper_parameters) or 'none'}."
            )
        correction = cls(
            streams[0].dim,
            source_encoder=source_encoder or streams[0].encoder,
            target_encoder=target_encoder or streams[1].encoder,
            source_rows=streams[0].rows,
            target_rows=streams[1].rows,
            **hyper,
        )
        correction._fit(streams[0], streams[1], torch.Generator().manual_seed(seed), **options)
        return correction.requires_grad_(False).eval()

    @classmethod
    def _from_sides(cls, source: Moments, target: Moments, output: Moments | None = None, **kwargs: Any) -> Self:
        """Build from merged statistics of both sides and of the transformed target, by default the target's."""
        correction = cls(source.dim, source_rows=source.count, target_rows=target.count, **kwargs)
        correction._set("source", source)
        correction._set("target", target)
        correction._set("output", target if output is None else output)
        return correction.eval()

    def _fit(self, source: RowStream, target: RowStream, generator: torch.Generator, **options: Any) -> None:
        """Compute the statistics of both sides, the correction's own, and those of its output."""
        self._set("source", unit_moments(source))
        self._set("target", unit_moments(target))
        self._fit_statistics(source, generator)
        self._set("output", self._output_moments(target))

    def _fit_statistics(self, source: RowStream, generator: torch.Generator) -> None:
        """Compute what is needed beyond means and traces."""

    def _output_moments(self, target: RowStream) -> Moments:
        """Compute the moments of `transform_target` over the target: by default the target's own."""
        return Moments(self.target_rows, self.target_mean, float(self.target_trace) * self.target_rows)

    def forward(self, source: Tensor) -> Tensor:
        """Move source embeddings to the target's side.

        Args:
            source: `(n, dim)` floating point; rows are normalised first.

        Returns:
            Unit rows `(n, dim)` in the dtype of `source`, computed in float32 or better, under autocast too.

        Raises:
            ValueError: If the width is wrong, or a row is not finite or zero.
        """
        rows = self._enter(source, "source embeddings")
        with _no_autocast(rows):
            return self._transform(rows, _own_memory(rows, source)).to(source.dtype)

    def _transform(self, source: Tensor, out: Tensor | None = None) -> Tensor:
        """Correct checked rows, float32 or float64; `out` is memory for the result or None."""
        raise NotImplementedError

    def transform_target(self, target: Tensor) -> Tensor:
        """Bring real target embeddings to where the corrected source is: unit rows, and for C3 centred ones.

        Args:
            target: `(n, dim)` floating point.

        Returns:
            Unit rows `(n, dim)` in the dtype of `target`, computed in float32 or better, under autocast too.

        Raises:
            ValueError: If the width is wrong, or a row is not finite or zero.
        """
        rows = self._enter(target, "target embeddings")
        with _no_autocast(rows):
            return self._transform_target(rows, _own_memory(rows, target)).to(target.dtype)

    def _transform_target(self, target: Tensor, out: Tensor | None = None) -> Tensor:
        return normalize_rows(target, out=out)

    def transform_(self, rows: Tensor, side: str = "source") -> Tensor:
        """Do what `forward` (without noise) or `transform_target` does, in the memory of the rows.

        Args:
            rows: `(n, dim)` float32 or float64 without gradient; overwritten.
            side: "source" or "target".

        Returns:
            The same tensor.

        Raises:
            ValueError: As for `forward`.
        """
        transform = self._transform if side == "source" else self._transform_target
        with _no_autocast(rows):
            return transform(self._enter(rows, f"{side} embeddings"), rows)

    def standardize(self, z: Tensor) -> Tensor:
        """Give a connector its input: (z - output_mean) * sqrt(dim / output_trace).

        The large common mean of the embeddings carries no information. The statistics are those of the
        transformed target, whatever the correction, so that numbers are of size one where the model is used.

        Args:
            z: `(..., dim)`, from `forward` or `transform_target`.

        Returns:
            Tensor of the shape and dtype of `z`.
        """
        work = torch.promote_types(z.dtype, torch.float32)
        factor = (self.dim / self.output_trace).sqrt().to(work)
        return ((z.to(work) - self.output_mean.to(work)) * factor).to(z.dtype)

    def check_encoder(self, fingerprint: Mapping[str, Any] | None, side: str) -> None:
        """Refuse embeddings of another encoder than the one that the correction was fitted on.

        Args:
            fingerprint: Of the embeddings' encoder; None passes, since nothing is known.
            side: "source" or "target".

        Raises:
            ValueError: If the encoders differ; both are named.
        """
        if side not in ("source", "target"):
            raise ValueError(f"side is 'source' or 'target', got {side!r}.")
        own = self.source_encoder if side == "source" else self.target_encoder
        if not fingerprints_match(own, fingerprint):
            raise ValueError(
                f"this {type(self).__name__} was fitted on {side} embeddings of {describe_fingerprint(own)}, and these "
                f"come from {describe_fingerprint(fingerprint)}. Use embeddings of that encoder, or fit a correction "
                "for this one."
            )

    def extra_repr(self) -> str:
        """Show width and rows of the fit when the module is printed."""
        return f"dim={self.dim}, source_rows={self.source_rows}, target_rows={self.target_rows}"

    def _enter(self, rows: Tensor, what: str) -> Tensor:
        """Check the rows and widen them to the precision of the computation."""
        if rows.ndim != 2 or rows.shape[-1] != self.dim or not rows.is_floating_point():
            raise ValueError(
                f"{type(self).__name__} takes {what} (n, {self.dim}), got {tuple(rows.shape)} of {rows.dtype}. Check "
                "that they come from the encoder that the correction was fitted on."
            )
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
        if not rows.is_meta and not torch.compiler.is_compiling():
            check_rows(rows, what=what)
        return rows

    def _add_statistic(self, name: str, *shape: int) -> None:
        """Register a statistic. The explicit dtype is what keeps it under `from_pretrained(dtype=...)`."""
        self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))

    def _add_network(self, name: str, network: nn.Module) -> None:
        """Add a network whose weights are persistent buffers of their own dtype: saved, cast-proof, frozen."""
        for module in network.modules():
            for key, parameter in list(module.named_parameters(recurse=False)):
                delattr(module, key)
                module.register_buffer(key, parameter.detach())
        self.add_module(name, network)

    def _set(self, side: str, moments: Moments) -> None:
        """Store the moments of one side."""
        if side == "output" and not moments.trace > 1e-12:
            raise ValueError(
                f"the {moments.count} rows of the target all point the same way, so there is nothing to learn from. "
                "Fit on the embeddings of many different items."
            )
        getattr(self, f"{side}_mean").copy_(moments.mean)
        getattr(self, f"{side}_trace").fill_(moments.trace)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Follow device moves, ignore dtype casts: bfloat16 means are off by more than the gap left over."""

        def keep(tensor: Tensor) -> Tensor:
            if tensor.is_meta or not tensor.is_floating_point():
                return fn(tensor)
            device = fn(tensor.new_zeros((), dtype=torch.float32)).device
            if device.type == "mps" and tensor.dtype == torch.float64:  # which has no float64
                return tensor.to(torch.float32).to(device)
            return tensor.to(device)

        return super()._apply(keep, recurse)


def _own_memory(rows: Tensor, given: Tensor) -> Tensor | None:
    """Give the rows as memory for the result if they are a private copy that needs no gradient.

    New memory for each intermediate result costs more than the arithmetic.
    """
    return rows if rows is not given and not rows.requires_grad else None


def _no_autocast(rows: Tensor) -> AbstractContextManager[object]:
    """Keep a training loop's autocast from doing a correction's products in bfloat16."""
    kind = rows.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()
