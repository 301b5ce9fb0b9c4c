"""Masked reconstruction of touch recordings, which trains a `TactileEncoder` without labels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import ModelOutput

from hf_modalbridge.encoders.configuration_tactile import TactileEncoderConfig
from hf_modalbridge.encoders.tactile_encoder import TactileEncoder, TactilePreTrainedModel
from hf_modalbridge.encoders.transformer_blocks import PositionedBlocks

__all__ = ["TactileEncoderForPreTraining"]


class TactileEncoderForPreTraining(TactilePreTrainedModel):
    """Masked autoencoder over time patches (He et al., 2022, arXiv:2111.06377, for series).

    The loss is the mean squared error of what a hidden patch's neighbours can tell: slow channels, and the bands of the
    fast signal's spectrum, not its phase. Each target is weighted to unit variance over the batch's patches;
    one that does not vary is left out.

    Args:
        config: The encoder's configuration, of the layout "series".

    Raises:
        ValueError: If the layout is "image": transformers' `ViTForMaskedImageModeling` trains that one's ViT.
    """

    def __init__(self, config: TactileEncoderConfig):
        super().__init__(config)
        if config.layout != "series":
            raise ValueError(
                "TactileEncoderForPreTraining reads series; for pictures train a ViT with transformers' "
                "ViTForMaskedImageModeling and load its weights into TactileEncoder.vit."
            )
        width = config.hidden_size
        self.encoder = TactileEncoder(config)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.decoder = PositionedBlocks(
            config.decoder_layers, width, config.num_attention_heads, config.intermediate_size, config.dropout
        )
        self.head = nn.Linear(width, self.encoder.patches.num_targets)
        self.post_init()

    def forward(self, touch_values: Tensor, mask_noise: Tensor | None = None, **kwargs) -> ModelOutput:
        """Hide patches and reconstruct them.

        Args:
            touch_values: `(batch, num_samples, num_channels)` float, standardised.
            mask_noise: `(batch, patches)`: the patches with the smallest numbers stay visible. None for random.
            **kwargs: Ignored.

        Returns:
            `loss`, a scalar; `reconstruction` and `target` `(batch, hidden patches, num_targets)`.
        """
        features, targets = self.encoder.patches(self.encoder.check_series(touch_values))
        batch, patches, _ = features.shape
        if mask_noise is None:
            mask_noise = torch.rand(batch, patches, device=features.device)
        order = mask_noise.argsort(1)
        keep = min(max(1, patches - round(patches * self.config.mask_ratio)), patches - 1)
        visible, hidden = order[:, :keep, None], order[:, keep:, None]
        places = self.encoder.positions[:, 1:].expand(batch, -1, -1)

        def pick(x: Tensor, index: Tensor) -> Tensor:
            return x.gather(1, index.expand(-1, -1, x.shape[-1]))

        seen = pick(features, visible).to(self.mask_token.dtype)
        states, _ = self.encoder.encode(self.encoder.embed(seen), pick(places, visible))
        masks = self.mask_token.expand(batch, patches - keep, -1)
        zero = torch.zeros_like(states[:, :1])  # the class token is at no time
        positions = torch.cat([zero, pick(places, visible), pick(places, hidden)], 1)
        decoded, _ = self.decoder(torch.cat([states, masks], 1), positions)
        made, target = self.head(decoded[:, 1 + keep :]).float(), pick(targets, hidden)
        variance = targets.flatten(0, 1).var(0)
        # what does not vary (a band without a frequency, a dead channel) would outweigh everything if it were scaled up
        weight = torch.where(variance > 1e-4, 1 / variance.clamp_min(1e-4), 0.0)
        loss = ((made - target).square() * weight).mean()
        return ModelOutput(loss=loss, reconstruction=made, target=target)
