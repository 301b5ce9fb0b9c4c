"""A modality's autoencoder: its tokens to a few latents, and queries that read tokens back from latents."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

__all__ = ["LatentDecoder", "LatentEncoder", "init_latent_weights"]


class _Attention(nn.Module):
    """Multi-head attention of one set of tokens to another, by PyTorch's scaled dot product."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend from `(batch, n, width)` to `(batch, m, width)`; the mask `(batch, m)` is True where one may look."""
        shape = (x.shape[0], -1, self.heads, x.shape[-1] // self.heads)
        query = self.query(x).view(shape).transpose(1, 2)
        key, value = (part.view(shape).transpose(1, 2) for part in self.key_value(context).chunk(2, -1))
        mixed = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=None if mask is None else mask[:, None, None, :],
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.out(mixed.transpose(1, 2).reshape(x.shape))


class _Step(nn.Module):
    """Pre-norm attention or feed-forward beside a skip connection."""

    def __init__(self, width: int, heads: int, ff_mult: int, dropout: float, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.norm = nn.LayerNorm(width)
        self.context_norm = nn.LayerNorm(width) if kind == "cross" else None
        if kind == "feed":
            self.layer: nn.Module = nn.Sequential(
                nn.Linear(width, ff_mult * width), nn.GELU(), nn.Linear(ff_mult * width, width)
            )
        else:
            self.layer = _Attention(width, heads, dropout)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
        y = self.norm(x)
        if self.kind == "feed":
            return x + self.drop(self.layer(y))
        if self.context_norm is None:
            return x + self.drop(self.layer(y, y))
        return x + self.drop(self.layer(y, self.context_norm(context), mask))


class LatentEncoder(nn.Module):
    """Perceiver-style resampler: tokens of one modality to `num_latents` latents of width `width`.

    Learned latents go through blocks of cross-attention to the tokens, feed-forward, self-attention, feed-forward, all
    pre-norm (arXiv 2605.21059, section 4 and its code). Tokens are first centred and scaled by the modality's own
    mean and spread, which are buffers: token embeddings of a language model are small numbers, features of a point
    encoder are not.

    Args:
        input_dim: Width of a token.
        max_tokens: Most tokens of an item; each place has a learned position.
        width: Width d_c of the latents.
        num_latents: Their number.
        layers: Blocks.
        heads: Attention heads, which divide `width`.
        ff_mult: Width of the feed-forward's middle over `width`.
        dropout: In training.
    """

    def __init__(
        self,
        input_dim: int,
        max_tokens: int,
        width: int = 512,
        num_latents: int = 32,
        layers: int = 2,
        heads: int = 8,
        ff_mult: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(input_dim))
        self.register_buffer("scale", torch.ones(()))
        self.input = nn.Linear(input_dim, width)
        self.positions = nn.Parameter(torch.zeros(max_tokens, width))
        self.latents = nn.Parameter(torch.zeros(num_latents, width))
        kinds = ("cross", "feed", "self", "feed")
        self.steps = nn.ModuleList(_Step(width, heads, ff_mult, dropout, kind) for _ in range(layers) for kind in kinds)
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Encode items.

        Args:
            tokens: `(items, tokens, input_dim)`.
            mask: `(items, tokens)`, True for real tokens; None if all are.

        Returns:
            `(items, num_latents, width)`.

        Raises:
            ValueError: If there are more tokens than positions, or they are of another width.
        """
        if tokens.ndim != 3 or tokens.shape[1] > len(self.positions) or tokens.shape[2] != len(self.mean):
            raise ValueError(
                f"a latent encoder got tokens of shape {tuple(tokens.shape)}, expected (items, up to "
                f"{len(self.positions)}, {len(self.mean)}). Are they from the encoder that it was trained on?"
            )
        x = (tokens.float() - self.mean.float()) / self.scale.float()
        context = self.input(x.to(self.input.weight.dtype)) + self.positions[: tokens.shape[1]]
        latents = self.latents.expand(tokens.shape[0], -1, -1)  # len() would be a constant in torch.export
        for step in self.steps:
            latents = step(latents, context, mask)
        return self.norm(latents)


class LatentDecoder(nn.Module):
    """Non-autoregressive decoder: learned queries read a modality's tokens from latents.

    Blocks of self-attention, cross-attention to the latents and feed-forward, then a linear map to the modality's
    width, scaled and moved to where its tokens lie (arXiv 2605.21059, section 4 and its code).

    Args:
        output_dim: Width of a token.
        num_tokens: Tokens that it gives.
        width: Width d_c of the latents.
        layers: Blocks.
        heads: Attention heads.
        ff_mult: Width of the feed-forward's middle over `width`.
        dropout: In training.
    """

    def __init__(
        self,
        output_dim: int,
        num_tokens: int,
        width: int = 512,
        layers: int = 6,
        heads: int = 8,
        ff_mult: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(output_dim))
        self.register_buffer("scale", torch.ones(()))
        self.queries = nn.Parameter(torch.zeros(num_tokens, width))
        kinds = ("self", "cross", "feed")
        self.steps = nn.ModuleList(_Step(width, heads, ff_mult, dropout, kind) for _ in range(layers) for kind in kinds)
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, output_dim)

    def forward(self, latents: Tensor) -> Tensor:
        """Decode `(items, latents, width)` to `(items, num_tokens, output_dim)`."""
        x = self.queries.expand(latents.shape[0], -1, -1)
        for step in self.steps:
            x = step(x, latents, None)
        out = self.output(self.norm(x))
        return out * self.scale.to(out.dtype) + self.mean.to(out.dtype)


def init_latent_weights(module: nn.Module) -> None:
    """Draw the weights of an encoder or decoder; what a checkpoint gave stays as it is.

    Args:
        module: A `LatentEncoder` or `LatentDecoder`.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear):
            init.normal_(part.weight, std=1 / math.sqrt(part.in_features))
            init.zeros_(part.bias)
        elif isinstance(part, nn.LayerNorm):
            init.ones_(part.weight)
            init.zeros_(part.bias)
        elif isinstance(part, LatentEncoder):
            init.normal_(part.positions, std=0.3)
            init.normal_(part.latents, std=1.0)
            init.zeros_(part.mean)
            init.ones_(part.scale)
        elif isinstance(part, LatentDecoder):
            init.normal_(part.queries, std=1.0)
            init.zeros_(part.mean)
            init.ones_(part.scale)
