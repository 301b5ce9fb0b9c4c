"""Configuration of a bridge: one causal language model and any number of modalities."""

# no `from __future__ import annotations` here: @strict checks field types only if they are types, not strings
import copy
import dataclasses
import difflib
from dataclasses import dataclass
from typing import Any, Literal, Self

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec
from transformers.generation.configuration_utils import GenerationConfig

__all__ = ["ModalBridgeConfig", "ModalityConfig"]

# What transformers itself writes into, or reads out of, any config.json. Everything else must be a field.
_TRANSFORMERS_KEYS = frozenset(
    "architectures attn_implementation auto_map custom_pipelines distributed_config dtype experts_implementation "
    "gradient_checkpointing model_type name_or_path num_labels output_attentions per_layer_config quantization_config "
    "tie_last_hidden_states torch_dtype transformers_version use_cache".split()
)


def _unknown_keys_message(where: str, unknown: list[str], known: list[str]) -> str:
    """Name the unknown keys and, for each, the nearest known one."""
    parts = []
    for key in unknown:
        near = difflib.get_close_matches(key, known, n=1)
        parts.append(f"{key!r}" + (f" (did you mean {near[0]!r}?)" if near else ""))
    return (
        f"{where} got unknown key(s) {', '.join(parts)}; it knows {', '.join(sorted(known))}. Correct the spelling, "
        "or, if a newer hf_modalbridge wrote this file, upgrade the package."
    )


@strict
@dataclass(kw_only=True)
class ModalityConfig:
    """What the bridge knows of one modality.

    Args:
        embedding_dim: Width of one embedding.
        placeholder_token: The token that stands for one token of this modality in a prompt.
        placeholder_token_id: Its id in the language model's vocabulary.
        encoder_config: Configuration of the encoder as a dict with `model_type`, or None: then only
            embeddings that were computed elsewhere go in.
        encoder_source: `{"id": ..., "revision": ...}` of the encoder's own repository or directory.
        correction_config: `Correction.to_config()`, or None: embeddings go in normalised and uncorrected.
        connector_type: A name in `CONNECTORS`.
        connector_hidden_size: Width of the connector's hidden layer; None means the language model's width.
        connector_config: What a connector type needs beside that, see its class.
        input_tokens: None reads one embedding an item. A number reads that many token features of the encoder (its
            `last_hidden_state`), each `embedding_dim` wide, for connectors that look at tokens (`recompose`).
        num_tokens: Tokens that carry the embedding.
        token_mode: `repeat` projects once and gives `num_tokens` identical tokens (the ReVision form);
            `distinct` lets the connector's last layer give `num_tokens` different ones.
        constant_prompt: Number of learned constant tokens put before them.
        normalize: Whether embeddings are made unit rows first. A contrastive encoder's should be; a sensor's
            whose magnitude carries information should not, and cannot have a correction.
        input_noise: Standard deviation of Gaussian noise on the connector's input while the connector trains,
            relative to the input's own spread; the sum is scaled back to that spread. A caption's embedding
            says all about the caption, a picture's only what the two share: a connector that never saw noise
            trusts the latter too much (CapDec, arXiv 2211.00575; C3, arXiv 2401.08567).
    """

    embedding_dim: int
    placeholder_token: str
    placeholder_token_id: int
    encoder_config: dict[str, Any] | None = None
    encoder_source: dict[str, Any] | None = None
    correction_config: dict[str, Any] | None = None
    connector_type: str = "mlp2x_gelu"
    connector_hidden_size: int | None = None
    connector_config: dict[str, Any] | None = None
    input_tokens: int | None = None
    num_tokens: int = 4
    token_mode: Literal["repeat", "distinct"] = "repeat"
    constant_prompt: int = 0
    normalize: bool = True
    input_noise: float | int = 0.0

    def __post_init__(self) -> None:
        """Refuse values that no connector can be built from."""
        for name, least in (("embedding_dim", 1), ("num_tokens", 1), ("constant_prompt", 0)):
            value = getattr(self, name)
            if isinstance(value, int) and value < least:  # other types are refused by name right after
                raise ValueError(f"{name} must be at least {least}, got {value}.")
        if isinstance(self.input_noise, float | int) and not 0 <= self.input_noise < float("inf"):
            raise ValueError(f"input_noise is a finite number >= 0, got {self.input_noise}.")
        if self.input_tokens is not None and (self.input_tokens < 1 or self.correction_config is not None):
            raise ValueError(
                f"input_tokens is {self.input_tokens}: it is at least 1, and token features have no correction, which "
                "is of pooled embeddings. Leave one of the two out."
            )
        if self.correction_config is not None and not self.normalize:
            raise ValueError(
                "normalize=False cannot be combined with a correction: corrections are fitted on unit rows. Drop the "
                "correction, or let the embeddings be normalised."
            )

    @property
    def tokens_per_item(self) -> int:
        """Length of one item's placeholder run: constant tokens and embedding tokens."""
        return self.constant_prompt + self.num_tokens

    @classmethod
    def from_dict(cls, values: dict[str, Any], name: str = "?") -> Self:
        """Build from a plain dict.

        Args:
            values: The fields.
            name: The modality's name, for the error messages.

        Returns:
            The checked configuration.

        Raises:
            ValueError: On an unknown key, a missing required key or a value of the wrong type; the key is named.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = [key for key in values if key not in known]
        if unknown:
            raise ValueError(_unknown_keys_message(f"modality {name!r}", unknown, known))
        required = [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING]
        missing = [key for key in required if values.get(key) is None]
        if missing:
            raise ValueError(
                f"modality {name!r} lacks the required key(s) {', '.join(map(repr, missing))}. Every modality needs "
                f"{', '.join(required)}; the rest have defaults."
            )
        try:
            return cls(**copy.deepcopy(values))
        except (StrictDataclassError, ValueError) as error:
            raise ValueError(f"modality {name!r}: {' '.join(str(error).split())}") from error

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as a plain dict."""
        return copy.deepcopy({f.name: getattr(self, f.name) for f in dataclasses.fields(self)})


@strict
class ModalBridgeConfig(PreTrainedConfig):
    """Configuration of `ModalBridgeForConditionalGeneration`.

    Args:
        text_config: Configuration of the causal language model, any that `AutoModelForCausalLM` knows.
        modalities: `{name: ModalityConfig or dict}`. A name is a lower-case identifier other than `text`.
        language_model_source: `{"id": ..., "revision": ...}` of the language model that the bridge was built
            on, and `probe`, a few of its weights, by which `bridge_only` files recognise it.
        bridge_only: Set in the files of `save_pretrained(..., bridge_only=True)`: the weights of the
            language model and the encoders are not beside this config but at their sources.
        metadata: Anything the user wants to keep with the model (licences, training record); not read by the code.
        tie_word_embeddings: Taken from `text_config`.
    """

    model_type = "modalbridge"
    sub_configs_defaults = {"text_config": SubConfigSpec(config_class=AutoConfig, model_type="llama")}

    text_config: dict | PreTrainedConfig | None = None
    modalities: dict | None = None
    language_model_source: dict | None = None
    bridge_only: bool = False
    metadata: dict | None = None
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        """Check the keys, build the sub-configurations, check that modalities do not collide."""
        generation = GenerationConfig._get_default_generation_params()
        known = [f.name for f in dataclasses.fields(type(self))]
        unknown = [
            key for key in kwargs if not key.startswith("_") and key not in _TRANSFORMERS_KEYS and key not in generation
        ]
        if unknown:
            own = [f.name for f in dataclasses.fields(ModalBridgeConfig) if f.name in ModalBridgeConfig.__annotations__]
            raise ValueError(_unknown_keys_message("ModalBridgeConfig", unknown, own or known))
        super().__post_init__(**kwargs)
        self.tie_word_embeddings = bool(getattr(self.text_config, "tie_word_embeddings", False))
        self.modalities = {
            name: value if isinstance(value, ModalityConfig) else ModalityConfig.from_dict(value, name)
            for name, value in (self.modalities or {}).items()
        }
        self._check_modalities()

    def _check_modalities(self) -> None:
        """Refuse names that cannot be keyword arguments and placeholders that two modalities share."""
        seen: dict[int, str] = {}
        for name, modality in self.modalities.items():
            if not name.isidentifier() or name != name.lower() or name == "text":
                raise ValueError(
                    f"{name!r} cannot name a modality: use a lower-case identifier other than 'text', such as 'image' "
                    "or 'point'; it becomes part of keyword names like image_embeds."
                )
            other = seen.setdefault(modality.placeholder_token_id, name)
            if other != name:
                raise ValueError(
                    f"modalities {other!r} and {name!r} share the placeholder token id "
                    f"{modality.placeholder_token_id} ({modality.placeholder_token!r}); give each its own "
                    "token."
                )

    @property
    def placeholder_token_ids(self) -> list[int]:
        """Ids of all placeholder tokens, in the order of the modalities."""
        return [modality.placeholder_token_id for modality in self.modalities.values()]

    def modality(self, name: str) -> ModalityConfig:
        """Return one modality's configuration.

        Raises:
            KeyError: If the model has no modality of that name; the existing ones are listed.
        """
        if name not in self.modalities:
            raise KeyError(f"this model has no modality {name!r}; it has {', '.join(self.modalities) or 'none'}.")
        return self.modalities[name]

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Build from a config.json's content.

        Raises:
            ValueError: If `text_config` or `modalities` is missing.
        """
        missing = [key for key in ("text_config", "modalities") if config_dict.get(key) is None]
        if missing:
            raise ValueError(
                f"this modalbridge config lacks the required key(s) {', '.join(map(repr, missing))}; it has "
                f"{', '.join(sorted(config_dict))}. Write it with ModalBridgeConfig.save_pretrained."
            )
        return super().from_dict(config_dict, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """Return the whole configuration as plain dicts."""
        output = super().to_dict()
        output["text_config"].pop("_name_or_path", None)  # a directory of the machine that built the model
        output["modalities"] = {
            name: value.to_dict() if isinstance(value, ModalityConfig) else value
            for name, value in (output.get("modalities") or {}).items()
        }
        return output


# Importing this file may be what loads transformers' table, and registration then found the file half
# imported. Remote code must not register itself: it would stand in for the code of every other repository.
if __name__.startswith("hf_modalbridge."):
    AutoConfig.register(ModalBridgeConfig.model_type, ModalBridgeConfig, exist_ok=True)
