from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import yaml

from hf_modalbridge.training import LoopConfig, RevisionConfig, build_config, load_config
from hf_modalbridge.training.config_io import apply_overrides, to_plain

MINIMAL = {
    "output_dir": "out",
    "language_model": {"id": "lm"},
    "bridge": {"modality": "image"},
    "stage1": {"store": "s", "loop": {"learning_rate": 1}},
}


@dataclass
class Inner:
    rate: float
    name: str | None = None


@dataclass
class Outer:
    inner: Inner
    kind: Literal["no", "yes"] = "yes"
    pair: tuple[float, float] = (1.0, 2.0)
    names: list[str] = field(default_factory=list)
    either: str | list[str] = "a"
    count: int = 3
    flag: bool = False


def test_defaults_and_nesting():
    config = build_config(RevisionConfig, MINIMAL)
    assert config.stage1.loop == LoopConfig(learning_rate=1.0)
    assert isinstance(config.stage1.loop.learning_rate, float)
    assert config.stage2 is None


def test_plain_values_give_the_same_config_again():
    config = build_config(RevisionConfig, MINIMAL)
    assert build_config(RevisionConfig, yaml.safe_load(yaml.safe_dump(to_plain(config)))) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({**MINIMAL, "outputdir": "x"}, "unknown key 'outputdir': did you mean 'output_dir'"),
        (
            {**MINIMAL, "stage1": {"store": "s", "loop": {"learning_rate": 1, "max_step": 3}}},
            "unknown key 'stage1.loop.max_step': did you mean 'max_steps'",
        ),
        ({k: v for k, v in MINIMAL.items() if k != "bridge"}, "missing key 'bridge'"),
        ({**MINIMAL, "stage1": {"store": "s", "loop": {}}}, "missing key 'stage1.loop.learning_rate'"),
        ({**MINIMAL, "stage1": {"loop": {"learning_rate": 1}}}, "missing key 'stage1.store'"),
        ({**MINIMAL, "stage1": 5}, "'stage1' is 5, expected a mapping"),
    ],
)
def test_unknown_and_missing_keys_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        build_config(RevisionConfig, values)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("count", "many", "'count' is 'many' .str., expected int"),
        ("count", True, "'count' is True"),
        ("count", 1.5, "'count' is 1.5"),
        ("kind", "maybe", "'kind' is 'maybe', expected one of"),
        ("pair", [1], "'pair' has 1 values, expected 2"),
        ("names", [["a"]], r"names\[0\]"),
        ("flag", "yes", "'flag' is 'yes'"),
        ("inner", {"rate": "fast"}, "'inner.rate' is 'fast'"),
    ],
)
def test_wrong_types_are_named(key, value, message):
    with pytest.raises(ValueError, match=message):
        build_config(Outer, {"inner": {"rate": 1}, key: value})


def test_values_that_yaml_reads_differently_than_people():
    config = build_config(Outer, yaml.safe_load("{inner: {rate: 1e-4, name: 12}, kind: no, pair: [1, 2]}"))
    assert config == Outer(Inner(1e-4, "12"), "no", (1.0, 2.0))
    assert build_config(Outer, {"inner": {"rate": 1}, "either": ["x"]}).either == ["x"]


def test_overrides():
    base = {"a": {"b": 1, "c": 2}, "d": 3}
    words = ["a.b=5", "--a.c", "[1, 2]", "--d=null", "e.f=1e-4", "g="]
    expected = {"a": {"b": 5, "c": [1, 2]}, "d": None, "e": {"f": "1e-4"}, "g": ""}
    assert apply_overrides(base, words) == expected
    assert base == {"a": {"b": 1, "c": 2}, "d": 3}
    for words in (["--a.b"], ["a.b"]):
        with pytest.raises(ValueError, match="has no value"):
            apply_overrides(base, words)


def test_a_file_with_overrides(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text(yaml.safe_dump(MINIMAL))
    config = load_config(RevisionConfig, file, ["--stage1.loop.max_steps", "7", "stage1.loop.learning_rate=5e-4"])
    assert (config.stage1.loop.max_steps, config.stage1.loop.learning_rate) == (7, 5e-4)
    with pytest.raises(ValueError, match="stage1.loop.max_stesp"):
        load_config(RevisionConfig, file, ["stage1.loop.max_stesp=7"])


def test_files_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="no configuration file"):
        load_config(RevisionConfig, Path("nowhere.yaml"))
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ValueError, match="holds a list"):
        load_config(RevisionConfig, tmp_path / "list.yaml")
