"""Masked reconstruction of point clouds, which trains a `PointEncoder` without labels of real objects."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import ModelOutput

from hf_modalbridge.encoders.configuration_point import PointEncoderConfig
from hf_modalbridge.encoders.point_encoder import PointEncoder, PointPreTrainedModel
from hf_modalbridge.encoders.transformer_blocks import PositionedBlocks
from hf_modalbridge.functional.points import chamfer_distance, gather_points

__all__ = ["PointEncoderForPreTraining"]


class PointEncoderForPreTraining(PointPreTrainedModel):
    """Masked autoencoder over the groups of a cloud (Pang et al., 2022, arXiv:2203.06604, section 3).

    The encoder sees the groups that are left, the decoder the places of the hidden ones as well, and the loss is the
    Chamfer distance between each hidden group and its reconstruction, both in units of the group's radius: a dense
    and a thin cloud weigh the same. The class token goes through the decoder, so that it learns something too.

    With `num_kinds`, a linear map of the visible groups' pooled states also tells the kind of a generated shape, which
    its generator knows; cross-entropy. It is dropped after the training, like the decoder.

    Args:
        config: The encoder's configuration.
    """

    def __init__(self, config: PointEncoderConfig):
        super().__init__(config)
        width = config.hidden_size
        self.encoder = PointEncoder(config)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.decoder_position = nn.Sequential(nn.Linear(3, 128), nn.GELU(), nn.Linear(128, width))
        self.decoder = PositionedBlocks(
            config.decoder_layers, width, config.num_attention_heads, config.intermediate_size, config.dropout
        )
        self.head = nn.Linear(width, 3 * config.group_size)
        if config.num_kinds:
            self.kind_head = nn.Linear(config.embedding_dim, config.num_kinds)
        self.post_init()

    @property
    def num_visible(self) -> int:
        """Groups of a cloud that the encoder sees."""
        groups = self.config.num_groups
        return min(max(1, groups - round(groups * self.config.mask_ratio)), groups - 1)

    def forward(
        self,
        point_values: Tensor,
        point_mask: Tensor | None = None,
        mask_noise: Tensor | None = None,
        kinds: Tensor | None = None,
        **kwargs,
    ) -> ModelOutput:
        """Hide groups and reconstruct them.

        Args:
            point_values: `(batch, points, channels)` float.
            point_mask: `(batch, points)`, True for real points; None if all are.
            mask_noise: `(batch, num_groups)`: the groups with the smallest numbers stay visible. None for random.
            kinds: `(batch,)` int64, the kind of each generated shape, -100 for clouds that are none; None leaves that
                task out.
            **kwargs: Ignored.

        Returns:
            `loss`, a scalar, its parts `reconstruction_loss` and `kind_loss`; `reconstruction` `(batch, hidden groups,
            group_size, 3)` and `target` of the same shape, offsets over the group's radius; `centers` `(batch, hidden
            groups, 3)`.
        """
        groups, centers = self.encoder.group(point_values, point_mask)
        if mask_noise is None:
            mask_noise = torch.rand(centers.shape[:2], device=centers.device)
        order = mask_noise.argsort(1)
        visible, hidden = order[:, : self.num_visible], order[:, self.num_visible :]
        flat = groups.flatten(2)
        seen = gather_points(flat, visible).view(len(flat), -1, *groups.shape[2:])
        target = gather_points(flat, hidden).view(len(flat), -1, *groups.shape[2:])[..., :3]
        seen_centers, hidden_centers = gather_points(centers, visible), gather_points(centers, hidden)

        tokens = self.encoder.group_network(seen.to(self.mask_token.dtype))  # hidden groups cost nothing
        states, _ = self.encoder.encode(tokens, seen_centers)
        places = self.decoder_position(torch.cat([seen_centers, hidden_centers], 1).to(states.dtype))
        places = torch.cat([torch.zeros_like(places[:, :1]), places], 1)  # the class token is nowhere
        masks = self.mask_token.expand(len(states), hidden.shape[1], -1)
        decoded, _ = self.decoder(torch.cat([states, masks], 1), places)
        made = self.head(decoded[:, -hidden.shape[1] :]).float().view(*hidden.shape, -1, 3)  # (B, H, K, 3)
        loss = chamfer_distance(made.flatten(0, 1), target.flatten(0, 1)).mean()
        parts = {"reconstruction_loss": loss.detach()}
        pooled = self.encoder.pool(states)
        if kinds is not None and self.config.num_kinds and bool((kinds >= 0).any()):
            kind_loss = F.cross_entropy(self.kind_head(pooled).float(), kinds)
            loss, parts["kind_loss"] = loss + self.config.kind_weight * kind_loss, kind_loss.detach()
        return ModelOutput(loss=loss, reconstruction=made, target=target, centers=hidden_centers, **parts)
