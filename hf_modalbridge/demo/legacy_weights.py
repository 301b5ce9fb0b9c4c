"""Read the tensors of a legacy PyTorch weights file without running its pickle.

The packaged image tower is a `.pth` in PyTorch's format of before 1.6: a few pickles, then the raw storages.
Unpickling calls whatever the file names. Here the standard library's disassembler only lists the opcodes; a
stack machine of a few lines puts them together as plain data (names stay strings, calls stay tuples), and the
tensors are then read from the raw bytes. Nothing that the file names is imported or called.
"""

from __future__ import annotations

import pickletools
from io import BytesIO
from pathlib import Path

import numpy as np

__all__ = ["read_legacy_tensors"]

_MAGIC = 0x1950A86A20F9469CFC6C
_DTYPES = {
    "torch FloatStorage": np.dtype("<f4"),
    "torch HalfStorage": np.dtype("<f2"),
    "torch DoubleStorage": np.dtype("<f8"),
    "torch LongStorage": np.dtype("<i8"),
    "torch IntStorage": np.dtype("<i4"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = {"BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE", "GLOBAL", "BINFLOAT"}
_REBUILD = "torch._utils _rebuild_tensor_v2"
_MARK = object()


def _plain_data(stream: BytesIO):
    """Return the next pickle of `stream` as plain data; `("call", name, arguments)` stands for a call."""
    stack: list = []
    memo: dict = {}

    def pop_to_mark() -> list:
        start = len(stack) - 1 - stack[::-1].index(_MARK)
        items = stack[start + 1 :]
        del stack[start:]
        return items

    for opcode, argument, _ in pickletools.genops(stream):
        name = opcode.name
        if name in _LITERALS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name == "MARK":
            stack.append(_MARK)
        elif name == "EMPTY_TUPLE":
            stack.append(())
        elif name == "TUPLE":
            stack.append(tuple(pop_to_mark()))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack[-count:] = [tuple(stack[-count:])]
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "BINPERSID":
            stack.append(("storage", *stack.pop()[1:]))
        elif name == "REDUCE":
            arguments, called = stack.pop(), stack.pop()
            stack.append({} if called == "collections OrderedDict" else ("call", called, arguments))
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            stack[-1][key] = value
        elif name == "SETITEMS":
            items = pop_to_mark()
            stack[-1].update(zip(items[::2], items[1::2], strict=True))
        elif name == "APPEND":
            item = stack.pop()
            stack[-1].append(item)
        elif name == "APPENDS":
            items = pop_to_mark()
            stack[-1].extend(items)
        elif name == "BUILD":  # attributes of the state dict (its version numbers): not needed
            stack.pop()
        elif name == "STOP":
            return stack.pop()
        elif name != "PROTO":
            raise ValueError(f"opcode {name} has no place in a file of tensors; this reader does not follow it.")
    raise ValueError("the file ends inside its table of tensors; download it again.")


def read_legacy_tensors(path: str | Path) -> dict[str, np.ndarray]:
    """Read every tensor of a legacy `.pth` state dict.

    Args:
        path: The file.

    Returns:
        Tensor name to array, in the file's order and dtypes.

    Raises:
        ValueError: If the file is not in PyTorch's legacy format, or holds anything but tensors.
    """
    stream = BytesIO(Path(path).read_bytes())
    if stream.getbuffer()[:1] != b"\x80" or _plain_data(stream) != _MAGIC:
        raise ValueError(f"{Path(path).name} is not a legacy PyTorch weights file (its magic number is missing).")
    _plain_data(stream)  # protocol version
    _plain_data(stream)  # byte order and sizes of the machine that wrote it
    table = _plain_data(stream)
    storage_keys = _plain_data(stream)

    described: dict[str, tuple] = {}
    for name, entry in table.items():
        if not isinstance(entry, tuple) or entry[:2] != ("call", _REBUILD):
            raise ValueError(f"entry {name!r} of {Path(path).name} is not a plain tensor.")
        described[entry[2][0][2]] = entry[2][0]
    storages: dict[str, np.ndarray] = {}
    for key in storage_keys:
        dtype = _DTYPES[described[key][1]]
        count = int(np.frombuffer(stream.read(8), dtype="<i8")[0])
        storages[key] = np.frombuffer(stream.read(count * dtype.itemsize), dtype=dtype)
        if len(storages[key]) != count:
            raise ValueError(f"{Path(path).name} ends inside storage {key}; download it again.")

    tensors: dict[str, np.ndarray] = {}
    for name, (_, _, (storage, offset, shape, stride, *_rest)) in table.items():
        flat = storages[storage[2]]
        last = offset + sum((side - 1) * step for side, step in zip(shape, stride, strict=True))
        if offset < 0 or min(stride, default=0) < 0 or last >= flat.size:
            raise ValueError(f"tensor {name!r} of {Path(path).name} reaches outside its storage.")
        view = np.lib.stride_tricks.as_strided(
            flat[offset:], shape, [step * flat.itemsize for step in stride], writeable=False
        )
        tensors[name] = np.array(view, order="C")
    return tensors
