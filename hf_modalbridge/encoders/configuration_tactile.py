"""Configuration of the touch encoder."""

from __future__ import annotations

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

__all__ = ["LAYOUTS", "TactileEncoderConfig"]

LAYOUTS = ("series", "image")


@strict
class TactileEncoderConfig(PreTrainedConfig):
    """Shape of a `TactileEncoder`; the defaults are a BioTac's recordings of four seconds.

    Args:
        layout: "series" for multichannel time series, "image" for pictures of a camera-based sensor (GelSight, DIGIT).
        num_channels: Channels of a series.
        num_samples: Samples (frames) of a series.
        sampling_rate: Frames a second, in Hz.
        patch_samples: Frames of a token; a divisor of `num_samples`.
        fast_channels: First channel, and channel after the last, of a group that holds consecutive samples of one fast
            signal within a frame (a BioTac's 22 vibration samples); None if there is none. It enters as the logarithm
            of its spectrum too.
        spectrum_bands: Bands of that spectrum, evenly spaced in the logarithm of the frequency.
        hidden_size: Width of the tokens.
        num_hidden_layers: Transformer blocks.
        num_attention_heads: Heads of each block.
        intermediate_size: Width of the blocks' MLPs.
        pooling: "mean", "max" or "mean_max" over the tokens, or "cls". Of the image layout: "cls" or "mean".
        dropout: Dropout in the blocks, in training only.
        mask_ratio: Share of the tokens hidden in pre-training.
        decoder_layers: Blocks of the pre-training decoder.
        vision_config: Fields of transformers' `ViTConfig` for the image layout; None for a small one.
        initializer_range: Standard deviation of fresh weights.
        embedding_dim: Width of the pooled vector; follows from the others.
    """

    model_type = "modalbridge_tactile_encoder"

    layout: str = "series"
    num_channels: int = 44
    num_samples: int = 400
    sampling_rate: float | int = 100.0
    patch_samples: int = 10
    fast_channels: list[int] | tuple[int, ...] | None = (3, 25)
    spectrum_bands: int = 16
    hidden_size: int = 128
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    intermediate_size: int = 512
    pooling: str = "mean_max"
    dropout: float | int = 0.0
    mask_ratio: float | int = 0.5
    decoder_layers: int = 1
    vision_config: dict[str, Any] | None = None
    initializer_range: float | int = 0.02
    embedding_dim: int | None = None

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.layout not in LAYOUTS:
            raise ValueError(f"TactileEncoderConfig got layout {self.layout!r}; expected one of {', '.join(LAYOUTS)}.")
        poolings = ("cls", "mean", "max", "mean_max") if self.layout == "series" else ("cls", "mean")
        if self.layout == "image":
            self._complete_image()
            if self.pooling == "mean_max":  # the default of series
                self.pooling = "cls"
        if self.pooling not in poolings:
            raise ValueError(
                f"TactileEncoderConfig got pooling {self.pooling!r} for the layout {self.layout!r}; expected one of "
                f"{', '.join(poolings)}."
            )
        if self.num_samples % self.patch_samples:
            raise ValueError(
                f"TactileEncoderConfig got num_samples {self.num_samples}, which patch_samples {self.patch_samples} "
                "does not divide; choose a divisor."
            )
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"TactileEncoderConfig got hidden_size {self.hidden_size}, which {self.num_attention_heads} heads do "
                "not divide; choose a multiple."
            )
        if self.fast_channels is not None:
            self.fast_channels = list(self.fast_channels)  # JSON knows no tuples
            if len(self.fast_channels) != 2 or not 0 <= self.fast_channels[0] < self.fast_channels[1]:
                raise ValueError(
                    f"TactileEncoderConfig got fast_channels {self.fast_channels}; expected (first, after the last)."
                )
            if self.layout == "series" and self.fast_channels[1] > self.num_channels:
                raise ValueError(
                    f"TactileEncoderConfig got fast_channels {self.fast_channels} for {self.num_channels} channels; "
                    "say fast_channels=None if no channels are one fast signal."
                )
        width = self.hidden_size * (2 if self.pooling == "mean_max" else 1)
        if self.embedding_dim not in (None, width):
            raise ValueError(
                f"TactileEncoderConfig got embedding_dim {self.embedding_dim}, but hidden_size {self.hidden_size} with "
                f"pooling {self.pooling!r} gives {width}; leave embedding_dim out."
            )
        self.embedding_dim = width

    def _complete_image(self) -> None:
        """Fill in the ViT's fields, whose width is then the encoder's."""
        small = {"hidden_size": 192, "num_hidden_layers": 6, "num_attention_heads": 3, "intermediate_size": 768}
        self.vision_config = {"image_size": 112, "patch_size": 16, **small, **(self.vision_config or {})}
        self.hidden_size = self.vision_config["hidden_size"]
        self.num_attention_heads = self.vision_config["num_attention_heads"]

    @property
    def num_tokens(self) -> int:
        """Tokens of a recording or picture: its patches and the class token before them."""
        if self.layout == "series":
            return self.num_samples // self.patch_samples + 1
        return (self.vision_config["image_size"] // self.vision_config["patch_size"]) ** 2 + 1
