"""What a training run is: the loop's settings, the two stages, and the whole recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

__all__ = [
    "BridgeOptions",
    "LanguageModelOptions",
    "LoopConfig",
    "LoraOptions",
    "RevisionConfig",
    "Stage1Config",
    "Stage2Config",
    "WarmStartOptions",
]


@dataclass
class LoopConfig:
    """Settings of the training loop, the same for every recipe.

    Args:
        learning_rate: Peak learning rate of AdamW.
        schedule: Shape of the learning rate after the warm-up.
        warmup_ratio: Share of the steps that warm up linearly; `warmup_steps`, if given, wins.
        warmup_steps: Number of warm-up steps.
        weight_decay: Decay of matrices; vectors and biases have none.
        betas: AdamW's two averages.
        eps: AdamW's epsilon.
        max_grad_norm: Gradients are scaled down to this norm; None leaves them.
        per_device_batch_size: Rows of one forward pass on one process.
        gradient_accumulation_steps: Forward passes a process adds up for one step.
        max_steps: Optimizer steps; None takes `epochs`.
        epochs: Passes over the data, rounded up to whole steps; the last step goes on into the next pass.
        seed: Seed of the order, the initial connector and the noise.
        mixed_precision: `bf16` runs forward passes under autocast; None follows the launcher.
        gradient_checkpointing: Recompute activations of the language model in the backward pass.
        bucket_steps: Steps whose rows are sorted by length together to save padding; 0 does not.
        num_workers: Worker processes that read and collate; 0 does it in the main process.
        save_steps: Steps between checkpoints; 0 writes one at the end only.
        total_limit: Checkpoints kept.
        eval_steps: Steps between evaluations of the held-out loss; 0 evaluates at the end only.
        eval_batch_size: Rows of one held-out forward pass; None takes `per_device_batch_size`.
        resume: `auto` goes on from the newest checkpoint in the output directory, `never` refuses if there is one.
        trackers: Of accelerate: `tensorboard`, `trackio`, `wandb`, ...
        progress: Show a progress bar.
    """

    learning_rate: float
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_ratio: float = 0.03
    warmup_steps: int | None = None
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    max_grad_norm: float | None = 1.0
    per_device_batch_size: int = 8
    gradient_accumulation_steps: int = 1
    max_steps: int | None = None
    epochs: float = 1.0
    seed: int = 0
    mixed_precision: Literal["no", "bf16"] | None = None
    gradient_checkpointing: bool = False
    bucket_steps: int = 16
    num_workers: int = 0
    save_steps: int = 0
    total_limit: int = 2
    eval_steps: int = 0
    eval_batch_size: int | None = None
    resume: Literal["auto", "never"] = "auto"
    trackers: list[str] = field(default_factory=list)
    progress: bool = True


@dataclass
class LanguageModelOptions:
    """The causal language model that the bridge is built on.

    Args:
        id: Hub repository or directory.
        revision: Branch, tag or commit of the repository.
        dtype: Precision of its frozen weights; what trains is kept in float32.
        attn_implementation: `sdpa`, `eager`, `flash_attention_2`; None lets transformers choose.
        trust_remote_code: Whether code that comes with the checkpoint may run.
    """

    id: str
    revision: str | None = None
    dtype: Literal["float32", "bfloat16", "auto"] = "auto"
    attn_implementation: str | None = None
    trust_remote_code: bool = False


@dataclass
class BridgeOptions:
    """One modality of the bridge.

    Args:
        modality: Its name, `image` for instance.
        correction: Directory or Hub repository of the fitted correction; None normalises only.
        encoder: Hub repository or directory of the encoder that goes into the finished model; None leaves it
            out, and the model then reads embeddings only. It is never in memory while training.
        encoder_revision: Branch, tag or commit of the encoder.
        connector_type: `mlp2x_gelu`, `linear`, or another that the package knows.
        connector_hidden_size: Width of the connector's hidden layer; None takes the language model's.
        num_tokens: Tokens that an item becomes.
        token_mode: `repeat` gives the same token `num_tokens` times, `distinct` different ones.
        constant_prompt: Learned constant tokens before them.
        input_noise: Noise on the connector's input in stage 1, see `ModalityConfig`; stage 2 sees real embeddings and
            gets none.
        placeholder_token: Token that stands for the modality in prompts; None chooses one.
    """

    modality: str
    correction: str | None = None
    encoder: str | None = None
    encoder_revision: str | None = None
    connector_type: str = "mlp2x_gelu"
    connector_hidden_size: int | None = None
    num_tokens: int = 4
    token_mode: Literal["repeat", "distinct"] = "repeat"
    constant_prompt: int = 0
    input_noise: float = 0.0
    placeholder_token: str | None = None


@dataclass
class WarmStartOptions:
    """Closed-form start of the connector.

    Args:
        ridge: Penalty, as a share of the mean squared activation.
        rows: Rows it is fitted on; None takes all.
    """

    ridge: float = 0.1
    rows: int | None = 20000


@dataclass
class Stage1Config:
    """Modality-substitution pre-training: the connector alone, on text.

    Args:
        store: Embedding store with a text column.
        loop: Settings of the loop.
        embeddings: `text` are moved by the correction as the model reads them; `modality` are real ones (the
            paired upper reference).
        text_column: Column that holds the captions.
        held_out_store: Store of the held-out loss, of the same kind; None splits off `held_out_rows`.
        held_out_embeddings: Kind of the held-out store; None takes `embeddings`.
        held_out_rows: Rows split off the end of a seeded permutation when there is no held-out store.
        max_length: Longest caption in tokens.
        warm_start: Closed-form start of the connector; None starts it at random.
    """

    store: str
    loop: LoopConfig
    embeddings: Literal["text", "modality"] = "text"
    text_column: str = "text"
    held_out_store: str | None = None
    held_out_embeddings: Literal["text", "modality"] | None = None
    held_out_rows: int = 0
    max_length: int = 128
    warm_start: WarmStartOptions | None = None


@dataclass
class LoraOptions:
    """Low-rank adapters of the language model, merged into it at the end.

    Args:
        r: Rank.
        alpha: Scale, divided by the rank.
        dropout: Dropout before the adapters.
        target_modules: `all-linear`, a regular expression, or module names.
    """

    r: int = 16
    alpha: int = 32
    dropout: float = 0.0
    target_modules: str | list[str] = "all-linear"


@dataclass
class Stage2Config:
    """Instruction tuning on real embeddings: connector and language model.

    Args:
        chats: JSONL file of `{"id": ..., "messages": [...]}`; a content item `{"type": modality}` takes the
            store's row of that id, `{"type": modality, "id": ...}` the row of another.
        stores: Embedding store of every modality that the chats mention.
        loop: Settings of the loop.
        language_model: `lora`, `full`, or `frozen`.
        lora: Of `lora`.
        connector_learning_rate: None takes the loop's.
        held_out_chats: JSONL file of the held-out loss; None splits off `held_out_rows`.
        held_out_rows: Chats split off the end of a seeded permutation when there is no held-out file.
        max_length: Longest chat in tokens; longer ones are cut at the end.
        lazy_tokenization: Tokenize when a row is first read, not before training; for large sets with workers.
        start_from: Model directory to start from; None takes stage 1's product.
    """

    chats: str
    stores: dict[str, str]
    loop: LoopConfig
    language_model: Literal["lora", "full", "frozen"] = "lora"
    lora: LoraOptions = field(default_factory=LoraOptions)
    connector_learning_rate: float | None = None
    held_out_chats: str | None = None
    held_out_rows: int = 0
    max_length: int = 2048
    lazy_tokenization: bool = False
    start_from: str | None = None


@dataclass
class RevisionConfig:
    """Both stages of the unpaired route (ReVision, arXiv 2602.07026).

    Args:
        output_dir: `stage1/` and `stage2/` go in here: checkpoints, logs, and `model/`, the product.
        language_model: The language model.
        bridge: The modality.
        stage1: None leaves it out.
        stage2: None leaves it out.
    """

    output_dir: str
    language_model: LanguageModelOptions
    bridge: BridgeOptions
    stage1: Stage1Config | None = None
    stage2: Stage2Config | None = None
