"""Pre-train the touch encoder by masked reconstruction, and measure what a linear classifier reads from it.

    python recipes/pretrain_touch.py --config recipes/configs/pretrain_touch.yaml
    python recipes/pretrain_touch.py --config ... --set recordings=biotac20.npz output_dir=runs/touch-biotac

Data are the train split of the generated recordings (`hf_modalbridge.demo.touch`), or recordings 1 to 40 of each
material of the BioTac slides, whose file you give. A run that was stopped goes on where it was. It leaves `encoder/`, a
directory that `load_encoder` loads, and `probe.json`: 20 materials by logistic regression on frozen features, tested on
held-out recordings, beside the same encoder with fresh weights and beside mean and deviation of each channel.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
import yaml

from hf_modalbridge.data.recordings import TouchRecordings, load_biotac
from hf_modalbridge.demo.touch import load_touch
from hf_modalbridge.encoders import (
    TactileEncoder,
    TactileEncoderConfig,
    TactileEncoderForPreTraining,
    TactileFeatureExtractor,
    encode,
)
from hf_modalbridge.evaluation.linear_probe import linear_probe
from hf_modalbridge.training.pretraining import PretrainingConfig, pretrain


@torch.inference_mode()
def encoder_features(encoder: TactileEncoder, values: torch.Tensor) -> np.ndarray:
    """Embed prepared recordings `(n, frames, channels)`, giving `(n, dim)`."""
    rows = [encode(encoder, "touch", {"touch_values": part}, normalize=False) for part in values.split(64)]
    return torch.cat(rows).numpy()


def measure(
    encoder: TactileEncoder, extractor: TactileFeatureExtractor, train: TouchRecordings, test: TouchRecordings
) -> list[dict]:
    """Probe the trained encoder, fresh ones and the channels' statistics."""
    a, b = (extractor(part.values)["touch_values"] for part in (train, test))

    def row(name: str, features) -> dict:
        result = linear_probe(features(a), train.materials, features(b), test.materials)
        low, high = result.interval()
        print(f"{name:30s} accuracy {result.accuracy:.3f}  low {low:.3f}  high {high:.3f}", flush=True)
        return {"features": name, "accuracy": round(result.accuracy, 4), "low": round(low, 4), "high": round(high, 4)}

    rows = [row("pre-trained", lambda values: encoder_features(encoder, values))]
    for seed in range(3):
        torch.manual_seed(1000 + seed)
        fresh = TactileEncoder(encoder.config).eval()
        rows.append(row(f"random weights, seed {seed}", lambda values, fresh=fresh: encoder_features(fresh, values)))
    rows.append(row("mean and deviation of channels", lambda v: torch.cat([v.mean(1), v.std(1).log1p()], 1).numpy()))
    return rows


def main() -> None:
    """Train, save and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, type=Path, help="YAML file, see recipes/configs/")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="change settings, as training.seed=1")
    arguments = parser.parse_args()
    settings = yaml.safe_load(arguments.config.read_text(encoding="utf-8"))
    for change in arguments.set:
        *path, key = change.partition("=")[0].split(".")
        place = settings
        for part in path:
            place = place[part]
        place[key] = yaml.safe_load(change.partition("=")[2])
    source, output = settings["recordings"], Path(settings["output_dir"])
    train, test = (load_touch(s) if source == "demo" else load_biotac(source, s) for s in ("train", "test"))
    extractor = TactileFeatureExtractor().fit(train.values)
    values = extractor(train.values)["touch_values"]
    args, config = PretrainingConfig(**settings["training"]), TactileEncoderConfig(**settings["encoder"])
    torch.manual_seed(args.seed)
    model = TactileEncoderForPreTraining(config)

    def batch(step: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng([args.seed, step])
        rows = torch.from_numpy(rng.integers(len(values), size=args.batch_size))
        noise = rng.random((args.batch_size, config.num_tokens - 1), dtype=np.float32)
        return {"touch_values": values[rows], "mask_noise": torch.from_numpy(noise)}

    pretrain(model, batch, args, output, {"encoder": settings["encoder"], "recordings": Path(source).name})
    model.encoder.save_pretrained(output / "encoder")
    extractor.save_pretrained(output / "encoder")
    rows = measure(model.encoder.eval(), extractor, train, test)
    (output / "probe.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
