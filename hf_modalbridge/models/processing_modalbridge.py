"""The processor: prompts, items and labels for a bridge."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import ProcessorMixin

from .batches import ModalBridgeBatch, make_batch
from .chat import PLAIN_TEMPLATE, FlatChat, answer_spans, flatten_chat, span_labels
from .encoder_processors import load_encoder_processors, save_encoder_processors
from .items import ItemArguments, check_embeddings
from .sharing import HubMixin, push_folder
from .supervised_loss import IGNORE_INDEX

__all__ = ["ModalBridgeBatch", "ModalBridgeProcessor"]


class ModalBridgeProcessor(HubMixin, ProcessorMixin):
    """Turns prompts and items into what the model takes; owns the number of placeholder tokens of an item.

    For a modality `m`, calls take `m` or `ms` (raw items), `m_embeds` `(items, embedding_dim)` and
    `imagine_m` (texts, or with `imagine_m_embeds` their embeddings). Prompts hold one placeholder token for
    each item; the processor makes it the right number.

    Args:
        tokenizer: The language model's tokenizer, a fast one.
        modalities: `{name: {"placeholder_token", "placeholder_token_id", "tokens_per_item", "embedding_dim"}}`.
        chat_template: Instead of the tokenizer's own.
        encoder_processors: `{name: processor of that modality's encoder}`.
    """

    def __init__(
        self,
        tokenizer: Any = None,
        modalities: dict[str, dict[str, Any]] | None = None,
        chat_template: str | None = None,
        encoder_processors: Mapping[str, Any] | None = None,
    ) -> None:
        self.modalities = copy.deepcopy(modalities or {})
        self.encoder_processors = dict(encoder_processors or {})
        super().__init__(tokenizer, chat_template=chat_template or getattr(tokenizer, "chat_template", None))
        for name, spec in self.modalities.items():
            found = tokenizer.convert_tokens_to_ids(spec["placeholder_token"])
            if found != spec["placeholder_token_id"]:
                raise ValueError(
                    f"the tokenizer gives placeholder {spec['placeholder_token']!r} of modality {name!r} the id "
                    f"{found}, but the model expects {spec['placeholder_token_id']}. Use the tokenizer saved with the "
                    "model."
                )

    @property
    def placeholders(self) -> dict[str, str]:
        """Placeholder token by modality."""
        return {name: spec["placeholder_token"] for name, spec in self.modalities.items()}

    @property
    def model_input_names(self) -> list[str]:
        """Names of what a call returns."""
        return ["input_ids", "attention_mask", "modality_inputs"]

    def __call__(
        self,
        text: str | Sequence[str] | None = None,
        *,
        add_special_tokens: bool = True,
        padding_side: str | None = None,
        max_length: int | None = None,
        return_tensors: str | None = "pt",
        **items: Any,
    ) -> ModalBridgeBatch:
        """Prepare prompts for generation.

        Args:
            text: Prompts with one placeholder token for each item.
            add_special_tokens: Whether the tokenizer adds its own, as it should unless a chat template did.
            padding_side: `left` by default.
            max_length: Refuse longer prompts; placeholders cannot be cut.
            return_tensors: Only `pt`.
            **items: By modality, see the class. Items are in reading order over all prompts.

        Returns:
            `input_ids`, `attention_mask` `(batch, length)` and, with items, `modality_inputs`.

        Raises:
            ValueError: If the numbers of placeholders and items differ, or an embedding is not usable.
        """
        _check_return_tensors(return_tensors)
        items.pop("padding", None)
        texts = [text] if isinstance(text, str) else list(text or [])
        if not texts:
            raise ValueError("text is missing; give a prompt, or a list of prompts, with a placeholder for each item.")
        arguments = ItemArguments.take(self.modalities, items)
        _refuse(items)
        modality_inputs = arguments.prepare(self.modalities, self.encoder_processors)
        self._check_counts(texts, arguments)
        expanded = [self._expand(t) for t in texts]
        ids = self.tokenizer(expanded, add_special_tokens=add_special_tokens)["input_ids"]
        return self._batch(ids, None, modality_inputs, padding_side or "left", max_length)

    def apply_chat_template(
        self,
        conversation: Any,
        chat_template: str | None = None,
        *,
        tokenize: bool = False,
        return_dict: bool = False,
        return_labels: bool = False,
        return_tensors: str | None = "pt",
        add_generation_prompt: bool = False,
        padding_side: str | None = None,
        max_length: int | None = None,
        processor_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Render a chat, or a list of chats, by the language model's own template.

        Args:
            conversation: Messages, or a list of such; see `models.chat.flatten_chat` for content items.
            chat_template: Instead of the processor's.
            tokenize: Whether to go on from text to a batch.
            return_dict: Whether the batch is returned whole rather than its `input_ids`.
            return_labels: Whether to add `labels`: the answers, all turns, -100 elsewhere. Implies the two above.
            return_tensors: Only `pt`.
            add_generation_prompt: Whether to end with the beginning of an answer.
            padding_side: `right` with labels, else `left`.
            max_length: With labels, cut longer rows at the end; without, refuse them.
            processor_kwargs: More of these arguments, as transformers passes them.
            **kwargs: Items by modality for bare content items; the rest goes to the template.

        Returns:
            Text, texts, a `ModalBridgeBatch` or ids.

        Raises:
            ValueError: As `__call__`; also if a row has no supervised token, or the template does not let
                labels be found.
        """
        _check_return_tensors(return_tensors)
        if processor_kwargs:
            extra = {k: v for k, v in processor_kwargs.items() if k not in ("padding", "return_tensors")}
            padding_side, max_length = (
                extra.pop("padding_side", padding_side),
                extra.pop("max_length", max_length),
            )
            kwargs.update(extra)
        single = not conversation or isinstance(conversation[0], Mapping)
        chats = [flatten_chat(chat, self.placeholders) for chat in ([conversation] if single else conversation)]
        arguments = ItemArguments.take(self.modalities, kwargs)
        template = chat_template or self.chat_template or PLAIN_TEMPLATE

        def render(messages: list[Any], generation_prompt: bool = add_generation_prompt) -> str:
            return self.tokenizer.apply_chat_template(
                messages,
                chat_template=template,
                tokenize=False,
                add_generation_prompt=generation_prompt,
                **kwargs,
            )

        if not tokenize and not return_labels:
            texts = [render(chat.messages) for chat in chats]
            return texts[0] if single else texts
        arguments.add_chats(chats)
        modality_inputs = arguments.prepare(self.modalities, self.encoder_processors)
        bos = self._bos_ids() if template == PLAIN_TEMPLATE else []
        if return_labels:
            ids, labels = self._encode_labelled(chats, render, bos)
            batch = self._batch(ids, labels, modality_inputs, padding_side or "right", max_length, cut=True)
        else:
            texts = [render(chat.messages) for chat in chats]
            self._check_counts(texts, arguments)
            expanded = [self._expand(t) for t in texts]
            ids = [bos + row for row in self.tokenizer(expanded, add_special_tokens=False)["input_ids"]]
            batch = self._batch(ids, None, modality_inputs, padding_side or "left", max_length)
        return batch if return_dict or return_labels else batch["input_ids"]

    def labels(self, conversation: Any, **kwargs: Any) -> Tensor:
        """Return the labels `(batch, length)` of chats; see `apply_chat_template(return_labels=True)`."""
        return self.apply_chat_template(conversation, return_labels=True, **kwargs)["labels"]

    def plain(
        self,
        captions: Sequence[str],
        modality: str,
        *,
        embeds: Any = None,
        imagine_embeds: Any = None,
        max_length: int | None = None,
        padding_side: str = "right",
    ) -> ModalBridgeBatch:
        """Make the plain prompts of connector training (ReVision): modality tokens, then caption and end.

        Args:
            captions: One for each item.
            modality: Its name.
            embeds: `(items, embedding_dim)` embeddings of the modality itself.
            imagine_embeds: Or text embeddings, which the model's correction moves.
            max_length: Longest row in tokens; a caption that is cut loses its end token, which would be false.
            padding_side: `right` by default.

        Returns:
            `input_ids`, `attention_mask`, `labels` (caption and end only), and `modality_inputs` if
            embeddings are given.

        Raises:
            ValueError: If a caption is blank or contains a placeholder, or the numbers differ; rows are named.
        """
        spec = self._spec(modality)
        captions = list(captions)
        blank = [row for row, caption in enumerate(captions) if not caption.strip()]
        if blank or not captions:
            raise ValueError(
                f"captions {blank[:10]} are blank, so they leave nothing to learn. Drop these rows first."
                if captions
                else "plain got no captions; give at least one."
            )
        for row, caption in enumerate(captions):
            for name, token in self.placeholders.items():
                if token in caption:
                    raise ValueError(
                        f"caption {row} contains the placeholder token {token!r} of modality {name!r}: "
                        f"{caption[:80]!r}. It would be read as an item; remove it from the caption."
                    )
        inputs = {}
        if embeds is not None and imagine_embeds is not None:
            raise ValueError("plain takes embeds or imagine_embeds, not both.")
        for key, value in (("embeds", embeds), ("imagine_embeds", imagine_embeds)):
            if value is not None:
                rows = check_embeddings(value, spec["embedding_dim"], modality, spec.get("input_tokens"))
                if len(rows) != len(captions):
                    raise ValueError(f"plain got {len(captions)} captions but {len(rows)} {key}; give one for each.")
                inputs = {modality: {key: rows}}
        prefix = self._bos_ids() + [spec["placeholder_token_id"]] * spec["tokens_per_item"]
        eos = self.tokenizer.eos_token_id
        ids = [prefix + row + [eos] for row in self.tokenizer(captions, add_special_tokens=False)["input_ids"]]
        labels = [[IGNORE_INDEX] * len(prefix) + row[len(prefix) :] for row in ids]
        return self._batch(ids, labels, inputs, padding_side, max_length, cut=True)

    def decode(self, *args: Any, **kwargs: Any) -> str:
        """Decode ids; see the tokenizer."""
        return self.tokenizer.decode(*args, **kwargs)

    def batch_decode(self, *args: Any, **kwargs: Any) -> list[str]:
        """Decode rows of ids; see the tokenizer."""
        return self.tokenizer.batch_decode(*args, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """Return what processor_config.json holds; encoder processors lie in folders of their own."""
        kept, self.encoder_processors = self.encoder_processors, {}
        try:
            output = super().to_dict()
        finally:
            self.encoder_processors = kept
        output.pop("encoder_processors", None)
        for name, processor in kept.items():
            output["modalities"][name]["encoder_processor_class"] = type(processor).__name__
        return output

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> Any:
        """Save to `processor_config.json`, tokenizer files and `encoder_processors/<modality>/`."""
        hub = {key: kwargs.pop(key) for key in ("private", "commit_message") if key in kwargs}
        repo_id = kwargs.pop("repo_id", Path(save_directory).name)
        save_encoder_processors(Path(save_directory), self.encoder_processors)
        files = super().save_pretrained(str(save_directory), **kwargs)
        if push_to_hub:
            push_folder(Path(save_directory), repo_id, token=kwargs.get("token"), **hub)
        return files

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> ModalBridgeProcessor:
        """Load from a directory or repo; see transformers' `ProcessorMixin.from_pretrained`."""
        processor = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        processor.encoder_processors = load_encoder_processors(
            pretrained_model_name_or_path, processor.modalities, **kwargs
        )
        return processor

    def _spec(self, modality: str) -> dict[str, Any]:
        if modality not in self.modalities:
            raise KeyError(
                f"this processor has no modality {modality!r}; it has {', '.join(self.modalities) or 'none'}."
            )
        return self.modalities[modality]

    def _expand(self, text: str) -> str:
        """Make one placeholder for each item the run of placeholders that the model fills."""
        for spec in self.modalities.values():
            text = text.replace(spec["placeholder_token"], spec["placeholder_token"] * spec["tokens_per_item"])
        return text

    def _bos_ids(self) -> list[int]:
        """The beginning-of-sequence token, if this tokenizer puts one before a text."""
        bos = self.tokenizer.bos_token_id
        return [bos] if bos is not None and self.tokenizer("a")["input_ids"][:1] == [bos] else []

    def _check_counts(self, texts: Sequence[str], arguments: ItemArguments) -> None:
        for name, spec in self.modalities.items():
            placeholders = sum(text.count(spec["placeholder_token"]) for text in texts)
            given = arguments.count(name)
            if placeholders != given:
                raise ValueError(
                    f"the prompts hold {placeholders} placeholder(s) {spec['placeholder_token']!r} of modality "
                    f"{name!r}, but {given} item(s) of it were given. Write one placeholder where each item belongs; "
                    f"the processor makes it {spec['tokens_per_item']} tokens long."
                )

    def _encode_labelled(self, chats: list[FlatChat], render: Any, bos: list[int]) -> tuple[list[Any], list[Any]]:
        """Tokenize chats and label their answers."""
        if not self.tokenizer.is_fast:
            raise ValueError(
                f"labels need the character offsets of a fast tokenizer, but {type(self.tokenizer).__name__} is a slow "
                "one. Load it by AutoTokenizer, or convert it to a tokenizer.json."
            )
        texts, spans = [], []
        for chat in chats:
            text, marks = answer_spans(chat.messages, render, self.tokenizer.eos_token)
            # placeholders before a mark make the text longer; those inside an answer are expanded with it
            spans.append([(len(self._expand(text[:start])), len(self._expand(text[:end]))) for start, end in marks])
            texts.append(self._expand(text))
        encoded = self.tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
        ids, labels = [], []
        hidden = {spec["placeholder_token_id"] for spec in self.modalities.values()}
        for row, text in enumerate(texts):
            tokens = encoded["input_ids"][row]
            marked = span_labels(tokens, encoded["offset_mapping"][row], text, spans[row])
            ids.append(bos + tokens)
            labels.append([IGNORE_INDEX] * len(bos) + [IGNORE_INDEX if i in hidden else i for i in marked])
        return ids, labels

    def _batch(
        self,
        ids: list[Any],
        labels: list[Any] | None,
        modality_inputs: dict[str, Any],
        padding_side: str,
        max_length: int | None,
        cut: bool = False,
    ) -> ModalBridgeBatch:
        pad = self.tokenizer.pad_token_id
        return make_batch(
            ids,
            labels,
            modality_inputs,
            pad=pad if pad is not None else (self.tokenizer.eos_token_id or 0),
            placeholder_ids={spec["placeholder_token_id"] for spec in self.modalities.values()},
            padding_side=padding_side,
            max_length=max_length,
            cut=cut,
        )


def _refuse(leftover: Mapping[str, Any]) -> None:
    if leftover:
        raise TypeError(f"the processor does not know the argument(s) {', '.join(map(repr, leftover))}.")


def _check_return_tensors(return_tensors: str | None) -> None:
    if return_tensors not in (None, "pt"):
        raise ValueError(f"return_tensors is {return_tensors!r}; the processor makes PyTorch tensors only ('pt').")
