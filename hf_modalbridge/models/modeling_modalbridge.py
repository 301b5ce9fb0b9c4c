"""The bridge as a Hugging Face model that has a loss, chats, and is saved and loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.generation import LogitsProcessor, LogitsProcessorList
from transformers.modeling_outputs import ModelOutput
from transformers.utils.generic import can_return_tuple

from .configuration_modalbridge import ModalBridgeConfig
from .merging import count_items, repeat_items
from .modeling_base import ModalBridgeModel, ModalBridgePreTrainedModel
from .supervised_loss import IGNORE_INDEX, supervised_columns, token_loss

__all__ = [
    "ModalBridgeCausalLMOutput",
    "ModalBridgeForConditionalGeneration",
    "ModalBridgeModel",
    "ModalBridgePreTrainedModel",
]


@dataclass
class ModalBridgeCausalLMOutput(ModelOutput):
    """Output of `ModalBridgeForConditionalGeneration`.

    Args:
        loss: Scalar, or `(batch, columns)` with `reduction="none"`; None without labels.
        logits: `(batch, columns, vocabulary)`; with labels, only the columns that some row supervises.
        past_key_values: The language model's cache.
        hidden_states: The language model's, if asked for.
        attentions: The language model's, if asked for.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class ModalBridgeForConditionalGeneration(ModalBridgePreTrainedModel, GenerationMixin):
    """The bridge with loss and generation: what `AutoModel` gives for a `modalbridge` directory.

    Args:
        config: The configuration.
        language_model: See `ModalBridgeModel`.
        encoders: See `ModalBridgeModel`.
    """

    def __init__(
        self,
        config: ModalBridgeConfig,
        language_model: PreTrainedModel | None = None,
        encoders: Mapping[str, nn.Module] | None = None,
    ) -> None:
        super().__init__(config)
        self.model = ModalBridgeModel(config, language_model, encoders)
        self.post_init()
        self.generation_config.suppress_tokens = config.placeholder_token_ids or None

    @classmethod
    def from_components(cls, **components: Any) -> tuple[ModalBridgeForConditionalGeneration, Any]:
        """Build a model and its processor from a language model and parts; see `models.components.build`."""
        from .components import build

        return build(cls, **components)

    @property
    def language_model(self) -> PreTrainedModel:
        """The causal language model."""
        return self.model.language_model

    def get_input_embeddings(self) -> nn.Module:
        """Return the language model's token embeddings."""
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the language model's token embeddings."""
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module | None:
        """Return the language model's head."""
        return self.model.language_model.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the language model's head."""
        self.model.language_model.set_output_embeddings(new_embeddings)

    def embed(self, modality: str, **inputs: Any) -> Tensor:
        """See `ModalBridgeModel.embed`."""
        return self.model.embed(modality, **inputs)

    def imagine(self, modality: str, text_embeds: Tensor | None = None, **text_inputs: Any) -> Tensor:
        """See `ModalBridgeModel.imagine`."""
        return self.model.imagine(modality, text_embeds, **text_inputs)

    def get_modality_features(self, modality: str, **inputs: Any) -> Tensor:
        """See `ModalBridgeModel.get_modality_features`."""
        return self.model.get_modality_features(modality, **inputs)

    def get_inputs_embeds(self, input_ids: Tensor, modality_inputs: Mapping[str, Any] | None = None) -> Tensor:
        """See `ModalBridgeModel.get_inputs_embeds`."""
        return self.model.get_inputs_embeds(input_ids, modality_inputs)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        modality_inputs: Mapping[str, Mapping[str, Any]] | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        reduction: str = "mean",
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Any,
    ) -> ModalBridgeCausalLMOutput:
        """Run the model; with labels, compute logits only where some row is supervised.

        Args:
            input_ids: See `ModalBridgeModel.forward`, as for all that is not listed here.
            modality_inputs: `{modality: inputs}`.
            attention_mask: `(batch, length)`.
            position_ids: `(batch, length)`.
            past_key_values: Cache.
            inputs_embeds: `(batch, length, hidden)`.
            labels: `(batch, length)`, unshifted, -100 where nothing is asked.
            use_cache: Whether to return a cache; with labels the default is not to.
            logits_to_keep: Columns to compute logits for; not together with labels.
            reduction: Of the loss: `mean` over supervised tokens, `sum`, or `none`.
            num_items_in_batch: Divide the summed loss by this number instead.
            **kwargs: For the language model.

        Returns:
            Loss, logits and what else the language model gave.
        """
        columns = None
        if labels is not None:
            if not (isinstance(logits_to_keep, int) and logits_to_keep == 0):
                raise ValueError("labels decide which logits are computed; do not pass logits_to_keep with them.")
            columns = supervised_columns(labels)
            logits_to_keep = columns.to(self.device)
            use_cache = False if use_cache is None else use_cache
        outputs = self.model(
            input_ids=input_ids,
            modality_inputs=modality_inputs,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            **kwargs,
        )
        loss = None
        if labels is not None:
            targets = F.pad(labels, (0, 1), value=IGNORE_INDEX)[:, columns + 1]  # (batch, columns)
            loss = token_loss(outputs.logits, targets, reduction, num_items_in_batch)
        return ModalBridgeCausalLMOutput(
            loss=loss,
            logits=outputs.logits,
            past_key_values=outputs.get("past_key_values"),
            hidden_states=outputs.get("hidden_states"),
            attentions=outputs.get("attentions"),
        )

    # `inputs_embeds` must be named here, or generate(inputs_embeds=...) is refused
    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        inputs_embeds: Tensor | None = None,
        modality_inputs: Mapping[str, Any] | None = None,
        is_first_iteration: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Hand the items to the first step only, unless there is no cache to remember them."""
        inputs = super().prepare_inputs_for_generation(
            input_ids, inputs_embeds=inputs_embeds, is_first_iteration=is_first_iteration, **kwargs
        )
        if is_first_iteration or not kwargs.get("use_cache", True):
            inputs["modality_inputs"] = modality_inputs
        return inputs

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, dict[str, Any]]:
        modality_inputs = kwargs.pop("modality_inputs", None)
        if modality_inputs and expand_size > 1:
            modality_inputs = {
                name: repeat_items(
                    inputs,
                    count_items(
                        input_ids,
                        self.config.modality(name).placeholder_token_id,
                        self.config.modality(name).tokens_per_item,
                    ),
                    expand_size,
                )
                for name, inputs in modality_inputs.items()
            }
        input_ids, kwargs = super()._expand_inputs_for_generation(
            expand_size, is_encoder_decoder, input_ids=input_ids, **kwargs
        )
        return input_ids, (kwargs if modality_inputs is None else {**kwargs, "modality_inputs": modality_inputs})

    @torch.no_grad()
    def generate(self, inputs: Tensor | None = None, *args: Any, logits_processor: Any = None, **kwargs: Any) -> Any:
        """Generate; see transformers' `GenerationMixin.generate`. Placeholder tokens are never emitted.

        Args:
            inputs: Prompt ids `(batch, length)`, padded on the left.
            *args: For transformers' `generate`.
            logits_processor: More logits processors.
            **kwargs: `modality_inputs={modality: inputs}` and transformers' own arguments.

        Returns:
            What transformers' `generate` returns.
        """
        # generation_config.suppress_tokens says the same to other engines, but a config passed here would drop it
        processors = LogitsProcessorList(logits_processor or [])
        processors.append(_SuppressPlaceholders(self.config.placeholder_token_ids))
        return super().generate(inputs, *args, logits_processor=processors, **kwargs)


class _SuppressPlaceholders(LogitsProcessor):
    """Keeps placeholder tokens out of generated text, where they would have no item."""

    def __init__(self, token_ids: list[int]) -> None:
        self.token_ids = token_ids

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return scores.index_fill(1, torch.tensor(self.token_ids, device=scores.device), -torch.inf)
