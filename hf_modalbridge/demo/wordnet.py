"""Text for training without pictures: WordNet 3.0's words and glosses, from Debian's package."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hf_modalbridge.cached_files import file_sha256
from hf_modalbridge.demo.cache import build_once, cache_dir
from hf_modalbridge.demo.captions import describe

__all__ = ["CONCRETE_TOPICS", "Gloss", "wordnet_glosses"]

_PACKAGE = "wordnet-base"
_VERSION = "1:3.0-37"
_SHA256 = "61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752"

# WordNet's files of nouns by their number (lexnames(5WN)): only those whose things can be drawn
_TOPICS = {
    "05": "animal",
    "06": "artifact",
    "08": "body",
    "13": "food",
    "17": "object",
    "18": "person",
    "19": "phenomenon",
    "20": "plant",
    "25": "shape",
    "27": "substance",
}
CONCRETE_TOPICS = tuple(_TOPICS.values())
"""Topics of nouns that name things one can draw."""


@dataclass(frozen=True)
class Gloss:
    """A noun of WordNet.

    Args:
        id: Such as "wordnet-3.0/n02084071".
        words: Its synonyms, the commonest first.
        definition: What it says about them, without usage examples.
        topic: One of `CONCRETE_TOPICS`.
    """

    id: str
    words: tuple[str, ...]
    definition: str
    topic: str

    @property
    def text(self) -> str:
        """The first word with its definition."""
        return f"{self.words[0]}: {self.definition}"

    @property
    def caption(self) -> str:
        """The first word with its topic, in the style of the demo's captions."""
        return f"{self.words[0]}, {self.topic}"

    @property
    def description(self) -> str:
        """The caption with up to three other words of the same meaning, in the style of the demo's descriptions."""
        return describe(self.caption, self.words[1:], limit=3)


def wordnet_glosses(
    topics: Iterable[str] = CONCRETE_TOPICS, max_words: int | None = None, deb: str | Path | None = None
) -> list[Gloss]:
    """Read WordNet 3.0's concrete nouns (WordNet licence: free use and redistribution with its notice).

    The package is fetched with `apt-get download` and unpacked with `dpkg-deb` into the cache; nothing is
    installed and no rights beyond the user's are needed. Its copyright file is kept beside the data.

    Args:
        topics: Which of `CONCRETE_TOPICS`.
        max_words: Longest `text` in words; None for any length.
        deb: A local copy of the package; None to fetch it.

    Returns:
        About 40,000 nouns for all topics, in WordNet's order.

    Raises:
        FileNotFoundError: If the package cannot be fetched or unpacked, as on a system without apt.
        ValueError: If the package has another sha256, or a topic is unknown.
    """
    wanted = set(topics)
    if unknown := sorted(wanted - set(CONCRETE_TOPICS)):
        raise ValueError(f"unknown WordNet topics {unknown}; expected some of {', '.join(CONCRETE_TOPICS)}.")
    folder = build_once(f"wordnet-3.0-{_SHA256[:8]}", lambda target: _unpack(target, deb))
    glosses = []
    with open(folder / "data.noun", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("  "):  # the licence, at the head of the file
                continue
            record, _, gloss = line.partition(" | ")
            offset, file_number, _, count, *rest = record.split(" ")
            topic = _TOPICS.get(file_number)
            if topic not in wanted or " @i " in record:  # an instance is one person or place, known by name only
                continue
            words = tuple(word.replace("_", " ") for word in rest[: 2 * int(count, 16) : 2])
            # definitions come first, then examples in quotation marks
            definition = re.split(r';\s*(?=["“])', gloss.strip())[0].strip().rstrip(";")
            entry = Gloss(f"wordnet-3.0/n{offset}", words, definition, topic)
            if max_words is None or len(entry.text.split()) <= max_words:
                glosses.append(entry)
    return glosses


def _unpack(target: Path, deb: str | Path | None) -> None:
    with tempfile.TemporaryDirectory(dir=cache_dir()) as folder:
        package = Path(deb) if deb is not None else _download(Path(folder))
        digest = file_sha256(package)
        if digest != _SHA256:
            raise ValueError(
                f"{package.name} has sha256 {digest}, but {_SHA256} is pinned (wordnet-base {_VERSION}). "
                "Nothing of it was used."
            )
        if shutil.which("dpkg-deb") is None:
            raise FileNotFoundError(
                f"dpkg-deb is needed to unpack {package.name}, and is not on this system. {_ADVICE}"
            )
        subprocess.run(["dpkg-deb", "-x", str(package), f"{folder}/tree"], check=True)
        tree = Path(folder) / "tree" / "usr" / "share"
        for source in (tree / "wordnet" / "data.noun", tree / "doc" / "wordnet-base" / "copyright"):
            shutil.copyfile(source, target / source.name)


_ADVICE = (
    "WordNet's text comes from Debian's package wordnet-base; on another system use other text for stage 1, or copy "
    "the .deb here and pass deb=..."
)


def _download(folder: Path) -> Path:
    if shutil.which("apt-get") is None:
        raise FileNotFoundError(f"apt-get is not on this system. {_ADVICE}")
    command = ["apt-get", "download", f"{_PACKAGE}={_VERSION}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    found = sorted(folder.glob("*.deb"))
    if done.returncode != 0 or not found:
        reason = (done.stderr.strip() or "no message").splitlines()[-1]
        raise FileNotFoundError(
            f"`{' '.join(command)}` failed: {reason}. Run `apt-get update` as root if package lists are "
            f"missing. {_ADVICE}"
        )
    return found[0]
