from __future__ import annotations

import json

import pytest
from transformers import AutoConfig, LlamaConfig

from hf_modalbridge import ModalBridgeConfig, ModalityConfig

REQUIRED = {"embedding_dim": 8, "placeholder_token": "<x>", "placeholder_token_id": 5}


def config(**modalities):
    return ModalBridgeConfig(text_config=LlamaConfig(hidden_size=32, num_hidden_layers=1), modalities=modalities)


def test_round_trip_through_json_keeps_every_field(tmp_path):
    made = config(point={**REQUIRED, "num_tokens": 3, "token_mode": "distinct", "constant_prompt": 2})
    made.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is ModalBridgeConfig
    assert loaded.modalities["point"] == made.modalities["point"]
    assert loaded.modalities["point"].tokens_per_item == 5
    assert loaded.text_config.hidden_size == 32
    same = {"_name_or_path": None}  # which transformers sets on loading
    assert {**loaded.to_dict(), **same} == {**made.to_dict(), **same}


def test_unknown_key_of_a_modality_is_named_with_the_nearest():
    with pytest.raises(ValueError, match=r"'point'.*'num_token' \(did you mean 'num_tokens'\?\)"):
        config(point={**REQUIRED, "num_token": 3})


def test_missing_key_of_a_modality_is_named():
    with pytest.raises(ValueError, match="'point' lacks the required key.*'embedding_dim'"):
        config(point={"placeholder_token": "<x>", "placeholder_token_id": 5})


def test_wrong_type_names_field_and_modality():
    with pytest.raises(ValueError, match="(?s)'point'.*num_tokens"):
        config(point={**REQUIRED, "num_tokens": "four"})
    with pytest.raises(ValueError, match="(?s)'point'.*token_mode"):
        config(point={**REQUIRED, "token_mode": "repeated"})
    with pytest.raises(ValueError, match="num_tokens must be at least 1, got 0"):
        config(point={**REQUIRED, "num_tokens": 0})


def test_unknown_key_of_the_config_is_named():
    with pytest.raises(ValueError, match="'modalites'.*did you mean 'modalities'"):
        ModalBridgeConfig(modalites={})


@pytest.mark.parametrize("key", ["text_config", "modalities"])
def test_file_without_a_required_key_is_refused(tmp_path, key):
    config(point=REQUIRED).save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    del values[key]
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=f"lacks the required key.*{key}"):
        AutoConfig.from_pretrained(tmp_path)


def test_file_of_a_version_with_fewer_fields_loads(tmp_path):
    config(point=REQUIRED).save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    values["modalities"]["point"] = dict(REQUIRED)  # as if all optional fields had been added since
    for key in ("bridge_only", "metadata", "language_model_source"):
        values.pop(key, None)
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert AutoConfig.from_pretrained(tmp_path).modalities["point"] == ModalityConfig(**REQUIRED)


def test_modalities_may_not_collide():
    with pytest.raises(ValueError, match="'image' and 'point' share the placeholder token id 5"):
        config(image=REQUIRED, point=REQUIRED)
    with pytest.raises(ValueError, match="'text' cannot name a modality"):
        config(text=REQUIRED)
    with pytest.raises(ValueError, match="normalize=False"):
        config(image={**REQUIRED, "normalize": False, "correction_config": {"correction_type": "none"}})


def test_no_directory_of_this_machine_is_saved(tmp_path):
    made = config(point=REQUIRED)
    made.text_config._name_or_path = "/somewhere/private"
    made.save_pretrained(tmp_path)
    assert "private" not in (tmp_path / "config.json").read_text()
