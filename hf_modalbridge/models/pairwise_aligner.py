"""Stage I of the pairwise route: a latent code that modalities share, learned from pairs (arXiv 2605.21059)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import ModelOutput

from hf_modalbridge.functional.contrastive import (
    cwcl_loss,
    gram_loss,
    info_nce_loss,
    inverse_softplus,
    scheduled_temperature,
    softplus_temperature,
    uniformity_alignment_loss,
)

from .configuration_pairwise import PairEdge, PairwiseConfig
from .latent_autoencoder import LatentDecoder, LatentEncoder, init_latent_weights

__all__ = ["PairwiseAligner", "PairwiseOutput", "reconstruction_loss"]


def reconstruction_loss(
    output: Tensor, target: Tensor, mask: Tensor | None = None, cosine_weight: float = 0.1
) -> Tensor:
    """Compute `mean ||x^ - x||^2 + lambda (1 - cos(x^, x))` over real tokens (arXiv 2605.21059, section 4.2).

    The constant 1 keeps the loss from going below 0 and changes no gradient.

    Args:
        output: Decoded tokens `(items, tokens, dim)`.
        target: `(items, tokens, dim)`, with as many or fewer tokens.
        mask: `(items, tokens)` of the target, True for real tokens; None if all are.
        cosine_weight: lambda.

    Returns:
        Scalar: the squared error is the mean over channels, both are means over real tokens.
    """
    output, target = output[:, : target.shape[1]].float(), target.float()
    squared = (output - target).square().mean(-1)  # (items, tokens)
    cosine = 1 - F.cosine_similarity(output, target, dim=-1)
    values = squared + cosine_weight * cosine
    if mask is None:
        return values.mean()
    return (values * mask).sum() / mask.sum().clamp(min=1)


@dataclass
class PairwiseOutput(ModelOutput):
    """Output of `PairwiseAligner`.

    Args:
        loss: Scalar.
        parts: The unweighted terms by name, detached.
    """

    loss: Tensor | None = None
    parts: dict[str, Tensor] | None = None


class PairwiseAligner(PreTrainedModel):
    """An autoencoder for each modality, whose codes agree where pairs were observed.

    Encoders give `(items, num_latents, width)`. Of an edge, both codes are masked to its active channels before they
    are compared or decoded by the other side, so nothing else in them has any influence there.

    Args:
        config: Modalities, edges and sizes.
    """

    config_class = PairwiseConfig
    base_model_prefix = "aligner"
    main_input_name = "features"

    def __init__(self, config: PairwiseConfig) -> None:
        super().__init__(config)
        shape = {"width": config.width, "heads": config.heads, "ff_mult": config.ff_mult, "dropout": config.dropout}
        self.encoders = nn.ModuleDict()
        self.decoders = nn.ModuleDict()
        for name, m in config.modalities.items():
            self.encoders[name] = LatentEncoder(
                m.input_dim, m.num_tokens, num_latents=config.num_latents, layers=config.encoder_layers, **shape
            )
            self.decoders[name] = LatentDecoder(m.input_dim, m.num_tokens, layers=config.decoder_layers, **shape)
        if config.temperature_mode == "learned":
            self.nu = nn.Parameter(torch.full((), inverse_softplus(config.temperature)))
        self.progress = 0.0
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, LatentEncoder | LatentDecoder):
            init_latent_weights(module)
        elif module is self and hasattr(self, "nu"):
            init.constant_(self.nu, inverse_softplus(self.config.temperature))

    def set_progress(self, progress: float) -> None:
        """Say which share of the run is done, for a scheduled temperature."""
        self.progress = progress

    def temperature(self) -> Tensor | float:
        """Return the temperature of the contrastive term."""
        if self.config.temperature_mode == "learned":
            return softplus_temperature(self.nu)
        if self.config.temperature_mode == "scheduled":
            return scheduled_temperature(self.progress, self.config.temperature, self.config.temperature_end)
        return self.config.temperature

    @torch.no_grad()
    def set_statistics(self, modality: str, mean: Tensor, scale: float) -> None:
        """Set where a modality's tokens lie, for its encoder and its decoder.

        Args:
            modality: Its name.
            mean: Mean token `(input_dim,)`.
            scale: Root mean square of the centred tokens' channels.
        """
        for part in (self.encoders[modality], self.decoders[modality]):
            part.mean.copy_(mean)
            part.scale.fill_(scale)

    def encode(self, modality: str, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Encode `(items, tokens, input_dim)` of a modality to its code `(items, num_latents, width)`."""
        if modality not in self.encoders:
            raise KeyError(f"this aligner has no modality {modality!r}; it has {', '.join(self.encoders)}.")
        return self.encoders[modality](features, mask)

    def decode(self, modality: str, code: Tensor, active: int | None = None) -> Tensor:
        """Decode a code, masked to its first `active` channels, to `(items, num_tokens, input_dim)`."""
        return self.decoders[modality](prefix_mask(code, active))

    def recompose(self, source: str, target: str, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Turn items of one modality into tokens of another, which need never have been paired.

        Args:
            source: What goes in.
            target: What comes out.
            features: `(items, tokens, input_dim)` of the source.
            mask: `(items, tokens)`, True for real tokens.

        Returns:
            `(items, num_tokens, input_dim)` of the target. The code is masked to what the pairs on the way share.
        """
        return self.decode(target, self.encode(source, features, mask), self.config.active_entries(source, target))

    def embed(self, modality: str, features: Tensor, mask: Tensor | None = None, active: int | None = None) -> Tensor:
        """Embed items for retrieval: the mean over latents of the first `active` channels, unit rows.

        Args:
            modality: Its name.
            features: `(items, tokens, input_dim)`.
            mask: `(items, tokens)`, True for real tokens.
            active: Channels; `config.active_entries(a, b)` for a comparison of a and b. None takes all.

        Returns:
            `(items, width)` float32.
        """
        return F.normalize(prefix_mask(self.encode(modality, features, mask), active).float().mean(1), dim=-1)

    def forward(
        self,
        features: Mapping[str, Tensor],
        masks: Mapping[str, Tensor] | None = None,
        num_items_in_batch: Tensor | int | None = None,
        reduction: str = "mean",
        **kwargs: object,
    ) -> PairwiseOutput:
        """Compute the loss of a batch of pairs of one edge.

        Args:
            features: `{modality: (pairs, tokens, input_dim)}` of the edge's two modalities; row i belongs to row i.
            masks: `{modality: (pairs, tokens)}`, True for real tokens; a modality left out has real ones only.
            num_items_in_batch: Pairs of the whole step over all processes and micro-batches: the mean loss is weighed
                by this batch's share of them.
            reduction: `sum` weighs it by the number of pairs instead.
            **kwargs: Ignored.

        Returns:
            The loss and its terms.

        Raises:
            ValueError: If the batch is not of one edge.
        """
        edge = self.config.edge(*features) if len(features) == 2 else None
        if edge is None:
            raise ValueError(
                f"a batch has the modalities {', '.join(features)}, but the edges are "
                f"{', '.join(e.name for e in self.config.edges)}: give pairs of one edge at a time."
            )
        masks = masks or {}
        codes = {name: self.encode(name, x, masks.get(name)) for name, x in features.items()}
        lam, weights = self.config.cosine_weight, {}
        parts: dict[str, Tensor] = {}

        def term(name: str, weight: float, value: Tensor) -> None:
            parts[name], weights[name] = value, weight

        def decoded(target: str, origin: str, active: int | None) -> Tensor:
            # at the scale of the standardised tokens, so that weights mean the same for every modality
            scale, mean = self.decoders[target].scale, self.decoders[target].mean
            output = self.decode(target, codes[origin], active)
            return reconstruction_loss(
                (output - mean) / scale, (features[target] - mean) / scale, masks.get(target), lam
            )

        for name in features:
            weight = self.config.modalities[name].reconstruction
            if weight:
                term(f"reconstruction_{name}", weight, decoded(name, name, None))
        if edge.cross:
            term("cross", edge.cross, decoded(edge.target, edge.source, edge.active))
        if edge.backward:
            term("backward", edge.backward, decoded(edge.source, edge.target, edge.active))
        if edge.contrast:
            term("contrast", edge.contrast, self._contrast(edge, codes, features, masks))
        if not parts:
            raise ValueError(f"all weights of the edge {edge.name!r} are 0, so nothing in it trains: leave it out.")
        loss = torch.stack([weights[name] * value for name, value in parts.items()]).sum()
        pairs = len(next(iter(features.values())))
        if reduction == "sum":
            loss = loss * pairs
        elif num_items_in_batch is not None:
            loss = loss * (pairs / num_items_in_batch)
        return PairwiseOutput(loss=loss, parts={name: value.detach() for name, value in parts.items()})

    def _contrast(
        self, edge: PairEdge, codes: Mapping[str, Tensor], features: Mapping[str, Tensor], masks: Mapping[str, Tensor]
    ) -> Tensor:
        # mean over latents, then compare; both sides masked: outside the mask nothing has influence, not even by length
        target, source = (prefix_mask(codes[n], edge.active).float().mean(1) for n in (edge.target, edge.source))
        everyone = {}
        if self.training and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            everyone = {"all_a": _gather(target), "all_b": _gather(source), "offset": dist.get_rank() * len(target)}
        kind, temperature = self.config.contrast_loss, self.temperature()
        if kind == "info_nce":
            return info_nce_loss(target, source, temperature, **everyone)
        if kind == "cwcl":
            known, mask = features[edge.target].float() - self.encoders[edge.target].mean, masks.get(edge.target)
            weights = torch.ones_like(known[..., 0]) if mask is None else mask.float()
            return cwcl_loss(target, source, torch.einsum("ntd,nt->nd", known, weights), temperature)
        if kind == "gram":
            return gram_loss(target, [source], temperature)
        return uniformity_alignment_loss(target, source, temperature)


def prefix_mask(code: Tensor, active: int | None) -> Tensor:
    """Set all but the first `active` channels of `(..., width)` to 0; None keeps all."""
    if active is None or active >= code.shape[-1]:
        return code
    return F.pad(code[..., :active], (0, code.shape[-1] - active))


def _gather(rows: Tensor) -> Tensor:
    """Rows of all processes, with their gradient."""
    from torch.distributed.nn.functional import all_gather

    return torch.cat(list(all_gather(rows.contiguous())))
