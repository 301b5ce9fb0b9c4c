"""The deterministic rule that turns a title, a file name and keywords into a short caption.

The rule, in order:

1. The title; where it names a whole series ("Clipart by Nicu Buculei - antenna"), the file name without the
   creator's name.
2. CamelCase, `_` and `-` become spaces; numbering, "clip art" and file endings go; "(B and W)" becomes
   ", black and white"; lower case.
3. A phrase listed in `demo_captions.tsv` (Italian, French, cut-off or empty ones) is replaced by the English
   one there, or the picture is dropped.
4. A caption of a single word gets the kind of thing: its folder (Open Clip Art), subcategory (emoji), first
   tag or category (furniture).
5. Two to ten words, or the picture is dropped.
6. A few pictures get a caption of their own by id (same file), written after looking at them. That happens
   last, so that it changes neither which pictures are kept nor their split.
"""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

from demo_sources import Item

__all__ = ["SKIP_PATHS", "group_key", "is_series", "make_caption", "load_overrides", "clean_keywords"]

# Icon themes, generated shapes and gradients, single letters, and further styles of the same playing cards.
SKIP_PATHS = re.compile(
    r"^(computer/(icons|buttons)|shapes|special|buttons|signs_and_symbols/led|unsorted/duplicates"
    r"|signs_and_symbols/flags/(semaphore|historic/navy|miscellany|europe/france/)"
    r"|recreation/games/cards/(ornamental|white|bordered|cardbacks))"
)

_SERIES = re.compile(
    r"clip ?art|icon|iconset|theme|collection|^r16 |^advertising$|^sallite$|^aiga|road signs|maps$"
    r"|map symbols|^homes|^people$|^gramastar$|^stick ?man$|^card$|^moons$|^clouds$|^bulbs|^unsorted$"
    r"|^pc connectors|^simple arrows|^chess pieces$|^balloons-aj$|^test$|^untitled|^no ?name|^\W*$|^hash\(",
    re.I,
)
_DROP_KEYWORDS = re.compile(
    r"hash|0x|unsorted|mapsym|\bsym\b|clip ?art|signs_and_symbols|^sign$|^symbols?$|^symboll$|^icons?$"
    r"|^menu$|^shapes?$|^\d+$|@|http|architetto|rollandin|blend swap|scpts|adjustable|musicstuff"
    r"|networksym|inkscape|svg|^$|various",
    re.I,
)
_FILLER = {"svg", "png", "clipart", "cliparts", "openclipart", "icon", "r", "s", "ganson", "md"}
_SMALL = {"a", "an", "the", "of", "and", "with", "in", "on", "to", "for"}
_FOLDERS = {
    "animals": "animal", "birds": "bird", "bugs": "insect", "dinosaurs": "dinosaur", "fish": "fish",
    "mammals": "animal", "bears": "bear", "big_cats": "big cat", "horses": "horse", "housecats": "cat",
    "dogs": "dog", "buildings": "building", "homes": "house", "furniture": "furniture",
    "computer": "computer", "hardware": "computer hardware", "electronics": "electronics", "food": "food",
    "fruit": "fruit", "vegetables": "vegetable", "beverages": "drink", "alcohol": "alcoholic drink",
    "desserts": "dessert", "meats_and_eggs": "food", "breads_and_carbs": "food", "geography": "map",
    "office": "office", "people": "person", "bodypart": "body part", "clothing": "clothing",
    "hats": "hat", "smilies": "smiley face", "plants": "plant", "flowers": "flower", "trees": "tree",
    "evergreen": "evergreen tree", "recreation": "leisure", "music": "music", "sports": "sport",
    "party": "party", "games": "game", "holiday": "holiday", "christmas": "christmas",
    "religion": "religion", "toys": "toy", "science": "science", "astronomy": "astronomy",
    "tools": "tool", "weapons": "weapon", "transportation": "transport", "vehicles": "vehicle",
    "boating": "boat", "roadsigns": "road sign", "weather": "weather", "clocks": "clock",
    "education": "education", "books": "book", "containers": "container", "decorations": "decoration",
    "hazard": "warning sign", "money": "money", "aiga-symbols": "sign", "map_symbols": "map symbol",
    "signs_and_symbols": "symbol", "telephone": "telephone", "dairy": "dairy food",
    "pantyhose": "clothing", "network": "computer network", "bulb": "light", "battery": "battery",
    "logos": "logo", "connectors": "connector", "awards": "award", "stickmen": "stick figure",
    "fantasy": "fantasy creature", "chess": "chess piece",
}  # fmt: skip
_SKIP_TITLES = re.compile(r"international maritime signal|^wordnet|unsorted$", re.I)
_SUITS = {"c": "clubs", "d": "diamonds", "h": "hearts", "s": "spades"}
_RANKS = dict(zip("2345678", ("two", "three", "four", "five", "six", "seven", "eight"), strict=True))
_RANKS |= {"9": "nine", "10": "ten", "a": "ace", "j": "jack", "q": "queen", "k": "king"}
_EMOJI_SKIP = re.compile(r"keycap|alphanum|country-flag|subdivision-flag|skin-tone|family")
_EMOJI_KIND = {
    "face-smiling": "face", "face-affection": "face", "animal-mammal": "animal", "animal-bird": "bird",
    "animal-marine": "sea animal", "animal-bug": "insect", "animal-reptile": "reptile",
    "food-fruit": "fruit", "food-vegetable": "vegetable", "food-prepared": "food",
    "food-asian": "asian food", "food-sweet": "sweet food", "drink": "drink", "dishware": "dishware",
    "plant-flower": "flower", "plant-other": "plant", "transport-ground": "vehicle",
    "transport-air": "aircraft", "transport-water": "boat", "place-building": "building",
    "place-geographic": "place", "place-religious": "religious building", "place-other": "place",
    "place-map": "map", "sky & weather": "sky", "time": "time", "clothing": "clothing",
    "musical-instrument": "musical instrument", "tool": "tool", "household": "household",
    "office": "office", "book-paper": "paper", "light & video": "device", "computer": "computer",
    "phone": "phone", "mail": "mail", "money": "money", "science": "science", "medical": "medicine",
    "lock": "lock", "writing": "writing", "sound": "sound", "music": "music", "sport": "sport",
    "game": "game", "event": "celebration", "arts & crafts": "art", "award-medal": "award",
    "body-parts": "body part", "person": "person", "person-role": "person",
    "person-fantasy": "fantasy creature", "person-activity": "person", "person-sport": "sport",
    "person-gesture": "person", "person-symbol": "symbol", "zodiac": "zodiac sign",
    "religion": "religious symbol", "arrow": "arrow", "warning": "sign", "transport-sign": "sign",
    "heart": "heart", "hotel": "hotel", "emotion": "symbol", "geometric": "shape", "math": "math symbol",
    "av-symbol": "button", "animal-amphibian": "animal", "other-object": "object", "flag": "flag",
    "face-costume": "face", "punctuation": "punctuation", "currency": "currency", "gender": "symbol",
    "other-symbol": "symbol",
}  # fmt: skip


def load_overrides(path: Path) -> dict[str, str]:
    """Read the hand-written phrases: one `phrase<TAB>English phrase` (or `id<TAB>caption`) a line."""
    rows = (line.split("\t") for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    return {row[0]: row[1] for row in rows if not row[0].startswith("#")}


def is_series(title: str) -> bool:
    """Whether a title names a whole series of pictures (or nothing) instead of one picture."""
    return bool(_SERIES.search(title))


def _ascii(text: str) -> str:
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()


def _phrase(text: str) -> str:
    """Lower-cased words of a title or file name, without numbering and filler."""
    text = _ascii(text)
    mono = bool(re.search(r"\(b (and|&) w\)|[_ -]b[-_&]?w\b|[_ -]bw(?=[_ ]|$)", text, re.I))
    text = re.sub(r"\(b (and|&) w\)|[_ -]b[-_&]?w\b|[_ -]bw(?=[_ ]|$)", " ", text, flags=re.I)
    text = re.sub(r" - (body part|rpg map elements|clothing)\b", " ", text, flags=re.I)
    text = re.sub(r"\.svg\b", " ", text)
    text = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", " ", text)
    text = re.sub(r"[_\-/#.!?\"()\[\]{}+*=~|<>;]+", " ", text.replace("&", " and ").replace(",", " ").replace(":", " "))
    words = [re.sub(r"(?<=[a-z]{3})\d+[a-z]?$", "", word) for word in text.lower().split()]
    words = [word.strip("'`") for word in words]
    words = [word for word in words if word and word not in _FILLER]
    if len(words) > 1 and not words[-2].isdigit():
        while len(words) > 1 and re.fullmatch(r"\d+|v\d+|[a-z]", words[-1]):
            words.pop()
    while words and re.fullmatch(r"0\d*", words[0]):
        words.pop(0)
    unique = [word for place, word in enumerate(words) if place == 0 or word != words[place - 1]]
    return " ".join(unique) + (", black and white" if mono and unique else "")


def _creator_words(creator: str) -> list[str]:
    return [word for word in re.split(r"\W+", _ascii(creator).lower()) if len(word) > 1]


def _file_phrase(item: Item) -> str:
    """The file's name without the creator's name, which Open Clip Art appends (cut off at some length)."""
    stem = re.sub(r"_(\d\d)?r?$", "", item.id.rsplit("/", 1)[-1])
    names = _creator_words(item.creator)
    words = re.split(r"[_ ]+", stem)
    for place in range(1, len(words)):
        rest = [word.lower() for word in words[place:] if word and not word.isdigit()]
        if rest and names and rest[0] and names[0].startswith(rest[0].rstrip(".")) or rest[:1] == names[:1]:
            words = words[:place]
            break
    return _phrase(re.sub(r"symbol \dm bwh|^(contour|aiga|etiquette|bb|w|svg|sm) |\bgnome fs\b", "", " ".join(words)))


def clean_keywords(item: Item) -> list[str]:
    """Keywords without tool leftovers, lower case, in the package's order, each once."""
    seen: dict[str, None] = {}
    for word in item.keywords:
        if not _DROP_KEYWORDS.search(word):
            seen.setdefault(_ascii(word).replace("_", " ").lower().strip(), None)
    return [word for word in seen if 1 < len(word) < 30]


def make_caption(item: Item, overrides: dict[str, str], keywords: list[str]) -> str | None:
    """Make the caption of an item, or None where none worth having can be made.

    Args:
        item: The item as its package states it.
        overrides: Hand-written English phrases by phrase.
        keywords: Its cleaned keywords.

    Returns:
        A lower-cased English phrase of two to ten words, or None.
    """
    extra: list[str]
    if item.source == "emoji":
        kind = item.category.split("/")[1]
        if _EMOJI_SKIP.search(kind) or re.search(r"facing right", item.title, re.I):
            return None
        title = item.title
        if re.match(r"(black|white) ", title, re.I) and not re.search(r"black|white", " ".join(item.keywords)):
            title = title.split(" ", 1)[1]  # Unicode's "black" and "white" mean filled and outlined, not colours
        phrase = _phrase(title)
        extra = [_EMOJI_KIND.get(kind, "")]
    elif item.source == "sweethome3d":
        phrase = _phrase(item.title)
        category = item.category.lower()
        extra = [
            *keywords,
            {"miscellaneous": "object", "lights": "light"}.get(category, category),
            "furniture",
        ]
    else:
        if _SKIP_TITLES.search(item.title):
            return None
        phrase = "" if is_series(item.title) else _phrase(item.title)
        if len(re.sub(r"[^a-z]", "", phrase)) < 3:
            phrase = _file_phrase(item)
        folder = item.category.split("/")
        if folder[:3] == ["recreation", "games", "cards"]:
            card = re.search(r"/simple_([cdhs])_(\w+)$", item.id)
            phrase = f"{_RANKS[card[2]]} of {_SUITS[card[1]]} playing card" if card else f"{phrase} playing card"
        elif folder[:2] == ["signs_and_symbols", "flags"] and phrase and "flag" not in phrase:
            phrase = f"flag of {phrase}"
        extra = [*(_FOLDERS.get(name, "") for name in reversed(folder)), *keywords]
    head, comma, tail = phrase.partition(", ")
    head = re.sub(r"^(a|an|the) ", "", head)
    head = overrides.get(head) or re.sub(r"^(.+) (simple|shaded)$", r"\2 \1", head)
    if len(re.sub(r"[^a-z]", "", head)) < 3:
        return None
    if len(head.split()) == 1:
        more = next((word for word in extra if word and word not in head and head.rstrip("s") not in word), "")
        head = f"{head}, {more}" if more else head
    phrase = head + comma + tail
    return phrase if 2 <= len(phrase.split()) <= 10 else None


# Words that tell apart drawings of the same thing: who does it, in which colour or style.
_VARIANT = set(
    "simple stylized cartoon symbol sign icon outline shaded silhouette colour color red green blue yellow orange "
    "purple pink grey gray brown dark light big small large little half".split()
)
_VARIANT |= {
    "man",
    "woman",
    "men",
    "women",
    "male",
    "female",
    "person",
    "people",
    "boy",
    "girl",
    "black",
    "white",
    "bw",
}


def group_key(text: str) -> str:
    """Stem of a caption or title: captions with one stem must not lie in different splits.

    Digits, articles, words for gender, colour, size and style, plural endings, all behind a comma and the
    order of the words do not count.
    """
    words = re.findall(r"[a-z]+", _ascii(text).lower().split(",")[0])
    kept = [word for word in words if word not in _SMALL and word not in _VARIANT] or words
    return " ".join(sorted({word[:-1] if len(word) > 3 and word.endswith("s") else word for word in kept}))
