"""The remote-code bundle: this package's code for inference, as flat files beside a model.

With it `AutoModel.from_pretrained(repo, trust_remote_code=True)` works where `hf_modalbridge` is not installed.
transformers takes remote code from one folder, with relative imports of one level, so each module becomes a file
of its own name and its imports are rewritten. What only training and fitting need stays out.
"""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["AUTO_MAP", "bundle_files", "replace_json", "write_bundle"]

_PACKAGE = "hf_modalbridge"
_ROOT = Path(__file__).parents[1]
_ENTRIES = (
    f"{_PACKAGE}.models.configuration_modalbridge",
    f"{_PACKAGE}.models.modeling_modalbridge",
    f"{_PACKAGE}.models.processing_modalbridge",
)
_LEFT_OUT = (f"{_PACKAGE}.models.components",)  # building a new model
_KEEP_WHOLE = (f"{_PACKAGE}.encoders",)  # importing it registers the encoders
_HEADER = "# Part of the remote-code bundle of hf_modalbridge"
_MODEL = "modeling_modalbridge.ModalBridgeForConditionalGeneration"
AUTO_MAP = {
    "AutoConfig": "configuration_modalbridge.ModalBridgeConfig",
    "AutoModel": _MODEL,
    "AutoModelForCausalLM": _MODEL,
    "AutoModelForImageTextToText": _MODEL,
    "AutoModelForMultimodalLM": _MODEL,
    "AutoProcessor": "processing_modalbridge.ModalBridgeProcessor",
}


def write_bundle(directory: str | os.PathLike[str]) -> list[str]:
    """Write the bundle into a model directory, and name its classes in the configs there.

    Args:
        directory: Of a saved model, with its processor or without; an older bundle in it is replaced.

    Returns:
        Names of the files written.

    Raises:
        ValueError: If the directory holds no `modalbridge` model.
    """
    folder = Path(directory)
    config_file = folder / "config.json"
    config = json.loads(config_file.read_text(encoding="utf-8")) if config_file.is_file() else {}
    if config.get("model_type") != "modalbridge":
        raise ValueError(
            f"{folder} holds no modalbridge model (model_type {config.get('model_type')!r}), so there is no code to "
            "bundle with it. Save a model there with save_pretrained first."
        )
    for old in folder.glob("*.py"):
        if old.read_text(encoding="utf-8").startswith(_HEADER):
            old.unlink()
    files = bundle_files()
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    _set_auto_map(config_file, AUTO_MAP)
    if (folder / "processor_config.json").is_file():
        _set_auto_map(folder / "processor_config.json", {"AutoProcessor": AUTO_MAP["AutoProcessor"]})
    return sorted(files)


def bundle_files() -> dict[str, str]:
    """Make the bundle's files.

    Returns:
        Source by file name.
    """
    from hf_modalbridge import __version__

    header = f"{_HEADER} {__version__} (Apache-2.0).\n"
    sources: dict[str, str] = {}
    imports: dict[str, set[str]] = {}
    waiting = set(_ENTRIES)
    while waiting:
        module = waiting.pop()
        sources[module], imports[module] = _rewrite(module, __version__)
        waiting |= imports[module] - set(sources)
    for entry in _ENTRIES:
        sources[entry] += _named_at_once(entry, imports)
    files = {f"{_flat_name(module)}.py": header + source for module, source in sources.items()}
    if len(files) < len(sources):
        names = sorted(_flat_name(module) for module in sources)
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"two modules of the bundle would be called {twice[0]}.py; rename one of them.")
    return files


def _named_at_once(entry: str, imports: dict[str, set[str]]) -> str:
    """Name all files that an entry needs in itself.

    transformers follows relative imports from file to file, and each file once for every path to it: minutes for
    this package. What the first file names it does not follow again.
    """
    needed, waiting = set(), {entry}
    while waiting:
        module = waiting.pop()
        needed.add(module)
        waiting |= imports[module] - needed
    lines = [f"    from .{name} import *  # noqa" for name in sorted(map(_flat_name, needed - {entry}))]
    return "\n".join(["\nif False:  # tells transformers which files to fetch", *lines, ""]) if lines else ""


def _set_auto_map(path: Path, auto_map: dict[str, str]) -> None:
    """Add `auto_map` to a config."""
    replace_json(path, {**json.loads(path.read_text(encoding="utf-8")), "auto_map": auto_map})


def replace_json(path: Path, values: dict[str, Any]) -> None:
    """Write JSON to a new file in the place of the old one, which may be a hard link to another directory's.

    Args:
        path: The file.
        values: Its new content.
    """
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    os.replace(part, path)


def _flat_name(module: str) -> str:
    """Name a module's file: models keep their names, and other rooms' go before the names of their modules."""
    return module.removeprefix(f"{_PACKAGE}.").removeprefix("models.").replace(".", "_")


def _path(module: str) -> Path | None:
    """Find the source of one of our modules."""
    place = _ROOT.joinpath(*module.split(".")[1:])
    candidates = (place.with_suffix(".py"), place / "__init__.py")
    return next((path for path in candidates if path.is_file()), None)


def _rewrite(module: str, version: str) -> tuple[str, set[str]]:
    """Rewrite a module's imports of ours; gives its source and the modules that go with it."""
    path = _path(module)
    assert path is not None, module
    source = path.read_text(encoding="utf-8")
    lines, needed = source.splitlines(), set()
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node, in_function in reversed(list(_imports(ast.parse(source)))):
        origin = _absolute(node, package)
        if origin.partition(".")[0] != _PACKAGE:
            continue
        indent = " " * node.col_offset
        replacement, wanted = _statements(node, origin, module, in_function, version)
        needed |= wanted
        lines[node.lineno - 1 : node.end_lineno] = [indent + line for line in replacement]
    return "\n".join(lines) + "\n", needed


def _imports(tree: ast.AST, in_function: bool = False) -> Iterator[tuple[ast.ImportFrom, bool]]:
    """Give all `from ... import`, in the order of the source, and whether they are inside functions."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ImportFrom):
            yield node, in_function
        else:
            yield from _imports(node, in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def _absolute(node: ast.ImportFrom, package: str) -> str:
    """Resolve a relative import."""
    if not node.level:
        return node.module or ""
    base = package.split(".")[: len(package.split(".")) - node.level + 1]
    return ".".join([*base, *([node.module] if node.module else [])])


def _statements(
    node: ast.ImportFrom, origin: str, module: str, in_function: bool, version: str
) -> tuple[list[str], set[str]]:
    """Write the statements that stand for one import."""
    # corrections import inside functions what fits them, and nothing else
    fits = in_function and module.startswith(f"{_PACKAGE}.corrections.")
    by_module: dict[str, list[str]] = {}
    statements = []
    for alias in node.names:
        if origin == _PACKAGE and alias.name == "__version__":
            statements.append(f"{alias.asname or alias.name} = {version!r}")
            continue
        home = _home(origin, alias.name)
        if in_function and (fits or home in _LEFT_OUT):
            message = "this needs the package hf_modalbridge: pip install hf-modalbridge"
            return [f"raise ImportError({message!r})"], set()
        by_module.setdefault(home, []).append(alias.name + (f" as {alias.asname}" if alias.asname else ""))
    statements += [f"from .{_flat_name(home)} import {', '.join(names)}" for home, names in by_module.items()]
    return statements, set(by_module)


def _home(origin: str, name: str) -> str:
    """Find the module that defines a name, looking through the `__init__` of packages."""
    path = _path(origin)
    if path is None:
        raise ValueError(f"there is no module {origin} from which {name} could be imported.")
    if path.name != "__init__.py" or origin in _KEEP_WHOLE:
        return origin
    tree: Any = ast.parse(path.read_text(encoding="utf-8"))
    for node, _ in _imports(tree):
        if any((alias.asname or alias.name) == name for alias in node.names):
            return _home(_absolute(node, origin), name)
    if _path(f"{origin}.{name}") is not None:
        raise ValueError(f"the bundle cannot import the module {origin}.{name} as a name; import from it instead.")
    return origin
