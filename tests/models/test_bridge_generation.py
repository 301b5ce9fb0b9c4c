from __future__ import annotations

import pytest
import torch
from PIL import Image
from tiny_bridges import LM_NAMES, ask, make_bridge, make_clip, make_correction, vectors
from transformers import GenerationConfig

OPTIONS = {"tokenize": True, "return_dict": True, "add_generation_prompt": True}
GREEDY = {"max_new_tokens": 8, "do_sample": False}
QUESTIONS = ["what is this?", "describe the green table in a few words, and the cat", "chair?"]


def new_tokens(model, batch, **options):
    output = model.generate(**batch, **{**GREEDY, **options})
    return output[:, batch["input_ids"].shape[1] :]


def trimmed(row, eos=1, pad=2):
    ids = row.tolist()
    ids = ids[: ids.index(eos)] if eos in ids else ids
    return [i for i in ids if i != pad]


@pytest.mark.parametrize("name", LM_NAMES)
def test_a_batch_is_its_rows_one_by_one(name):
    model, processor = make_bridge(name)
    chats = [ask(v, q) for v, q in zip(vectors(3), QUESTIONS, strict=True)]
    chats.append([{"role": "user", "content": "no picture here"}])
    batch = processor.apply_chat_template(chats, **OPTIONS)
    assert batch["attention_mask"][:, 0].tolist() != [1] * 4 and batch["attention_mask"][:, -1].tolist() == [1] * 4
    together = new_tokens(model, batch)
    for row, chat in zip(together, chats, strict=True):
        alone = new_tokens(model, processor.apply_chat_template(chat, **OPTIONS))
        assert trimmed(row) == trimmed(alone[0])
    assert len({tuple(trimmed(row)) for row in together}) > 1


def test_the_answer_depends_on_the_item():
    model, processor = make_bridge()
    answers = {
        tuple(trimmed(new_tokens(model, processor.apply_chat_template(ask(v), **OPTIONS))[0])) for v in vectors(6)
    }
    assert len(answers) > 1


@pytest.mark.parametrize("options", [{"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}])
def test_beams_keep_the_items_of_their_sample(options):
    model, processor = make_bridge()
    a, b, c = vectors(3)
    two = [
        {"type": "image", "embedding": a},
        {"type": "text", "text": "or"},
        {"type": "image", "embedding": b},
    ]
    chats = [[{"role": "user", "content": two}], ask(c, "what is this thing, and what is that?")]
    together = new_tokens(model, processor.apply_chat_template(chats, **OPTIONS), **options)
    alone = [new_tokens(model, processor.apply_chat_template(chat, **OPTIONS), **options) for chat in chats]
    assert [trimmed(r) for r in together] == [trimmed(r) for rows in alone for r in rows]


def test_repeated_rows_see_what_the_first_sees():
    model, processor = make_bridge()
    seen, inner = [], model.model.get_modality_features

    def spy(modality, **inputs):
        seen.append(inputs["embeds"].clone())
        return inner(modality, **inputs)

    model.model.get_modality_features = spy
    a, b, c = vectors(3)
    two = [{"type": "image", "embedding": a}, {"type": "image", "embedding": b}]
    batch = processor.apply_chat_template([[{"role": "user", "content": two}], ask(c)], **OPTIONS)
    torch.manual_seed(0)
    model.generate(**batch, max_new_tokens=4, do_sample=True, num_return_sequences=2)
    assert len(seen) == 1  # with a cache, items are read once
    assert torch.equal(seen[0], torch.stack([a, b, a, b, c, c]))


def test_cache_or_not_and_inputs_embeds_or_ids_give_the_same_tokens():
    for name in ("llama", "gemma2"):
        model, processor = make_bridge(name)
        batch = processor.apply_chat_template(
            [ask(v, q) for v, q in zip(vectors(3), QUESTIONS, strict=True)], **OPTIONS
        )
        expected = new_tokens(model, batch)
        assert torch.equal(new_tokens(model, batch, use_cache=False), expected)
        embeds = model.get_inputs_embeds(batch["input_ids"], batch["modality_inputs"])
        output = model.generate(inputs_embeds=embeds, attention_mask=batch["attention_mask"], **GREEDY)
        assert torch.equal(output, expected)


@pytest.mark.parametrize("name", ["llama", "llama_tied"])
def test_the_placeholder_is_never_written(name):
    model, processor = make_bridge(name)
    place = model.config.placeholder_token_ids[0]
    assert model.generation_config.suppress_tokens == [place]
    head = model.get_output_embeddings()
    head.register_forward_hook(lambda m, i, out: out.index_fill(-1, torch.tensor([place]), 1e4))
    batch = processor.apply_chat_template(ask(vectors(1)[0]), **OPTIONS)
    assert model(**batch).logits[0, -1].argmax() == place
    own = GenerationConfig(max_new_tokens=4, do_sample=False, pad_token_id=2)
    for output in (new_tokens(model, batch), model.generate(**batch, generation_config=own)[:, -4:]):
        assert place not in output
    torch.manual_seed(0)
    assert place not in new_tokens(model, batch, num_beams=2, do_sample=True)


def test_a_wrong_argument_is_refused():
    model, processor = make_bridge()
    batch = processor.apply_chat_template(ask(vectors(1)[0]), **OPTIONS)
    with pytest.raises(ValueError, match="modality_input"):
        model.generate(batch["input_ids"], modality_input=batch["modality_inputs"], **GREEDY)


def test_raw_items_embeddings_and_imagined_items_take_one_path(tmp_path):
    clip, clip_processor = make_clip()
    correction = make_correction()
    fields = {
        "image": {
            "encoder": clip,
            "encoder_processor": clip_processor,
            "correction": correction,
            "num_tokens": 2,
        }
    }
    model, processor = make_bridge(modalities=fields)
    pictures = [Image.new("RGB", (20, 24), color) for color in ("red", "blue")]
    pictures[0].save(tmp_path / "red.png")
    items = [{"type": "image", "path": str(tmp_path / "red.png")}, {"type": "image", "image": pictures[1]}]
    raw = processor.apply_chat_template([{"role": "user", "content": items}], **OPTIONS)
    assert raw["modality_inputs"]["image"]["pixel_values"].shape == (2, 3, 16, 16)
    embeds = model.embed("image", **raw["modality_inputs"]["image"])
    features = clip.get_image_features(pixel_values=raw["modality_inputs"]["image"]["pixel_values"]).pooler_output
    torch.testing.assert_close(embeds, torch.nn.functional.normalize(features, dim=-1))
    stored = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "image"}]}],
        image_embeds=embeds.detach(),
        **OPTIONS,
    )
    assert torch.equal(raw["input_ids"], stored["input_ids"])
    assert torch.equal(new_tokens(model, raw), new_tokens(model, stored))

    text = "a red chair"
    imagined = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image", "imagine": text}]}], **OPTIONS
    )
    tokens = clip_processor(text=[text], return_tensors="pt")
    by_hand = correction(torch.nn.functional.normalize(clip.get_text_features(**tokens).pooler_output, dim=-1))
    torch.testing.assert_close(model.imagine("image", **tokens), by_hand)
    given = {"image": {"imagine_embeds": clip.get_text_features(**tokens).pooler_output}}
    torch.testing.assert_close(
        model(**imagined).logits, model(input_ids=imagined["input_ids"], modality_inputs=given).logits
    )
    assert torch.equal(
        processor(text="<|image|>", imagine_image=text)["modality_inputs"]["image"]["imagine_input_ids"],
        imagined["modality_inputs"]["image"]["imagine_input_ids"],
    )


def test_bfloat16_model_with_encoder_runs_end_to_end():
    clip, clip_processor = make_clip()
    fields = {"image": {"encoder": clip, "encoder_processor": clip_processor, "correction": make_correction()}}
    model, processor = make_bridge(modalities=fields)
    model = model.to(torch.bfloat16)
    batch = processor(text=["<|image|> what is this?"], images=Image.new("RGB", (20, 20)))
    assert model(**batch).logits.isfinite().all()
    assert new_tokens(model, batch).shape == (1, 8)


def test_a_correction_of_another_encoder_is_refused():
    clip, clip_processor = make_clip()
    from hf_modalbridge import ReAlign
    from hf_modalbridge.encoders import encoder_fingerprint

    own = encoder_fingerprint(clip, clip_processor, "image", "us/clip")
    other = {**own, "id": "them/clip", "probe": [-x for x in own["probe"]]}
    for fingerprint, fits in ((own, True), (other, False)):
        correction = ReAlign.fit(vectors(50) + 1, vectors(50, seed=1) - 1, target_encoder=fingerprint)
        parts = {"encoder": clip, "encoder_processor": clip_processor, "correction": correction}
        if fits:
            make_bridge(modalities={"image": parts})
        else:
            with pytest.raises(ValueError, match="them/clip"):
                make_bridge(modalities={"image": parts})
