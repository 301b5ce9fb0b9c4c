"""Training a connector for a visitor's table, beside a language model that stays as it is."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from hf_modalbridge.corrections import AutoCorrection, NoCorrection

from .tables import Table
from .uploads import Refused

__all__ = ["AskedRows", "Lesson", "borrow", "held_out_losses", "prepare_lesson", "say", "teach"]

NAME = "item"
QUESTION = "What is this? Answer in a few words."
_BATCH = 8
_LONGEST = 160
_FEWEST = 40
_MOST_HELD_OUT = 100
_MEASURED = 32


class AskedRows:
    """Rows as chats: a question about an embedding, and its caption as the answer.

    A language model that was tuned on chats writes captions there from the first step on, and has only to learn to
    read; rows are tokenized when they are taken, for in two minutes few are.

    Args:
        embeddings: `(rows, dim)`.
        captions: One a row.
        processor: Of the model with the new connector.
        kind: `embeds`, or `imagine_embeds` for text embeddings that the correction is to move.
    """

    def __init__(self, embeddings: np.ndarray, captions: list[str], processor: Any, kind: str = "embeds") -> None:
        self.embeddings, self.captions, self.processor = embeddings, captions, processor
        self.argument = {"embeds": f"{NAME}_embeds", "imagine_embeds": f"imagine_{NAME}_embeds"}[kind]

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, row: int) -> int:
        return int(row)

    def collate(self, rows: list[int]) -> dict[str, Any]:
        """Make a batch.

        Args:
            rows: Their numbers.

        Returns:
            `input_ids`, `attention_mask`, `labels`, `modality_inputs` and `ids`.
        """
        chats = [[*_asked(), {"role": "assistant", "content": self.captions[row]}] for row in rows]
        batch = self.processor.apply_chat_template(
            chats, tokenize=True, return_dict=True, return_labels=True, max_length=_LONGEST,
            **{self.argument: self.embeddings[rows]},
        )  # fmt: skip
        return {**batch, "ids": [str(row) for row in rows]}


def _asked(embedding: np.ndarray | None = None) -> list[dict[str, Any]]:
    item = {"type": NAME} if embedding is None else {"type": NAME, "embedding": torch.from_numpy(embedding)}
    return [{"role": "user", "content": [item, {"type": "text", "text": QUESTION}]}]


@dataclass
class Lesson:
    """A connector that learns a table.

    Args:
        table: Rows to train on.
        held_out: Rows that it never sees.
        paired: Whether it learns from the rows' own embeddings, or from those of their captions.
        model: A bridge with a new connector, around the shared weights of the language model.
        processor: Its processor.
        dataset: The rows as it sees them.
        rows: Loss of each step so far.
        total: Steps that it will take.
        explained: Share of the variance that the connector's closed-form start explains.
    """

    table: Table
    held_out: Table
    paired: bool
    model: Any = field(repr=False)
    processor: Any = field(repr=False)
    dataset: AskedRows = field(repr=False)
    rows: list[dict[str, Any]] = field(default_factory=list, repr=False)
    total: int = 0
    explained: float = 0.0


def borrow(model: nn.Module) -> Any:
    """Copy a model's structure around the very same frozen weights.

    What is done to the copy (a larger vocabulary, another attention, autocast) is not done to the model, and its
    weights take no memory of their own; they must not be trained.

    Args:
        model: Any module.

    Returns:
        The copy, with nothing that trains.
    """
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.data, requires_grad=False)
    for buffer in model.buffers():
        memo[id(buffer)] = buffer
    return copy.deepcopy(model, memo)


def prepare_lesson(table: Table, shared: Any, processor: Any, paired: bool, correction: str = "realign") -> Lesson:
    """Make a new connector for a table, and start it in closed form.

    Args:
        table: The rows.
        shared: A `ModalBridgeForConditionalGeneration` whose language model is read; it is left as it is.
        processor: Its processor.
        paired: Whether to learn from pairs; else from the captions' embeddings, moved by a correction.
        correction: Type of the correction.

    Returns:
        The lesson, ready for `teach`.

    Raises:
        Refused: If there are too few rows, or text alone is asked for and there are no text embeddings.
    """
    from hf_modalbridge.models import ModalBridgeForConditionalGeneration
    from hf_modalbridge.training import train_only, warm_start_connector

    if len(table) < _FEWEST:
        raise Refused(f"“{table.name}” has {len(table)} rows; give {_FEWEST} or more.")
    if not paired and table.text_embeddings is None:
        raise Refused(
            "Learning from text alone needs the captions' embeddings too, by the text side of the same contrastive "
            "encoder, in a column “text_embedding”. This table has none; choose pairs."
        )
    train, held_out = _split(table)
    kind = AutoCorrection.from_type(correction)
    if paired:  # nothing is moved; the statistics standardise the connector's input
        fitted: Any = NoCorrection.fit(train.embeddings, train.embeddings)
    else:
        fitted = kind.fit(train.text_embeddings, train.embeddings)
    first = next(iter(shared.config.modalities.values()))
    if any(first.placeholder_token in caption for caption in train.captions):
        raise Refused(f"A caption holds {first.placeholder_token!r}, which stands for an item here. Take it out.")
    language_model = borrow(shared.language_model)
    if len(train) and language_model.device.type == "cpu":
        language_model.set_attn_implementation("eager")  # its backward pass takes half the time of the fused one
    parts = {
        "embedding_dim": train.embeddings.shape[1],
        "correction": fitted,
        "connector_hidden_size": 512,
        "num_tokens": 4,
        "token_mode": "distinct",
        "constant_prompt": 2,
        "input_noise": 0.0 if paired else 1.0,
        "placeholder_token": first.placeholder_token,
    }
    try:
        model, own = ModalBridgeForConditionalGeneration.from_components(
            language_model=language_model,
            tokenizer=copy.deepcopy(processor.tokenizer),
            modalities={NAME: parts},
            seed=0,
        )
        rows, how = (train.embeddings, "embeds") if paired else (train.text_embeddings, "imagine_embeds")
        dataset = AskedRows(rows, train.captions, own, how)  # type: ignore[arg-type]
        dataset.collate(list(range(len(dataset)))[:256])  # what a template or tokenizer refuses, it refuses here
    except ValueError as error:
        raise Refused(str(error)) from error
    train_only(model, [model.model.connectors[NAME]])
    explained = warm_start_connector(model, NAME, dataset, dataset.collate, ridge=0.1, rows=1000)
    return Lesson(train, held_out, paired, model, own, dataset, explained=explained)


def teach(lesson: Lesson, seconds: float, learning_rate: float = 3e-3, every: float = 0.7) -> Iterator[Lesson]:
    """Train for about so long, in a thread of its own; closing the iterator ends it after the step it is at.

    Two steps are timed first and taken back, for the learning rate has to know how many there will be.

    Args:
        lesson: What to learn; its `rows` grow.
        seconds: For how long.
        learning_rate: At its peak.
        every: Seconds between two reports.

    Yields:
        The lesson, each time that there is something new.

    Raises:
        FloatingPointError: If the loss is no number.
    """
    from hf_modalbridge.training import LoopConfig, train

    connector = lesson.model.model.connectors[NAME]
    start = {name: value.clone() for name, value in connector.state_dict().items()}
    stop, news, failure = threading.Event(), threading.Event(), list[Exception]()
    moving = [connector, lesson.model.model.corrections[NAME]]
    bf16 = lesson.model.dtype == torch.bfloat16

    def loop(steps: int) -> Any:
        return LoopConfig(
            learning_rate=learning_rate, max_steps=steps, per_device_batch_size=min(_BATCH, len(lesson.dataset)),
            weight_decay=0.01, mixed_precision="bf16" if bf16 else "no", warmup_ratio=0.05, progress=False,
        )  # fmt: skip

    def on_step(row: dict[str, Any]) -> bool:
        lesson.rows.append(row)
        news.set()
        return stop.is_set() or time.perf_counter() > deadline

    def work() -> None:
        nonlocal deadline
        try:
            began = time.perf_counter()
            train(
                lesson.model, lesson.dataset, lesson.dataset.collate, loop(2), train_modules=moving, on_step=stop_only
            )
            pace = max((time.perf_counter() - began) / 2, 1e-3)
            connector.load_state_dict(start)
            lesson.total = int(min(max((seconds - 2 * pace) / pace, 10), 600))
            # steps get slower when others come: the time is kept, and the last steps are missed then
            deadline = began + 1.25 * seconds + 2
            if not stop.is_set():
                train(
                    lesson.model, lesson.dataset, lesson.dataset.collate, loop(lesson.total), train_modules=moving,
                    on_step=on_step,
                )  # fmt: skip
        except Exception as error:  # it has to reach the thread that waits
            failure.append(error)
        finally:
            finished.set()
            news.set()

    def stop_only(row: dict[str, Any]) -> bool:
        return stop.is_set()

    deadline = float("inf")
    finished = threading.Event()
    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    try:
        while not finished.is_set():
            news.wait(every)
            time.sleep(0 if finished.is_set() else every)
            news.clear()
            yield lesson
    finally:
        stop.set()
        worker.join()
    if failure:
        raise failure[0]


@torch.inference_mode()
def held_out_losses(lesson: Lesson) -> tuple[float, float]:
    """Measure the connector on rows that it has not seen.

    Args:
        lesson: After `teach`.

    Returns:
        Nats per token of the captions, with their own embeddings, and with those of other rows: what lies between
        the two is what the model reads from the embedding.
    """
    from hf_modalbridge.training import held_out_loss

    rows, texts = lesson.held_out.embeddings[:_MEASURED], lesson.held_out.captions[:_MEASURED]
    found = []
    for values in (rows, np.roll(rows, len(rows) // 2, 0)):
        dataset = AskedRows(values, texts, lesson.processor)
        found.append(held_out_loss(lesson.model, dataset, dataset.collate, _BATCH))
    return found[0], found[1]


@torch.inference_mode()
def say(lesson: Lesson, row: int, max_new_tokens: int = 20) -> str:
    """Caption a held-out row from its embedding.

    Args:
        lesson: After `teach`.
        row: Which row.
        max_new_tokens: Longest caption.

    Returns:
        The likeliest caption, word by word.
    """
    inputs = lesson.processor.apply_chat_template(
        _asked(lesson.held_out.embeddings[row]), add_generation_prompt=True, tokenize=True, return_dict=True
    ).to(lesson.model.device)
    tokens = lesson.model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    text = lesson.processor.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return str(text.strip())


def _split(table: Table) -> tuple[Table, Table]:
    """Hold rows back, the same for the same table."""
    if table.held_out is not None:
        return table, table.held_out
    order = np.random.default_rng(0).permutation(len(table))
    kept = min(_MOST_HELD_OUT, max(8, len(table) // 10))
    return _rows(table, order[kept:]), _rows(table, order[:kept])


def _rows(table: Table, rows: np.ndarray) -> Table:
    texts = table.text_embeddings
    return Table(
        table.embeddings[rows],
        [table.captions[i] for i in rows],
        None if texts is None else texts[rows],
        table.name,
        None if table.ids is None else [table.ids[i] for i in rows],
    )
