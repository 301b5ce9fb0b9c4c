"""Chats as text: content lists flattened for any chat template, and the spans of it that are answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["PLAIN_TEMPLATE", "FlatChat", "answer_spans", "flatten_chat", "span_labels"]

# For language models that come without a chat template.
PLAIN_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'assistant' -%}Assistant: {{ message['content'] }}{{ eos_token }}\n"
    "{%- else -%}{{ message['role'] | capitalize }}: {{ message['content'] }}\n{%- endif -%}{{ '\n' }}"
    "{%- endfor -%}{%- if add_generation_prompt -%}Assistant:{%- endif -%}"
)


@dataclass
class FlatChat:
    """One conversation with string contents, and what its content items carried.

    Args:
        messages: `[{"role", "content": str}]`, one placeholder token for each item.
        items: `{modality: [(kind, value)]}` in reading order; kind is `raw`, `embeds`, `imagine` or `bare`.
    """

    messages: list[dict[str, Any]] = field(default_factory=list)
    items: dict[str, list[tuple[str, Any]]] = field(default_factory=dict)


def flatten_chat(conversation: Sequence[Mapping[str, Any]], placeholders: Mapping[str, str]) -> FlatChat:
    """Flatten the content lists of one conversation.

    Args:
        conversation: Messages; a content is a string or a list of items `{"type": "text", "text": ...}`,
            `{"type": modality, modality or "path": raw item}`, `{"type": modality, "embedding": vector}`,
            `{"type": modality, "imagine": text}` or `{"type": modality}`, whose item is passed beside the
            chat.
        placeholders: Placeholder token by modality.

    Returns:
        The flat conversation.

    Raises:
        ValueError: If a text contains a placeholder token, or an item's type is unknown.
    """
    flat = FlatChat()
    for number, message in enumerate(conversation):
        content = message.get("content")
        if isinstance(content, str) or content is None:
            text = _checked(content or "", placeholders, number)
        else:
            text = "".join(_flatten_item(item, placeholders, flat, number) for item in content)
        flat.messages.append({**message, "content": text})
    return flat


def _flatten_item(item: Mapping[str, Any], placeholders: Mapping[str, str], flat: FlatChat, number: int) -> str:
    kind = item.get("type")
    if kind == "text":
        return _checked(item["text"], placeholders, number)
    if kind not in placeholders:
        raise ValueError(
            f"message {number} has a content item of type {kind!r}; this processor knows 'text', "
            f"{', '.join(map(repr, placeholders))}."
        )
    for key, route in (("embedding", "embeds"), ("imagine", "imagine"), (kind, "raw"), ("path", "raw")):
        if item.get(key) is not None:
            flat.items.setdefault(kind, []).append((route, item[key]))
            break
    else:
        flat.items.setdefault(kind, []).append(("bare", None))
    return placeholders[kind]


def _checked(text: str, placeholders: Mapping[str, str], number: int) -> str:
    """Return the text, unless somebody typed a placeholder into it."""
    for name, token in placeholders.items():
        if token in text:
            raise ValueError(
                f"the text of message {number} contains the placeholder token {token!r} of modality "
                f"{name!r}: "
                f"{text[:80]!r}. It would be read as an item. Remove it from the text, and give items as "
                "content "
                f"items {{'type': {name!r}, ...}}."
            )
    return text


def answer_spans(
    messages: Sequence[Mapping[str, Any]], render: Callable[[list[Any], bool], str], eos_token: str | None
) -> tuple[str, list[tuple[int, int]]]:
    """Render a conversation and find the characters that the assistant wrote.

    The span of an answer is what message i adds to the rendering of the messages before it with a generation
    prompt: exactly what the model has to write at inference, the end-of-turn token included.

    Args:
        messages: With string contents.
        render: `(messages, add_generation_prompt) -> text`.
        eos_token: End-of-sequence token; blanks that a template puts after it are left out of the span.

    Returns:
        The rendered text, and `[start, end)` for each answer.

    Raises:
        ValueError: If the template edits earlier turns, so that answers cannot be located.
    """
    messages = list(messages)
    full = render(messages, False)
    spans = []
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before, after = render(messages[:i], True), render(messages[: i + 1], False)
        if not after.startswith(before) or not full.startswith(after):
            other, where = (after, "message") if not after.startswith(before) else (full, "whole conversation")
            start = after if where == "whole conversation" else before
            at = next((k for k, (a, b) in enumerate(zip(start, other, strict=False)) if a != b), len(other))
            raise ValueError(
                "this chat template lacks the prefix property that labels need: its text up to answer "
                f"{i} is not how the text of the {where} begins (they part at character {at}: "
                f"{start[at : at + 40]!r} against "
                f"{other[at : at + 40]!r}). Templates that strip or rewrite earlier turns (reasoning, "
                "dates) do this. Train on "
                "conversations with one answer, or give the processor a training template: "
                "processor.chat_template = ..."
            )
        end = len(after)
        stripped = after.rstrip()
        if eos_token and stripped.endswith(eos_token) and len(stripped) > len(before):
            end = len(stripped)
        spans.append((len(before), end))
    return full, spans


def span_labels(
    ids: Sequence[int], offsets: Sequence[tuple[int, int]], text: str, spans: Sequence[tuple[int, int]]
) -> list[int]:
    """Label the tokens that lie in the spans.

    Args:
        ids: Token ids of one text.
        offsets: Characters `[start, end)` of each token.
        text: The text.
        spans: Characters to learn, in order.

    Returns:
        Ids inside the spans, -100 elsewhere. A token across the edge counts if any of its characters inside
        is not blank.
    """
    labels = [-100] * len(ids)
    spans = list(spans)
    current = 0
    for position, (start, end) in enumerate(offsets):
        while current < len(spans) and start >= spans[current][1]:
            current += 1
        if current == len(spans):
            break
        left, right = max(start, spans[current][0]), min(end, spans[current][1])
        whole = start >= spans[current][0] and end <= spans[current][1]
        if left < right and (whole or text[left:right].strip()):
            labels[position] = ids[position]
    return labels
