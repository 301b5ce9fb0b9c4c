"""Configuration of the pairwise aligner: modalities, the pairs of them that are observed, sizes and weights."""

# no `from __future__ import annotations` here: @strict checks field types only if they are types, not strings
import dataclasses
from collections import deque
from dataclasses import dataclass
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig

__all__ = ["LatentModality", "PairEdge", "PairwiseConfig"]


@strict
@dataclass(kw_only=True)
class LatentModality:
    """One modality of the aligner, as token features of a frozen encoder.

    Args:
        input_dim: Width of a token.
        num_tokens: Most tokens of an item, and the number that the decoder gives.
        reconstruction: Weight of its reconstruction from its own code (1.0 for the language model's tokens, 0.1 for a
            new modality in the paper's code).
    """

    input_dim: int
    num_tokens: int
    reconstruction: float | int = 1.0


@strict
@dataclass(kw_only=True)
class PairEdge:
    """One observed pair of modalities; masks belong to it.

    Args:
        source: The new modality j.
        target: The modality i that it is aligned to.
        active: Entries of the code that the pair shares: the mask m^(i<-j) is 1 for the first `active` channels of each
            latent and 0 for the others. None takes all (full alignment).
        cross: Weight of the target's reconstruction from the source's masked code, through the target's decoder.
        backward: Weight of the source's reconstruction from the target's masked code.
        contrast: Weight of the contrastive term.
    """

    source: str
    target: str
    active: int | None = None
    cross: float | int = 1.0
    backward: float | int = 0.1
    contrast: float | int = 0.1

    @property
    def name(self) -> str:
        """`source-target`."""
        return f"{self.source}-{self.target}"


@strict
class PairwiseConfig(PreTrainedConfig):
    """Configuration of `PairwiseAligner`; the defaults are the paper's (arXiv 2605.21059 and its code).

    Args:
        modalities: `{name: LatentModality or dict}`.
        edges: `PairEdge`s or dicts.
        width: Width d_c of the code.
        num_latents: Latents of an item.
        encoder_layers: Blocks of each encoder.
        decoder_layers: Blocks of each decoder.
        heads: Attention heads.
        ff_mult: Width of the feed-forwards' middle over `width`.
        dropout: In training.
        cosine_weight: lambda of `||x^ - x||^2 - lambda cos(x^, x)`.
        contrast_loss: `info_nce`; `cwcl`, `gram` (of two modalities), or `clip_uniform_align`, see
            `functional.contrastive`.
        temperature: Of the contrastive term: the fixed one, or where a learned one starts.
        temperature_mode: `fixed`; `scheduled` grows linearly to `temperature_end`; `learned`.
        temperature_end: Of the scheduled one.
        metadata: Record of the training; not read by the code.
    """

    model_type = "modalbridge_pairwise"

    modalities: dict | None = None
    edges: list | tuple | None = None
    width: int = 512
    num_latents: int = 32
    encoder_layers: int = 2
    decoder_layers: int = 6
    heads: int = 8
    ff_mult: int = 4
    dropout: float | int = 0.1
    cosine_weight: float | int = 0.1
    contrast_loss: Literal["info_nce", "cwcl", "gram", "clip_uniform_align"] = "info_nce"
    temperature: float | int = 0.07
    temperature_mode: Literal["fixed", "scheduled", "learned"] = "fixed"
    temperature_end: float | int = 0.07
    metadata: dict | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Build modalities and edges, and check that they fit together."""
        super().__post_init__(**kwargs)
        self.modalities = {
            name: value if isinstance(value, LatentModality) else LatentModality(**value)
            for name, value in (self.modalities or {}).items()
        }
        self.edges = [edge if isinstance(edge, PairEdge) else PairEdge(**edge) for edge in (self.edges or [])]
        if self.width % self.heads:
            raise ValueError(f"width is {self.width}, which {self.heads} heads do not divide; choose a multiple.")
        seen: set[frozenset[str]] = set()
        for edge in self.edges:
            unknown = [name for name in (edge.source, edge.target) if name not in self.modalities]
            if unknown or edge.source == edge.target:
                raise ValueError(
                    f"the edge {edge.name!r} joins "
                    f"{'unknown modalities ' + str(unknown) if unknown else 'one to itself'}; there are "
                    f"{', '.join(self.modalities)}."
                )
            if edge.active is not None and not 1 <= edge.active <= self.width:
                raise ValueError(
                    f"the edge {edge.name!r} has {edge.active} active entries, expected 1 to width={self.width}."
                )
            pair = frozenset((edge.source, edge.target))
            if pair in seen:
                raise ValueError(f"there are two edges between {edge.source!r} and {edge.target!r}; keep one.")
            seen.add(pair)

    def edge(self, a: str, b: str) -> PairEdge | None:
        """Return the edge between two modalities, in either direction, or None."""
        return next((e for e in self.edges or [] if {e.source, e.target} == {a, b}), None)

    def path(self, source: str, target: str) -> list[PairEdge]:
        """Find the edges of a shortest path between two modalities.

        Args:
            source: A modality.
            target: Another, or the same: no edge.

        Returns:
            The edges in order.

        Raises:
            KeyError: If there is no modality of that name.
            ValueError: If no path joins them.
        """
        for name in (source, target):
            if name not in (self.modalities or {}):
                raise KeyError(f"there is no modality {name!r}; there are {', '.join(self.modalities or {})}.")
        reached: dict[str, list[PairEdge]] = {source: []}
        queue = deque([source])
        while queue:
            here = queue.popleft()
            for edge in self.edges or []:
                if here in (edge.source, edge.target):
                    other = edge.target if here == edge.source else edge.source
                    if other not in reached:
                        reached[other] = [*reached[here], edge]
                        queue.append(other)
        if target not in reached:
            raise ValueError(
                f"no pairs join {source!r} and {target!r}, not even by way of others: {source!r} reaches "
                f"{', '.join(sorted(set(reached) - {source})) or 'nothing'}. Add an edge to the graph."
            )
        return reached[target]

    def active_entries(self, source: str, target: str) -> int:
        """Count the channels that two modalities share: the smallest mask on the path between them."""
        return min([edge.active or self.width for edge in self.path(source, target)], default=self.width)

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as plain dicts."""
        output = super().to_dict()
        output["modalities"] = {
            name: dataclasses.asdict(m) if dataclasses.is_dataclass(m) else m
            for name, m in (output.get("modalities") or {}).items()
        }
        output["edges"] = [dataclasses.asdict(e) if dataclasses.is_dataclass(e) else e for e in output["edges"] or []]
        return output
