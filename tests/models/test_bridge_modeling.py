from __future__ import annotations

import pytest
import torch
from tiny_bridges import LM_NAMES, ask, make_bridge, make_lm, make_tokenizer, vectors
from torch import nn
from torch.nn import functional as F

from hf_modalbridge.models import CONNECTORS


def labelled(processor, embeds=None):
    chats = [
        [*ask(vectors(1)[0] if embeds is None else None), {"role": "assistant", "content": "a red chair"}],
        [
            *ask(vectors(1, seed=1)[0] if embeds is None else None, "and?"),
            {"role": "assistant", "content": "dog"},
        ],
    ]
    return processor.apply_chat_template(
        chats, return_labels=True, **({} if embeds is None else {"image_embeds": embeds})
    )


@pytest.mark.parametrize("name", LM_NAMES)
def test_text_alone_is_the_language_model(name):
    lm = make_lm(name)
    ids = torch.randint(4, lm.config.vocab_size, (2, 9), generator=torch.Generator().manual_seed(0))
    expected = lm(input_ids=ids).logits.detach().clone()
    model, _ = make_bridge(language_model=lm)
    assert model.get_input_embeddings().weight.shape[0] == len(make_tokenizer()) + 1
    torch.testing.assert_close(model(input_ids=ids).logits[..., : expected.shape[-1]], expected)
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == (
        name in ("llama_tied", "gpt2", "gemma2")
    )


@pytest.mark.parametrize("name", LM_NAMES)
def test_tokens_of_items_stand_where_their_placeholders_stood(name):
    model, processor = make_bridge(name)
    batch = labelled(processor)
    ids, embeds = batch["input_ids"], batch["modality_inputs"]["image"]["embeds"]
    merged = model.get_input_embeddings()(ids).clone()
    tokens = model.model.connectors["image"](F.normalize(embeds, dim=-1) * 12**0.5)
    place = model.config.modalities["image"].placeholder_token_id
    for row in range(2):
        merged[row, ids[row] == place] = tokens[row]
    expected = model.language_model(inputs_embeds=merged, attention_mask=batch["attention_mask"]).logits
    got = model(**{k: v for k, v in batch.items() if k != "labels"}).logits
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(got[real], expected[real])
    by_embeds = model(
        inputs_embeds=model.get_inputs_embeds(ids, batch["modality_inputs"]),
        attention_mask=batch["attention_mask"],
    ).logits
    torch.testing.assert_close(by_embeds, got)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
def test_loss_of_supervised_columns_is_the_loss_of_all_columns(name):
    model, processor = make_bridge(name)
    batch = labelled(processor)
    labels = batch["labels"]
    full = model(**{k: v for k, v in batch.items() if k != "labels"}).logits
    each = F.cross_entropy(full[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="none")
    count = (labels[:, 1:] != -100).sum()
    out = model(**batch)
    assert out.logits.shape[1] < full.shape[1]
    torch.testing.assert_close(out.loss, each.sum() / count)
    torch.testing.assert_close(model(**batch, reduction="sum").loss, each.sum())
    torch.testing.assert_close(model(**batch, num_items_in_batch=50).loss, each.sum() / 50)
    rows = model(**batch, reduction="none").loss
    torch.testing.assert_close(rows.sum(1), each.view(2, -1).sum(1))


def test_logits_to_keep_works_for_a_head_that_does_not_know_it():
    model, _ = make_bridge()
    ids = torch.arange(4, 12)[None]
    full = model(input_ids=ids).logits
    inner = model.language_model.forward

    def forward(inputs_embeds=None, attention_mask=None, past_key_values=None, use_cache=None, return_dict=None):
        return inner(inputs_embeds=inputs_embeds, attention_mask=attention_mask, use_cache=use_cache)

    model.language_model.forward = forward
    torch.testing.assert_close(model(input_ids=ids, logits_to_keep=3).logits, full[:, -3:])
    torch.testing.assert_close(model(input_ids=ids, logits_to_keep=torch.tensor([1, 5])).logits, full[:, [1, 5]])
    torch.testing.assert_close(model(input_ids=ids).logits, full)


def test_padding_side_changes_no_logit():
    for name in ("gpt2", "llama"):  # absolute and rotary positions
        model, processor = make_bridge(name)
        chats = [ask(vectors(1)[0]), ask(vectors(1, seed=1)[0], "describe the green table in a few words")]
        sides = {}
        for side in ("left", "right"):
            batch = processor.apply_chat_template(chats, tokenize=True, return_dict=True, padding_side=side)
            logits = model(**batch).logits
            sides[side] = [row[mask.bool()] for row, mask in zip(logits, batch["attention_mask"], strict=True)]
        for left, right in zip(sides["left"], sides["right"], strict=True):
            torch.testing.assert_close(left, right, atol=1e-4, rtol=1e-4)


def test_gradients_reach_the_connector_alone_when_the_rest_is_frozen_also_with_checkpointing():
    gradients = []
    for checkpointing in (False, True):
        model, processor = make_bridge()
        model.requires_grad_(False)
        model.model.connectors.requires_grad_(True)
        if checkpointing:
            model.gradient_checkpointing_enable()
            assert any(getattr(m, "gradient_checkpointing", False) for m in model.language_model.modules())
        model.train()
        model(**labelled(processor)).loss.backward()
        assert all(p.grad is None for n, p in model.named_parameters() if "connectors" not in n)
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) == 5
    for name, value in gradients[0].items():
        assert value.abs().sum() > 0
        torch.testing.assert_close(gradients[1][name], value)


def test_sdpa_and_eager_agree():
    model, processor = make_bridge()
    batch = labelled(processor)
    assert model.config._attn_implementation == model.language_model.config._attn_implementation == "sdpa"
    sdpa = model(**batch).loss
    model.set_attn_implementation("eager")
    assert model.language_model.config._attn_implementation == "eager"
    torch.testing.assert_close(model(**batch).loss, sdpa)


def test_two_modalities_in_one_prompt_and_only_one_in_another():
    fields = {"touch": {"embedding_dim": 5, "num_tokens": 1}, "image": {"embedding_dim": 12, "num_tokens": 3}}
    model, processor = make_bridge(modalities=fields)
    touch, image = vectors(1, 5)[0], vectors(1)[0]
    items = [
        {"type": "touch", "embedding": touch},
        {"type": "text", "text": "and"},
        {"type": "image", "embedding": image},
    ]
    batch = processor.apply_chat_template([{"role": "user", "content": items}], tokenize=True, return_dict=True)
    ids = batch["input_ids"][0].tolist()
    places = {name: ids.count(m.placeholder_token_id) for name, m in model.config.modalities.items()}
    assert places == {"touch": 1, "image": 3}
    base = model(**batch).logits
    for name, other in (("touch", vectors(1, 5, seed=9)), ("image", vectors(1, seed=9))):
        inputs = {**batch["modality_inputs"], name: {"embeds": other}}
        changed = model(input_ids=batch["input_ids"], modality_inputs=inputs).logits
        first = ids.index(model.config.modalities[name].placeholder_token_id)
        torch.testing.assert_close(changed[:, :first], base[:, :first])  # causal: nothing before the item moves
        assert (changed[:, first:] - base[:, first:]).abs().max() > 1e-3
    alone = processor.apply_chat_template(ask(image), tokenize=True, return_dict=True)
    assert set(alone["modality_inputs"]) == {"image"}
    assert model(**alone).logits.isfinite().all()


def test_magnitude_counts_only_without_normalisation():
    for normalize in (True, False):
        fields = {"image": {"embedding_dim": 12, "normalize": normalize}}
        model, _ = make_bridge(modalities=fields)
        x = vectors(2)
        same = torch.allclose(
            model.get_modality_features("image", embeds=x), model.get_modality_features("image", embeds=3 * x)
        )
        assert same is normalize


def test_bad_input_is_named_with_both_numbers(bridge):
    model, processor = bridge
    batch = processor.apply_chat_template(ask(vectors(1)[0]), tokenize=True, return_dict=True)
    ids = batch["input_ids"]
    with pytest.raises(ValueError, match=r"3 placeholder tokens of modality 'image'.*2 item\(s\) of 3.*need 6"):
        model(input_ids=ids, modality_inputs={"image": {"embeds": vectors(2)}})
    with pytest.raises(ValueError, match="3 placeholder token.*0 items"):
        model(input_ids=ids)
    with pytest.raises(ValueError, match=r"shape \(1, 7\), expected \(items, 12\)"):
        model(input_ids=ids, modality_inputs={"image": {"embeds": vectors(1, 7)}})
    with pytest.raises(KeyError, match="no modality 'sound'; it has image"):
        model(input_ids=ids, modality_inputs={"sound": {"embeds": vectors(1)}})
    with pytest.raises(ValueError, match="one kind a call"):
        model(input_ids=ids, modality_inputs={"image": {"embeds": vectors(1), "imagine_embeds": vectors(1)}})
    with pytest.raises(ValueError, match="no encoder"):
        model(input_ids=ids, modality_inputs={"image": {"pixel_values": torch.zeros(1, 3, 4, 4)}})
    with pytest.raises(ValueError, match="no correction"):
        model.imagine("image", vectors(1))
    with pytest.raises(ValueError, match="get_inputs_embeds"):
        model(inputs_embeds=torch.zeros(1, 3, 32), modality_inputs={"image": {"embeds": vectors(1)}})
    with pytest.raises(ValueError, match="exactly one"):
        model()
    with pytest.raises(ValueError, match="supervise no token"):
        model(**batch, labels=torch.full_like(ids, -100))


def test_building_does_not_touch_the_language_models_weights():
    lm = make_lm("llama_tied")
    before = {k: v.clone() for k, v in lm.state_dict().items()}
    model, _ = make_bridge(language_model=lm)
    assert model.language_model is lm
    old = before["model.embed_tokens.weight"].shape[0]
    after = lm.state_dict()
    for key, value in before.items():
        assert torch.equal(after[key][:old] if "embed_tokens" in key or "lm_head" in key else after[key], value), key
    new = after["model.embed_tokens.weight"][old:]
    torch.testing.assert_close(new, before["model.embed_tokens.weight"].mean(0, keepdim=True))


def test_an_unused_special_token_needs_no_new_row():
    fields = {"image": {"embedding_dim": 12, "placeholder_token": "<unused>"}}
    model, processor = make_bridge(modalities=fields)
    assert model.get_input_embeddings().weight.shape[0] == len(make_tokenizer()) == len(processor.tokenizer)
    with pytest.raises(ValueError, match="already has a meaning"):
        make_bridge(modalities={"image": {"embedding_dim": 12, "placeholder_token": "<pad>"}})


def test_connector_of_another_package_is_built(monkeypatch):
    class Half(CONNECTORS["linear"]):
        def forward(self, embeddings):
            return super().forward(embeddings) / 2

    monkeypatch.setitem(CONNECTORS, "half", Half)
    model, _ = make_bridge(modalities={"image": {"embedding_dim": 12, "connector_type": "half"}})
    assert isinstance(model.model.connectors["image"].projector, Half)
    assert isinstance(model.model.connectors["image"].projector.last, nn.Linear)


def test_input_noise_is_there_in_training_only_and_keeps_the_inputs_spread():
    entry = {"embedding_dim": 12, "connector_type": "linear", "input_noise": 2}
    model, _ = make_bridge(modalities={"image": entry})
    connector, seen = model.model.connectors["image"], []
    connector.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    embeds = vectors(1).expand(20000, -1)
    clean = F.normalize(embeds[:1], dim=-1) * 12**0.5
    model.eval()
    model.get_modality_features("image", embeds=embeds[:1])
    torch.testing.assert_close(seen[-1], clean)
    connector.train()
    torch.manual_seed(0)
    model.get_modality_features("image", embeds=embeds)
    # N(clean / sqrt(5), 4 / 5) in each dimension
    torch.testing.assert_close(seen[-1].mean(0), clean[0] / 5**0.5, atol=0.03, rtol=0)
    torch.testing.assert_close(seen[-1].std(0), torch.full((12,), 0.8**0.5), atol=0.02, rtol=0)
    with pytest.raises(ValueError, match=r"input_noise is a finite number >= 0, got -1\.0"):
        make_bridge(modalities={"image": {"embedding_dim": 12, "input_noise": -1.0}})
