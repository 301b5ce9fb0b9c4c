"""Items given to the processor: which route they take, and their checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .chat import FlatChat

__all__ = ["ItemArguments", "check_embeddings"]


def check_embeddings(embeddings: Any, dim: int, modality: str, tokens: int | None = None) -> Tensor:
    """Check embeddings that were computed elsewhere.

    Args:
        embeddings: `(items, dim)` array or tensor, or a list of vectors.
        dim: The modality's width.
        modality: Its name, for the messages.
        tokens: Of a modality that is read as token features: their number; items are `(tokens, dim)` or flattened.

    Returns:
        `(items, dim)`, or `(items, tokens * dim)`, floating tensor in its own dtype.

    Raises:
        ValueError: On another shape, or non-finite or zero rows, which are listed.
    """
    if not isinstance(embeddings, Tensor):
        if isinstance(embeddings, list | tuple) and len(embeddings) and isinstance(embeddings[0], Tensor):
            embeddings = torch.stack(list(embeddings))
        else:
            embeddings = torch.from_numpy(np.array(embeddings))  # a copy: memory maps are read-only
    if not embeddings.is_floating_point():
        embeddings = embeddings.float()
    if tokens is not None:
        flat = (
            embeddings.flatten(1)
            if embeddings.ndim == 3 and tuple(embeddings.shape[1:]) == (tokens, dim)
            else embeddings
        )
        dim, embeddings = tokens * dim, flat
    if embeddings.ndim != 2 or embeddings.shape[1] != dim:
        raise ValueError(
            f"embeddings of modality {modality!r} have shape {tuple(embeddings.shape)}, expected (items, {dim}). Are "
            "they from the encoder that this model was built on?"
        )
    largest = embeddings.abs().amax(1)  # NaN and infinity carry through
    bad = ~torch.isfinite(largest) | (largest == 0)
    if bad.any():
        raise ValueError(
            f"embeddings of modality {modality!r} have non-finite or zero rows: "
            f"{bad.nonzero().flatten().tolist()[:20]} of {len(embeddings)}. Embed these items again or leave them out."
        )
    return embeddings


class ItemArguments:
    """The items of one call, by modality and route.

    Args:
        items: `{modality: {route: items}}`; routes are `raw`, `embeds`, `imagine`, `imagine_embeds`.
    """

    def __init__(self, items: dict[str, dict[str, Any]]) -> None:
        self.items = items

    @classmethod
    def take(cls, modalities: Mapping[str, Any], kwargs: dict[str, Any]) -> ItemArguments:
        """Take the item arguments out of keyword arguments.

        Args:
            modalities: The processor's modalities.
            kwargs: Keyword arguments; those understood are removed.

        Returns:
            The items.
        """
        found: dict[str, dict[str, Any]] = {}
        for name in modalities:
            for key, route in (
                (name, "raw"),
                (f"{name}s", "raw"),
                (f"{name}_embeds", "embeds"),
                (f"imagine_{name}", "imagine"),
                (f"imagine_{name}s", "imagine"),
                (f"imagine_{name}_embeds", "imagine_embeds"),
            ):
                value = kwargs.pop(key, None)
                if value is not None:
                    found.setdefault(name, {})[route] = value if route.endswith("embeds") else _as_list(value)
        return cls(found)

    def add_chats(self, chats: Sequence[FlatChat]) -> None:
        """Add what the content items of chats carry.

        Raises:
            ValueError: If a chat both carries items and leaves some to be given beside it.
        """
        for chat in chats:
            for name, entries in chat.items.items():
                for route, value in entries:
                    if route != "bare":
                        self.items.setdefault(name, {}).setdefault(route, [])
                        if not isinstance(self.items[name][route], list):
                            raise ValueError(
                                f"items of modality {name!r} are given both in the chats and beside them; choose one."
                            )
                        self.items[name][route].append(value)
        for name in {name for chat in chats for name in chat.items}:
            needed = sum(len(chat.items.get(name, ())) for chat in chats)
            if self.count(name) != needed:
                raise ValueError(
                    f"the chats have {needed} content item(s) of type {name!r}, but {self.count(name)} item(s) were "
                    f"given. Put each into its content item ({name!r}, 'path', 'embedding' or 'imagine'), or all "
                    "beside the chats."
                )
        for name in self.items:
            if not any(name in chat.items for chat in chats):
                raise ValueError(
                    f"{self.count(name)} item(s) of {name!r} were given, but the chats have 0 such content items."
                )

    def count(self, modality: str) -> int:
        """Count the items of a modality."""
        return sum(len(values) for values in self.items.get(modality, {}).values())

    def prepare(
        self, modalities: Mapping[str, Any], encoder_processors: Mapping[str, Any]
    ) -> dict[str, dict[str, Any]]:
        """Make the model's `modality_inputs`.

        Args:
            modalities: The processor's modalities.
            encoder_processors: Processors of encoders, by modality.

        Returns:
            `{modality: {input name: tensor}}`.

        Raises:
            ValueError: If a modality's items take two routes, or raw items come without an encoder's processor.
        """
        prepared = {}
        for name, routes in self.items.items():
            if len(routes) > 1:
                raise ValueError(
                    f"items of modality {name!r} came as {', '.join(routes)}; use one kind in a call, or "
                    "make several calls."
                )
            ((route, values),) = routes.items()
            if route in ("embeds", "imagine_embeds"):
                spec = modalities[name]
                checked = check_embeddings(values, spec["embedding_dim"], name, spec.get("input_tokens"))
                prepared[name] = {route: checked}
                continue
            if name not in encoder_processors:
                raise ValueError(
                    f"modality {name!r} has no encoder processor here, so raw items cannot be prepared. Pass "
                    f"embeddings: {name}_embeds=... of width {modalities[name]['embedding_dim']}."
                )
            from hf_modalbridge.encoders import prepare_items

            inputs = prepare_items(encoder_processors[name], name if route == "raw" else "text", values)
            prepared[name] = inputs if route == "raw" else {f"imagine_{k}": v for k, v in inputs.items()}
        return prepared


def _as_list(value: Any) -> list[Any]:
    """One item or many, or a list for each prompt, as one flat list."""
    if not isinstance(value, list | tuple):
        return [value]
    if value and all(isinstance(part, list | tuple) for part in value):
        return [item for part in value for item in part]
    return list(value)
