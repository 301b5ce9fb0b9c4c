"""The opt-in hook: plain `from transformers import AutoModel` knows our models, with nothing imported before.

    python -m hf_modalbridge.hub.hook install    # also: status, remove

It writes two small files into this environment's site-packages: one that Python reads at every start, and the
module that it names, which imports `hf_modalbridge`. That import loads neither torch nor transformers; it registers
the models when transformers' own tables are loaded.
"""

from __future__ import annotations

import argparse
import sysconfig
from pathlib import Path

__all__ = ["install", "installed", "main", "remove"]

_MODULE = "hf_modalbridge_autoregister"
_SOURCE = '''"""Written by `python -m hf_modalbridge.hub.hook install`; `remove` takes it away."""

try:
    import hf_modalbridge  # noqa: F401
except ImportError:  # uninstalled since; every start of Python would complain
    pass
'''


def install(site: Path | None = None) -> list[Path]:
    """Switch the hook on.

    Args:
        site: Folder of site-packages; that of this environment by default.

    Returns:
        The files written.

    Raises:
        PermissionError: If the folder may not be written to.
    """
    pth, module = _files(site)
    module.write_text(_SOURCE, encoding="utf-8")
    pth.write_text(f"import {_MODULE}\n", encoding="utf-8")
    return [pth, module]


def remove(site: Path | None = None) -> list[Path]:
    """Switch the hook off.

    Args:
        site: Folder of site-packages; that of this environment by default.

    Returns:
        The files removed.
    """
    found = [path for path in _files(site) if path.exists()]
    for path in found:
        path.unlink()
    return found


def installed(site: Path | None = None) -> bool:
    """Tell whether the hook is on.

    Args:
        site: Folder of site-packages; that of this environment by default.

    Returns:
        Whether both files are there.
    """
    return all(path.exists() for path in _files(site))


def _files(site: Path | None) -> tuple[Path, Path]:
    folder = site or Path(sysconfig.get_paths()["purelib"])
    # ~ sorts behind the path files of editable installs, which have to be read first
    return folder / f"~{_MODULE}.pth", folder / f"{_MODULE}.py"


def main(arguments: list[str] | None = None) -> None:
    """Run the command.

    Args:
        arguments: Those of the process by default.
    """
    parser = argparse.ArgumentParser(
        prog="python -m hf_modalbridge.hub.hook", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("action", choices=["install", "status", "remove"])
    action = parser.parse_args(arguments).action
    if action == "status":
        lines = ["on" if installed() else "off"]
    else:
        verb = "wrote" if action == "install" else "removed"
        lines = [f"{verb} {path}" for path in (install() if action == "install" else remove())] or ["was off"]
    print("\n".join(lines))  # noqa: T201


if __name__ == "__main__":
    main()
