"""Placeholder tokens: adding them to the tokenizer, and making room for them in the language model."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import AddedToken
from torch import nn
from transformers import PreTrainedModel

__all__ = ["add_placeholder", "fit_vocabulary"]


def add_placeholder(tokenizer: Any, token: str) -> int:
    """Make a token one indivisible id of the tokenizer.

    An unused special token that the tokenizer already has (SmolLM2's `<file_sep>`) needs no new row in the
    language model.

    Args:
        tokenizer: The tokenizer; changed if the token is new.
        token: The token.

    Returns:
        Its id.

    Raises:
        ValueError: If the token is the tokenizer's unknown, padding or other token in use, or text around it
            merges with it.
    """
    in_use = {
        str(getattr(tokenizer, name))
        for name in (
            "bos_token",
            "eos_token",
            "pad_token",
            "unk_token",
            "sep_token",
            "cls_token",
            "mask_token",
        )
        if getattr(tokenizer, name, None) is not None
    }
    if token in in_use:
        raise ValueError(
            f"placeholder token {token!r} already has a meaning for this tokenizer; choose another, such as "
            "'<|image|>', or an unused special token."
        )
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False)], special_tokens=True)
    token_id = tokenizer.convert_tokens_to_ids(token)
    ids = tokenizer(f"a {token}{token}b", add_special_tokens=False)["input_ids"]
    if ids.count(token_id) != 2:
        raise ValueError(
            f"placeholder token {token!r} does not stay whole in this tokenizer: two in a row became {ids}. Choose a "
            "string that occurs in no text, such as '<|image|>'."
        )
    return token_id


@torch.no_grad()
def fit_vocabulary(language_model: PreTrainedModel, size: int) -> None:
    """Grow the language model's vocabulary to at least `size`; new rows are the mean of the old ones.

    transformers draws new rows at random around that mean. Here they are exactly it, so that a bridge
    without its base model is rebuilt bit by bit. Zero rows would not do: a logit of 0 can be far above all others.

    Args:
        language_model: Changed in place.
        size: Number of ids needed.
    """
    old = language_model.get_input_embeddings().weight.shape[0]
    if size <= old:
        return
    language_model.resize_token_embeddings(size, mean_resizing=False)
    head = language_model.get_output_embeddings()
    embeddings = language_model.get_input_embeddings()
    tensors = [embeddings.weight]
    if isinstance(head, nn.Module):
        tensors += [t for t in (head.weight, getattr(head, "bias", None)) if t is not None]
    for tensor in {id(t): t for t in tensors}.values():
        if tensor.shape[0] == size:
            tensor[old:] = tensor[:old].float().mean(0).to(tensor.dtype)
    for module in (embeddings, head):
        if module is not None:
            module._is_hf_initialized = True
