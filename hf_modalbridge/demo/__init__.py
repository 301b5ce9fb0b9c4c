"""The small real world of the demo and the tests: pretrained models inside packages, and pictures with captions."""

from hf_modalbridge.demo.cache import cache_dir
from hf_modalbridge.demo.captions import SPLITS, CaptionedPictures, demo_data_dir, load_captions
from hf_modalbridge.demo.models import HEADS_FILE, dual_encoder, image_tower, language_model, sentence_tower
from hf_modalbridge.demo.stores import prepare_stores
from hf_modalbridge.demo.wordnet import CONCRETE_TOPICS, Gloss, wordnet_glosses

__all__ = [
    "CONCRETE_TOPICS",
    "HEADS_FILE",
    "SPLITS",
    "CaptionedPictures",
    "Gloss",
    "cache_dir",
    "demo_data_dir",
    "dual_encoder",
    "image_tower",
    "language_model",
    "load_captions",
    "prepare_stores",
    "sentence_tower",
    "wordnet_glosses",
]
