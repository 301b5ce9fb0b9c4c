"""The two networks of AnisoAlign (arXiv 2605.07825, sections 4.3 and 4.4).

Their weights are buffers, not parameters: a correction has nothing that a training loop around it may train,
and `Correction` keeps the dtype of buffers when the model is cast. The fit asks for their gradients itself.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

__all__ = ["Mlp", "RefinementNet", "ScoreNet"]

_TIME_WIDTH = 32


class Mlp(nn.Module):
    """A SiLU network with float32 buffers for weights.

    Args:
        sizes: Widths from input to output.
    """

    weight_0: Tensor
    bias_0: Tensor

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.layers = len(sizes) - 1
        for i, (width_in, width_out) in enumerate(zip(sizes, sizes[1:], strict=False)):
            self.register_buffer(f"weight_{i}", torch.zeros(width_out, width_in, dtype=torch.float32))
            self.register_buffer(f"bias_{i}", torch.zeros(width_out, dtype=torch.float32))

    def reset(self, generator: torch.Generator) -> None:
        """Draw the weights as `nn.Linear` does; the last layer stays zero, so the output starts at zero.

        Args:
            generator: Source of the random numbers, on the CPU.
        """
        for i in range(self.layers - 1):
            weight, bias = getattr(self, f"weight_{i}"), getattr(self, f"bias_{i}")
            bound = 1 / math.sqrt(weight.shape[1])
            for tensor in (weight, bias):
                tensor.copy_((2 * torch.rand(tensor.shape, generator=generator) - 1) * bound)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the network in the dtype of its input.

        Args:
            x: `(n, in)`.

        Returns:
            `(n, out)`.
        """
        return self.finish(self._layer(0, x))

    def finish(self, x: Tensor) -> Tensor:
        """Compute what follows the first layer.

        Args:
            x: What the first layer gave, before its activation; overwritten where no gradient is wanted.

        Returns:
            `(n, out)`.
        """
        for i in range(1, self.layers):
            x = self._layer(i, F.silu(x, inplace=not x.requires_grad))
        return x

    def _layer(self, i: int, x: Tensor) -> Tensor:
        return F.linear(x, getattr(self, f"weight_{i}").to(x.dtype), getattr(self, f"bias_{i}").to(x.dtype))


class ScoreNet(Mlp):
    """The score s(phi~, t, log rho) of the noised target phases (section 4.3).

    s = - eps_hat / (sqrt(2) sigma_t), where the network gives eps_hat from sin phi~, cos phi~, standardised
    log rho and a sinusoidal embedding of t.

    Args:
        blocks: m.
        width: Of the hidden layers.
        layers: Hidden layers.
    """

    def __init__(self, blocks: int, width: int, layers: int) -> None:
        super().__init__([3 * blocks + _TIME_WIDTH, *[width] * layers, blocks])

    def noise(self, phi: Tensor, t: Tensor, log_rho: Tensor) -> Tensor:
        """Estimate the noise, eps_hat = - sqrt(2) sigma_t s.

        Args:
            phi: Noised phases `(n, m)`.
            t: Time `(n, 1)` in [0, 1].
            log_rho: Standardised log radii `(n, m)`.

        Returns:
            `(n, m)`.
        """
        half = _TIME_WIDTH // 2
        frequency = torch.exp(torch.arange(half, device=t.device, dtype=t.dtype) * (math.log(100.0) / (half - 1)))
        angle = t * frequency
        return self(torch.cat([phi.sin(), phi.cos(), log_rho, angle.sin(), angle.cos()], dim=-1))

    def score(self, phi: Tensor, t: Tensor, log_rho: Tensor, sigma: Tensor) -> Tensor:
        """Compute s(phi~, t, log rho).

        Args:
            phi: Noised phases `(n, m)`.
            t: Time `(n, 1)`.
            log_rho: Standardised log radii `(n, m)`.
            sigma: sigma_t `(n, 1)` in rad.

        Returns:
            `(n, m)` per rad.
        """
        return -self.noise(phi, t, log_rho) / (math.sqrt(2) * sigma)


class RefinementNet(Mlp):
    """g_eta: from [sin theta0; cos theta0; log rho0; v0] to (dtheta, drho, dv) (section 4.4).

    Args:
        blocks: m.
        dim: Width of the embeddings.
        width: Of the hidden layers.
        layers: Hidden layers.
    """

    def __init__(self, blocks: int, dim: int, width: int, layers: int) -> None:
        super().__init__([3 * blocks + dim, *[width] * layers, 2 * blocks + dim])
        self.blocks, self.dim = blocks, dim

    def refine(self, sine: Tensor, cosine: Tensor, log_rho: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the raw refinements, before tanh and bounds.

        Args:
            sine: sin theta0 `(n, m)`.
            cosine: cos theta0 `(n, m)`.
            log_rho: Standardised log radii `(n, m)`.
            v: v0 `(n, dim)`; scaled to numbers of size one here.

        Returns:
            dtheta `(n, m)`, drho `(n, m)`, dv `(n, dim)`.
        """
        return self._parts(self(torch.cat([sine, cosine, log_rho, v * math.sqrt(self.dim)], dim=-1)))

    def refine_from(self, sine: Tensor, cosine: Tensor, log_rho: Tensor, read: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the raw refinements where the first layer has read v0 already.

        Args:
            sine: sin theta0 `(n, m)`.
            cosine: cos theta0 `(n, m)`.
            log_rho: Standardised log radii `(n, m)`.
            read: v0 @ `reads_v`^T plus the first layer's bias, `(n, width)`.

        Returns:
            As `refine`.
        """
        weight = self.weight_0[:, : 3 * self.blocks].to(read.dtype)
        return self._parts(self.finish(torch.addmm(read, torch.cat([sine, cosine, log_rho], dim=-1), weight.T)))

    def reads_v(self, dtype: torch.dtype) -> Tensor:
        """Give what the first layer multiplies v0 by.

        Args:
            dtype: Of the result.

        Returns:
            `(width, dim)`.
        """
        return self.weight_0[:, 3 * self.blocks :].to(dtype) * math.sqrt(self.dim)

    def _parts(self, out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        theta, rho, rest = out.split([self.blocks, self.blocks, self.dim], dim=-1)
        return theta, rho, rest

    def project_output(self, frame: Tensor) -> None:
        """Take the frame out of dv for good: dv_V = dv - Q_U Q_U^T dv, done once on the last layer.

        The layer is linear, so projecting its weights is projecting its output.

        Args:
            frame: Q_U `(dim, 2 m)` float64.
        """
        weight, bias = getattr(self, f"weight_{self.layers - 1}"), getattr(self, f"bias_{self.layers - 1}")
        for tensor in (weight[2 * self.blocks :], bias[2 * self.blocks :]):
            wide = tensor.double()
            tensor.copy_(wide - frame @ (frame.T @ wide))
