"""Configuration of the point cloud encoder."""

from __future__ import annotations

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

__all__ = ["POOLINGS", "PointEncoderConfig"]

POOLINGS = ("cls", "mean", "max", "mean_max")


@strict
class PointEncoderConfig(PreTrainedConfig):
    """Shape of a `PointEncoder`; the defaults are those of the encoder that comes with the demo.

    Args:
        hidden_size: Width of the tokens.
        num_hidden_layers: Transformer blocks.
        num_attention_heads: Heads of each block.
        intermediate_size: Width of the blocks' MLPs.
        num_groups: Groups a cloud is cut into, each of which becomes a token.
        group_size: Points of a group.
        point_dims: Widths of the group network: after the first and second layer of its first part, and in the middle
            of its second.
        use_color: Whether points carry a colour (3 channels and one that says whether there is one).
        use_normals: Whether points carry a normal, likewise.
        pooling: What one vector a cloud is made of: "cls", "mean" or "max" over the groups' tokens, or "mean_max", both
            side by side.
        dropout: Dropout in the blocks, in training only.
        mask_ratio: Share of the groups hidden in pre-training.
        decoder_layers: Blocks of the pre-training decoder, which the encoder itself does not have.
        num_kinds: Kinds of generated shapes that pre-training also tells apart; 0 for none.
        kind_weight: Weight of that beside the reconstruction.
        initializer_range: Standard deviation of fresh weights.
        embedding_dim: Width of the pooled vector; follows from `hidden_size` and `pooling`.
    """

    model_type = "modalbridge_point_encoder"

    hidden_size: int = 192
    num_hidden_layers: int = 6
    num_attention_heads: int = 6
    intermediate_size: int = 768
    num_groups: int = 64
    group_size: int = 32
    point_dims: list[int] | tuple[int, ...] = (64, 128, 192)
    use_color: bool = False
    use_normals: bool = False
    pooling: str = "mean_max"
    dropout: float | int = 0.0
    mask_ratio: float | int = 0.6
    decoder_layers: int = 2
    num_kinds: int = 0
    kind_weight: float | int = 1.0
    initializer_range: float | int = 0.02
    embedding_dim: int | None = None

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        self.point_dims = list(self.point_dims)  # JSON knows no tuples
        if self.pooling not in POOLINGS:
            raise ValueError(f"PointEncoderConfig got pooling {self.pooling!r}; expected one of {', '.join(POOLINGS)}.")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"PointEncoderConfig got hidden_size {self.hidden_size}, which {self.num_attention_heads} heads do not "
                "divide; choose a multiple."
            )
        if len(self.point_dims) != 3:
            raise ValueError(f"PointEncoderConfig got point_dims {self.point_dims}; expected three widths.")
        if not 0 < self.mask_ratio < 1:
            raise ValueError(f"PointEncoderConfig got mask_ratio {self.mask_ratio}; expected a share between 0 and 1.")
        width = self.hidden_size * (2 if self.pooling == "mean_max" else 1)
        if self.embedding_dim not in (None, width):
            raise ValueError(
                f"PointEncoderConfig got embedding_dim {self.embedding_dim}, but hidden_size {self.hidden_size} with "
                f"pooling {self.pooling!r} gives {width}; leave embedding_dim out."
            )
        self.embedding_dim = width

    @property
    def num_channels(self) -> int:
        """Channels of a point: x, y, z, and four each for colour and normal if they are used."""
        return 3 + 4 * self.use_color + 4 * self.use_normals

    @property
    def num_tokens(self) -> int:
        """Tokens of a cloud: the groups and the class token before them."""
        return self.num_groups + 1
