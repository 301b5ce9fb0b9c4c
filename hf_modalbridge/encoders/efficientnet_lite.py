"""EfficientNet-Lite as a `PreTrainedModel`: a small image tower that runs well on a CPU."""

from __future__ import annotations

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

__all__ = ["EfficientNetLiteConfig", "EfficientNetLiteModel"]


@strict
class EfficientNetLiteConfig(PreTrainedConfig):
    """Shape of an EfficientNet-Lite tower; the defaults are EfficientNet-Lite0.

    The lists have one entry a stage (Tan and Le, 2019, arXiv:1905.11946, Table 1; the Lite variants have
    no squeeze-and-excitation and use ReLU6).

    Args:
        image_size: Side of the square pictures that the tower is used with; any side of 32 or more works.
        num_channels: Channels of a picture.
        stem_channels: Channels after the first convolution.
        hidden_dim: Channels of the last feature map, which is the embedding's width.
        stage_repeats: Blocks in each stage.
        stage_kernels: Depthwise kernel size of each stage.
        stage_strides: Stride of each stage's first block.
        stage_expansions: Width of a block's middle over the width of its input.
        stage_channels: Output channels of each stage.
        batch_norm_eps: Epsilon of the batch normalisations.
    """

    model_type = "efficientnet_lite"

    image_size: int = 160
    num_channels: int = 3
    stem_channels: int = 32
    hidden_dim: int = 1280
    stage_repeats: list[int] | tuple[int, ...] = (1, 2, 2, 3, 3, 4, 1)
    stage_kernels: list[int] | tuple[int, ...] = (3, 3, 5, 3, 5, 5, 3)
    stage_strides: list[int] | tuple[int, ...] = (1, 2, 2, 2, 1, 2, 1)
    stage_expansions: list[int] | tuple[int, ...] = (1, 6, 6, 6, 6, 6, 6)
    stage_channels: list[int] | tuple[int, ...] = (16, 24, 40, 80, 112, 192, 320)
    batch_norm_eps: float = 1e-3
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        stages = ("stage_repeats", "stage_kernels", "stage_strides", "stage_expansions", "stage_channels")
        lengths = {name: len(getattr(self, name)) for name in stages}
        if len(set(lengths.values())) != 1:
            raise ValueError(
                f"EfficientNetLiteConfig got stage lists of different lengths: {lengths}. Give every stage_* list one "
                "entry a stage."
            )
        for name in stages:  # JSON knows no tuples: one type before and after a round trip
            setattr(self, name, list(getattr(self, name)))


class SamePadConv2d(nn.Conv2d):
    """Normalised convolution with TensorFlow's "same" padding, which is not symmetric for strides above 1."""

    def forward(self, x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
        """Convolve and normalise.

        Args:
            x: `(batch, channels, height, width)`.
            norm: Normalises what comes out. In evaluation mode it is folded into the weights, which are far smaller
                than the maps: by itself it takes a third of the tower's time on a CPU.

        Returns:
            `(batch, out_channels, ceil(height / stride), ceil(width / stride))`.
        """
        weight, bias = self.weight, None
        if not norm.training:
            scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
            weight, bias = weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale
        pads = []
        for side, kernel, stride in zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            pads.append((total // 2, total - total // 2))
        (left, right), (top, bottom) = pads
        padding = (top, left)  # where symmetric: the convolution pads by itself, without a copy
        if left != right or top != bottom:
            x, padding = nn.functional.pad(x, (left, right, top, bottom)), (0, 0)
        x = nn.functional.conv2d(x, weight, bias, self.stride, padding, groups=self.groups)
        return norm(x) if norm.training else x


class InvertedResidual(nn.Module):
    """Expand, depthwise convolution, project; with a skip where shape and stride allow it."""

    def __init__(self, in_channels: int, out_channels: int, expansion: int, kernel: int, stride: int, eps: float):
        super().__init__()
        middle = in_channels * expansion
        self.skip = stride == 1 and in_channels == out_channels
        if expansion != 1:
            self.expand_conv = SamePadConv2d(in_channels, middle, 1, bias=False)
            self.expand_norm = nn.BatchNorm2d(middle, eps=eps)
        else:
            self.expand_conv = None
        self.depthwise_conv = SamePadConv2d(middle, middle, kernel, stride, groups=middle, bias=False)
        self.depthwise_norm = nn.BatchNorm2d(middle, eps=eps)
        self.project_conv = SamePadConv2d(middle, out_channels, 1, bias=False)
        self.project_norm = nn.BatchNorm2d(out_channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(batch, in_channels, h, w)` to `(batch, out_channels, h / stride, w / stride)`."""
        y = x
        if self.expand_conv is not None:
            y = nn.functional.relu6(self.expand_conv(y, self.expand_norm), inplace=True)
        y = nn.functional.relu6(self.depthwise_conv(y, self.depthwise_norm), inplace=True)
        y = self.project_conv(y, self.project_norm)
        return x + y if self.skip else y


class EfficientNetLiteModel(PreTrainedModel):
    """EfficientNet-Lite without its classifier.

    Args:
        config: The tower's shape.
    """

    config_class = EfficientNetLiteConfig
    base_model_prefix = "efficientnet_lite"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    _no_split_modules = ["InvertedResidual"]

    def __init__(self, config: EfficientNetLiteConfig):
        super().__init__(config)
        eps = config.batch_norm_eps
        self.stem_conv = SamePadConv2d(config.num_channels, config.stem_channels, 3, stride=2, bias=False)
        self.stem_norm = nn.BatchNorm2d(config.stem_channels, eps=eps)
        self.blocks = nn.ModuleList()
        channels = config.stem_channels
        stages = zip(
            config.stage_repeats,
            config.stage_kernels,
            config.stage_strides,
            config.stage_expansions,
            config.stage_channels,
            strict=True,
        )
        for repeats, kernel, stride, expansion, width in stages:
            for index in range(repeats):
                self.blocks.append(
                    InvertedResidual(channels, width, expansion, kernel, stride if index == 0 else 1, eps)
                )
                channels = width
        self.head_conv = SamePadConv2d(channels, config.hidden_dim, 1, bias=False)
        self.head_norm = nn.BatchNorm2d(config.hidden_dim, eps=eps)
        self.post_init()

    def forward(self, pixel_values: Tensor, return_dict: bool | None = None, **kwargs) -> BaseModelOutputWithPooling:
        """Compute the last feature map and its mean over positions.

        Args:
            pixel_values: `(batch, 3, height, width)` float, standardised with ImageNet's mean and deviation.
            return_dict: Whether to return an output object (the default) or a tuple.
            **kwargs: Ignored, so that callers can treat all towers alike.

        Returns:
            `last_hidden_state` `(batch, hidden_dim, height / 32, width / 32)` and `pooler_output`
            `(batch, hidden_dim)`, both in the model's dtype.

        Raises:
            ValueError: If `pixel_values` is not `(batch, num_channels, height, width)`.
        """
        if pixel_values.ndim != 4 or pixel_values.shape[1] != self.config.num_channels:
            raise ValueError(
                f"EfficientNetLiteModel got pixel_values of shape {tuple(pixel_values.shape)}; expected "
                f"(batch, {self.config.num_channels}, height, width). Prepare pictures with its image processor."
            )
        # channels_last is about twice as fast as the default layout for depthwise convolutions on a CPU
        x = pixel_values.to(self.stem_conv.weight.dtype).contiguous(memory_format=torch.channels_last)
        x = nn.functional.relu6(self.stem_conv(x, self.stem_norm), inplace=True)
        for block in self.blocks:
            x = block(x)
        x = nn.functional.relu6(self.head_conv(x, self.head_norm), inplace=True)  # (B, hidden_dim, H / 32, W / 32)
        pooled = x.mean(dim=(2, 3))
        if return_dict is False:
            return (x, pooled)
        return BaseModelOutputWithPooling(last_hidden_state=x, pooler_output=pooled)

    def get_image_features(self, pixel_values: Tensor, **kwargs) -> Tensor:
        """Embed pictures.

        Args:
            pixel_values: `(items, 3, height, width)` float.
            **kwargs: Ignored, so that callers can treat all towers alike.

        Returns:
            `(items, hidden_dim)`, the feature map's mean over positions, not normalised.
        """
        return self(pixel_values).pooler_output
