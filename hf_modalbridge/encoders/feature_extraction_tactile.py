"""From touch recordings and tactile pictures to what `TactileEncoder` takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import BatchFeature, FeatureExtractionMixin

from hf_modalbridge.encoders.image_processing import EfficientNetLiteImageProcessor
from hf_modalbridge.encoders.point_guards import check_npy_header

__all__ = ["TactileFeatureExtractor", "resample_frames"]


class TactileFeatureExtractor(FeatureExtractionMixin):
    """Recordings of any length to standardised series of one length, or pictures to standardised pixels.

    Args:
        layout: "series" or "image"; as in the model's configuration.
        num_channels: Channels of a recording.
        num_samples: Frames that the model takes.
        sampling_rate: Frames a second that the model was trained on, in Hz.
        fast_channels: First channel, and channel after the last, of the group that holds consecutive samples of one
            fast signal within a frame; they are resampled as one signal. None if there is none.
        mean: Mean of each channel, subtracted; see `fit`. None for 0.
        std: Deviation of each channel, divided by; None for 1.
        image_size: Side of the square pictures.
        image_mean: Mean of each colour, in [0, 1].
        image_std: Deviation of each colour.
        **kwargs: Kept by transformers' base class.
    """

    model_input_names = ["touch_values"]

    def __init__(
        self,
        layout: str = "series",
        num_channels: int = 44,
        num_samples: int = 400,
        sampling_rate: float = 100.0,
        fast_channels: Sequence[int] | None = (3, 25),
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        image_size: int = 112,
        image_mean: Sequence[float] = (0.5, 0.5, 0.5),
        image_std: Sequence[float] = (0.5, 0.5, 0.5),
        **kwargs,
    ):
        super().__init__(**kwargs)
        if layout not in ("series", "image"):
            raise ValueError(f"TactileFeatureExtractor got layout {layout!r}; expected 'series' or 'image'.")
        self.layout, self.num_channels, self.num_samples = layout, num_channels, num_samples
        self.sampling_rate = sampling_rate
        self.fast_channels = None if fast_channels is None else list(fast_channels)
        self.mean = [0.0] * num_channels if mean is None else [float(value) for value in mean]
        self.std = [1.0] * num_channels if std is None else [float(value) for value in std]
        if layout == "series" and (len(self.mean) != num_channels or len(self.std) != num_channels):
            raise ValueError(
                f"TactileFeatureExtractor got {len(self.mean)} means and {len(self.std)} deviations for {num_channels} "
                "channels; give one a channel, or let fit() find them."
            )
        self.image_size = image_size
        self.image_mean, self.image_std = list(image_mean), list(image_std)

    def fit(self, recordings: Iterable[Any]) -> TactileFeatureExtractor:
        """Find mean and deviation of each channel over recordings, and keep them.

        The channels of the fast signal share one pair, as they are one signal.

        Args:
            recordings: Arrays `(frames, num_channels)`.

        Returns:
            This extractor.
        """
        count, total, squares = 0, np.zeros(self.num_channels), np.zeros(self.num_channels)
        for place, item in enumerate(recordings):
            values = self._read(item, f"recording {place}")
            count += len(values)
            total += values.sum(0)
            squares += np.square(values).sum(0)
        mean = total / max(count, 1)
        square = squares / max(count, 1)
        if self.fast_channels is not None:
            fast = slice(*self.fast_channels)
            mean[fast], square[fast] = mean[fast].mean(), square[fast].mean()
        self.mean = mean.tolist()
        self.std = np.sqrt(np.maximum(square - mean**2, 1e-12)).tolist()
        return self

    def __call__(
        self, touch: Any = None, return_tensors: str | None = "pt", sampling_rate: float | None = None, **kwargs
    ) -> BatchFeature:
        """Prepare recordings or pictures.

        Args:
            touch: One item or a list of them. Of the series layout: an array or tensor `(frames, num_channels)`, a dict
                with `array` and perhaps `sampling_rate`, or the path of a .npy file; `(items, frames, channels)` is a
                list. Of the image layout: whatever `read_image` takes.
            return_tensors: "pt" for tensors, "np" for arrays.
            sampling_rate: Frames a second of these recordings. If it is known, time is kept: they are resampled to the
                extractor's rate, then cut in the middle, or continued at both ends by their first and last frame.
                None: the whole recording is taken for one movement, and stretched to `num_samples`.
            **kwargs: Ignored; transformers' processors pass options of other modalities along.

        Returns:
            `touch_values` `(items, num_samples, num_channels)` float32, or `pixel_values` `(items, 3, image_size,
            image_size)` float32.

        Raises:
            ValueError: If a recording has another number of channels, fewer than 2 frames, or numbers that are not
                finite.
            FileNotFoundError: If a path does not exist.
            TypeError: If an item is of another kind.
        """
        items = _as_list(touch)
        if not items:
            raise ValueError("TactileFeatureExtractor got no items; give at least one.")
        if self.layout == "image":
            pixels = EfficientNetLiteImageProcessor(
                self.image_size, image_mean=self.image_mean, image_std=self.image_std
            )
            return pixels(items, return_tensors=return_tensors)
        rows = np.empty((len(items), self.num_samples, self.num_channels), dtype=np.float32)
        for place, item in enumerate(items):
            rate = item.get("sampling_rate", sampling_rate) if isinstance(item, Mapping) else sampling_rate
            values = self._fit_length(self._read(item, f"recording {place}"), rate)
            rows[place] = (values - np.asarray(self.mean)) / np.maximum(np.asarray(self.std), 1e-6)
        return BatchFeature({"touch_values": torch.from_numpy(rows) if return_tensors == "pt" else rows})

    def _fit_length(self, values: np.ndarray, rate: float | None) -> np.ndarray:
        """`(frames, channels)` to `(num_samples, channels)`."""
        if rate is None:
            return resample_frames(values, self.num_samples, self.fast_channels)
        if not rate > 0:
            raise ValueError(f"got sampling_rate {rate}; expected frames a second, above 0.")
        if rate != self.sampling_rate:
            frames = max(2, round(len(values) * self.sampling_rate / rate))
            values = resample_frames(values, frames, self.fast_channels)
        extra = len(values) - self.num_samples
        if extra > 0:
            return values[extra // 2 : extra // 2 + self.num_samples]
        return np.pad(values, ((-extra // 2, -extra - -extra // 2), (0, 0)), mode="edge")

    def _read(self, item: Any, name: str) -> np.ndarray:
        """One recording `(frames, channels)` float64."""
        if isinstance(item, Mapping):
            item = item.get("array")
        if isinstance(item, str | PathLike):
            path = Path(item)
            name = repr(str(item))
            if not path.is_file() or path.suffix.lower() != ".npy":
                raise FileNotFoundError(f"no .npy file at {name}; give the path of one, or an array.")
            with path.open("rb") as file:
                check_npy_header(file, path.stat().st_size, str(path))
            item = np.load(path, allow_pickle=False)
        if isinstance(item, Tensor):
            item = item.detach().cpu().float().numpy()
        if not isinstance(item, np.ndarray | list | tuple):
            raise TypeError(
                f"{name} is of type {type(item).__name__}; expected an array (frames, {self.num_channels}), a dict "
                "with 'array', or the path of a .npy file."
            )
        values = np.asarray(item)
        if (
            values.dtype.kind not in "fiu"
            or values.ndim != 2
            or values.shape[1] != self.num_channels
            or len(values) < 2
        ):
            raise ValueError(
                f"{name} has shape {values.shape} and dtype {values.dtype}; expected numbers (frames, "
                f"{self.num_channels}) with two frames or more."
            )
        values = values.astype(np.float64)
        bad = ~np.isfinite(values).all(1)
        if bad.any():
            raise ValueError(
                f"{name} has NaN or infinite numbers in {int(bad.sum())} of {len(values)} frames, first in frame "
                f"{int(bad.argmax())}. Cut these frames out, or fill them by a rule of your own."
            )
        return values


def resample_frames(values: np.ndarray, frames: int, fast_channels: Sequence[int] | None = None) -> np.ndarray:
    """Change the number of frames of a recording, by averages where it gets fewer and lines between where more.

    Args:
        values: `(frames, channels)`.
        frames: How many to give; first and last moments stay.
        fast_channels: First channel, and channel after the last, of one fast signal, which is resampled in its own,
            finer time.

    Returns:
        `(frames, channels)` float64.
    """
    if len(values) == frames:
        return values
    out = _interpolate(values, frames)
    if fast_channels is not None:
        fast = slice(*fast_channels)
        width = fast.stop - fast.start
        out[:, fast] = _interpolate(values[:, fast].reshape(-1, 1), frames * width).reshape(frames, width)
    return out


def _interpolate(values: np.ndarray, size: int) -> np.ndarray:
    """Resample `(time, channels)` linearly, after a moving average as wide as the new step if that is longer."""
    width = int(len(values) / size)
    if width > 1:  # else what is faster than the new rate would come back as something slow
        padded = np.pad(values, ((width // 2, width - 1 - width // 2), (0, 0)), mode="edge")
        sums = np.cumsum(np.concatenate([np.zeros((1, values.shape[1])), padded]), 0)
        values = (sums[width:] - sums[:-width]) / width
    place = np.linspace(0, len(values) - 1, size)
    left = np.minimum(place.astype(int), len(values) - 2)
    share = (place - left)[:, None]
    return values[left] * (1 - share) + values[left + 1] * share


def _as_list(touch: Any) -> list[Any]:
    """One item or many, as a list."""
    if isinstance(touch, np.ndarray | Tensor):
        return list(touch) if touch.ndim == 3 and touch.dtype != np.uint8 else [touch]
    if isinstance(touch, list | tuple):
        one = (
            bool(touch)
            and isinstance(touch[0], list | tuple)
            and bool(touch[0])
            and isinstance(touch[0][0], int | float)
        )
        return [touch] if one else list(touch)
    return [] if touch is None else [touch]
