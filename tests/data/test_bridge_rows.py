from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tiny_world import DIM, build_language_model, build_tokenizer

from hf_modalbridge import EmbeddingStore, ModalBridgeForConditionalGeneration
from hf_modalbridge.data import BridgeCollator, CaptionDataset, ChatDataset, read_chats


@pytest.fixture(scope="module")
def processor():
    tokenizer = build_tokenizer()
    _, processor = ModalBridgeForConditionalGeneration.from_components(
        language_model=build_language_model(len(tokenizer)),
        tokenizer=tokenizer,
        modalities={"image": {"embedding_dim": DIM, "num_tokens": 2, "placeholder_token": "<image>"}},
    )
    return processor


def test_caption_rows_are_placeholders_caption_end(world, processor):
    store = EmbeddingStore.open(world.text_store)
    data = CaptionDataset(store, processor, "image")
    tokenizer = processor.tokenizer
    row = data[17]
    caption = tokenizer(world.captions[17], add_special_tokens=False)["input_ids"]
    placeholder = tokenizer.convert_tokens_to_ids("<image>")
    assert row["input_ids"].tolist() == [placeholder] * 2 + caption + [tokenizer.eos_token_id]
    assert row["labels"].tolist() == [-100] * 2 + caption + [tokenizer.eos_token_id]
    assert row["id"] == "row017"
    torch.testing.assert_close(row["items"]["image"]["imagine_embeds"], torch.from_numpy(store[17:18]))
    assert data.lengths.tolist() == [len(data[i]["input_ids"]) for i in range(len(data))]


def test_caption_rows_are_the_same_from_disk_and_of_a_subset(world, processor):
    store = EmbeddingStore.open(world.text_store)
    rows = np.array([50, 3, 77])
    memory = CaptionDataset(store, processor, "image", rows=rows, in_memory=True)
    disk = CaptionDataset(store, processor, "image", rows=rows, in_memory=False)
    array = CaptionDataset(store[:], processor, "image", world.captions, rows=rows, kind="embeds")
    for i, row in enumerate(rows):
        expected = torch.from_numpy(store[row][None])
        for data in (memory, disk):
            assert torch.equal(data[i]["items"]["image"]["imagine_embeds"], expected)
        assert torch.equal(array[i]["items"]["image"]["embeds"], expected)
        assert torch.equal(array[i]["input_ids"], disk[i]["input_ids"])


def test_blank_captions_are_listed(world, processor):
    values = np.ones((3, DIM), dtype=np.float32)
    with pytest.raises(ValueError, match=r"2 captions are blank.*\['0', '2'\]"):
        CaptionDataset(values, processor, "image", ["", "a chair", "  "])


def test_captions_must_match_rows(processor):
    with pytest.raises(ValueError, match="1 captions for 3 embeddings"):
        CaptionDataset(np.ones((3, DIM), dtype=np.float32), processor, "image", ["a chair"])


def test_a_store_without_the_column_names_it(world, processor):
    with pytest.raises(KeyError, match="legend"):
        CaptionDataset(EmbeddingStore.open(world.text_store), processor, "image", text_column="legend")


def test_chats_supervise_answers_only(world, processor):
    stores = {"image": EmbeddingStore.open(world.image_store)}
    eager = ChatDataset(world.chats, stores, processor)
    lazy = ChatDataset(world.chats, stores, processor, lazy=True, in_memory=False)
    for i in (0, 5, 95):
        row = eager[i]
        answer = row["labels"][row["labels"] != -100]
        assert processor.tokenizer.decode(answer).startswith(world.captions[i] + "<|end|>")
        assert torch.equal(row["items"]["image"]["embeds"], torch.from_numpy(stores["image"][i : i + 1]))
        for key in ("input_ids", "labels"):
            assert torch.equal(row[key], lazy[i][key])
    assert eager.every_chat_has == {"image"}


def test_chats_of_many_items_and_of_none(world, processor):
    store = EmbeddingStore.open(world.image_store)
    image = {"type": "image"}
    chats = [
        {
            "id": "none",
            "messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "a chair"}],
        },
        {
            "id": "two",
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {**image, "id": "row009"},
                        {"type": "text", "text": "or"},
                        image | {"id": "row002"},
                    ],
                },
                {"role": "assistant", "content": "a lamp"},
            ],
        },
        {
            "id": "row050",
            "messages": [{"role": "user", "content": [image]}, {"role": "assistant", "content": "a boat"}],
        },
    ]
    data = ChatDataset(chats, {"image": store}, processor)
    batch = BridgeCollator(processor)([data[i] for i in range(3)])
    expected = store[np.array([9, 2, 50])]  # reading order over the batch
    torch.testing.assert_close(batch["modality_inputs"]["image"]["embeds"], torch.from_numpy(expected))
    placeholder = processor.tokenizer.convert_tokens_to_ids("<image>")
    assert (batch["input_ids"] == placeholder).sum(1).tolist() == [0, 4, 2]
    assert batch["ids"] == ["none", "two", "row050"]
    assert data.every_chat_has == set()
    lengths = [len(data[i]["input_ids"]) for i in range(3)]
    assert batch["attention_mask"].sum(1).tolist() == lengths
    assert (batch["labels"][batch["attention_mask"] == 0] == -100).all()
    assert "modality_inputs" not in BridgeCollator(processor)([data[0]])


def test_missing_ids_are_listed(world, processor):
    chats = [{"id": "nowhere", "messages": [{"role": "user", "content": [{"type": "image"}]}]}]
    with pytest.raises(KeyError, match="nowhere"):
        ChatDataset(chats, {"image": EmbeddingStore.open(world.image_store)}, processor)


def test_a_chat_without_answer_is_named(world, processor):
    chats = [{"id": "row001", "messages": [{"role": "user", "content": [{"type": "image"}]}]}]
    with pytest.raises(ValueError, match="no supervised token") as caught:
        ChatDataset(chats, {"image": EmbeddingStore.open(world.image_store)}, processor)
    assert "row001" in "".join(caught.value.__notes__)


def test_a_modality_without_store_is_named(world, processor):
    with pytest.raises(ValueError, match=r"items of \['image'\]"):
        ChatDataset(world.chats, {}, processor)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json", "line 2 is not JSON"),
        (json.dumps({"id": 1}), r"line 2 has \['id'\]"),
        ("[]", "line 2 has list"),
    ],
)
def test_faulty_lines_are_named(tmp_path, line, message):
    file = tmp_path / "chats.jsonl"
    file.write_text(json.dumps({"id": "a", "messages": []}) + "\n" + line + "\n")
    with pytest.raises(ValueError, match=message):
        read_chats(file)


def test_missing_file_and_empty_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no chats at"):
        read_chats(tmp_path / "chats.jsonl")
    (tmp_path / "chats.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="holds no chats"):
        read_chats(tmp_path / "chats.jsonl")
