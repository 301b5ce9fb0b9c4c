"""One way to embed items with any dual encoder: `get_<modality>_features`, then unit rows."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from hf_modalbridge.encoders.image_processing import flatten_on_white, read_image
from hf_modalbridge.encoders.registry import class_modalities

__all__ = ["encode", "encode_tokens", "encoder_dim", "prepare_items", "readable_modalities"]

_DIM_NAMES = ("embedding_dim", "projection_dim", "hidden_dim", "hidden_size")


def readable_modalities(model: nn.Module) -> tuple[str, ...]:
    """List the modalities that a model embeds.

    Args:
        model: An encoder.

    Returns:
        Names, text last: for CLIP `("image", "text")`.
    """
    return class_modalities(type(model))


def encoder_dim(config: PreTrainedConfig | Mapping[str, Any]) -> int:
    """Read the width of an encoder's embeddings from its config.

    Args:
        config: The config, or its dict.

    Returns:
        The dimension of what `encode` gives.

    Raises:
        ValueError: If the config does not say.
    """

    def get(source: Any, name: str) -> Any:
        return source.get(name) if isinstance(source, Mapping) else getattr(source, name, None)

    text = get(config, "text_config")
    # SigLIP has no shared projection: its text head's width is the shared one, and its own `projection_dim`
    # would be an attribute that does not exist
    if str(get(config, "model_type")).startswith("siglip") and text is not None:
        dim = get(text, "projection_size") or get(text, "hidden_size")
    else:
        dim = next((get(config, name) for name in _DIM_NAMES if get(config, name)), None)
    if not isinstance(dim, int):
        raise ValueError(
            f"the config of encoder {get(config, 'model_type')!r} names no embedding width; expected one of "
            f"{', '.join(_DIM_NAMES)}. Add `embedding_dim` to it."
        )
    return dim


def encode(model: nn.Module, modality: str, inputs: Mapping[str, Any], normalize: bool = True) -> Tensor:
    """Embed prepared items.

    Gradients flow if they are on; embed under `torch.inference_mode()` when none are wanted.

    Args:
        model: An encoder with `get_<modality>_features`.
        modality: "image", "text", "audio" or whatever else the model reads.
        inputs: Keyword arguments of that method, such as `pixel_values`; keys that it does not take
            (`token_type_ids` for CLIP) are left out.
        normalize: Whether to scale rows to unit norm.

    Returns:
        `(items, dim)` float32. Float32 also for a model in bfloat16: a correction subtracts a mean that is
        most of a row's length, and bfloat16 would keep two digits of the rest.

    Raises:
        ValueError: If the model does not read the modality, takes none of the inputs, or gives something
            other than one row an item.
    """
    method = getattr(model, f"get_{modality}_features", None)
    if method is None:
        raise ValueError(
            f"{type(model).__name__} does not read {modality!r}; it has get_<modality>_features for: "
            f"{', '.join(readable_modalities(model)) or 'nothing'}. Use one of those or another encoder."
        )
    accepted = _accepted_inputs(method, inputs)
    if not accepted:
        raise ValueError(
            f"{type(model).__name__}.get_{modality}_features takes none of the inputs {sorted(inputs)}; expected "
            f"{[name for name in inspect.signature(method).parameters if name != 'kwargs']}."
        )
    features = method(**accepted)
    # transformers 5 gives an output object whose pooler_output is projected; before, and elsewhere, a tensor
    if not isinstance(features, Tensor):
        features = features[1] if isinstance(features, tuple) and len(features) > 1 else features.pooler_output
    if features.ndim != 2:
        raise ValueError(
            f"{type(model).__name__}.get_{modality}_features gave a tensor of shape {tuple(features.shape)}; expected "
            "(items, dim). Pool its tokens in that method."
        )
    features = features.float()
    return nn.functional.normalize(features, dim=-1) if normalize else features


def encode_tokens(model: nn.Module, modality: str, inputs: Mapping[str, Any], num_tokens: int) -> Tensor:
    """Give the token features of prepared items, before any pooling.

    They are the `last_hidden_state` of what `get_<modality>_features` returns, or, where that gives a bare tensor, of
    the model's forward pass, if the modality is all that the model reads. For `num_tokens=1` it is the pooled embedding
    as one token.

    Args:
        model: An encoder with `get_<modality>_features`.
        modality: What the items are.
        inputs: See `encode`.
        num_tokens: Tokens that are expected.

    Returns:
        `(items, num_tokens, dim)` float32.

    Raises:
        ValueError: If the encoder does not read the modality, gives no tokens, or another number of them.
    """
    if num_tokens == 1:
        return encode(model, modality, inputs, normalize=False)[:, None]
    method = getattr(model, f"get_{modality}_features", None)
    # the forward pass of a model of one modality has the tokens; of several, each method has to give its own
    source = model.forward if readable_modalities(model) == (modality,) else method
    output = None if source is None or method is None else source(**_accepted_inputs(source, inputs))
    tokens = output if isinstance(output, Tensor) else getattr(output, "last_hidden_state", None)
    if tokens is None or tokens.ndim != 3 or tokens.shape[1] != num_tokens:
        found = "no tokens" if tokens is None else f"a tensor of shape {tuple(tokens.shape)}"
        raise ValueError(
            f"{type(model).__name__} gave {found} for {modality!r}; expected (items, {num_tokens}, dim). Its "
            f"get_{modality}_features has to return a last_hidden_state of that many tokens, whatever the item."
        )
    return tokens.float()


def _accepted_inputs(method: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out inputs that the method does not name: its `**kwargs` go on to layers that would refuse them."""
    named = inspect.signature(method).parameters
    return {key: value for key, value in inputs.items() if key in named and value is not None}


def prepare_items(
    processor: Any, modality: str, items: Sequence[Any], config: PreTrainedConfig | None = None, **kwargs: Any
) -> dict[str, Tensor]:
    """Turn raw items into the inputs of `encode`.

    Args:
        processor: The encoder's processor, or only its tokenizer, image processor or feature extractor.
        modality: What the items are.
        items: Texts; pictures (see `read_image`; transparent parts become white); sounds as arrays or
            `{"array": ..., "sampling_rate": ...}`; anything that the processor takes for another modality.
        config: The encoder's config, for its longest text.
        **kwargs: Given to the processor.

    Returns:
        Tensors, one row an item.

    Raises:
        ValueError: If there are no items, or the processor cannot take the modality.
        TypeError: If an item of a text batch is not a string.
    """
    items = list(items)
    if not items:
        raise ValueError(f"got no {modality} items to prepare; give at least one.")
    if modality == "text":
        return _prepare_texts(processor, items, config, kwargs)
    if modality == "image":
        image_processor = getattr(processor, "image_processor", processor)
        if not hasattr(image_processor, "image_mean") and not hasattr(image_processor, "preprocess"):
            raise ValueError(
                f"{type(processor).__name__} prepares no images; load the encoder's full processor "
                "(AutoProcessor falls back to a tokenizer when the processor's class is unknown)."
            )
        images = [flatten_on_white(read_image(item)) for item in items]
        return dict(image_processor(images=images, return_tensors="pt", **kwargs))
    if modality == "audio":
        extractor = getattr(processor, "feature_extractor", processor)
        rates = {item.get("sampling_rate") for item in items if isinstance(item, Mapping)}
        if rates - {None, extractor.sampling_rate}:
            raise ValueError(
                f"got audio sampled at {sorted(rates)} Hz; {type(extractor).__name__} expects "
                f"{extractor.sampling_rate} Hz. Resample it first."
            )
        arrays = [item["array"] if isinstance(item, Mapping) else item for item in items]
        return dict(extractor(arrays, sampling_rate=extractor.sampling_rate, return_tensors="pt", **kwargs))
    parameters = inspect.signature(processor.__call__).parameters
    name = next((name for name in (modality, f"{modality}s") if name in parameters), None)
    prepared = (
        processor(**{name: items}, return_tensors="pt", **kwargs)
        if name
        else processor(items, return_tensors="pt", **kwargs)
    )
    return dict(prepared)


def _prepare_texts(processor: Any, texts: list[Any], config: Any, kwargs: dict[str, Any]) -> dict[str, Tensor]:
    """Tokenize texts as the encoder was trained on them."""
    wrong = [type(text).__name__ for text in texts if not isinstance(text, str)]
    if wrong:
        raise TypeError(f"got {wrong[0]} among the texts; expected strings only.")
    tokenizer = getattr(processor, "tokenizer", processor)
    text_config = getattr(config, "text_config", config)
    positions = getattr(text_config, "max_position_embeddings", None) or 512
    if "roberta" in str(getattr(text_config, "model_type", "")) or "clap" in str(
        getattr(text_config, "model_type", "")
    ):
        positions -= 2  # RoBERTa's positions start after its padding id
    longest = min(tokenizer.model_max_length, positions)
    # SigLIP was trained on texts padded to its full length and has no attention mask: a shorter batch gives other
    # embeddings
    fixed = str(getattr(config, "model_type", "")).startswith("siglip") or type(processor).__name__.startswith("Siglip")
    if fixed and config is None:
        longest = min(longest, 64)
    options = {
        "padding": "max_length" if fixed else True,
        "truncation": True,
        "max_length": longest,
        "return_tensors": "pt",
    }
    prepared = dict(tokenizer(texts, **{**options, **kwargs}))
    if fixed:
        prepared.pop("attention_mask", None)
    return prepared


def move_inputs(inputs: Mapping[str, Any], device: torch.device | str) -> dict[str, Any]:
    """Move prepared items to a device.

    Args:
        inputs: Tensors by name; other values stay as they are.
        device: Where to.

    Returns:
        The moved inputs.
    """
    return {key: value.to(device) if isinstance(value, Tensor) else value for key, value in inputs.items()}
