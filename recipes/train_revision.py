"""Train a bridge without paired data (ReVision): stage 1 on text, stage 2 on chats about real embeddings.

Needs `pip install "hf-modalbridge[train]"`. Tested, with small stores and a small language model in place of those that
the configuration names, as:

    accelerate launch --config_file recipes/accelerate/cpu1.yaml recipes/train_revision.py \
        --config recipes/configs/smoke.yaml --stage1.loop.max_steps 20

Any key of the YAML file can be given as `--key value`, `--key=value` or `key=value`, dots for nested keys. A
run that was stopped goes on from its newest checkpoint when the same command is given again. Products:
`OUTPUT/stage1/model` and `OUTPUT/stage2/model`, which `AutoModel.from_pretrained` loads; losses by step in
`OUTPUT/stage*/losses.jsonl`.
"""

from __future__ import annotations

import argparse

from hf_modalbridge.training import RevisionConfig, load_config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="YAML file, see recipes/configs/")
    arguments, overrides = parser.parse_known_args()
    config = load_config(RevisionConfig, arguments.config, overrides)
    # only now what takes seconds to import: a mistake in the configuration shows at once
    from accelerate import PartialState

    from hf_modalbridge.training import run_revision

    results = run_revision(config)
    if PartialState().is_main_process:
        for name, result in results.items():
            last = result.training.rows[-1]
            held_out = result.training.held_out_loss
            print(
                f"{name}: {result.training.steps} steps on {PartialState().num_processes} process(es), loss "
                f"{last['loss']:.4f}, held-out loss {'not measured' if held_out is None else f'{held_out:.4f}'}, model "
                f"in {result.model_dir}"
            )


if __name__ == "__main__":
    main()
