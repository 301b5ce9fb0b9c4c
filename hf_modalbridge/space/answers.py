"""Answers word by word, from a model that all sessions share; an answer that nobody waits for is stopped."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from .uploads import Refused

__all__ = ["stream_answer"]


def stream_answer(
    model: Any,
    processor: Any,
    messages: Sequence[Mapping[str, Any]],
    max_new_tokens: int = 48,
    temperature: float = 0.0,
) -> Iterator[str]:
    """Generate an answer in a thread of its own, and give it as far as it goes.

    Closing the iterator stops the generation after the token that it is at.

    Args:
        model: `ModalBridgeForConditionalGeneration`.
        processor: Its processor.
        messages: The conversation.
        max_new_tokens: Longest answer.
        temperature: 0 takes the likeliest token each time.

    Yields:
        The answer so far.

    Raises:
        Refused: If the processor does not take the conversation.
    """
    from transformers import StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer

    try:
        inputs = processor.apply_chat_template(
            list(messages), add_generation_prompt=True, tokenize=True, return_dict=True
        ).to(model.device)
    except (ValueError, TypeError) as error:
        raise Refused(str(error)) from error
    stop = threading.Event()

    class Stopped(StoppingCriteria):
        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
            return torch.full((len(input_ids),), stop.is_set(), dtype=torch.bool, device=input_ids.device)

    streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    failure: list[Exception] = []
    sampling = {"do_sample": True, "temperature": float(temperature)} if temperature > 0 else {"do_sample": False}

    def generate() -> None:
        try:
            with torch.inference_mode():
                model.generate(
                    **inputs,
                    **sampling,
                    max_new_tokens=max_new_tokens,
                    streamer=streamer,
                    stopping_criteria=StoppingCriteriaList([Stopped()]),
                )
        except Exception as error:  # it has to reach the thread that waits
            failure.append(error)
            streamer.end()

    worker = threading.Thread(target=generate, daemon=True)
    worker.start()
    text = ""
    try:
        for piece in streamer:
            if piece:
                text += piece
                yield text.strip()
    finally:
        stop.set()
        worker.join()
    if failure:
        raise failure[0]
