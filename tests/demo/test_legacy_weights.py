"""Legacy weights are read to the bit, and nothing that a file names is ever run."""

from __future__ import annotations

import io
import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch

from hf_modalbridge.demo.legacy_weights import read_legacy_tensors


def test_tensors_are_those_that_torch_wrote(tmp_path):
    shared = torch.arange(24, dtype=torch.float32)
    state = OrderedDict(
        plain=torch.randn(3, 4, 5),
        turned=torch.randn(6, 7).T,
        half=torch.randn(5).half(),
        double=torch.randn(2, 2, dtype=torch.float64),
        count=torch.tensor(7),
        first=shared[:12].view(3, 4),
        second=shared[12:],
    )
    torch.save(state, tmp_path / "weights.pth", _use_new_zipfile_serialization=False)
    read = read_legacy_tensors(tmp_path / "weights.pth")
    assert list(read) == list(state)
    for name, tensor in state.items():
        assert read[name].dtype == tensor.numpy().dtype
        np.testing.assert_array_equal(read[name], tensor.numpy())


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_code_in_a_pickle_is_not_run(tmp_path):
    torch.save(
        {"weight": torch.ones(2), "evil": Evil(tmp_path / "owned")},
        tmp_path / "evil.pth",
        _use_new_zipfile_serialization=False,
    )
    with pytest.raises(ValueError, match="'evil' of evil.pth is not a plain tensor"):
        read_legacy_tensors(tmp_path / "evil.pth")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 zip", pickle.dumps([1, 2]), b"\x80\x02\x8a\x0al\xfc"])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "other.pth").write_bytes(content)
    with pytest.raises(ValueError):
        read_legacy_tensors(tmp_path / "other.pth")


def test_cut_and_lying_files_are_refused(tmp_path):
    buffer = io.BytesIO()
    torch.save({"weight": torch.ones(100)}, buffer, _use_new_zipfile_serialization=False)
    (tmp_path / "cut.pth").write_bytes(buffer.getvalue()[:-40])
    with pytest.raises(ValueError, match="ends inside storage"):
        read_legacy_tensors(tmp_path / "cut.pth")
    assert buffer.getvalue().count(b"K\x64\x85") == 1  # the shape (100,)
    (tmp_path / "lie.pth").write_bytes(buffer.getvalue().replace(b"K\x64\x85", b"K\xc8\x85"))
    with pytest.raises(ValueError, match="'weight' of lie.pth reaches outside its storage"):
        read_legacy_tensors(tmp_path / "lie.pth")
