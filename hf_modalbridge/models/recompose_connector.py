"""Stage II's connector: token features of an encoder, recomposed in the language model's input space."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .configuration_modalbridge import ModalityConfig
from .latent_autoencoder import LatentDecoder, LatentEncoder, init_latent_weights
from .pairwise_aligner import prefix_mask

__all__ = ["RecomposeConnector"]


class RecomposeConnector(nn.Module):
    """`Dec_i(m^(i<-j) * Enc_j(x))` for each partner i, their tokens one after the other (arXiv 2605.21059, 4.3).

    `ModalityConfig.connector_config` has the sizes `width`, `num_latents`, `encoder_layers`, `decoder_layers`, `heads`,
    `ff_mult`, `dropout`, all as in `PairwiseConfig`, and `surrogates`: a list of `{"partner", "num_tokens", "active"}`
    in the order of their tokens. A partner's tokens must lie in the language model's input space, as caption tokens
    do, or the output of another modality's trained connector.

    Args:
        config: The modality's configuration.
        hidden_size: Width of the language model's input embeddings.

    Raises:
        ValueError: If the surrogates' tokens do not sum up to `num_tokens`, or a key is missing.
    """

    reads_tokens = True

    def __init__(self, config: ModalityConfig, hidden_size: int) -> None:
        super().__init__()
        options: dict[str, Any] = dict(config.connector_config or {})
        surrogates = options.pop("surrogates", None)
        if not surrogates or config.input_tokens is None:
            raise ValueError(
                "connector_type 'recompose' needs input_tokens, the tokens that the encoder gives, and "
                "connector_config with 'surrogates': [{'partner': 'text', 'num_tokens': ..., 'active': ...}]. "
                "recipes/train_pairwise.py writes both."
            )
        total = sum(s["num_tokens"] for s in surrogates)
        if total != config.num_tokens:
            raise ValueError(
                f"the surrogates have {total} tokens together, but num_tokens is {config.num_tokens}; make them equal."
            )
        encoder_layers, decoder_layers = options.pop("encoder_layers", 2), options.pop("decoder_layers", 6)
        num_latents = options.pop("num_latents", 32)
        self.active = {s["partner"]: s.get("active") for s in surrogates}
        self.encoder = LatentEncoder(
            config.embedding_dim, config.input_tokens, num_latents=num_latents, layers=encoder_layers, **options
        )
        self.decoders = nn.ModuleDict(
            {
                s["partner"]: LatentDecoder(hidden_size, s["num_tokens"], layers=decoder_layers, **options)
                for s in surrogates
            }
        )

    def init_weights(self, std: float) -> None:
        """Draw all weights; the decoders' output starts at the scale `std` of token embeddings."""
        for part in (self.encoder, *self.decoders.values()):
            init_latent_weights(part)
        for decoder in self.decoders.values():
            if not getattr(decoder.scale, "_is_hf_initialized", False):
                decoder.scale.fill_(std)

    @torch.no_grad()
    def init_from_embeddings(self, mean: Tensor, std: float) -> None:
        """Put the decoders' output where the language model's token embeddings lie."""
        for decoder in self.decoders.values():
            decoder.mean.copy_(mean)
            decoder.scale.fill_(std)

    @torch.no_grad()
    def load_aligner(self, aligner: nn.Module, modality: str) -> None:
        """Take the modality's encoder and the partners' decoders from stage I.

        Args:
            aligner: A `PairwiseAligner` of the same sizes.
            modality: Name of the modality in it.
        """
        self.encoder.load_state_dict(aligner.encoders[modality].state_dict())  # type: ignore[union-attr,index]
        for partner, decoder in self.decoders.items():
            decoder.load_state_dict(aligner.decoders[partner].state_dict())  # type: ignore[union-attr,index]

    def forward(self, features: Tensor) -> Tensor:
        """Map `(items, tokens, embedding_dim)` to `(items, num_tokens, hidden_size)`."""
        code = self.encoder(features)
        return torch.cat([d(prefix_mask(code, self.active[name])) for name, d in self.decoders.items()], dim=1)
