"""Train the small causal language model of the many-seed study, on captions and WordNet nouns alone.

    python recipes/train_small_lm.py --output runs/small-lm

A Llama of two layers and width 256 with its own byte-level BPE of 8,192 tokens, 5.5 M parameters: small enough that
a connector is trained against it in a minute on one core, so that a comparison can afford five seeds a row. It reads
the captions of the train split, WordNet's nouns and their definitions, never an image or an embedding of one.

It reads each text twice and no more. A language model that knows the captions by heart, which connectors are trained on
after it, asks little of what stands before them: read sixteen times, with a shorter text beside them, they left a
connector trained on pairs at 0.58 in the ten-way choice of the validation pictures, and this one at 0.67.

Its token embeddings are the sentence tower's embeddings of the tokens' own texts, and stay as they are. With
embeddings that are learned from so little text, "frog" and "toad" are as far apart as any two words, and what a picture
tells about its caption is lost between the encoder and the tokens (`recipes/reproduce.py` measures that).

It is trained to write a text after notes about it: two to six vectors in front of the text, each the mean embedding of
some of the text's own tokens, with noise and with a share of another text's; or nothing but the mean of the
vocabulary. A language model as small as this one that has only read plain text pays little heed to what a connector
puts before the prompt, and one that has only read true notes believes all of them.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional as F
from tqdm import tqdm
from transformers import (
    AutoModel,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    get_scheduler,
)

from hf_modalbridge import demo
from hf_modalbridge.encoders import prepare_items

MAX_TOKENS = 32
VOCABULARY, WIDTH = 8192, 256
SPECIAL_TOKENS = ["<unk>", "<s>", "</s>", "<pad>"]


def training_texts() -> list[str]:
    """Return the texts: WordNet's nouns in the style of captions, their definitions, and the train captions."""
    nouns = demo.wordnet_glosses()
    captions = demo.load_captions("train").descriptions
    return [noun.description for noun in nouns] + [noun.text for noun in nouns] + captions


def train_tokenizer(texts: list[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer.

    Args:
        texts: Lines to train on.
        vocab_size: Number of tokens, specials included.

    Returns:
        A tokenizer with begin, end, padding and unknown tokens.
    """
    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size, special_tokens=SPECIAL_TOKENS, initial_alphabet=alphabet, show_progress=False
        ),
    )
    unk, bos, eos, pad = SPECIAL_TOKENS
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, unk_token=unk, bos_token=bos, eos_token=eos, pad_token=pad, padding_side="left"
    )


@torch.inference_mode()
def token_vectors(tokenizer: PreTrainedTokenizerFast, dim: int) -> torch.Tensor:
    """Embed the text of every token by the demo's sentence tower, reduced to principal components.

    Args:
        tokenizer: Whose tokens.
        dim: Components to keep, each divided by the root of its standard deviation: what is common to all words is
            still the largest, and not all there is.

    Returns:
        `(vocabulary, dim)`, the mean 0 and the standard deviation 0.1.
    """
    tower, pieces = (kind.from_pretrained(demo.sentence_tower()) for kind in (AutoModel, AutoTokenizer))
    texts = [tokenizer.decode([i]).strip() or "." for i in range(len(tokenizer))]
    rows = []
    for start in tqdm(range(0, len(texts), 256), desc="token vectors", unit="batch"):
        inputs = prepare_items(pieces, "text", texts[start : start + 256], tower.config)
        states, mask = tower.eval()(**inputs).last_hidden_state, inputs["attention_mask"][..., None]
        rows.append(F.normalize((states * mask).sum(1) / mask.sum(1), dim=-1))
    vectors = torch.cat(rows).double()
    vectors = vectors - vectors.mean(0)
    vectors = vectors @ torch.linalg.svd(vectors, full_matrices=False).Vh[:dim].T
    vectors = vectors / vectors.std(0).sqrt()
    return (0.1 * vectors / vectors.std()).float()


def notes(table: torch.Tensor, ids: torch.Tensor, content: torch.Tensor, rng: random.Random) -> torch.Tensor:
    """Make the vectors that stand before each text.

    Args:
        table: Token embeddings `(vocabulary, hidden)`.
        ids: Texts `(batch, length)`.
        content: Which of them are tokens of the text, not its end or padding `(batch, length)`.
        rng: Draws how many vectors, how much of the text is in them, and the noise's size.

    Returns:
        `(batch, vectors, hidden)`.
    """
    vectors, share, noise = rng.randint(2, 6), rng.choice([0.3, 0.6, 1.0]), rng.choice([0.0, 0.3, 0.6])
    whole = content[:, None].float().expand(-1, vectors, -1)  # (batch, vectors, length)
    kept = (torch.rand_like(whole) < share) * whole
    kept = torch.where(kept.sum(-1, keepdim=True) > 0, kept, whole)
    means = (kept / kept.sum(-1, keepdim=True)) @ table[ids]  # (batch, vectors, hidden)
    means = means + noise * table.std() * torch.randn_like(means)
    if wrong := rng.choice([0.0, 0.5, 1.0]):
        pooled = (content.float() / content.sum(-1, keepdim=True).clamp(min=1))[:, None] @ table[ids]
        others = pooled[torch.randperm(len(ids))] - table.mean(0)  # the same in all vectors of a text, not averaged out
        means = table.mean(0) + (means - table.mean(0) + wrong * others) / (1 + wrong**2) ** 0.5
    empty = torch.rand(len(ids), 1, 1) < 0.15  # texts without notes, so that captions are also known by themselves
    return torch.where(empty, table.mean(0).expand_as(means), means)


def batches(lengths: list[int], batch_size: int, steps: int, seed: int) -> Iterator[list[int]]:
    """Yield row numbers of batches whose rows have similar lengths.

    Args:
        lengths: Tokens of every row.
        batch_size: Rows of a batch.
        steps: Number of batches.
        seed: Seed of the order.

    Yields:
        Lists of row numbers.
    """
    rng, done = random.Random(seed), 0
    while True:
        rows = list(range(len(lengths)))
        rng.shuffle(rows)
        pool = batch_size * 20
        chunks = [sorted(rows[i : i + pool], key=lengths.__getitem__) for i in range(0, len(rows), pool)]
        epoch = [chunk[i : i + batch_size] for chunk in chunks for i in range(0, len(chunk), batch_size)]
        rng.shuffle(epoch)
        for batch in epoch:
            if done == steps:
                return
            done += 1
            yield batch


def build(output: Path, epochs: int = 2, seed: int = 0) -> Path:
    """Train the language model, unless it is already there.

    Args:
        output: Directory that receives model and tokenizer.
        epochs: Passes over the texts.
        seed: Seed of weights and order.

    Returns:
        `output`.
    """
    if (output / "model.safetensors").exists():
        return output
    torch.manual_seed(seed)
    texts = training_texts()
    tokenizer = train_tokenizer(texts, vocab_size=VOCABULARY)
    bos, eos, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    rows = [[*ids[:MAX_TOKENS], eos] for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=640,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        tie_word_embeddings=False,
        bos_token_id=bos,
        eos_token_id=eos,
        pad_token_id=pad,
        # the backward pass of the fused kernel is the slowest part of training short rows on a CPU
        attn_implementation="eager",
    )
    model = LlamaForCausalLM(config)
    table = model.get_input_embeddings().requires_grad_(False).weight
    with torch.no_grad():
        table.copy_(token_vectors(tokenizer, WIDTH))
        model.lm_head.weight.copy_(table)
    batch_size = 128
    steps = epochs * len(rows) // batch_size
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=2e-3, weight_decay=0.05, betas=(0.9, 0.95))
    scheduler = get_scheduler("cosine", optimizer, 200, steps)
    progress = tqdm(batches([len(r) for r in rows], batch_size, steps, seed), total=steps, desc="small language model")
    average, rng = None, random.Random(seed)
    for batch in progress:
        length = max(len(rows[i]) for i in batch)
        ids = torch.tensor([rows[i] + [pad] * (length - len(rows[i])) for i in batch])  # (batch, length)
        supervised = ids != pad
        with torch.autocast("cpu", torch.bfloat16):
            before = notes(table, ids, supervised & (ids != eos), rng)
            mask = torch.cat([supervised.new_ones(before.shape[:2]), supervised], dim=1)
            hidden = model.model(inputs_embeds=torch.cat([before, table[ids]], dim=1), attention_mask=mask)
            logits = model.lm_head(hidden.last_hidden_state[:, before.shape[1] - 1 : -1][supervised])
        loss = F.cross_entropy(logits.float(), ids[supervised])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        scheduler.step()
        average = loss.item() if average is None else 0.98 * average + 0.02 * loss.item()
        progress.set_postfix(loss=f"{average:.3f}")
    tokenizer.save_pretrained(output)
    model.save_pretrained(output)  # last, so that a run that was stopped leaves no model behind
    return output


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/small-lm"))
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(build(arguments.output, arguments.epochs, arguments.seed))


if __name__ == "__main__":
    main()
