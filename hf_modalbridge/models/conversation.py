"""A conversation about one item: what the terminal chat and the demos are made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

__all__ = ["Conversation"]


class Conversation:
    """Questions and answers about one item, which stays in front of the model.

    Args:
        model: `ModalBridgeForConditionalGeneration`.
        processor: Its processor.
        item: The content item of the first message, such as `{"type": "image", "path": "chair.png"}`.
        max_new_tokens: Longest answer.

    Raises:
        ValueError: If the model does not read the item's modality.
    """

    def __init__(self, model: Any, processor: Any, item: dict[str, Any], max_new_tokens: int = 64) -> None:
        model.config.modality(item["type"])
        self.model, self.processor, self.max_new_tokens = model.eval(), processor, max_new_tokens
        self.item = item
        self.messages: list[dict[str, Any]] = []

    @classmethod
    def open(
        cls,
        model: str | Path,
        *,
        file: str | Path | None = None,
        store: str | Path | None = None,
        row: str | int | None = None,
        modality: str | None = None,
        device: str = "cpu",
        revision: str | None = None,
        max_new_tokens: int = 64,
    ) -> Conversation:
        """Load a model and the item to talk about.

        Args:
            model: Directory or repo id.
            file: The raw item; the model must hold the modality's encoder.
            store: Instead of it, an embedding store of the encoder that the model was built on.
            row: Id or number of the row in the store.
            modality: What the item is, also as a plural; None if the model reads one modality only.
            device: Where the model runs.
            revision: Branch, tag or commit of the repo.
            max_new_tokens: Longest answer.

        Returns:
            The conversation, before its first question.

        Raises:
            FileNotFoundError: If there is no such file or store.
            ValueError: If neither or both of file and store are given, or the modality is not clear.
        """
        from transformers import AutoModel, AutoProcessor

        from hf_modalbridge.store import EmbeddingStore

        if (file is None) == (store is None) or (store is not None and row is None):
            raise ValueError("a conversation is about one item: give either a file, or a store and a row in it.")
        if file is not None and not Path(file).is_file():
            raise FileNotFoundError(f"there is no file {str(file)!r} to talk about.")
        embeddings = None if store is None else EmbeddingStore.open(store)
        extra = {} if revision is None else {"revision": revision}
        loaded = AutoModel.from_pretrained(str(model), **extra).to(device)
        processor = AutoProcessor.from_pretrained(str(model), **extra)
        names = list(loaded.config.modalities)
        if modality is None:
            if len(names) != 1:
                raise ValueError(f"the model reads {', '.join(names)}: say which of them the item is.")
            modality = names[0]
        elif modality not in names and modality.removesuffix("s") in names:  # as in --points FILE
            modality = modality.removesuffix("s")
        loaded.config.modality(modality)
        if embeddings is None:
            item = {"type": modality, "path": str(file)}
        else:
            corrections = loaded.model.corrections
            if modality in corrections:
                corrections[modality].check_encoder(embeddings.encoder, "target")
            position = int(row) if str(row).isdigit() and str(row) not in embeddings.ids else row
            item = {"type": modality, "embedding": torch.as_tensor(embeddings[position]).float().flatten()}
        return cls(loaded, processor, item, max_new_tokens)

    def ask(self, question: str) -> str:
        """Ask, and keep question and answer for the next turn.

        Args:
            question: What to ask.

        Returns:
            The answer, decoded greedily.
        """
        content: Any = question if self.messages else [self.item, {"type": "text", "text": question}]
        messages = [*self.messages, {"role": "user", "content": content}]
        inputs = self.processor.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True
        ).to(self.model.device)
        with torch.inference_mode():
            tokens = self.model.generate(**inputs, max_new_tokens=self.max_new_tokens, do_sample=False)
        answer = self.processor.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()
        self.messages = [*messages, {"role": "assistant", "content": answer}]
        return answer
