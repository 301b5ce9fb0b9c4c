"""From YAML and `key=value` overrides to checked dataclasses; every complaint names the key."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

__all__ = ["apply_overrides", "build_config", "load_config", "to_plain"]

T = TypeVar("T")


def load_config(cls: type[T], path: str | Path | None, overrides: Sequence[str] = ()) -> T:
    """Read a YAML file, lay the overrides over it, and build the dataclass.

    Args:
        cls: A dataclass whose fields are plain values, lists, dicts or dataclasses.
        path: The YAML file; None starts from nothing.
        overrides: `key=value`, `--key=value` or `--key value`, keys dotted for nested fields; values are YAML.

    Returns:
        An instance of `cls`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a key is unknown or missing, or a value has the wrong type; the message names the key.
    """
    values: dict[str, Any] = {}
    if path is not None:
        if not Path(path).is_file():
            raise FileNotFoundError(f"no configuration file {str(path)!r}: give the path of a YAML file.")
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
        if not isinstance(values, dict):
            raise ValueError(f"{str(path)!r} holds a {type(values).__name__}, expected a mapping of keys to values.")
    return build_config(cls, apply_overrides(values, overrides))


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Lay command-line overrides over a nested dict.

    Args:
        values: Nested dict, not changed.
        overrides: See `load_config`.

    Returns:
        A new nested dict.

    Raises:
        ValueError: If an override has no value.
    """
    result = {k: dict(v) if isinstance(v, dict) else v for k, v in values.items()}
    words = list(overrides)
    while words:
        word = words.pop(0)
        key, equals, text = word.removeprefix("--").partition("=")
        if not equals:
            if not word.startswith("--") or not words:
                raise ValueError(f"override {word!r} has no value: write {key}=VALUE or --{key} VALUE.")
            text = words.pop(0)
        _set(result, key.split("."), yaml.safe_load(text) if text else "")
    return result


def _set(target: dict[str, Any], path: list[str], value: Any) -> None:
    for part in path[:-1]:
        child = target.get(part)
        target[part] = dict(child) if isinstance(child, dict) else {}
        target = target[part]
    target[path[-1]] = value


def build_config(cls: type[T], values: dict[str, Any], where: str = "") -> T:
    """Build a dataclass from a nested dict, checking keys and types.

    Args:
        cls: The dataclass.
        values: Its fields.
        where: Dotted path of this dict in the whole file, for messages.

    Returns:
        An instance of `cls`.

    Raises:
        ValueError: If a key is unknown or missing, or a value has the wrong type.
    """
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    place = f" in {where!r}" if where else ""
    for key in values:
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"unknown key {_join(where, str(key))!r}: {hint}the keys{place} are {sorted(fields)}.")
    required = [
        name
        for name, f in fields.items()
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    missing = [_join(where, name) for name in required if name not in values]
    if missing:
        raise ValueError(
            f"missing key{'s' if len(missing) > 1 else ''} {', '.join(repr(m) for m in missing)}: set "
            f"{'them' if len(missing) > 1 else 'it'} in the YAML file or as {missing[0]}=VALUE on the "
            "command line."
        )
    return cls(**{key: _coerce(value, hints[key], _join(where, key)) for key, value in values.items()})


def to_plain(config: Any) -> Any:
    """Turn dataclasses, tuples and paths into what JSON and YAML hold."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {f.name: to_plain(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, dict):
        return {str(k): to_plain(v) for k, v in config.items()}
    if isinstance(config, list | tuple):
        return [to_plain(v) for v in config]
    return str(config) if isinstance(config, Path) else config


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _coerce(value: Any, hint: Any, key: str) -> Any:
    """Return the value as its field's type, or say which key is wrong."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        options = [a for a in arguments if a is not type(None)]
        for option in options:
            if option is type(value):  # the exact type first, or `int | str` would turn "3" into 3
                return value
        return _coerce(value, options[0], key) if len(options) == 1 else _first(value, options, key)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise ValueError(f"{key!r} is {value!r}, expected a mapping with the keys of {hint.__name__}.")
        return build_config(hint, value, key)  # type: ignore[arg-type]
    if origin is Literal:
        # YAML reads a bare no/off as False, and `mixed_precision: no` is what people write
        value = "no" if value is False and "no" in arguments else value
        if value not in arguments:
            raise ValueError(f"{key!r} is {value!r}, expected one of {list(arguments)}.")
        return value
    if origin in (list, tuple) and isinstance(value, list | tuple):
        kinds = arguments if origin is tuple and Ellipsis not in arguments else (arguments[0],) * len(value)
        if len(kinds) != len(value):
            raise ValueError(f"{key!r} has {len(value)} values, expected {len(kinds)}.")
        return origin(_coerce(v, k, f"{key}[{i}]") for i, (v, k) in enumerate(zip(value, kinds, strict=True)))
    if origin is dict and isinstance(value, dict):
        return {k: _coerce(v, arguments[1], f"{key}.{k}") for k, v in value.items()}
    return _scalar(value, origin or hint, key)


def _first(value: Any, options: list[Any], key: str) -> Any:
    problems = []
    for option in options:
        try:
            return _coerce(value, option, key)
        except ValueError as error:
            problems.append(str(error))
    raise ValueError(" Or: ".join(problems))


def _scalar(value: Any, kind: type, key: str) -> Any:
    if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    if kind is float and not isinstance(value, bool):
        try:
            return float(value)  # YAML 1.1 reads 1e-4 as a string
        except (TypeError, ValueError):
            pass
    if kind is str and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise ValueError(f"{key!r} is {value!r} ({type(value).__name__}), expected {getattr(kind, '__name__', kind)}.")
