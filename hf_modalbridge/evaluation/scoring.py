"""Log-probabilities of captions given items: the tokens of an item are computed once for all its captions."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["CaptionScorer"]

# Logits held at once. More is no faster on a CPU, and on a GPU this is half a gigabyte in float32.
_LOGITS_AT_ONCE = 2**27
_ITEMS_AT_ONCE = 64  # whose prompts are held: about a megabyte each in a small language model


class CaptionScorer:
    """Scores captions as a model's answers about items that are given as embeddings.

    Args:
        model: `ModalBridgeForConditionalGeneration`, in evaluation mode.
        processor: Its processor.
        modality: Name of the modality.
        captions: Texts that can be scored.
        question: Asked in the model's chat template before the caption; None uses the plain prompt of stage 1.
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
        result = np.empty((items, n))
        bar = tqdm(total=items * n, disable=not progress, desc="scoring", unit="caption", unit_scale=True)
        for start in range(0, items, _ITEMS_AT_ONCE):
            rows = slice(start, start + _ITEMS_AT_ONCE)
            part = candidates[rows].reshape(-1)
            prompt = self._prompt(features[rows])  # (items, prefix, hidden)
            first, cache = self._read(prompt)
            scores = np.empty(len(part))
            for pairs in self._groups(part):
                owners = torch.from_numpy(pairs // n).to(self.device)
                ids = torch.tensor([self.answers[c] for c in part[pairs]], device=self.device)
                if cache is None or first is None:
                    logits = self._whole(prompt[owners], ids)
                else:
                    logits = self._after(first[owners], cache, owners, ids)
                loss = F.cross_entropy(logits.float().flatten(0, 1), ids.flatten(), reduction="none")
                scores[pairs] = -loss.view(ids.shape).double().sum(1).cpu().numpy()
                bar.update(len(pairs))
            result[rows] = scores.reshape(-1, n)
        bar.close()
        return result

    def _groups(self, captions: np.ndarray) -> Iterator[np.ndarray]:
        """Positions of captions with as many tokens as each other, so that nothing is padded."""
        vocabulary = self.model.get_input_embeddings().weight.shape[0]
        counts = self.token_counts[captions]
        for length in np.unique(counts):
            positions = np.flatnonzero(counts == length)
            size = max(1, _LOGITS_AT_ONCE // int(length * vocabulary))
            yield from (positions[i : i + size] for i in range(0, len(positions), size))

    def _prompt(self, features: Tensor) -> Tensor:
        prefix = torch.tensor(self.prefix, device=self.device)
        embeds = self.model.get_input_embeddings()(prefix).expand(len(features), -1, -1).clone()
        embeds[:, prefix == self.placeholder] = features.to(embeds.dtype)
        return embeds

    def _read(self, prompt: Tensor) -> tuple[Tensor | None, Any]:
        """Run the prompts once: logits of what follows `(items, 1, vocabulary)`, and their cache, if it can be used."""
        if not self.share_prefix:
            return None, None
        output = self.model.language_model(inputs_embeds=prompt, use_cache=True)
        cache = output.past_key_values
        layers = getattr(cache, "layers", None)  # recurrent states have no rows that could be picked
        if not layers or not all(hasattr(layer, "batch_select_indices") for layer in layers):
            return None, None
        return output.logits[:, -1:], cache

    def _after(self, first: Tensor, cache: Any, owners: Tensor, ids: Tensor) -> Tensor:
        """Logits `(pairs, length, vocabulary)` of captions that go on from the cache's rows `owners`."""
        if ids.shape[1] == 1:
            return first
        own = copy.deepcopy(cache)
        own.batch_select_indices(owners)
        embeds = self.model.get_input_embeddings()(ids[:, :-1])
        rest = self.model.language_model(inputs_embeds=embeds, past_key_values=own).logits
        return torch.cat([first, rest], dim=1)

    def _whole(self, prompt: Tensor, ids: Tensor) -> Tensor:
        """Logits `(pairs, length, vocabulary)` of captions, by reading prompt and caption together."""
        embeds = torch.cat([prompt, self.model.get_input_embeddings()(ids[:, :-1])], dim=1)
        return self.model.language_model(inputs_embeds=embeds, use_cache=False).logits[:, -ids.shape[1] :]


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
