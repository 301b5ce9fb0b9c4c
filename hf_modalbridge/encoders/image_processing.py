"""Image preprocessing that needs Pillow only, and that saves and loads itself like transformers' own."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import numpy as np
from PIL import Image
from transformers import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor

__all__ = ["EfficientNetLiteImageProcessor", "flatten_on_white", "read_image"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def read_image(item: Image.Image | str | PathLike | bytes | np.ndarray) -> Image.Image:
    """Open a picture, whatever it comes as.

    Args:
        item: A Pillow image, a path, the bytes of an image file, or a `(height, width[, 3 or 4])` uint8 array.

    Returns:
        The Pillow image, in its own mode.

    Raises:
        FileNotFoundError: If a path does not exist.
        TypeError: If `item` is none of these, as for a tensor or a float array.
    """
    if isinstance(item, Image.Image):
        return item
    if isinstance(item, bytes | bytearray):
        from io import BytesIO

        return Image.open(BytesIO(item))
    if isinstance(item, str | PathLike):
        if not Path(item).is_file():
            raise FileNotFoundError(f"no image file at {str(item)!r}; give a path that exists, or a Pillow image.")
        return Image.open(item)
    if isinstance(item, np.ndarray) and item.dtype == np.uint8 and item.ndim in (2, 3):
        return Image.fromarray(item)
    if isinstance(item, dict) and isinstance(item.get("bytes"), bytes):  # a row of a datasets Image column
        return read_image(item["bytes"])
    raise TypeError(
        f"got {type(item).__name__} as a picture; expected a Pillow image, a path, the bytes of an image file or a "
        "uint8 array (height, width, 3). Convert float arrays and tensors to uint8 first."
    )


def flatten_on_white(image: Image.Image) -> Image.Image:
    """Give an image as RGB, transparent parts showing white as they do on a page.

    Args:
        image: A Pillow image of any mode.

    Returns:
        The image in mode RGB.
    """
    if image.mode == "RGB":
        return image
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


class EfficientNetLiteImageProcessor(BaseImageProcessor):
    """Picture to standardised pixels: RGB on white, bicubic resize to a square, mean and deviation.

    Args:
        size: Side of the square, an int or `{"height": h, "width": w}`.
        resample: Pillow's resampling filter; 3 is bicubic.
        image_mean: Mean of each channel, in [0, 1].
        image_std: Standard deviation of each channel, in [0, 1].
        **kwargs: Kept by transformers' base class.
    """

    model_input_names = ["pixel_values"]

    def __init__(
        self,
        size: int | dict[str, int] = 160,
        resample: int = int(Image.Resampling.BICUBIC),
        image_mean: Sequence[float] = IMAGENET_MEAN,
        image_std: Sequence[float] = IMAGENET_STD,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.size = {"height": size, "width": size} if isinstance(size, int) else dict(size)
        self.resample = int(resample)
        self.image_mean = list(image_mean)
        self.image_std = list(image_std)

    def preprocess(self, images, return_tensors: str | None = None, **kwargs) -> BatchFeature:
        """Prepare pictures for `EfficientNetLiteModel`.

        Args:
            images: One picture or a list of them; see `read_image` for what a picture may be.
            return_tensors: "pt" for a tensor, "np" or None for an array.
            **kwargs: Ignored; transformers' processors pass options of other modalities along.

        Returns:
            `pixel_values` `(items, 3, height, width)` float32.

        Raises:
            ValueError: If there is no picture.
        """
        images = list(images) if isinstance(images, list | tuple) else [images]
        if not images:
            raise ValueError("got an empty list of images; give at least one picture.")
        side = (self.size["width"], self.size["height"])
        # ((x / 255) - mean) / std as one multiply-add
        scale = (1.0 / (255.0 * np.asarray(self.image_std))).astype(np.float32)
        shift = (-np.asarray(self.image_mean) / np.asarray(self.image_std)).astype(np.float32)
        pixels = np.empty((len(images), 3, side[1], side[0]), dtype=np.float32)
        for row, item in zip(pixels, images, strict=True):
            image = flatten_on_white(read_image(item))
            if image.size != side:
                image = image.resize(side, self.resample)
            np.multiply(np.asarray(image, dtype=np.float32).transpose(2, 0, 1), scale[:, None, None], out=row)
            row += shift[:, None, None]
        return BatchFeature({"pixel_values": pixels}, tensor_type=return_tensors)
