from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_bridges import CHATML, ask, make_bridge, make_clip, make_tokenizer, vectors
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoProcessor, PreTrainedTokenizerFast

from hf_modalbridge import ModalBridgeProcessor

FIELDS = {
    "image": {"embedding_dim": 12, "num_tokens": 2, "constant_prompt": 1},
    "touch": {"embedding_dim": 5},
}


@pytest.fixture(scope="module")
def processor():
    return make_bridge(modalities=FIELDS)[1]


def turns(*messages):
    return [{"role": role, "content": content} for role, content in messages]


def supervised(processor, batch, row=0):
    labels = batch["labels"][row]
    return processor.tokenizer.decode(labels[labels != -100])


def words(text):
    return text.replace("</s>", " </s> ").split()


def test_one_placeholder_becomes_the_run_that_the_model_fills(processor):
    batch = processor(text="see <|image|> and <|touch|>!", image_embeds=vectors(1), touch_embeds=vectors(1, 5))
    ids = batch["input_ids"][0].tolist()
    image, touch = (processor.modalities[m]["placeholder_token_id"] for m in ("image", "touch"))
    assert ids.count(image) == 3 and ids.count(touch) == 4
    assert ids[ids.index(image) : ids.index(image) + 3] == [image] * 3
    plain = make_tokenizer()
    assert [i for i in ids if i not in (image, touch)] == [
        i for part in ("see ", " and ", "!") for i in plain(part)["input_ids"]
    ]


def test_padding_is_left_for_prompts_and_right_for_labels(processor):
    texts = ["a", "the table is green and round"]
    left = processor(text=texts)
    assert left["attention_mask"][0, 0] == 0 and left["attention_mask"][:, -1].tolist() == [1, 1]
    assert left["input_ids"][0, 0] == processor.tokenizer.pad_token_id
    chats = [turns(("user", "a"), ("assistant", t)) for t in texts]
    right = processor.apply_chat_template(chats, return_labels=True)
    assert right["attention_mask"][:, 0].tolist() == [1, 1] and right["attention_mask"][0, -1] == 0
    assert (right["labels"][right["attention_mask"] == 0] == -100).all()
    assert processor.apply_chat_template(chats, return_labels=True, padding_side="left")["attention_mask"][0, 0] == 0


@pytest.mark.parametrize(
    ("text", "items", "message"),
    [
        ("<|image|>", {}, "hold 1 placeholder.*'image', but 0 item"),
        ("<|image|>", {"image_embeds": vectors(2)}, "hold 1 placeholder.*'image', but 2 item"),
        ("nothing", {"image_embeds": vectors(1)}, "hold 0 placeholder.*'image', but 1 item"),
        ("<|image|>", {"image_embeds": vectors(1, 7)}, r"shape \(1, 7\), expected \(items, 12\)"),
        ("<|image|>", {"images": ["cat.png"]}, "no encoder processor"),
    ],
)
def test_items_and_placeholders_that_disagree_are_refused_with_both_numbers(processor, text, items, message):
    with pytest.raises(ValueError, match=message):
        processor(text=text, **items)


def test_bad_rows_are_listed(processor):
    rows = vectors(5)
    rows[1] = 0
    rows[3, 2] = float("nan")
    rows[4, 0] = float("inf")
    with pytest.raises(ValueError, match=r"non-finite or zero rows: \[1, 3, 4\] of 5"):
        processor.plain(["a dog"] * 5, "image", embeds=rows)
    with pytest.raises(TypeError, match="'imge_embeds'"):
        processor(text="<|image|>", imge_embeds=vectors(1))


def test_read_only_half_precision_rows_are_taken_as_they_are(processor, tmp_path):
    np.save(tmp_path / "rows.npy", vectors(3).half().numpy())
    rows = np.load(tmp_path / "rows.npy", mmap_mode="r")
    batch = processor.plain(["a dog"] * 2, "image", embeds=rows[:2])
    embeds = batch["modality_inputs"]["image"]["embeds"]
    assert embeds.dtype == torch.float16 and torch.equal(embeds, torch.from_numpy(np.array(rows[:2])))


def test_a_placeholder_typed_by_a_user_is_refused(processor):
    for content in ("look: <|image|>", [{"type": "text", "text": "look: <|touch|>"}]):
        with pytest.raises(ValueError, match=r"message 1 contains the placeholder token '<\|(image|touch)\|>'"):
            processor.apply_chat_template(turns(("system", "be brief"), ("user", content)), tokenize=True)
    with pytest.raises(ValueError, match="caption 1 contains the placeholder"):
        processor.plain(["a dog", "a <|image|>"], "image")


def test_unknown_content_types_and_missing_items_are_named(processor):
    with pytest.raises(ValueError, match="type 'video'; this processor knows 'text', 'image', 'touch'"):
        processor.apply_chat_template(turns(("user", [{"type": "video"}])), tokenize=True)
    with pytest.raises(ValueError, match=r"2 content item\(s\) of type 'image', but 1 item"):
        content = [{"type": "image"}, {"type": "image"}]
        processor.apply_chat_template(turns(("user", content)), tokenize=True, image_embeds=vectors(1))
    with pytest.raises(ValueError, match="came as embeds, imagine"):
        content = [{"type": "image", "embedding": vectors(1)[0]}, {"type": "image", "imagine": "a dog"}]
        processor.apply_chat_template(turns(("user", content)), tokenize=True)


def test_labels_are_what_the_assistant_says_and_its_end(processor):
    chat = turns(("system", "be brief"), ("user", "hi"), ("assistant", "a dog, and"))
    chat += [*ask(vectors(1)[0]), *turns(("assistant", "the table"))]
    batch = processor.apply_chat_template(chat, return_labels=True)
    assert supervised(processor, batch) == "a dog, and<|im_end|>the table<|im_end|>"
    assert torch.equal(processor.labels(chat), batch["labels"])
    # the supervised tokens are those that a model would have to write after the prompt it is given at inference
    for i in (2, 4):
        prompt = processor.apply_chat_template(chat[:i], tokenize=True, add_generation_prompt=True)[0]
        assert batch["input_ids"][0, : len(prompt)].tolist() == prompt.tolist()
        assert batch["labels"][0, len(prompt) - 1] == -100 and batch["labels"][0, len(prompt)] != -100


def test_labels_where_the_answer_holds_an_item_skip_its_placeholders(processor):
    item = {"type": "image", "embedding": vectors(1)[0]}
    chat = turns(
        ("user", "draw"),
        ("assistant", [{"type": "text", "text": "a dog"}, item, {"type": "text", "text": "!"}]),
    )
    batch = processor.apply_chat_template(chat, return_labels=True)
    assert supervised(processor, batch) == "a dog!<|im_end|>"
    place = processor.modalities["image"]["placeholder_token_id"]
    assert (batch["input_ids"] == place).sum() == 3 and (batch["labels"] == place).sum() == 0


def word_processor(template):
    """Another kind of tokenizer: words, blanks dropped, a normaliser in front."""
    words = ["[UNK]", "</s>", "user", "assistant", ":", "hi", "yes", "no", "[", "]", "!", "/"]
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="[UNK]")
    tokenizer.add_special_tokens({"eos_token": "</s>"})
    tokenizer.add_tokens(["<|image|>"], special_tokens=True)
    tokenizer.chat_template = template
    place = tokenizer.convert_tokens_to_ids("<|image|>")
    spec = {
        "placeholder_token": "<|image|>",
        "placeholder_token_id": place,
        "tokens_per_item": 2,
        "embedding_dim": 4,
    }
    return ModalBridgeProcessor(tokenizer, {"image": spec})


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% if m.role == 'assistant' %} </s>{% endif "
        "%} {% endfor %}"
        "{% if add_generation_prompt %}[assistant] {% endif %}",
        "{% for m in messages %}{{ m.role }}: {{ m.content }}{% if m.role == 'assistant' %}</s>{% endif "
        "%}\n\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}",
        None,
    ],
)
def test_labels_for_other_templates_and_tokenizers(template):
    processor = word_processor(template)
    item = [{"type": "image", "embedding": vectors(1, 4)[0]}, {"type": "text", "text": " hi"}]
    chat = turns(("user", item), ("assistant", "yes !"), ("user", "no"), ("assistant", "hi"))
    batch = processor.apply_chat_template(chat, return_labels=True)
    assert words(supervised(processor, batch)) == ["yes", "!", "</s>", "hi", "</s>"]


def test_a_template_that_rewrites_earlier_turns_is_explained(processor):
    stripping = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{% if m.role == 'assistant' and not loop.last %}{{ m.content.split('</think>')[-1] }}"
        "{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    chat = turns(("user", "hi"), ("assistant", "<think>hm</think>dog"))
    batch = processor.apply_chat_template(chat, chat_template=stripping, return_labels=True)
    assert supervised(processor, batch) == "<think>hm</think>dog<|im_end|>"
    with pytest.raises(ValueError, match="lacks the prefix property.*answer 1.*Templates that strip"):
        more = [*chat, *turns(("user", "and"), ("assistant", "cat"))]
        processor.apply_chat_template(more, chat_template=stripping, return_labels=True)
    prompting = CHATML.replace("assistant\n", "assistant\n<think>")
    assert supervised(processor, processor.apply_chat_template(chat, chat_template=prompting, return_labels=True)) == (
        "hm</think>dog<|im_end|>"
    )
    with pytest.raises(ValueError, match="lacks the prefix property.*'<think>'"):
        plain = turns(("user", "hi"), ("assistant", "dog"))
        processor.apply_chat_template(plain, chat_template=prompting, return_labels=True)


def test_rows_without_an_answer_are_listed(processor):
    good, bad = turns(("user", "hi"), ("assistant", "dog")), turns(("user", "hi"))
    with pytest.raises(ValueError, match=r"row\(s\) \[1\] have no supervised token"):
        processor.apply_chat_template([good, bad], return_labels=True)
    with pytest.raises(ValueError, match=r"row\(s\) \[0\] have no supervised token.*max_length=5 cut"):
        processor.apply_chat_template([good], return_labels=True, max_length=5)
    with pytest.raises(ValueError, match="longer than max_length=5"):
        processor.apply_chat_template([good], tokenize=True, max_length=5)
    with pytest.raises(ValueError, match="would cut off modality tokens"):
        chat = [
            *turns(("user", "hi"), ("assistant", "dog")),
            *ask(vectors(1)[0]),
            *turns(("assistant", "cat")),
        ]
        length = len(processor.apply_chat_template(chat[:2], return_labels=True)["input_ids"][0])
        processor.apply_chat_template(chat, return_labels=True, max_length=length + 3)


def test_plain_prompts_are_item_caption_and_end(processor):
    captions, tokenizer = ["a red chair", "dog"], make_tokenizer()
    batch = processor.plain(captions, "image", embeds=vectors(2))
    place = processor.modalities["image"]["placeholder_token_id"]
    for row, caption in enumerate(captions):
        ids = tokenizer(caption)["input_ids"] + [tokenizer.eos_token_id]
        real = int(batch["attention_mask"][row].sum())
        assert batch["input_ids"][row, :real].tolist() == [place] * 3 + ids
        assert batch["labels"][row, :real].tolist() == [-100] * 3 + ids
    cut = processor.plain(captions, "image", max_length=4)
    assert cut["labels"][0].tolist() == [-100] * 3 + tokenizer(captions[0])["input_ids"][:1]
    with pytest.raises(ValueError, match=r"captions \[1\] are blank"):
        processor.plain(["a", " "], "image")
    with pytest.raises(ValueError, match="2 captions but 3 embeds"):
        processor.plain(captions, "image", embeds=vectors(3))
    with pytest.raises(KeyError, match="no modality 'sound'"):
        processor.plain(captions, "sound")


def test_a_base_model_without_template_and_with_bos_gets_both():
    from tokenizers.processors import TemplateProcessing

    tokenizer = make_tokenizer()
    tokenizer.chat_template = None
    tokenizer.bos_token = "<|im_start|>"
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", 0)]
    )
    tokenizer.add_tokens(["<|image|>"], special_tokens=True)
    spec = {"placeholder_token": "<|image|>", "tokens_per_item": 2, "embedding_dim": 12}
    spec["placeholder_token_id"] = tokenizer.convert_tokens_to_ids("<|image|>")
    processor = ModalBridgeProcessor(tokenizer, {"image": spec})
    chat = [*ask(vectors(1)[0]), *turns(("assistant", "a dog"))]
    batch = processor.apply_chat_template(chat, return_labels=True)
    assert batch["input_ids"][0, :2].tolist()[0] == 0 and (batch["input_ids"] == 0).sum() == 1
    assert supervised(processor, batch) == " a dog<|im_end|>"
    prompt = processor.apply_chat_template(chat[:1], tokenize=True, add_generation_prompt=True)[0]
    assert batch["input_ids"][0, : len(prompt)].tolist() == prompt.tolist()
    assert processor.plain(["a dog"], "image")["input_ids"][0, 0] == 0


def test_text_only_rendering_and_moving_a_batch(processor):
    chat = ask(vectors(1)[0])
    text = processor.apply_chat_template(chat, add_generation_prompt=True)
    assert text == "<|im_start|>user\n<|image|>what is this?<|im_end|>\n<|im_start|>assistant\n"
    assert processor.apply_chat_template([chat, chat]) == [text.split("<|im_start|>assistant")[0]] * 2
    batch = processor.apply_chat_template(chat, tokenize=True, return_dict=True).to("meta")
    assert batch["input_ids"].device.type == batch["modality_inputs"]["image"]["embeds"].device.type == "meta"


def test_processor_round_trip_with_and_without_encoder(tmp_path):
    clip, clip_processor = make_clip()
    fields = {**FIELDS, "image": {**FIELDS["image"], "encoder": clip, "encoder_processor": clip_processor}}
    _, processor = make_bridge(modalities=fields)
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is ModalBridgeProcessor and loaded.modalities == processor.modalities
    assert set(loaded.encoder_processors) == {"image"}
    assert type(loaded.encoder_processors["image"]) is type(clip_processor)
    pixels = torch.randint(0, 255, (20, 24, 3), dtype=torch.uint8).numpy()
    from PIL import Image

    picture = Image.fromarray(pixels)
    chat = [{"role": "user", "content": [{"type": "image", "image": picture}]}]
    one, two = (p.apply_chat_template(chat, tokenize=True, return_dict=True) for p in (processor, loaded))
    assert torch.equal(one["input_ids"], two["input_ids"])
    assert torch.equal(one["modality_inputs"]["image"]["pixel_values"], two["modality_inputs"]["image"]["pixel_values"])
    loaded.save_pretrained(tmp_path / "again")
    assert set(AutoProcessor.from_pretrained(tmp_path / "again").encoder_processors) == {"image"}


def test_a_tokenizer_of_another_model_is_refused(processor):
    with pytest.raises(ValueError, match="the model expects"):
        ModalBridgeProcessor(make_tokenizer(), processor.modalities)
