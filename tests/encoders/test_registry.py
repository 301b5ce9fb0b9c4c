"""Encoders join the registry from outside: by a call, and by an installed package's entry point."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_encoders import TINY_TOWER
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from hf_modalbridge import list_encoders, register_encoder
from hf_modalbridge.encoders import (
    EfficientNetLiteConfig,
    EfficientNetLiteModel,
    build_encoder,
    resolve_config,
)

PLUGIN = """
import torch
from transformers import BatchFeature, FeatureExtractionMixin, PreTrainedConfig, PreTrainedModel


class TouchConfig(PreTrainedConfig):
    model_type = "touch_plugin"

    def __init__(self, embedding_dim=6, **kwargs):
        self.embedding_dim = embedding_dim
        super().__init__(**kwargs)


class TouchEncoder(PreTrainedModel):
    config_class = TouchConfig

    def __init__(self, config):
        super().__init__(config)
        self.linear = torch.nn.Linear(3, config.embedding_dim)
        self.post_init()

    def get_touch_features(self, touch_values):
        return self.linear(touch_values)


class TouchExtractor(FeatureExtractionMixin):
    model_input_names = ["touch_values"]

    def __call__(self, touch, return_tensors=None):
        return BatchFeature({"touch_values": torch.tensor(touch)})


def register():
    from hf_modalbridge import register_encoder

    register_encoder(
        "touch_plugin",
        config_class=TouchConfig,
        model_class=TouchEncoder,
        processor_class=TouchExtractor,
        probe_items={"touch": [1.0, 2.0, 3.0]},
    )
"""

USE = """
import sys, warnings
import torch
from hf_modalbridge import list_encoders
from hf_modalbridge.encoders import (
    build_encoder, encode, encoder_dim, encoder_fingerprint, load_encoder, prepare_items, readable_modalities
)

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    spec = list_encoders()["touch_plugin"]
assert spec.modalities == ("touch",), spec
assert any("broken_plugin" in str(w.message) and "no such sensor" in str(w.message) for w in caught), caught
model = build_encoder({"model_type": "touch_plugin", "embedding_dim": 5})
assert type(model).__module__ == "touch_package", type(model)
assert encoder_dim(model.config) == 5
model.save_pretrained(sys.argv[1])
spec.processor_class().save_pretrained(sys.argv[1])
loaded, processor = load_encoder(sys.argv[1])
assert readable_modalities(loaded) == ("touch",)
inputs = prepare_items(processor, "touch", [[1.0, 2.0, 3.0], [0.0, 1.0, 0.0]])
with torch.no_grad():
    rows = encode(loaded, "touch", inputs)
    want = model.linear(torch.tensor([[1.0, 2.0, 3.0], [0.0, 1.0, 0.0]]))
torch.testing.assert_close(rows, want / want.norm(dim=1, keepdim=True))
probe = encoder_fingerprint(loaded, processor, "touch")["probe"]
torch.testing.assert_close(torch.tensor(probe), rows[0] * 5**0.5, atol=1e-4, rtol=0)
print("plugin works")
"""


def test_installed_package_adds_an_encoder(tmp_path):
    site = tmp_path / "site"
    info = site / "touch_package-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "touch_package.py").write_text(PLUGIN)
    (site / "broken_package.py").write_text("def register():\n    raise RuntimeError('no such sensor')\n")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: touch-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[hf_modalbridge.encoders]\ntouch = touch_package:register\nbroken_plugin = broken_package:register\n"
    )
    root = Path(__file__).resolve().parents[2]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(site), str(root)]),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", USE, str(tmp_path / "saved")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "plugin works" in done.stdout


class SmellConfig(PreTrainedConfig):
    model_type = "smell_test"


class SmellEncoder(PreTrainedModel):
    config_class = SmellConfig

    def get_smell_features(self, values):
        return values

    def get_text_features(self, input_ids):
        return input_ids


class MuteEncoder(PreTrainedModel):
    config_class = SmellConfig


def test_modalities_are_found_and_classes_reach_the_auto_classes():
    spec = register_encoder("smell_test", config_class=SmellConfig, model_class=SmellEncoder)
    assert spec.modalities == ("smell", "text")
    assert list_encoders()["smell_test"] is spec
    assert isinstance(AutoConfig.for_model("smell_test"), SmellConfig)
    assert (
        register_encoder("smell_test", config_class=SmellConfig, model_class=SmellEncoder).modalities == spec.modalities
    )
    with pytest.raises(ValueError, match="'smell_test' for EfficientNetLiteModel.*belongs to SmellEncoder"):
        register_encoder("smell_test", model_class=EfficientNetLiteModel)


def test_registration_is_refused_with_the_reason():
    with pytest.raises(ValueError, match="'other_name'.*'smell_test'"):
        register_encoder("other_name", config_class=SmellConfig, model_class=SmellEncoder)
    with pytest.raises(ValueError, match="no modality.*MuteEncoder.*get_<modality>_features"):
        register_encoder("smell_test", config_class=SmellConfig, model_class=MuteEncoder)


def test_encoders_are_built_from_configs_and_dicts(clip):
    config = EfficientNetLiteConfig(**TINY_TOWER)
    for given in (config, config.to_dict()):
        model = build_encoder(given)
        assert isinstance(model, EfficientNetLiteModel)
        assert model.config.hidden_dim == TINY_TOWER["hidden_dim"]
    assert isinstance(AutoModel.from_config(config), EfficientNetLiteModel)
    assert type(build_encoder(clip.config.to_dict())) is type(clip)
    assert build_encoder(config, dtype=torch.bfloat16).dtype == torch.bfloat16


def test_unknown_encoders_are_named():
    with pytest.raises(ValueError, match="'no_such_encoder'.*hf_modalbridge.encoders.*clip"):
        resolve_config({"model_type": "no_such_encoder"})
    with pytest.raises(ValueError, match=r"needs 'model_type'.*\['hidden_dim'\]"):
        build_encoder({"hidden_dim": 3})
