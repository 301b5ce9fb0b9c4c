"""Encoders of modalities: one protocol for CLIP, SigLIP, CLAP, this package's own and those of plug-ins."""

import numpy as np

from hf_modalbridge.encoders.configuration_point import PointEncoderConfig
from hf_modalbridge.encoders.configuration_tactile import TactileEncoderConfig
from hf_modalbridge.encoders.dual_encoder import DualEncoderConfig, DualEncoderModel, ProjectionHead
from hf_modalbridge.encoders.efficientnet_lite import EfficientNetLiteConfig, EfficientNetLiteModel
from hf_modalbridge.encoders.encode import (
    encode,
    encode_tokens,
    encoder_dim,
    move_inputs,
    prepare_items,
    readable_modalities,
)
from hf_modalbridge.encoders.feature_extraction_point import PointFeatureExtractor
from hf_modalbridge.encoders.feature_extraction_tactile import TactileFeatureExtractor
from hf_modalbridge.encoders.fingerprint import (
    describe_fingerprint,
    encoder_fingerprint,
    fingerprints_match,
    probe_item,
)
from hf_modalbridge.encoders.image_processing import (
    EfficientNetLiteImageProcessor,
    flatten_on_white,
    read_image,
)
from hf_modalbridge.encoders.loading import load_encoder
from hf_modalbridge.encoders.point_encoder import PointEncoder
from hf_modalbridge.encoders.point_files import PointCloud, read_points, sample_surface
from hf_modalbridge.encoders.point_pretraining import PointEncoderForPreTraining
from hf_modalbridge.encoders.processing_dual_encoder import DualEncoderProcessor
from hf_modalbridge.encoders.registry import (
    ENTRY_POINT_GROUP,
    EncoderSpec,
    build_encoder,
    get_encoder_spec,
    list_encoders,
    register_encoder,
    resolve_config,
)
from hf_modalbridge.encoders.tactile_encoder import TactileEncoder
from hf_modalbridge.encoders.tactile_pretraining import TactileEncoderForPreTraining

__all__ = [
    "ENTRY_POINT_GROUP",
    "DualEncoderConfig",
    "DualEncoderModel",
    "DualEncoderProcessor",
    "EfficientNetLiteConfig",
    "EfficientNetLiteImageProcessor",
    "EfficientNetLiteModel",
    "EncoderSpec",
    "PointCloud",
    "PointEncoder",
    "PointEncoderConfig",
    "PointEncoderForPreTraining",
    "PointFeatureExtractor",
    "ProjectionHead",
    "TactileEncoder",
    "TactileEncoderConfig",
    "TactileEncoderForPreTraining",
    "TactileFeatureExtractor",
    "build_encoder",
    "describe_fingerprint",
    "encode",
    "encode_tokens",
    "encoder_dim",
    "encoder_fingerprint",
    "fingerprints_match",
    "flatten_on_white",
    "get_encoder_spec",
    "list_encoders",
    "load_encoder",
    "move_inputs",
    "prepare_items",
    "probe_item",
    "read_image",
    "read_points",
    "readable_modalities",
    "register_encoder",
    "resolve_config",
    "sample_surface",
]


def _probe_cloud() -> np.ndarray:
    """A spiral on a bowl, the same on every machine: `(256, 3)`."""
    t = np.arange(256) / 256
    return np.stack([t * np.cos(40 * t), t * t, 0.7 * t * np.sin(40 * t)], 1)


register_encoder(
    "efficientnet_lite",
    config_class=EfficientNetLiteConfig,
    model_class=EfficientNetLiteModel,
    processor_class=EfficientNetLiteImageProcessor,
)
register_encoder(
    "modalbridge_dual_encoder",
    config_class=DualEncoderConfig,
    model_class=DualEncoderModel,
    processor_class=DualEncoderProcessor,
)
register_encoder(
    "modalbridge_point_encoder",
    config_class=PointEncoderConfig,
    model_class=PointEncoder,
    processor_class=PointFeatureExtractor,
    probe_items={"point": _probe_cloud()},
)
register_encoder(
    "modalbridge_tactile_encoder",
    config_class=TactileEncoderConfig,
    model_class=TactileEncoder,
    processor_class=TactileFeatureExtractor,
)
