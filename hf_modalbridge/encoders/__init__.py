"""Encoders of modalities: one protocol for CLIP, SigLIP, CLAP, this package's own and those of plug-ins."""

from hf_modalbridge.encoders.dual_encoder import DualEncoderConfig, DualEncoderModel, ProjectionHead
from hf_modalbridge.encoders.efficientnet_lite import EfficientNetLiteConfig, EfficientNetLiteModel
from hf_modalbridge.encoders.encode import (
    encode,
    encoder_dim,
    move_inputs,
    prepare_items,
    readable_modalities,
)
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

__all__ = [
    "ENTRY_POINT_GROUP",
    "DualEncoderConfig",
    "DualEncoderModel",
    "DualEncoderProcessor",
    "EfficientNetLiteConfig",
    "EfficientNetLiteImageProcessor",
    "EfficientNetLiteModel",
    "EncoderSpec",
    "ProjectionHead",
    "build_encoder",
    "describe_fingerprint",
    "encode",
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
    "readable_modalities",
    "register_encoder",
    "resolve_config",
]

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
