"""The small real world of the demo and the tests: pretrained models inside packages, and pictures with captions."""

from hf_modalbridge.demo.cache import cache_dir
from hf_modalbridge.demo.captions import SPLITS, CaptionedPictures, demo_data_dir, describe, load_captions
from hf_modalbridge.demo.clouds import FurnitureClouds, load_clouds
from hf_modalbridge.demo.models import (
    HEADS_FILE,
    dual_encoder,
    image_tower,
    language_model,
    point_encoder,
    sentence_tower,
)
from hf_modalbridge.demo.stores import prepare_stores
from hf_modalbridge.demo.touch import load_touch
from hf_modalbridge.demo.wordnet import CONCRETE_TOPICS, Gloss, wordnet_glosses

__all__ = [
    "CONCRETE_TOPICS",
    "HEADS_FILE",
    "SPLITS",
    "CaptionedPictures",
    "FurnitureClouds",
    "Gloss",
    "cache_dir",
    "demo_data_dir",
    "describe",
    "dual_encoder",
    "image_tower",
    "language_model",
    "load_captions",
    "load_clouds",
    "load_touch",
    "point_encoder",
    "prepare_stores",
    "sentence_tower",
    "wordnet_glosses",
]
