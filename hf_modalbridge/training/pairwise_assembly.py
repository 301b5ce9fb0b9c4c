"""Putting the parts of the pairwise route together: pairs from stores, the aligner, and the bridge of stage II."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hf_modalbridge.data.captions import CaptionDataset
from hf_modalbridge.data.chats import ChatDataset
from hf_modalbridge.data.pairs import PairSets, StoreFeatures, TextFeatures, pair_rows
from hf_modalbridge.models.pairwise_aligner import PairwiseAligner

from .assembly import Bridge
from .checkpoint import load_trained
from .freezing import train_only, trainable_parameters
from .graph import TEXT, ModalityGraph, PairData
from .pairwise_config import PairwiseRecipe, RecomposeStage

__all__ = ["RecomposeBridge", "SetsOfRows", "assemble_bridge", "build_aligner", "caption_rows", "load_pairs"]


def load_pairs(
    graph: ModalityGraph, tokenizer: Any, table: Tensor, held_out: bool = False
) -> tuple[PairSets, list[PairData]]:
    """Read the pairs of a graph.

    Args:
        graph: The graph.
        tokenizer: The language model's.
        table: Its input embeddings.
        held_out: Read the edges' held-out stores instead.

    Returns:
        The pairs, and the edges that they are of.
    """
    from hf_modalbridge.store import EmbeddingStore

    edges, used = [], []
    for pair in graph.pairs:
        paths = pair.held_out if held_out else pair.stores
        if paths is None:
            continue
        stores = {name: EmbeddingStore.open(path) for name, path in paths.items()}
        sides: dict[str, Any] = {}
        if TEXT in (pair.source, pair.target):
            ((name, store),) = stores.items()
            sides[name] = StoreFeatures(store, *_form(graph, name))
            sides[TEXT] = TextFeatures(store.column(pair.text_column), tokenizer, table, graph.text.num_tokens)
        else:
            keys = {name: store.column(pair.pair_column) for name, store in stores.items()}
            rows = dict(zip((pair.source, pair.target), pair_rows(keys[pair.source], keys[pair.target]), strict=True))
            for name, store in stores.items():
                sides[name] = StoreFeatures(store, *_form(graph, name), rows[name])
        edges.append(sides)
        used.append(pair)
    return PairSets(edges), used


def _form(graph: ModalityGraph, name: str) -> tuple[int, bool]:
    return graph.modalities[name].num_tokens, graph.modalities[name].normalize


@torch.no_grad()
def build_aligner(graph: ModalityGraph, pairs: PairSets, seed: int) -> PairwiseAligner:
    """Build an untrained aligner whose modalities know where their tokens lie.

    Args:
        graph: The graph.
        pairs: The training pairs, for widths and statistics (of at most 4,096 rows a side).
        seed: Of the weights.

    Returns:
        The aligner, in evaluation mode.
    """
    sides = [(name, side) for edge in pairs.edges for name, side in edge.items()]
    widths = {name: side.dim for name, side in sides}
    for name, side in sides:
        if side.dim != widths[name]:
            raise ValueError(f"stores of {name!r} have tokens of width {side.dim} and {widths[name]}: use one encoder.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        aligner = PairwiseAligner(graph.aligner_config(widths))
    for name in widths:
        total, squares, count = torch.zeros(widths[name], dtype=torch.float64), 0.0, 0
        for _, side in (s for s in sides if s[0] == name):
            rows = np.random.default_rng(seed).permutation(len(side))[:4096]
            for start in range(0, len(rows), 256):
                features, mask = side[rows[start : start + 256]]
                x = (features[mask] if mask is not None else features.flatten(0, 1)).double()
                total += x.sum(0)
                squares += float(x.square().sum())
                count += len(x)
        mean = total / count
        spread = (squares / count - float(mean.square().sum())) / len(mean)
        aligner.set_statistics(name, mean, max(spread, 1e-12) ** 0.5)
    return aligner.eval()


@dataclass
class RecomposeBridge(Bridge):
    """A bridge whose modalities may share decoders while they train; the finished one has a copy for each.

    Args:
        shared: Connectors whose text decoder is the first one's.
    """

    shared: list[nn.Module] = field(default_factory=list)

    def finish(self, trained_file: str | Path) -> None:
        """Load what was trained, and part the shared decoder."""
        load_trained(trained_file, trainable_parameters(self.model))
        for connector in self.shared:
            connector.projector.decoders[TEXT] = copy.deepcopy(connector.projector.decoders[TEXT])  # type: ignore[union-attr,index]
        self.model.requires_grad_(False)
        self.model.to(self.dtype).eval()


def assemble_bridge(
    recipe: PairwiseRecipe, aligner: PairwiseAligner, language_model: Any, tokenizer: Any, with_encoder: bool = False
) -> RecomposeBridge:
    """Build the bridge of stage II with the weights of stage I; latent encoders and text decoders train.

    Args:
        recipe: The recipe.
        aligner: Of stage I.
        language_model: The language model; becomes part of the bridge.
        tokenizer: Its tokenizer.
        with_encoder: Whether the modalities' frozen encoders are part of it, as in the finished model only.

    Returns:
        The bridge. Modalities without pairs with text are in it as stage I left them.

    Raises:
        ValueError: If a surrogate's tokens are not of the language model's width.
    """
    from hf_modalbridge.models import ModalBridgeForConditionalGeneration

    graph, config = recipe.graph(), aligner.config
    width = language_model.get_input_embeddings().weight.shape[1]
    sizes = {
        key: getattr(config, key)
        for key in ("width", "num_latents", "encoder_layers", "decoder_layers", "heads", "ff_mult", "dropout")
    }
    modalities: dict[str, dict[str, Any]] = {}
    for name, modality in graph.modalities.items():
        surrogates = []
        for partner in modality.surrogates:
            latent = config.modalities[partner]
            if latent.input_dim != width:
                raise ValueError(
                    f"the tokens of {partner!r} are {latent.input_dim} wide, but the language model reads {width}: a "
                    "surrogate's partner must have tokens that the language model reads already (its own token "
                    "embeddings, or the output of a trained connector)."
                )
            active = config.active_entries(name, partner)
            surrogates.append({"partner": partner, "num_tokens": latent.num_tokens, "active": active})
        parts: dict[str, Any] = {
            "embedding_dim": config.modalities[name].input_dim,
            "input_tokens": modality.num_tokens,
            "num_tokens": sum(s["num_tokens"] for s in surrogates),
            "connector_type": "recompose",
            "connector_config": {**sizes, "surrogates": surrogates},
            "normalize": modality.normalize,
        }
        if modality.placeholder_token is not None:
            parts["placeholder_token"] = modality.placeholder_token
        if with_encoder and modality.encoder is not None:
            from hf_modalbridge.encoders import load_encoder

            encoder, processor = load_encoder(modality.encoder, modality.encoder_revision)
            parts |= {"encoder": encoder, "encoder_processor": processor}
            parts["encoder_source"] = {"id": modality.encoder, "revision": modality.encoder_revision}
        modalities[name] = parts
    model, processor = ModalBridgeForConditionalGeneration.from_components(
        language_model=language_model,
        tokenizer=tokenizer,
        modalities=modalities,
        language_model_source={"id": recipe.language_model.id, "revision": recipe.language_model.revision},
        seed=recipe.stage2.loop.seed,
    )
    connectors = model.model.connectors
    for name in modalities:
        connectors[name].projector.load_aligner(aligner, name)
    names = stage2_modalities(graph, recipe.stage2)
    bridge = RecomposeBridge(model, processor, [connectors[name] for name in names], language_model.dtype)
    if recipe.stage2.share_decoder:
        first, *rest = bridge.trained
        for connector in rest:
            connector.projector.decoders[TEXT] = first.projector.decoders[TEXT]  # type: ignore[union-attr,index]
        bridge.shared = rest
    train_only(model, bridge.trained)
    return bridge


def stage2_modalities(graph: ModalityGraph, stage: RecomposeStage) -> list[str]:
    """Modalities that stage II trains: those paired with text, or the ones of them that the stage names."""
    paired = [name for name in graph.modalities if TEXT in graph.neighbours(name)]
    wanted = paired if stage.modalities is None else stage.modalities
    wrong = [name for name in wanted if name not in paired]
    if wrong or not wanted:
        raise ValueError(
            f"stage2.modalities has {wrong or 'nothing'}, but the language model's loss needs captions: choose from "
            f"those paired with text, {', '.join(paired)}."
        )
    return list(wanted)


class SetsOfRows:
    """Several data sets of labelled rows, one after the other.

    Args:
        sets: Data sets with `lengths`.
    """

    def __init__(self, sets: list[Any]) -> None:
        self.sets = sets
        self.sizes = [len(s) for s in sets]
        self.starts = np.concatenate([[0], np.cumsum(self.sizes)])
        self.lengths = np.concatenate([s.lengths for s in sets])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, row: int) -> dict[str, Any]:
        index = int(np.searchsorted(self.starts, row, side="right")) - 1
        return self.sets[index][row - int(self.starts[index])]


def caption_rows(
    graph: ModalityGraph, stage: RecomposeStage, processor: Any, held_out: bool = False
) -> tuple[SetsOfRows | None, list[float]]:
    """Make the labelled rows of stage II: an item's surrogate tokens, a question if there are any, the caption.

    Args:
        graph: The graph.
        stage: Stage II.
        processor: The bridge's.
        held_out: Take the edges' held-out stores.

    Returns:
        The rows, one set a modality, and how often each is drawn; None if there are no such stores.
    """
    from hf_modalbridge.store import EmbeddingStore

    sets: list[Any] = []
    weights = []
    names = stage2_modalities(graph, stage)
    for pair in graph.pairs:
        name = pair.source if pair.target == TEXT else pair.target
        paths = pair.held_out if held_out else pair.stores
        if TEXT not in (pair.source, pair.target) or name not in names or paths is None:
            continue
        store = EmbeddingStore.open(paths[name])
        captions = store.column(pair.text_column)
        if stage.questions:
            chats = [
                {
                    "id": row_id,
                    "messages": [
                        {
                            "role": "user",
                            "content": [
                                {"type": name},
                                {"type": "text", "text": stage.questions[i % len(stage.questions)]},
                            ],
                        },
                        {"role": "assistant", "content": caption},
                    ],
                }
                for i, (row_id, caption) in enumerate(zip(store.ids, captions, strict=True))
            ]
            sets.append(ChatDataset(chats, {name: store}, processor, max_length=stage.max_length))
        else:
            options: dict[str, Any] = {"kind": "embeds", "max_length": stage.max_length}
            sets.append(CaptionDataset(store, processor, name, captions, **options))
        weights.append(pair.weight)
    return (SetsOfRows(sets) if sets else None), weights
