"""The comparison behind the README's table: ways to train a connector, five seeds each, on held-out real pictures.

    python recipes/reproduce.py --output runs/reproduce --jobs 2
    python recipes/reproduce.py --all          # with the other corrections and AnisoAlign's ablation
    python recipes/reproduce.py --rows none realign paired --docs runs/reproduce        # some rows
    python recipes/reproduce.py --language-model smollm2 --output runs/reproduce-smollm2      # a day on two cores

The language model is a small one that recipes/train_small_lm.py trains on captions and nouns, so that many seeds are
affordable, or the demo's SmolLM2-135M.

What stands in for a picture while training (recipes/study.py holds what one run is):

    blind             the same constant for all (what captions look like, and nothing else)
    none              the caption's text embedding as it is
    mean_shift        the text embedding, shifted onto the mean of the pictures
    c3                mean_shift with Gaussian noise (C3 in the variant that shifts, noise_norm = sigma * sqrt(d))
    realign           ReAlign
    aniso_align       AnisoAlign
    paired            the embedding of the caption's own picture: the upper reference, which needs pairs
    gr                both sides without their own mean
    block_covariance  covariances matched inside and outside a frame
    aniso_...         the rows of AnisoAlign's ablation

All rows but the first read the same text: the captions of the train split with their keywords, and WordNet's nouns as
captions without a picture. In the paired row the latter come through ReAlign, so that it too has words for what no
train picture shows.

The choice is raw, by likelihood per token, or calibrated, by pointwise mutual information: what the picture adds to a
caption's log-likelihood, whose marginal is averaged over other held-out pictures.

The last lines of the table need no language model: what the dual encoder's own cosine chooses, and where that is lost
on the way to the language model.

Every run is one file under `results/`; what is there is not run again, so the command can be stopped at any time.
`docs/results/` receives the table of all main rows, or of all rows; `--docs` that of any.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from study import ABLATION_ROWS, MAIN_ROWS, MORE_ROWS, NOISES, Bed, Settings, Study

from hf_modalbridge import demo
from hf_modalbridge.evaluation import student_interval

ALL_ROWS = (*MAIN_ROWS, *MORE_ROWS, *ABLATION_ROWS)


def table(results: dict[str, list[dict[str, Any]]], ceilings: dict[str, float]) -> str:
    """Write the results as a Markdown table."""
    lines = [
        "| stands in for the picture in training | negative log-likelihood of the true caption, per token | 10-way "
        "choice, raw | 10-way choice, calibrated | centroid gap | input noise | learning rate |",
        "|---|---|---|---|---|---|---|",
    ]
    for row, runs in results.items():
        cells = [
            f"{m:.3f} ± {h:.3f}"
            for m, h in (student_interval([r[k] for r in runs]) for k in ("nll", "choice", "calibrated_choice"))
        ]
        gap = runs[0]["centroid_gap"]
        cells += ["" if gap is None else f"{gap:.3f}", f"{runs[0]['noise']:g}", f"{runs[0]['learning_rate']:g}"]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    lines += [f"| *{name}* | | | {choice:.3f} | | | |" for name, choice in ceilings.items()]
    return "\n".join(lines)


def differences(results: dict[str, list[dict[str, Any]]]) -> str:
    """Write what each row has more or less than no correction and than ReAlign, seed by seed, as a Markdown table.

    Runs of one seed start from the same weights and read the text in the same order, so their differences vary less
    than the rows do.
    """
    bases = [row for row in ("none", "realign") if row in results]
    measures = {
        "log-likelihood": ("nll", -1),
        "raw choice": ("choice", 1),
        "calibrated choice": ("calibrated_choice", 1),
    }
    heads = [f"{measure}, less `{base}`" for base in bases for measure in measures]
    lines = ["| row | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for row, runs in results.items():
        cells = []
        for base in bases:
            for key, sign in measures.values():
                both = zip(runs, results[base], strict=True)
                mean, half = student_interval([sign * (run[key] - other[key]) for run, other in both])
                cells.append("" if row == base else f"{mean:+.3f} ± {half:.3f}")
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def searched(searches: dict[str, dict[tuple[float, float], float]], rates: tuple[float, ...]) -> str:
    """Write what each row's knobs were chosen from as a Markdown table."""
    *others, first = rates
    heads = [f"noise {noise:g}" for noise in NOISES] + [f"chosen noise, learning rate {rate:g}" for rate in others]
    lines = [f"| row | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for row, tried in searches.items():
        noise, _ = min(tried, key=tried.__getitem__)
        knobs = [(n, first) for n in NOISES] + [(noise, rate) for rate in others]
        lines.append(f"| {row} | " + " | ".join(f"{tried[k]:.3f}" if k in tried else "" for k in knobs) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/reproduce"))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="rows run side by side, a core each")
    parser.add_argument("--language-model", default="small", choices=("small", "smollm2"))
    parser.add_argument("--seeds", type=int, default=5, help="runs a row on the test pictures, two at least")
    rows = parser.add_mutually_exclusive_group()
    rows.add_argument("--rows", nargs="*", default=list(MAIN_ROWS), choices=ALL_ROWS)
    rows.add_argument("--all", action="store_const", dest="rows", const=list(ALL_ROWS), help="all rows")
    parser.add_argument("--docs", type=Path, help="folder that receives the table")
    arguments = parser.parse_args()
    if arguments.seeds < 2:
        parser.error("an interval over seeds needs two at least: give --seeds 2 or more")
    logging.getLogger("transformers").setLevel(logging.ERROR)

    if arguments.language_model == "smollm2":
        bed = Bed(demo.language_model(), Settings(steps=300, references=64), (2e-3, 1e-3), items=300)
    else:
        from train_small_lm import build as build_small_lm

        bed = Bed(build_small_lm(arguments.output / "small-lm"), Settings())
    stores = demo.prepare_stores(arguments.output / "stores", nouns=True)
    study = Study(arguments.output, stores, bed, arguments.seeds)
    jobs = min(arguments.jobs, len(arguments.rows))
    torch.set_num_threads(1)
    with multiprocessing.get_context("spawn").Pool(jobs, torch.set_num_threads, (1,)) as pool:
        runs = pool.map(study.row, arguments.rows, chunksize=1)
    results = dict(zip(arguments.rows, runs, strict=True))
    items, asked = runs[0][0]["items"], tuple(arguments.rows)
    chosen = {MAIN_ROWS: "", ALL_ROWS: " --all"}.get(asked)
    folder = arguments.docs or (None if chosen is None else Path("docs/results"))
    command = f"python recipes/reproduce.py{' --rows ' + ' '.join(asked) if chosen is None else chosen}"
    if bed.items is not None:
        command += f" --language-model {arguments.language_model}"
    text = (
        f"# Ways to train a connector, {arguments.seeds} seeds each\n\n"
        f"Made by `{command} --seeds {arguments.seeds}`; the recipe says what the rows are. {items} held-out "
        f"pictures; mean ± half-width of the 95 % t-interval over seeds; chance is 0.100. Input noise of "
        f"{', '.join(f'{n:g}' for n in NOISES)} and learning rate of {', '.join(f'{r:g}' for r in bed.learning_rates)} "
        f"chosen for each row on the validation pictures.\n\n{table(results, study.ceilings('test'))}\n\n"
        "Differences of runs of the same seed (same first "
        f"weights, same order of the text), mean ± half-width over seeds; more is better:\n\n{differences(results)}\n\n"
        "What input noise and learning rate were chosen from: negative log-likelihood of the validation captions, one "
        f"seed, learning rate {bed.learning_rates[-1]:g} unless said otherwise; less is better:\n\n"
        f"{searched({row: study.search(row) for row in results}, bed.learning_rates)}\n\n"
        f"Settings: `{json.dumps(asdict(study.settings))}`.\n"
    )
    print("\n" + text)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        name = "corrections" if asked == ALL_ROWS else "reproduce"
        (folder / f"{name}{'-smollm2' * (bed.items is not None)}.md").write_text(text)


if __name__ == "__main__":
    main()
