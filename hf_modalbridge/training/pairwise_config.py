"""What a run of the pairwise route is: the graph and its two stages."""

from __future__ import annotations

from dataclasses import dataclass, field

from .config import LanguageModelOptions, LoopConfig
from .graph import AlignerOptions, GraphModality, ModalityGraph, PairData, TextOptions
from .pairwise_evaluation import HeldOutItems, HeldOutTriples

__all__ = ["AlignStage", "PairwiseRecipe", "RecomposeStage"]


@dataclass
class AlignStage:
    """Stage I: the aligner, on token features; no encoder and no language model runs.

    Args:
        loop: Settings of the loop. A step's rows are pairs of one edge.
        skip: Leave the aligner as it starts, for comparison: stage II then learns everything by itself.
    """

    loop: LoopConfig
    skip: bool = False


@dataclass
class RecomposeStage:
    """Stage II: modalities that are paired with text, recomposed into the frozen language model.

    Args:
        loop: Settings of the loop. A step's rows are of one modality.
        questions: Asked in the chat template before a caption, one after the other; empty trains plain prompts, for
            language models without a template.
        max_length: Longest row in tokens.
        modalities: Which of those paired with text train; None takes all.
        share_decoder: Train one text decoder for all of them, as the paper does.
        skip: Use stage I's weights as they are, for comparison.
    """

    loop: LoopConfig
    questions: list[str] = field(default_factory=lambda: ["What is this?"])
    max_length: int = 96
    modalities: list[str] | None = None
    share_decoder: bool = True
    skip: bool = False


@dataclass
class PairwiseRecipe:
    """Both stages of the pairwise route (arXiv 2605.21059).

    Args:
        output_dir: `stage1/` and `stage2/` go in here: checkpoints, logs, and `model/`, the product.
        language_model: The language model; its id `demo` is the one of the demo.
        modalities: What it is to read.
        pairs: The pairs that were observed.
        stage1: Alignment.
        stage2: Recomposition.
        text: The language model's side.
        aligner: Sizes and losses.
        evaluate: Held-out items that the finished model is measured on.
        triples: Held-out items in several modalities, for retrieval and recomposition by the aligner.
        demo_stores: Make the demo's stores in this folder first; paths of stores are then names in it.
    """

    output_dir: str
    language_model: LanguageModelOptions
    modalities: dict[str, GraphModality]
    pairs: list[PairData]
    stage1: AlignStage
    stage2: RecomposeStage
    text: TextOptions = field(default_factory=TextOptions)
    aligner: AlignerOptions = field(default_factory=AlignerOptions)
    evaluate: list[HeldOutItems] = field(default_factory=list)
    triples: list[HeldOutTriples] = field(default_factory=list)
    demo_stores: str | None = None

    def graph(self) -> ModalityGraph:
        """Check the graph and return it."""
        return ModalityGraph(self.text, self.modalities, self.pairs, self.aligner)
