"""Connectors: from a standardised embedding to tokens in the language model's input space."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from transformers import initialization as init

from .configuration_modalbridge import ModalityConfig
from .recompose_connector import RecomposeConnector

__all__ = ["CONNECTORS", "Connector", "LinearProjector", "MLPProjector", "RecomposeConnector"]

# E[gelu(x)^2] for x ~ N(0, 1): keeps the second layer's input at unit scale when it is initialised.
_GELU_SECOND_MOMENT = 0.425


class LinearProjector(nn.Module):
    """One linear layer, `(items, embedding_dim)` -> `(items, out_dim)`.

    Args:
        embedding_dim: Width of the input.
        hidden_dim: Not used; every projector takes the same arguments.
        out_dim: Width of the output.
    """

    def __init__(self, embedding_dim: int, hidden_dim: int, out_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(embedding_dim, out_dim)

    @property
    def last(self) -> nn.Linear:
        """The layer that writes the output."""
        return self.linear

    def init_weights(self, std: float) -> None:
        """Initialise so that unit-variance input gives output elements of standard deviation `std`."""
        init.normal_(self.linear.weight, std=std / math.sqrt(self.linear.in_features))
        init.zeros_(self.linear.bias)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Project `(items, embedding_dim)` to `(items, out_dim)`."""
        return self.linear(embeddings)


class MLPProjector(nn.Module):
    """Two linear layers with a GELU between (`mlp2x_gelu`), `(items, embedding_dim)` -> `(items, out_dim)`.

    Args:
        embedding_dim: Width of the input.
        hidden_dim: Width between the layers.
        out_dim: Width of the output.
    """

    def __init__(self, embedding_dim: int, hidden_dim: int, out_dim: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(embedding_dim, hidden_dim)
        self.act = nn.GELU()
        self.linear_2 = nn.Linear(hidden_dim, out_dim)

    @property
    def last(self) -> nn.Linear:
        """The layer that writes the output."""
        return self.linear_2

    def init_weights(self, std: float) -> None:
        """Initialise so that unit-variance input gives output elements of standard deviation `std`."""
        init.normal_(self.linear_1.weight, std=1 / math.sqrt(self.linear_1.in_features))
        init.zeros_(self.linear_1.bias)
        fan_in = self.linear_2.in_features * _GELU_SECOND_MOMENT
        init.normal_(self.linear_2.weight, std=std / math.sqrt(fan_in))
        init.zeros_(self.linear_2.bias)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Project `(items, embedding_dim)` to `(items, out_dim)`."""
        return self.linear_2(self.act(self.linear_1(embeddings)))


# connector_type -> projector class. A class takes (embedding_dim, hidden_dim, out_dim) and has `last`,
# `init_weights`, `forward`; one with `reads_tokens` takes (config, hidden_size) and gives all tokens itself.
CONNECTORS: dict[str, type[nn.Module]] = {
    "linear": LinearProjector,
    "mlp2x_gelu": MLPProjector,
    "recompose": RecomposeConnector,
}


class Connector(nn.Module):
    """A projector, the form in which its output becomes tokens, and the learned constant prompt.

    Args:
        config: The modality's configuration.
        hidden_size: Width of the language model's input embeddings.

    Raises:
        ValueError: If `config.connector_type` is not in `CONNECTORS`.
    """

    def __init__(self, config: ModalityConfig, hidden_size: int) -> None:
        super().__init__()
        if config.connector_type not in CONNECTORS:
            raise ValueError(
                f"connector_type is {config.connector_type!r}, expected one of {', '.join(CONNECTORS)}. To use a "
                "connector of your own, put its class into hf_modalbridge.models.connectors.CONNECTORS first."
            )
        self.num_tokens = config.num_tokens
        self.distinct = config.token_mode == "distinct"
        self.hidden_size = hidden_size
        kind = CONNECTORS[config.connector_type]
        self.reads_tokens = getattr(kind, "reads_tokens", False)
        if self.reads_tokens:
            self.projector = kind(config, hidden_size)
        elif config.input_tokens not in (None, 1):
            raise ValueError(
                f"connector_type {config.connector_type!r} reads one embedding an item, but input_tokens is "
                f"{config.input_tokens}. Use 'recompose', or leave input_tokens out and let the encoder pool."
            )
        else:
            out_dim = hidden_size * (config.num_tokens if self.distinct else 1)
            hidden_dim = config.connector_hidden_size or hidden_size
            self.projector = kind(config.embedding_dim, hidden_dim, out_dim)
        if config.constant_prompt:
            self.constant_prompt = nn.Parameter(torch.zeros(config.constant_prompt, hidden_size))
        else:
            self.register_parameter("constant_prompt", None)

    def init_weights(self, std: float = 0.02) -> None:
        """Initialise all parameters that no checkpoint gave, at the scale `std` of token embeddings."""
        self.projector.init_weights(std)
        if self.constant_prompt is not None:
            init.normal_(self.constant_prompt, std=std)

    @torch.no_grad()
    def init_from_embeddings(self, weight: Tensor, seed: int = 0) -> None:
        """Initialise a new connector at the place and scale of real token embeddings.

        Args:
            weight: The language model's input embeddings `(vocabulary, hidden_size)`.
            seed: Seed of the initial values; the caller's random state is left as it was.
        """
        rows = weight.detach().float()
        mean = rows.mean(0)
        std = (rows - mean).pow(2).mean().sqrt().item()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.init_weights(std)
        if self.reads_tokens:
            self.projector.init_from_embeddings(mean, std)
        else:
            bias = self.projector.last.bias
            bias.copy_(mean.repeat(bias.shape[0] // self.hidden_size))
        if self.constant_prompt is not None:
            self.constant_prompt.add_(mean.to(self.constant_prompt))

    def forward(self, embeddings: Tensor) -> Tensor:
        """Turn standardised embeddings into tokens.

        Args:
            embeddings: `(items, embedding_dim)`, or `(items, input_tokens, embedding_dim)` for a type that reads
                tokens.

        Returns:
            `(items, constant_prompt + num_tokens, hidden_size)`.
        """
        items = embeddings.shape[0]
        if not self.reads_tokens and embeddings.ndim == 3:  # input_tokens=1
            embeddings = embeddings[:, 0]
        tokens = self.projector(embeddings)  # (items, hidden) or (items, num_tokens * hidden)
        if self.reads_tokens:
            pass
        elif self.distinct:
            tokens = tokens.view(items, self.num_tokens, self.hidden_size)
        else:  # one pass of the projector for any number of tokens
            tokens = tokens.unsqueeze(1).expand(items, self.num_tokens, self.hidden_size)
        if self.constant_prompt is None:
            return tokens
        constant = self.constant_prompt.to(tokens.dtype).expand(items, -1, -1)
        return torch.cat([constant, tokens], dim=1)
