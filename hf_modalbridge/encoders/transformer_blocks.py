"""Pre-norm transformer blocks that the encoders of this package share."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

__all__ = ["PositionedBlocks", "TransformerBlock"]


class SelfAttention(nn.Module):
    """Multi-head self-attention by PyTorch's scaled dot product.

    Args:
        hidden_size: Width, a multiple of `num_heads`.
        num_heads: Number of heads.
        dropout: Probability of dropping an attention weight in training.
    """

    def __init__(self, hidden_size: int, num_heads: int, dropout: float = 0.0):
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.out = nn.Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Attend `(batch, tokens, hidden_size)`; the mask is True where a token may look, broadcast over heads."""
        batch, tokens, width = x.shape
        shape = (batch, tokens, 3, self.num_heads, width // self.num_heads)
        query, key, value = self.qkv(x).view(shape).permute(2, 0, 3, 1, 4)  # (B, heads, T, width / heads) each
        mixed = F.scaled_dot_product_attention(
            query, key, value, attn_mask=attention_mask, dropout_p=self.dropout if self.training else 0.0
        )
        return self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))


class TransformerBlock(GradientCheckpointingLayer):
    """Attention and a two-layer MLP, each behind a layer norm and beside a skip connection.

    Args:
        hidden_size: Width.
        num_heads: Number of attention heads.
        intermediate_size: Width of the MLP's middle.
        dropout: Dropout of attention weights and of both branches' outputs.
    """

    def __init__(self, hidden_size: int, num_heads: int, intermediate_size: int, dropout: float = 0.0):
        super().__init__()
        self.attention_norm = nn.LayerNorm(hidden_size)
        self.attention = SelfAttention(hidden_size, num_heads, dropout)
        self.mlp_norm = nn.LayerNorm(hidden_size)
        self.fc1 = nn.Linear(hidden_size, intermediate_size)
        self.fc2 = nn.Linear(intermediate_size, hidden_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Map `(batch, tokens, hidden_size)` to the same shape."""
        x = x + self.dropout(self.attention(self.attention_norm(x), attention_mask))
        return x + self.dropout(self.fc2(F.gelu(self.fc1(self.mlp_norm(x)))))


class PositionedBlocks(nn.Module):
    """A stack of blocks, each of which is told the positions anew, as Point-BERT does, and a last norm.

    Args:
        depth: Number of blocks.
        hidden_size: Width.
        num_heads: Number of attention heads.
        intermediate_size: Width of the MLPs' middle.
        dropout: See `TransformerBlock`.
    """

    def __init__(self, depth: int, hidden_size: int, num_heads: int, intermediate_size: int, dropout: float = 0.0):
        super().__init__()
        self.layers = nn.ModuleList(
            TransformerBlock(hidden_size, num_heads, intermediate_size, dropout) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(hidden_size)

    def forward(
        self, x: Tensor, positions: Tensor, attention_mask: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Run the stack.

        Args:
            x: `(batch, tokens, hidden_size)`.
            positions: Of the same shape.
            attention_mask: Broadcasts to `(batch, heads, tokens, tokens)`, True to attend; None for all.

        Returns:
            The last states, normalised, and the states before each block and after the last.
        """
        states = [x]
        for layer in self.layers:
            x = layer(x + positions, attention_mask)
            states.append(x)
        return self.norm(x), tuple(states)
