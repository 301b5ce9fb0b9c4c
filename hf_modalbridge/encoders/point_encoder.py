"""A point cloud encoder in the layout of Point-BERT, in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling

from hf_modalbridge.encoders.configuration_point import PointEncoderConfig
from hf_modalbridge.encoders.transformer_blocks import PositionedBlocks
from hf_modalbridge.functional.points import (
    canonical_order,
    farthest_point_sample,
    gather_points,
    nearest_neighbors,
)

__all__ = ["PointEncoder", "PointPreTrainedModel"]


class GroupNetwork(nn.Module):
    """Mini-PointNet: the points of a group to one token (Yu et al., 2022, arXiv:2111.14819, section 3.1).

    Layer norms stand where the paper has batch norms, so that a cloud's features do not depend on its batch, and the
    concatenation of each point with the group's maximum is two linear maps, the second of which runs once a group.

    Args:
        config: The encoder's configuration.
    """

    def __init__(self, config: PointEncoderConfig):
        super().__init__()
        first, second, third = config.point_dims
        # offsets are given twice, as they are and over the group's radius: the second does not change with density
        self.first = nn.Sequential(
            nn.Linear(config.num_channels + 3, first), nn.LayerNorm(first), nn.ReLU(), nn.Linear(first, second)
        )
        self.local = nn.Linear(second, third)
        self.shared = nn.Linear(second, third, bias=False)
        self.norm = nn.LayerNorm(third)
        self.last = nn.Linear(third, config.hidden_size)

    def forward(self, groups: Tensor) -> Tensor:
        """Map `(batch, groups, points, channels + 3)` to `(batch, groups, hidden_size)`."""
        points = self.first(groups)  # (B, G, K, second)
        whole = points.amax(2, keepdim=True)
        points = torch.relu(self.norm(self.local(points) + self.shared(whole)))  # (B, G, K, third)
        return self.last(points).amax(2)


class PointPreTrainedModel(PreTrainedModel):
    """What the point models share."""

    config_class = PointEncoderConfig
    base_model_prefix = "encoder"
    main_input_name = "point_values"
    input_modalities = ("point",)
    supports_gradient_checkpointing = True
    keep_input_dtype = True  # coordinates stay in float32 whatever the weights are in
    _no_split_modules = ["TransformerBlock"]
    _supports_sdpa = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Draw the class and mask tokens like the weights; the guarded functions leave loaded tensors as they are."""
        super()._init_weights(module)
        for name in ("cls_token", "cls_position", "mask_token"):
            if isinstance(getattr(module, name, None), nn.Parameter):
                init.normal_(getattr(module, name), std=self.config.initializer_range)


class PointEncoder(PointPreTrainedModel):
    """Point-BERT: farthest-point centres, their nearest neighbours as tokens, a transformer.

    Clouds of any number of points are cut into the same number of groups, so the transformer needs no mask. A cloud's
    features do not depend on the order of its points, nor on the batch it is in.

    Args:
        config: The encoder's shape.
    """

    def __init__(self, config: PointEncoderConfig):
        super().__init__(config)
        width = config.hidden_size
        self.group_network = GroupNetwork(config)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.cls_position = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Sequential(nn.Linear(3, 128), nn.GELU(), nn.Linear(128, width))
        self.blocks = PositionedBlocks(
            config.num_hidden_layers, width, config.num_attention_heads, config.intermediate_size, config.dropout
        )
        self.post_init()

    def group(self, point_values: Tensor, point_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Cut clouds into groups.

        Args:
            point_values: `(batch, points, channels)` float, see `PointFeatureExtractor`.
            point_mask: `(batch, points)`, True for real points; None if all are.

        Returns:
            The groups `(batch, groups, group_size, channels + 3)`: a point's offset from the centre over the group's
            radius, the offset itself, the further channels; and the centres `(batch, groups, 3)`. Float32.

        Raises:
            ValueError: If the number of channels is not the model's, or the mask has another shape.
        """
        if point_values.ndim != 3 or point_values.shape[2] != self.config.num_channels:
            raise ValueError(
                f"PointEncoder got point_values of shape {tuple(point_values.shape)}; expected (batch, points, "
                f"{self.config.num_channels}). Use a PointFeatureExtractor with the model's use_color="
                f"{self.config.use_color} and use_normals={self.config.use_normals}."
            )
        if point_mask is not None and point_mask.shape != point_values.shape[:2]:
            raise ValueError(
                f"PointEncoder got a point_mask of shape {tuple(point_mask.shape)} for point_values of shape "
                f"{tuple(point_values.shape)}; expected (batch, points)."
            )
        points = point_values.float()
        mask = None if point_mask is None else point_mask.bool()
        points = gather_points(points, canonical_order(points, mask))
        if mask is not None:  # the padding went to the end
            mask = torch.arange(points.shape[1], device=points.device) < mask.sum(1, keepdim=True)
        centers = gather_points(points, farthest_point_sample(points, self.config.num_groups, mask))[..., :3]
        members = gather_points(points, nearest_neighbors(centers, points, self.config.group_size, mask))
        offset = members[..., :3] - centers[:, :, None]  # (B, G, K, 3)
        radius = torch.linalg.vector_norm(offset, dim=-1).amax(2)[:, :, None, None]
        return torch.cat([offset / radius.clamp_min(1e-6), offset, members[..., 3:]], -1), centers

    def encode(self, tokens: Tensor, centers: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Run the transformer over the class token and some or all of the groups' tokens.

        Args:
            tokens: `(batch, groups, hidden_size)`.
            centers: `(batch, groups, 3)`.

        Returns:
            Last states `(batch, groups + 1, hidden_size)`, and the states before each block and after the last.
        """
        batch = len(tokens)
        x = torch.cat([self.cls_token.expand(batch, -1, -1), tokens], 1)
        positions = self.position(centers.to(tokens.dtype))
        return self.blocks(x, torch.cat([self.cls_position.expand(batch, -1, -1), positions], 1))

    def pool(self, states: Tensor) -> Tensor:
        """Make one vector a cloud of the last states.

        Args:
            states: `(batch, groups + 1, hidden_size)`.

        Returns:
            `(batch, embedding_dim)`.
        """
        if self.config.pooling == "cls":
            return states[:, 0]
        groups = states[:, 1:]
        parts = {"mean": lambda: groups.mean(1), "max": lambda: groups.amax(1)}
        return torch.cat([parts[name]() for name in self.config.pooling.split("_")], -1)

    def forward(
        self,
        point_values: Tensor,
        point_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        """Encode clouds.

        Args:
            point_values: `(batch, points, channels)` float: x, y, z in the unit sphere, then colour and normal if the
                model has them; from the model's `PointFeatureExtractor`.
            point_mask: `(batch, points)`, True for real points; None if all are.
            output_hidden_states: Whether to return the states between the blocks.
            return_dict: Whether to return an output object (the default) or a tuple.
            **kwargs: Ignored, so that callers can treat all towers alike.

        Returns:
            `last_hidden_state` `(batch, num_groups + 1, hidden_size)`, the class token first and the groups in
            the order of farthest point sampling, and `pooler_output` `(batch, embedding_dim)`, in the weights' dtype.

        Raises:
            ValueError: If the number of channels is not the model's, or the mask has another shape.
        """
        groups, centers = self.group(point_values, point_mask)
        tokens = self.group_network(groups.to(self.cls_token.dtype))
        states, between = self.encode(tokens, centers)
        pooled = self.pool(states)
        if return_dict is False:
            return (states, pooled)
        return BaseModelOutputWithPooling(
            last_hidden_state=states, pooler_output=pooled, hidden_states=between if output_hidden_states else None
        )

    def get_point_features(self, point_values: Tensor, point_mask: Tensor | None = None, **kwargs) -> Tensor:
        """Embed clouds.

        Args:
            point_values: `(items, points, channels)` float.
            point_mask: `(items, points)`, True for real points; None if all are.
            **kwargs: Ignored, so that callers can treat all encoders alike.

        Returns:
            `(items, embedding_dim)`, not normalised.
        """
        return self(point_values, point_mask).pooler_output
