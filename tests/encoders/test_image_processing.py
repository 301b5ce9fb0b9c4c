"""Pictures become the pixels that the tower was trained on, whatever they come as."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_encoders import make_picture
from transformers import AutoImageProcessor

from hf_modalbridge.encoders import (
    EfficientNetLiteConfig,
    EfficientNetLiteImageProcessor,
    EfficientNetLiteModel,
    flatten_on_white,
    read_image,
)


def test_pixels_are_the_formula():
    picture = make_picture(0, (50, 30))
    got = EfficientNetLiteImageProcessor(size=24)(picture, return_tensors="pt")["pixel_values"]
    assert got.shape == (1, 3, 24, 24) and got.dtype == torch.float32
    pixels = np.asarray(picture.resize((24, 24), Image.Resampling.BICUBIC)) / 255.0
    want = (pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(got[0].numpy(), want.transpose(2, 0, 1), atol=1e-5)


def test_transparent_parts_are_white():
    picture = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    picture.putpixel((1, 1), (10, 20, 30, 255))
    picture.putpixel((2, 2), (0, 0, 0, 128))
    flat = flatten_on_white(picture)
    assert flat.mode == "RGB"
    assert flat.getpixel((0, 0)) == (255, 255, 255) and flat.getpixel((1, 1)) == (10, 20, 30)
    assert all(abs(value - 127) <= 1 for value in flat.getpixel((2, 2)))
    palette = Image.new("P", (2, 2), 0)
    palette.putpalette([0, 0, 0, 9, 9, 9])
    palette.info["transparency"] = 0
    assert flatten_on_white(palette).getpixel((0, 0)) == (255, 255, 255)
    assert flatten_on_white(Image.new("L", (2, 2), 7)).getpixel((0, 0)) == (7, 7, 7)


def test_all_forms_of_a_picture_are_the_same(tmp_path):
    picture = make_picture(1)
    picture.save(tmp_path / "picture.png")
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    forms = [
        picture,
        tmp_path / "picture.png",
        str(tmp_path / "picture.png"),
        buffer.getvalue(),
        np.asarray(picture),
    ]
    forms.append({"bytes": buffer.getvalue(), "path": None})
    pixels = EfficientNetLiteImageProcessor(size=16)(forms)["pixel_values"]
    for row in pixels[1:]:
        np.testing.assert_array_equal(row, pixels[0])


def test_what_is_no_picture_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no image file at.*missing.png"):
        read_image(tmp_path / "missing.png")
    with pytest.raises(TypeError, match="got Tensor as a picture"):
        read_image(torch.zeros(3, 4, 4))
    with pytest.raises(TypeError, match="got ndarray"):
        read_image(np.zeros((4, 4, 3), dtype=np.float32))
    with pytest.raises(ValueError, match="empty list of images"):
        EfficientNetLiteImageProcessor()([])


def test_processor_saves_and_loads_itself(tmp_path):
    processor = EfficientNetLiteImageProcessor(size=20, image_mean=(0.1, 0.2, 0.3))
    processor.save_pretrained(tmp_path)
    for loaded in (
        EfficientNetLiteImageProcessor.from_pretrained(tmp_path),
        AutoImageProcessor.from_pretrained(tmp_path),
    ):
        assert isinstance(loaded, EfficientNetLiteImageProcessor)
        np.testing.assert_array_equal(
            loaded(make_picture(2))["pixel_values"], processor(make_picture(2))["pixel_values"]
        )


def test_processor_fits_the_tower():
    pixels = EfficientNetLiteImageProcessor()(make_picture(3), return_tensors="pt")["pixel_values"]
    model = EfficientNetLiteModel(EfficientNetLiteConfig()).eval()
    with torch.no_grad():
        assert model(pixels).last_hidden_state.shape == (1, 1280, 5, 5)
