"""The bridge itself: encoders, corrections and connectors around any causal language model."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils.generic import can_return_tuple

from .configuration_modalbridge import ModalBridgeConfig, ModalityConfig
from .connectors import Connector
from .merging import check_no_placeholders, merge_features
from .saving import SavingMixin

__all__ = ["ModalBridgeModel", "ModalBridgePreTrainedModel"]

_IMAGINE = "imagine_"


class ModalBridgePreTrainedModel(SavingMixin, PreTrainedModel):
    """What both models share: how weights are initialised, saved and loaded."""

    config: ModalBridgeConfig
    config_class = ModalBridgeConfig  # transformers would read the annotation, which is a string here
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["Connector"]  # children's lists are merged in post_init()
    _skip_keys_device_placement = ["past_key_values"]
    # the language model checks again whether it supports what is asked for
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def _init_weights(self, module: nn.Module) -> None:
        # The sub-models initialise themselves, and corrections hold buffers only, which a checkpoint must give.
        # Anything from torch that a connector class contains is the connector's own affair.
        if isinstance(module, Connector):
            module.init_weights(getattr(self.config.text_config, "initializer_range", None) or 0.02)


class ModalBridgeModel(ModalBridgePreTrainedModel):
    """Encoders, corrections and connectors by modality, and the language model whose prompt they fill in.

    Args:
        config: The configuration.
        language_model: A causal language model to use as it is; None builds one from `config.text_config`.
        encoders: Encoders to use as they are, by modality; the others are built from their configurations.
    """

    def __init__(
        self,
        config: ModalBridgeConfig,
        language_model: PreTrainedModel | None = None,
        encoders: Mapping[str, nn.Module] | None = None,
    ) -> None:
        super().__init__(config)
        # one dtype for all parts, that of the context from_pretrained sets up, whatever the parts' configs say
        dtype = torch.get_default_dtype()
        if language_model is None:
            from transformers import AutoModelForCausalLM  # not above: see _registration

            language_model = AutoModelForCausalLM.from_config(config.text_config, dtype=dtype)
        else:
            _mark_initialized(language_model)
        self.language_model = language_model  # first, so that `dtype` and `device` are its own
        hidden_size = language_model.get_input_embeddings().weight.shape[1]
        self.encoders = nn.ModuleDict()
        self.corrections = nn.ModuleDict()
        self.connectors = nn.ModuleDict()
        for name, modality in config.modalities.items():
            encoder = (encoders or {}).get(name)
            if encoder is not None:
                _mark_initialized(encoder)
            elif modality.encoder_config is not None:
                from hf_modalbridge.encoders import build_encoder

                encoder = build_encoder(modality.encoder_config, dtype=dtype)
            if encoder is not None:
                self.encoders[name] = encoder
            if modality.correction_config is not None:
                self.corrections[name] = _build_correction(modality, name)
            self.connectors[name] = Connector(modality, hidden_size)
        self.post_init()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load the body out of a whole model's files; see `SavingMixin.from_pretrained`."""
        from .modeling_modalbridge import ModalBridgeForConditionalGeneration

        # transformers cannot tell its own prefix "model" from the language model's, so the whole model is loaded
        want_report = kwargs.pop("output_loading_info", False)
        model, report = ModalBridgeForConditionalGeneration.from_pretrained(
            pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs
        )
        return (model.model, report) if want_report else model.model

    def get_input_embeddings(self) -> nn.Module:
        """Return the language model's token embeddings."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the language model's token embeddings."""
        self.language_model.set_input_embeddings(value)

    def embed(self, modality: str, **inputs: Any) -> Tensor:
        """Embed prepared items by the modality's encoder.

        Args:
            modality: Its name.
            **inputs: What its encoder takes, `pixel_values` for instance; the first axis is the items.

        Returns:
            `(items, embedding_dim)` float32, unit rows unless the modality is configured otherwise; with
            `input_tokens`, `(items, input_tokens, embedding_dim)`.

        Raises:
            ValueError: If the modality has no encoder in this model.
        """
        from hf_modalbridge.encoders import encode, encode_tokens

        config = self.config.modality(modality)
        encoder = self._encoder(modality)
        if config.input_tokens is not None:
            tokens = encode_tokens(encoder, modality, _move(inputs, encoder), config.input_tokens)
            return self._check_dim(tokens, modality)
        return self._check_dim(encode(encoder, modality, _move(inputs, encoder), config.normalize), modality)

    def imagine(self, modality: str, text_embeds: Tensor | None = None, **text_inputs: Any) -> Tensor:
        """Let text stand in for a modality: its embedding, moved by the correction.

        Args:
            modality: Name of the modality to imagine.
            text_embeds: `(items, embedding_dim)` text embeddings of the modality's own dual encoder.
            **text_inputs: Instead of them, what that encoder's text tower takes: `input_ids`, `attention_mask`.

        Returns:
            `(items, embedding_dim)`, unit rows.

        Raises:
            ValueError: If the modality has no correction, or none or both of the two inputs are given.
        """
        self.config.modality(modality)
        if modality not in self.corrections:
            raise ValueError(
                f"modality {modality!r} has no correction, so text cannot stand in for it. Fit one (ReAlign.fit) and "
                "build the model with it; NoCorrection passes text embeddings through unchanged."
            )
        if (text_embeds is None) == (not text_inputs):
            raise ValueError("imagine takes either text_embeds or the text tower's inputs, one of the two.")
        if text_embeds is None:
            from hf_modalbridge.encoders import encode

            encoder = self._encoder(modality)
            text_embeds = encode(encoder, "text", _move(text_inputs, encoder))
        text_embeds = self._check_dim(torch.as_tensor(text_embeds), modality)
        return self.corrections[modality](text_embeds.to(self._bridge_device(modality)).float())

    def get_modality_features(self, modality: str, **inputs: Any) -> Tensor:
        """Turn items of one modality into tokens of the language model's input space.

        Args:
            modality: Its name.
            **inputs: One of `embeds` `(items, embedding_dim)`, with `input_tokens` `(items, input_tokens,
                embedding_dim)` or these flattened as a store keeps them; the encoder's inputs; `imagine_embeds`, text
                embeddings that the correction is yet to move; or `imagine_` before each of the text tower's inputs.

        Returns:
            `(items, tokens_per_item, hidden_size)`.
        """
        config = self.config.modality(modality)
        kind = _input_kind(modality, inputs)
        if kind == "imagine":
            embeds = self.imagine(
                modality,
                inputs.get("imagine_embeds"),
                **{k.removeprefix(_IMAGINE): v for k, v in inputs.items() if k != "imagine_embeds"},
            )
        else:
            embeds = torch.as_tensor(inputs["embeds"]) if kind == "embeds" else self.embed(modality, **inputs)
            embeds = self._check_dim(embeds, modality).to(self._bridge_device(modality)).float()
            if config.input_tokens is not None:  # their connectors know where the tokens lie
                tokens = F.normalize(embeds, dim=-1) if config.normalize else embeds
                return self.connectors[modality](tokens.to(next(self.connectors[modality].parameters()).dtype))
            if modality in self.corrections:
                embeds = self.corrections[modality].transform_target(embeds)
            elif config.normalize:
                embeds = F.normalize(embeds, dim=-1)
        # (items, embedding_dim), float32 up to here: bf16 would eat what the correction resolves
        if modality in self.corrections:
            embeds = self.corrections[modality].standardize(embeds)
        elif config.normalize:  # what standardize does for mean 0 and trace 1, which unit rows have at most
            embeds = embeds * config.embedding_dim**0.5
        connector = self.connectors[modality]
        if connector.training and config.input_noise:
            noisy = embeds + config.input_noise * torch.randn_like(embeds)
            embeds = noisy / (1 + config.input_noise**2) ** 0.5
        return connector(embeds.to(next(connector.parameters()).dtype))  # (items, tokens, hidden)

    def get_inputs_embeds(
        self, input_ids: Tensor, modality_inputs: Mapping[str, Mapping[str, Any]] | None = None
    ) -> Tensor:
        """Embed a prompt and put the modality tokens in their places.

        Args:
            input_ids: `(batch, length)`.
            modality_inputs: `{modality: inputs}` as `get_modality_features` takes them, items in reading order.

        Returns:
            `(batch, length, hidden_size)`, to be passed on as `inputs_embeds`.

        Raises:
            ValueError: If placeholders and items do not agree; both numbers are named.
        """
        embeds = self.get_input_embeddings()(input_ids)  # (batch, length, hidden)
        modality_inputs = modality_inputs or {}
        for name in modality_inputs:
            self.config.modality(name)
        for name, modality in self.config.modalities.items():
            if modality_inputs.get(name):
                features = self.get_modality_features(name, **modality_inputs[name])
                embeds = merge_features(embeds, input_ids, features, modality.placeholder_token_id, name)
            elif input_ids.shape[1] > 1:  # a single column is a decoding step, where none can occur
                check_no_placeholders(input_ids, modality.placeholder_token_id, name)
        return embeds

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        modality_inputs: Mapping[str, Mapping[str, Any]] | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Run the language model on the filled-in prompt.

        Args:
            input_ids: `(batch, length)`; exactly one of this and `inputs_embeds`.
            modality_inputs: `{modality: inputs}`, items in reading order over the batch.
            attention_mask: `(batch, length)`, 0 at padding, on either side.
            position_ids: `(batch, length)`; by default counted from the attention mask.
            past_key_values: Cache.
            inputs_embeds: `(batch, length, hidden)`, from `get_inputs_embeds` for instance.
            use_cache: Whether to return a cache.
            logits_to_keep: Compute logits for the last n columns only, or for the columns in a tensor; 0 for all.
            **kwargs: For the language model.

        Returns:
            The language model's output.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds.")
        if inputs_embeds is None:
            inputs_embeds = self.get_inputs_embeds(input_ids, modality_inputs)
        elif modality_inputs:
            raise ValueError(
                "inputs_embeds does not show where the placeholders were, so modality_inputs cannot be placed in it. "
                "Give input_ids instead, or fill the prompt in first: get_inputs_embeds(input_ids, modality_inputs)."
            )
        accepted = inspect.signature(self.language_model.forward).parameters
        if position_ids is None and past_key_values is None and attention_mask is not None and attention_mask.ndim == 2:
            position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)  # padding shifts no position
        if position_ids is not None and "position_ids" in accepted:
            kwargs["position_ids"] = position_ids
        if "logits_to_keep" in accepted:
            kwargs["logits_to_keep"] = logits_to_keep
        outputs = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            use_cache=use_cache,
            return_dict=True,
            **kwargs,
        )
        if "logits_to_keep" not in accepted:
            keep = slice(-logits_to_keep or None, None) if isinstance(logits_to_keep, int) else logits_to_keep
            outputs.logits = outputs.logits[:, keep]
        return outputs

    def _encoder(self, modality: str) -> nn.Module:
        if modality not in self.encoders:
            raise ValueError(
                f"modality {modality!r} has no encoder in this model: it was built on embeddings. Compute them with "
                "the encoder that its correction names and pass {'embeds': ...} of width "
                f"{self.config.modality(modality).embedding_dim}."
            )
        return self.encoders[modality]

    def _bridge_device(self, modality: str) -> torch.device:
        return next(self.connectors[modality].parameters()).device

    def _check_dim(self, embeds: Tensor, modality: str) -> Tensor:
        config = self.config.modality(modality)
        dim, tokens = config.embedding_dim, config.input_tokens
        if tokens is not None:
            if tuple(embeds.shape[1:]) not in ((tokens, dim), (tokens * dim,)):
                raise ValueError(
                    f"token features of modality {modality!r} have shape {tuple(embeds.shape)}, expected (items, "
                    f"{tokens}, {dim}), or (items, {tokens * dim}). Are they from the encoder that this model was "
                    "built on?"
                )
            return embeds.reshape(-1, tokens, dim)
        if embeds.ndim != 2 or embeds.shape[1] != dim:
            raise ValueError(
                f"embeddings of modality {modality!r} have shape {tuple(embeds.shape)}, expected (items, {dim}). Are "
                "they from the encoder that this model was built on?"
            )
        return embeds


def _input_kind(modality: str, inputs: Mapping[str, Any]) -> str:
    """Tell which of the routes the inputs take, and refuse a mixture."""
    kinds = {"embeds" if k == "embeds" else "imagine" if k.startswith(_IMAGINE) else "encoder" for k in inputs}
    if len(kinds) != 1:
        raise ValueError(
            f"modality {modality!r} got the inputs {', '.join(inputs) or 'none'}; give one kind a call: 'embeds', "
            "'imagine_embeds', 'imagine_<text tower input>' or the encoder's own inputs."
        )
    return kinds.pop()


def _move(inputs: Mapping[str, Any], encoder: nn.Module) -> dict[str, Any]:
    """Bring inputs to the encoder's device, and floating ones to its dtype unless it keeps theirs."""
    parameter = next(encoder.parameters())
    keep = getattr(encoder, "keep_input_dtype", False)  # coordinates lose too much in bfloat16
    return {
        key: value.to(parameter.device, parameter.dtype if value.is_floating_point() and not keep else value.dtype)
        if isinstance(value, Tensor)
        else value
        for key, value in inputs.items()
    }


def _build_correction(modality: ModalityConfig, name: str) -> nn.Module:
    """Make the unfitted correction that the checkpoint's statistics go into."""
    from hf_modalbridge.corrections import AutoCorrection

    correction = AutoCorrection.from_config(modality.correction_config)
    if correction.dim != modality.embedding_dim:
        raise ValueError(
            f"the correction of modality {name!r} is for embeddings of width {correction.dim}, but embedding_dim is "
            f"{modality.embedding_dim}. It was fitted on another encoder; fit one on this encoder's embeddings."
        )
    return correction


def _mark_initialized(module: nn.Module) -> None:
    """Keep post_init() from drawing new weights for a model that has its own (new rows after a resize)."""
    for part in module.modules():
        part._is_hf_initialized = True
