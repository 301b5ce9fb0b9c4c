"""Pre-train the point encoder by masked reconstruction, and measure what a linear classifier reads from it.

With `encoder.num_kinds` it also learns which kind of shape the generator had made; of real objects it sees no label.

    python recipes/pretrain_points.py --config recipes/configs/pretrain_points.yaml
    python recipes/pretrain_points.py --config ... --set training.seed=1 output_dir=runs/point-encoder-1
    python recipes/pretrain_points.py --config ... --probe-only        # once it is trained
    python recipes/pretrain_points.py --config ... --ship              # copy the encoder into the package

Data are the train split of the demo's furniture clouds and generated shapes (`hf_modalbridge.demo.shapes`), nothing
else. A run that was stopped goes on where it was. It leaves `encoder/`, a directory that `load_encoder` loads, and
`probe.json`: 12 furniture categories by logistic regression on frozen features, trained on the train split and tested
on the test split, and cross-validated within the train split (whose clouds the pre-training saw, without their
categories), beside the same encoder with fresh weights and beside features made by hand.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import torch
import yaml

from hf_modalbridge.demo.clouds import load_clouds
from hf_modalbridge.demo.point_batches import PointBatches
from hf_modalbridge.encoders import (
    PointEncoder,
    PointEncoderConfig,
    PointEncoderForPreTraining,
    PointFeatureExtractor,
    encode,
    prepare_items,
)
from hf_modalbridge.evaluation.linear_probe import linear_probe
from hf_modalbridge.training.pretraining import PretrainingConfig, pretrain

SHIPPED = Path(__file__).resolve().parents[1] / "hf_modalbridge" / "demo" / "point_encoder"


@torch.inference_mode()
def encoder_features(encoder: PointEncoder, clouds: np.ndarray, batch_size: int = 64) -> np.ndarray:
    """Embed clouds `(n, points, 3)`, giving `(n, dim)`."""
    extractor = PointFeatureExtractor()
    rows = [
        encode(encoder, "point", prepare_items(extractor, "point", list(clouds[i : i + batch_size])), normalize=False)
        for i in range(0, len(clouds), batch_size)
    ]
    return torch.cat(rows).numpy()


def hand_made_features(clouds: np.ndarray, pairs: int = 4096, bins: int = 32) -> np.ndarray:
    """Describe clouds without learning: bounding box, moments of each axis, D2 and height histograms.

    D2 is the distribution of distances of random pairs of points (Osada et al., 2002).
    """
    rng = np.random.default_rng(0)
    rows = []
    for points in clouds:
        a, b = rng.integers(len(points), size=(2, pairs))
        distances = np.histogram(np.linalg.norm(points[a] - points[b], axis=1), bins, (0, 2))[0] / pairs
        heights = np.histogram(points[:, 1], bins // 2, (-1, 1))[0] / len(points)
        radii = np.histogram(np.hypot(points[:, 0], points[:, 2]), bins // 2, (0, 1))[0] / len(points)
        box = np.ptp(points, axis=0)
        rows.append([*box, *np.log(box + 0.02), *points.mean(0), *points.std(0), *distances, *heights, *radii])
    return np.asarray(rows, dtype=np.float32)


def cross_validated(rows: np.ndarray, labels: list[str], folds: int = 5) -> float:
    """Accuracy on each fifth of the train split by a probe of the rest: four times as many objects as the test has."""
    part, names = np.random.default_rng(0).permutation(len(rows)) % folds, np.array(labels)
    parts = [(part != fold, part == fold) for fold in range(folds)]
    found = [linear_probe(rows[a], names[a].tolist(), rows[b], names[b].tolist()).correct for a, b in parts]
    return float(np.concatenate(found).mean())


def measure(encoder: PointEncoder, config: PointEncoderConfig, seeds: int = 3) -> list[dict]:
    """Probe the trained encoder, fresh ones and the features made by hand."""
    train, test = load_clouds("train"), load_clouds("test")

    def row(name: str, features) -> dict:
        known, unknown = features(train.points), features(test.points)
        result = linear_probe(known, train.categories, unknown, test.categories)
        low, high = result.interval()
        inside = cross_validated(known, train.categories)
        figures = {"accuracy": result.accuracy, "low": low, "high": high, "cross_validated": inside}
        print(f"{name:24s} " + "  ".join(f"{key} {value:.3f}" for key, value in figures.items()), flush=True)
        return {"features": name, "penalty": result.penalty, **{k: round(v, 4) for k, v in figures.items()}}

    rows = [row("pre-trained", lambda clouds: encoder_features(encoder, clouds))]
    for seed in range(seeds):
        torch.manual_seed(1000 + seed)
        fresh = PointEncoder(config).eval()
        rows.append(row(f"random weights, seed {seed}", lambda clouds, fresh=fresh: encoder_features(fresh, clouds)))
    rows.append(row("hand-made", hand_made_features))
    most = max(set(train.categories), key=train.categories.count)
    share = float(np.mean([category == most for category in test.categories]))
    print(f"{'most frequent category':24s} accuracy {share:.3f}")
    return [*rows, {"features": "most frequent category", "accuracy": round(share, 4)}]


def main() -> None:
    """Train, save and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, type=Path, help="YAML file, see recipes/configs/")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="change settings, as training.seed=1")
    parser.add_argument("--probe-only", action="store_true", help="measure the encoder that is in the output directory")
    parser.add_argument("--ship", action="store_true", help="copy the encoder in float16 into the package and stop")
    arguments = parser.parse_args()
    settings = yaml.safe_load(arguments.config.read_text(encoding="utf-8"))
    for change in arguments.set:
        *path, key = change.partition("=")[0].split(".")
        place = settings
        for part in path:
            place = place[part]
        place[key] = yaml.safe_load(change.partition("=")[2])
    output = Path(settings["output_dir"])
    if arguments.ship:
        ship(output, settings)
        return
    config = PointEncoderConfig(**settings["encoder"])
    if not arguments.probe_only:
        args = PretrainingConfig(**settings["training"])
        torch.manual_seed(args.seed)
        model = PointEncoderForPreTraining(config)
        clouds = load_clouds("train").points
        batches = PointBatches(clouds, args.batch_size, config.num_groups, seed=args.seed, **settings["data"])
        identity = {"encoder": settings["encoder"], "data": settings["data"]}
        pretrain(model, batches, args, output, identity)
        model.encoder.save_pretrained(output / "encoder")
        PointFeatureExtractor().save_pretrained(output / "encoder")
    encoder = PointEncoder.from_pretrained(output / "encoder").eval()
    (output / "probe.json").write_text(json.dumps(measure(encoder, encoder.config), indent=1), encoding="utf-8")


def ship(output: Path, settings: dict) -> None:
    """Put the trained encoder, in float16, and the settings and figures it was made with into the package."""
    shutil.rmtree(SHIPPED, ignore_errors=True)
    encoder = PointEncoder.from_pretrained(output / "encoder")
    encoder.half().save_pretrained(SHIPPED)
    PointFeatureExtractor.from_pretrained(output / "encoder").save_pretrained(SHIPPED)
    made = {
        "recipe": "recipes/pretrain_points.py",
        "settings": {k: v for k, v in settings.items() if k != "output_dir"},
    }
    made["probe"] = json.loads((output / "probe.json").read_text(encoding="utf-8"))
    (SHIPPED / "made.json").write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
