"""Log-probabilities of captions given items: the tokens of an item are computed once for all its captions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["CaptionScorer"]

# Logits held at once. More is no faster on a CPU, and on a GPU this is half a gigabyte in float32.
_LOGITS_AT_ONCE = 2**27


class CaptionScorer:
    """Scores captions as a model's answers about items that are given as embeddings.

    Args:
        model: `ModalBridgeForConditionalGeneration`, in evaluation mode.
        processor: Its processor.
        modality: Name of the modality.
        captions: Texts that can be scored.
        question: Asked in the model's chat template before the caption; None uses the plain prompt of stage
            1.
        share_prefix: Run the prompt once an item and give its cache to all captions. Off, every caption is
            run whole, which gives the same numbers and works for language models without such a cache.

    Raises:
        ValueError: If the tokens of the prompt depend on the caption.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        modality: str,
        captions: Sequence[str],
        *,
        question: str | None = None,
        share_prefix: bool = True,
    ) -> None:
        self.model, self.modality, self.share_prefix = model, modality, share_prefix
        self.placeholder = model.config.modality(modality).placeholder_token_id
        self.prefix, self.answers = _tokenize(processor, modality, list(captions), question)
        self.token_counts = np.array([len(a) for a in self.answers])  # with the end token
        self.device = model.get_input_embeddings().weight.device

    @torch.no_grad()
    def features(self, embeddings: Any, kind: str = "embeds", batch_size: int = 1024) -> Tensor:
        """Tokens of items `(items, tokens, hidden)`.

        Args:
            embeddings: `(items, dim)` array, tensor, or `EmbeddingStore`.
            kind: `embeds` are the modality's own, `imagine_embeds` text embeddings.
            batch_size: Items projected together.

        Returns:
            What the language model reads in place of the items.
        """
        parts = []
        for start in range(0, len(embeddings), batch_size):
            rows = embeddings[start : start + batch_size]
            rows = rows if isinstance(rows, Tensor) else torch.from_numpy(np.array(rows))
            parts.append(self.model.get_modality_features(self.modality, **{kind: rows.float().to(self.device)}))
        return torch.cat(parts)

    @torch.no_grad()
    def log_probs(self, features: Tensor, candidates: np.ndarray, progress: bool = False) -> np.ndarray:
        """Log-probability of captions, end token included.

        Args:
            features: `(items, tokens, hidden)`.
            candidates: Captions to score for each item `(items, n)`, as positions in `captions`.
            progress: Show a progress bar.

        Returns:
            `(items, n)` nats, float64.
        """
        from tqdm.auto import tqdm

        candidates = np.asarray(candidates)
        items, n = candidates.shape
        longest = int(self.token_counts[candidates].max())
        vocabulary = self.model.get_input_embeddings().weight.shape[0]
        pairs = max(1, _LOGITS_AT_ONCE // (longest * vocabulary))
        width = min(n, pairs)  # captions of one item at once
        height = min(items, max(1, pairs // width), 256)  # items at once
        result = np.empty((items, n))
        # items with captions of like length together: less padding
        order = np.argsort(self.token_counts[candidates].max(1), kind="stable")
        for start in tqdm(range(0, items, height), disable=not progress, desc="scoring", unit_scale=height):
            rows = order[start : start + height]
            result[rows] = self._score(features[torch.from_numpy(rows).to(features.device)], candidates[rows], width)
        return result

    def _score(self, features: Tensor, candidates: np.ndarray, width: int) -> np.ndarray:
        prompt = self._prompt(features)  # (items, prefix, hidden)
        parts = [candidates[:, i : i + width] for i in range(0, candidates.shape[1], width)]
        return np.concatenate([self._score_part(prompt, part) for part in parts], axis=1)

    def _prompt(self, features: Tensor) -> Tensor:
        prefix = torch.tensor(self.prefix, device=self.device)
        embeds = self.model.get_input_embeddings()(prefix).expand(len(features), -1, -1).clone()
        embeds[:, prefix == self.placeholder] = features.to(embeds.dtype)
        return embeds

    def _score_part(self, prompt: Tensor, candidates: np.ndarray) -> np.ndarray:
        items, n = candidates.shape
        flat = [self.answers[c] for c in candidates.reshape(-1)]
        length = max(map(len, flat))
        ids = torch.zeros(len(flat), length, dtype=torch.long)
        valid = torch.zeros(len(flat), length, dtype=torch.bool)
        for row, answer in enumerate(flat):
            ids[row, : len(answer)] = torch.tensor(answer)
            valid[row, : len(answer)] = True
        ids, valid = ids.to(self.device), valid.to(self.device)
        language_model = self.model.language_model
        answer_embeds = self.model.get_input_embeddings()(ids[:, :-1])  # (items * n, length - 1, hidden)
        mask = torch.cat([valid.new_ones(len(flat), prompt.shape[1]), valid[:, :-1]], dim=1).long()
        first, cache = None, None
        if self.share_prefix:
            output = language_model(inputs_embeds=prompt, use_cache=True)
            first, cache = output.logits[:, -1:], output.past_key_values
        if first is not None and hasattr(cache, "batch_repeat_interleave"):
            first = first.repeat_interleave(n, 0)
            if length > 1:
                cache.batch_repeat_interleave(n)
                rest = language_model(
                    inputs_embeds=answer_embeds,
                    attention_mask=mask,
                    past_key_values=cache,
                    position_ids=torch.arange(prompt.shape[1], mask.shape[1], device=self.device).expand(len(flat), -1),
                ).logits
                first = torch.cat([first, rest], dim=1)
            logits = first  # (items * n, length, vocabulary)
        else:
            whole = torch.cat([prompt.repeat_interleave(n, 0), answer_embeds], dim=1)
            logits = language_model(inputs_embeds=whole, attention_mask=mask, use_cache=False).logits[:, -length:]
        loss = F.cross_entropy(logits.float().flatten(0, 1), ids.flatten(), reduction="none").view(ids.shape)
        return -(loss * valid).double().sum(1).view(items, n).cpu().numpy()


def _tokenize(
    processor: Any, modality: str, captions: list[str], question: str | None
) -> tuple[list[int], list[list[int]]]:
    """Tokens before the caption, which are the same for all, and tokens of each caption with its end."""
    prefix: list[int] | None = None
    answers = []
    for start in range(0, len(captions), 512):
        part = captions[start : start + 512]
        if question is None:
            batch = processor.plain(part, modality)
        else:
            # the embedding only stands for one: of this batch nothing but the tokens is used
            spec = processor.modalities[modality]
            width = spec["embedding_dim"] * spec.get("input_tokens", 1)
            item = {"type": modality, "embedding": np.ones(width, np.float32)}
            asked = {"role": "user", "content": [item, {"type": "text", "text": question}]}
            chats = [[asked, {"role": "assistant", "content": caption}] for caption in part]
            batch = processor.apply_chat_template(chats, return_labels=True)
        for row, (ids, labels) in enumerate(zip(batch["input_ids"], batch["labels"], strict=True)):
            places = (labels != -100).nonzero().flatten()
            before = ids[: places[0]].tolist()
            prefix = before if prefix is None else prefix
            if before != prefix:
                raise ValueError(
                    f"the prompt before caption {part[row]!r} has other tokens than before {captions[0]!r}: "
                    "the tokenizer merges across the edge. Use another question, or question=None for the "
                    "plain prompt."
                )
            answers.append(ids[places[0] : places[-1] + 1].tolist())
    if prefix is None:
        raise ValueError("there are no captions to score: give at least one.")
    return prefix, answers
