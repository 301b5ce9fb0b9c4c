"""A touch encoder: a transformer over time patches of a series, or a ViT over tactile pictures."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, ViTConfig, ViTModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling

from hf_modalbridge.encoders.configuration_tactile import TactileEncoderConfig
from hf_modalbridge.encoders.transformer_blocks import PositionedBlocks

__all__ = ["SeriesPatches", "TactileEncoder", "TactilePreTrainedModel"]


class SeriesPatches(nn.Module):
    """Cut series into patches of time, and describe each by its samples and the spectrum of its fast signal.

    A linear map of samples cannot see how strong a vibration is, only its phase, so the fast signal of a patch also
    enters as log(1 + power) in bands of its spectrum (Hann window).

    Args:
        config: The encoder's configuration.
    """

    def __init__(self, config: TactileEncoderConfig):
        super().__init__()
        self.config = config
        self.fast = slice(*config.fast_channels) if config.fast_channels else None

    @property
    def num_features(self) -> int:
        """Numbers a patch."""
        bands = self.config.spectrum_bands if self.fast else 0
        return self.config.num_channels * self.config.patch_samples + bands

    @property
    def num_targets(self) -> int:
        """Numbers of a patch that can be told from its neighbours: slow channels, and bands for the fast signal."""
        if self.fast is None:
            return self.num_features
        slow = self.config.num_channels - (self.fast.stop - self.fast.start)
        return slow * self.config.patch_samples + self.config.spectrum_bands

    def forward(self, touch_values: Tensor) -> tuple[Tensor, Tensor]:
        """Cut and describe.

        Args:
            touch_values: `(batch, num_samples, num_channels)` float.

        Returns:
            What the encoder reads `(batch, patches, num_features)` and what pre-training reconstructs `(batch, patches,
            num_targets)`, float32.
        """
        batch = len(touch_values)
        length, channels = self.config.patch_samples, self.config.num_channels
        patches = touch_values.float().view(batch, -1, length, channels)  # (B, P, L, C)
        if self.fast is None:
            flat = patches.flatten(2)
            return flat, flat
        bands = self._bands(patches[..., self.fast].flatten(2))
        slow = torch.cat([patches[..., : self.fast.start], patches[..., self.fast.stop :]], -1).flatten(2)
        return torch.cat([patches.flatten(2), bands], -1), torch.cat([slow, bands], -1)

    def _bands(self, signal: Tensor) -> Tensor:
        """`(batch, patches, samples)` to `(batch, patches, spectrum_bands)`."""
        size = signal.shape[-1]
        window = torch.hann_window(size, device=signal.device)
        power = torch.fft.rfft((signal - signal.mean(-1, keepdim=True)) * window).abs().square()[..., 1:]
        count, bins = self.config.spectrum_bands, power.shape[-1]
        # each bin belongs to the band of its frequency's logarithm; a low band without a bin stays at 0
        number = torch.arange(1, bins + 1, device=signal.device, dtype=torch.float32)
        band = (number.log() / math.log(bins + 1) * count).long().clamp_max(count - 1)
        member = torch.nn.functional.one_hot(band, count).to(power.dtype)  # (bins, bands)
        return torch.log1p(power @ member / member.sum(0).clamp_min(1))


class TactilePreTrainedModel(PreTrainedModel):
    """What the touch models share."""

    config_class = TactileEncoderConfig
    base_model_prefix = "encoder"
    main_input_name = "touch_values"
    input_modalities = ("touch",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["TransformerBlock"]
    _supports_sdpa = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Draw tokens and positions like the weights; the guarded functions leave loaded tensors as they are."""
        super()._init_weights(module)
        for name in ("cls_token", "positions", "mask_token"):
            if isinstance(getattr(module, name, None), nn.Parameter) and isinstance(module, TactilePreTrainedModel):
                init.normal_(getattr(module, name), std=self.config.initializer_range)


class TactileEncoder(TactilePreTrainedModel):
    """Touch recordings or tactile pictures to tokens and one vector.

    Args:
        config: The encoder's shape; `layout` says which of the two it reads.
    """

    def __init__(self, config: TactileEncoderConfig):
        super().__init__(config)
        if config.layout == "image":
            self.vit = ViTModel(ViTConfig(**config.vision_config), add_pooling_layer=False)
        else:
            width = config.hidden_size
            self.patches = SeriesPatches(config)
            self.embed = nn.Linear(self.patches.num_features, width)
            self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
            self.positions = nn.Parameter(torch.zeros(1, config.num_tokens, width))
            self.blocks = PositionedBlocks(
                config.num_hidden_layers, width, config.num_attention_heads, config.intermediate_size, config.dropout
            )
        self.post_init()

    def encode(self, tokens: Tensor, positions: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Run the transformer over the class token and some or all of the patches.

        Args:
            tokens: `(batch, patches, hidden_size)`.
            positions: Of the same shape.

        Returns:
            Last states `(batch, patches + 1, hidden_size)`, and the states before each block and after the last.
        """
        x = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], 1)
        return self.blocks(x, torch.cat([self.positions[:, :1].expand(len(tokens), -1, -1), positions], 1))

    def check_series(self, touch_values: Tensor | None) -> Tensor:
        """Refuse what is no batch of series of this encoder's length and channels."""
        want = (self.config.num_samples, self.config.num_channels)
        if touch_values is None or touch_values.ndim != 3 or tuple(touch_values.shape[1:]) != want:
            got = "none" if touch_values is None else f"touch_values of shape {tuple(touch_values.shape)}"
            raise ValueError(
                f"{type(self).__name__} got {got}; expected touch_values (batch, {want[0]}, {want[1]}). Prepare "
                "recordings with the model's TactileFeatureExtractor."
            )
        return touch_values

    def forward(
        self,
        touch_values: Tensor | None = None,
        pixel_values: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        """Encode recordings or pictures, from the model's `TactileFeatureExtractor`.

        Args:
            touch_values: `(batch, num_samples, num_channels)` float, standardised; for the series layout.
            pixel_values: `(batch, 3, image_size, image_size)` float, standardised; for the image layout.
            output_hidden_states: Whether to return the states between the blocks.
            return_dict: Whether to return an output object (the default) or a tuple.
            **kwargs: Ignored, so that callers can treat all towers alike.

        Returns:
            `last_hidden_state` `(batch, num_tokens, hidden_size)`, the class token first, and `pooler_output` `(batch,
            embedding_dim)`.

        Raises:
            ValueError: If the layout's input is missing or of another shape.
        """
        if self.config.layout == "image":
            if pixel_values is None:
                raise ValueError(
                    "TactileEncoder with the layout 'image' got no pixel_values; prepare pictures with its "
                    "TactileFeatureExtractor."
                )
            out = self.vit(pixel_values, output_hidden_states=output_hidden_states)
            states, between = out.last_hidden_state, out.hidden_states
        else:
            features, _ = self.patches(self.check_series(touch_values))
            tokens = self.embed(features.to(self.embed.weight.dtype))
            states, between = self.encode(tokens, self.positions[:, 1:].expand(len(tokens), -1, -1))
        pooled = self._pool(states)
        if return_dict is False:
            return (states, pooled)
        return BaseModelOutputWithPooling(
            last_hidden_state=states, pooler_output=pooled, hidden_states=between if output_hidden_states else None
        )

    def _pool(self, states: Tensor) -> Tensor:
        """`(batch, tokens, hidden_size)` to `(batch, embedding_dim)`."""
        if self.config.pooling == "cls":
            return states[:, 0]
        parts = {"mean": states[:, 1:].mean(1), "max": states[:, 1:].amax(1)}
        return torch.cat([parts[name] for name in self.config.pooling.split("_")], -1)

    def get_touch_features(
        self, touch_values: Tensor | None = None, pixel_values: Tensor | None = None, **kwargs
    ) -> Tensor:
        """Embed recordings or pictures.

        Args:
            touch_values: `(items, num_samples, num_channels)`; for the series layout.
            pixel_values: `(items, 3, image_size, image_size)`; for the image layout.
            **kwargs: Ignored, so that callers can treat all encoders alike.

        Returns:
            `(items, embedding_dim)`, not normalised.
        """
        return self(touch_values, pixel_values).pooler_output
