"""Write tests/formats/vN: one tiny example of everything that this version saves, with what it gave when it was saved.

    python scripts/write_format_examples.py v1
    python scripts/write_format_examples.py v1 --released modalbridge-demo=runs/demo/realign/stage2/model

An example is written once, when its format is released, and never again: later versions must go on loading it. What
is there is left alone; new kinds are added. `--released` adds the config.json of a model that was released.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hf_modalbridge import (
    AutoCorrection,
    EmbeddingStoreWriter,
    MeanShift,
    ModalBridgeForConditionalGeneration,
    NoCorrection,
    PairwiseAligner,
    ReAlign,
)
from hf_modalbridge.encoders import (
    DualEncoderConfig,
    DualEncoderModel,
    DualEncoderProcessor,
    EfficientNetLiteConfig,
    EfficientNetLiteImageProcessor,
    PointEncoder,
    PointEncoderConfig,
    PointFeatureExtractor,
    TactileEncoder,
    TactileEncoderConfig,
    TactileFeatureExtractor,
)
from hf_modalbridge.hub.outputs import outputs
from hf_modalbridge.hub.pushing import forget_local_paths
from hf_modalbridge.models import PairwiseConfig

DIM = 6
WORDS = ["<pad>", "<unk>", "<end>", "what", "is", "this", "?", "a", "red", "chair"]
FORMATS = Path(__file__).parents[1] / "tests" / "formats"


def rows(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed))


# smallest settings of those that train networks
TRAINED = {
    "diffusion_link": {"steps": 20},
    "aniso_align": {
        **{"score_steps": 10, "refine_steps": 10, "score_batch": 32, "refine_batch": 32, "eval_every": 5},
        **{"score_width": 8, "refine_width": 8, "projections": 4},
    },
}


def write_corrections(folder: Path) -> None:
    """Write every registered kind of correction."""
    source, target = rows(120, 0) + 0.8, rows(120, 1) - 0.6
    for name, kind in AutoCorrection.types().items():
        if not (folder / kind.__name__.lower()).exists():
            kind.fit(source, target, **TRAINED.get(name, {})).save_pretrained(folder / kind.__name__.lower())


def write_store(folder: Path) -> None:
    if (folder / "store").exists():
        return
    with EmbeddingStoreWriter(folder / "store", dim=DIM, dtype="float16", rows_per_shard=4) as writer:
        writer.append(
            [f"row{i}" for i in range(6)],
            torch.nn.functional.normalize(rows(6, 2)).numpy().astype(np.float16),
            {"text": list("abcdef")},
        )


TOWER = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}


def make_point_encoder() -> tuple[PointEncoder, PointFeatureExtractor]:
    torch.manual_seed(0)
    config = PointEncoderConfig(**TOWER, num_groups=4, group_size=8, point_dims=(8, 8, 8), initializer_range=0.3)
    return PointEncoder(config).eval(), PointFeatureExtractor(num_points=64)


def make_dual_encoder() -> tuple[DualEncoderModel, DualEncoderProcessor]:
    torch.manual_seed(0)
    stages = {"stage_repeats": [1], "stage_kernels": [3], "stage_strides": [1], "stage_expansions": [1]}
    picture = EfficientNetLiteConfig(image_size=16, stem_channels=4, hidden_dim=8, stage_channels=[4], **stages)
    text = BertConfig(vocab_size=len(WORDS), max_position_embeddings=16, **TOWER)
    config = DualEncoderConfig(vision_config=picture, text_config=text, projection_dim=DIM, projection_hidden_size=8)
    processor = DualEncoderProcessor(EfficientNetLiteImageProcessor(size=16), make_tokenizer())
    return DualEncoderModel(config).eval(), processor


def write_encoders(folder: Path) -> None:
    """Write the dual encoder, the point encoder, both layouts of the touch encoder, and the pairwise aligner."""
    torch.manual_seed(0)
    series = TactileEncoderConfig(**TOWER, num_samples=40, num_channels=6, fast_channels=(2, 6), spectrum_bands=4)
    picture = TactileEncoderConfig(layout="image", vision_config={**TOWER, "image_size": 16, "patch_size": 8})
    pairs = {
        "encoder-point": make_point_encoder(),
        "encoder-touch-series": (
            TactileEncoder(series),
            TactileFeatureExtractor(num_samples=40, num_channels=6, fast_channels=(2, 6)),
        ),
        "encoder-dual": make_dual_encoder(),
        "encoder-touch-image": (TactileEncoder(picture), TactileFeatureExtractor(layout="image", image_size=16)),
    }
    for name, parts in pairs.items():
        if not (folder / name).exists():
            for part in parts:
                part.save_pretrained(folder / name)
    if not (folder / "aligner").exists():
        modalities = {"point": {"input_dim": 8, "num_tokens": 5}, "text": {"input_dim": 8, "num_tokens": 3}}
        edges = [{"source": "point", "target": "text", "active": 4}]
        config = PairwiseConfig(modalities=modalities, edges=edges, **LATENT)
        PairwiseAligner(config).save_pretrained(folder / "aligner")


LATENT = {"width": 8, "num_latents": 2, "encoder_layers": 1, "decoder_layers": 1, "heads": 2, "ff_mult": 2}


def make_tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>", eos_token="<end>")


def write_models(folder: Path) -> None:
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    size = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    language_model = LlamaForCausalLM(LlamaConfig(vocab_size=len(WORDS), max_position_embeddings=32, **size)).eval()
    if not (folder / "base").exists():
        language_model.save_pretrained(folder / "base")
        tokenizer.save_pretrained(folder / "base")
    source, target = rows(60, 0) + 0.8, rows(60, 1) - 0.6
    encoder, extractor = make_point_encoder()
    surrogates = [{"partner": "text", "num_tokens": 3, "active": 4}]
    variants = {
        "plain": {"image": {"embedding_dim": DIM}},
        "realign": {
            "image": {"correction": ReAlign.fit(source, target), "num_tokens": 2, "constant_prompt": 1},
            "touch": {"correction": MeanShift.fit(source, target), "token_mode": "distinct", "num_tokens": 2},
        },
        "bridge_only": {"image": {"correction": NoCorrection.fit(source, target), "num_tokens": 1}},
        "pairwise": {
            "point": {
                **{"encoder": encoder, "encoder_processor": extractor, "normalize": False, "embedding_dim": 8},
                **{"input_tokens": 5, "num_tokens": 3, "connector_type": "recompose"},
                "connector_config": {**LATENT, "surrogates": surrogates},
            }
        },
    }
    for name, modalities in variants.items():
        if (folder / f"model-{name}").exists():
            continue
        base = LlamaForCausalLM.from_pretrained(folder / "base")
        model, processor = ModalBridgeForConditionalGeneration.from_components(
            language_model=base,
            tokenizer=PreTrainedTokenizerFast.from_pretrained(folder / "base"),
            modalities=modalities,
            language_model_source={"id": "base"},  # a folder beside it
        )
        model.save_pretrained(folder / f"model-{name}", bridge_only=name == "bridge_only")
        processor.save_pretrained(folder / f"model-{name}")


def write_config(folder: Path, name: str, model: Path) -> None:
    """Copy the config of a released model, without where its parts lay."""
    if not (folder / f"{name}.json").exists():
        folder.mkdir(exist_ok=True)
        shutil.copy(model / "config.json", folder / f"{name}.json")
        forget_local_paths(folder / f"{name}.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("version")
    parser.add_argument("--released", nargs="*", default=[], metavar="NAME=MODEL_DIRECTORY")
    given = parser.parse_args()
    folder = FORMATS / given.version
    write_corrections(folder / "corrections")
    write_store(folder)
    write_encoders(folder)
    write_models(folder)
    for pair in given.released:
        name, _, model = pair.partition("=")
        write_config(folder / "configs", name, Path(model))
    with contextlib.chdir(folder):
        for example in sorted(path.parent for path in Path().rglob("*.json") if is_example(path)):
            if not Path(f"expected-{example.name}.safetensors").exists():
                found = {name: tensor.contiguous() for name, tensor in outputs(example).items()}
                save_file(found, f"expected-{example.name}.safetensors")
    (folder / "README.md").write_text("Written by scripts/write_format_examples.py; tests load it and compare.\n")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {size / 1e3:.0f} kB")


def is_example(path: Path) -> bool:
    """Tell whether a file is the config of an example; the base model is not one."""
    if path.name == "manifest.json":
        return True
    if path.name != "config.json" or path.parent.name == "base":
        return False
    return bool({"correction_type", "model_type"} & json.loads(path.read_text()).keys())


if __name__ == "__main__":
    main()
