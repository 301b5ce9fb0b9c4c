"""The modality graph as data: which modalities there are, which pairs of them were observed, and how they weigh."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from hf_modalbridge.models.configuration_pairwise import LatentModality, PairEdge, PairwiseConfig

__all__ = ["TEXT", "AlignerOptions", "GraphModality", "ModalityGraph", "PairData", "TextOptions"]

TEXT = "text"
"""The language model's own modality: the embeddings of a caption's tokens."""


@dataclass
class TextOptions:
    """The language model's side of the graph.

    Args:
        num_tokens: Tokens of a caption that are read, and tokens of a surrogate.
        reconstruction: Weight of captions' own reconstruction.
    """

    num_tokens: int = 24
    reconstruction: float = 1.0


@dataclass
class GraphModality:
    """A modality that the language model does not read yet.

    Args:
        num_tokens: Tokens of an item in its stores, which hold them end to end.
        encoder: Hub repository or directory of the frozen encoder that goes into the finished model; `demo` is the one
            that comes with the package; None leaves it out, and the model then reads token features only.
        encoder_revision: Branch, tag or commit of the encoder.
        reconstruction: Weight of its own reconstruction.
        normalize: Whether tokens are made unit rows first, as a contrastive encoder's embedding should be.
        surrogates: Partners in whose space it is decoded for the language model, in the order of their tokens. Others
            than `text` must have tokens of the language model's width that it reads already.
        placeholder_token: Token that stands for it in prompts; None chooses one.
    """

    num_tokens: int
    encoder: str | None = None
    encoder_revision: str | None = None
    reconstruction: float = 0.1
    normalize: bool = False
    surrogates: list[str] = field(default_factory=lambda: [TEXT])
    placeholder_token: str | None = None


@dataclass
class PairData:
    """Observed pairs of two modalities.

    Args:
        source: The new modality.
        target: The modality that it is aligned to; `text` for the language model's.
        stores: Embedding store of each side; captions are `text_column` of the other side's store.
        text_column: Column with the captions.
        pair_column: Column of both stores by whose equal values rows are paired; unused with captions.
        held_out: Stores of the same form for the held-out loss; None leaves the edge out of it.
        active: Entries of the code that the two share; None takes all.
        cross: See `PairEdge`.
        backward: See `PairEdge`.
        contrast: See `PairEdge`.
        weight: How often a step takes this edge, relative to the others.
    """

    source: str
    target: str
    stores: dict[str, str]
    text_column: str = "text"
    pair_column: str = "id"
    held_out: dict[str, str] | None = None
    active: int | None = None
    cross: float = 1.0
    backward: float = 0.1
    contrast: float = 0.1
    weight: float = 1.0


@dataclass
class AlignerOptions:
    """Sizes and losses of stage I, see `PairwiseConfig`."""

    width: int = 512
    num_latents: int = 32
    encoder_layers: int = 2
    decoder_layers: int = 6
    heads: int = 8
    ff_mult: int = 4
    dropout: float = 0.1
    cosine_weight: float = 0.1
    contrast_loss: str = "info_nce"
    temperature: float = 0.07
    temperature_mode: str = "fixed"
    temperature_end: float = 0.07


class ModalityGraph:
    """Modalities and pairs, checked.

    Args:
        text: The language model's side.
        modalities: The others by name.
        pairs: The edges.
        options: Sizes and losses.

    Raises:
        ValueError: If a name is unknown or cannot be a modality's, a store is missing, or a modality cannot be reached
            from the language model; the reason is named.
    """

    def __init__(
        self,
        text: TextOptions,
        modalities: dict[str, GraphModality],
        pairs: list[PairData],
        options: AlignerOptions | None = None,
    ) -> None:
        self.text, self.modalities, self.pairs = text, modalities, pairs
        self.options = options or AlignerOptions()
        self._check_names()
        self._check_reachable()

    def neighbours(self, name: str) -> list[str]:
        """Partners of a modality."""
        return [p.target if p.source == name else p.source for p in self.pairs if name in (p.source, p.target)]

    def aligner_config(self, widths: dict[str, int]) -> PairwiseConfig:
        """Make the aligner's configuration.

        Args:
            widths: Width of a token of each modality, `text` among them.

        Returns:
            The configuration.
        """
        sizes = {TEXT: self.text, **self.modalities}
        return PairwiseConfig(
            modalities={
                name: LatentModality(
                    input_dim=widths[name], num_tokens=m.num_tokens, reconstruction=float(m.reconstruction)
                )
                for name, m in sizes.items()
            },
            edges=[
                PairEdge(
                    source=p.source,
                    target=p.target,
                    active=p.active,
                    cross=float(p.cross),
                    backward=float(p.backward),
                    contrast=float(p.contrast),
                )
                for p in self.pairs
            ],
            **asdict(self.options),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the graph as plain values."""
        return {
            "text": asdict(self.text),
            "modalities": {name: asdict(m) for name, m in self.modalities.items()},
            "pairs": [asdict(p) for p in self.pairs],
        }

    def _check_names(self) -> None:
        for name in self.modalities:
            if name == TEXT or not name.isidentifier() or name != name.lower():
                raise ValueError(
                    f"{name!r} cannot name a modality of the graph: use a lower-case identifier; 'text' is the "
                    "language model's own and is configured under 'text'."
                )
        for pair in self.pairs:
            what = f"the pair {pair.source}-{pair.target}"
            for name in (pair.source, pair.target):
                if name != TEXT and name not in self.modalities:
                    raise ValueError(
                        f"{what} names {name!r}, but the modalities are text, {', '.join(self.modalities)}: add it or "
                        "correct the name."
                    )
            for stores in (pair.stores, pair.held_out):
                wanted = {pair.source, pair.target} - {TEXT}
                if stores is not None and set(stores) != wanted:
                    raise ValueError(
                        f"{what} has stores of {sorted(stores)}, expected one of each of {sorted(wanted)}."
                    )
        for name, modality in self.modalities.items():
            for partner in modality.surrogates:
                if partner != TEXT and partner not in self.neighbours(name):
                    raise ValueError(
                        f"{name!r} is to be decoded in the space of {partner!r}, but no pairs join them: it has pairs "
                        f"with {', '.join(self.neighbours(name)) or 'nothing'}."
                    )

    def _check_reachable(self) -> None:
        reached, queue = {TEXT}, [TEXT]
        while queue:
            for other in self.neighbours(queue.pop()):
                if other not in reached:
                    reached.add(other)
                    queue.append(other)
        lost = [name for name in self.modalities if name not in reached]
        if lost:
            name = lost[0]
            partners = self.neighbours(name)
            reason = (
                f"its pairs are with {', '.join(partners)} only, and none of these has pairs that lead to text"
                if partners
                else "it has no pairs at all"
            )
            raise ValueError(
                f"the language model cannot be reached from the modality {name!r}: {reason}. Nothing would teach what "
                f"its items mean in words. Add pairs that join it to {', '.join(sorted(reached))}, or leave it out."
            )
