"""Write the card and the licence notes of `demo_data/` from its parquet files.

Usage: `python scripts/demo_card.py demo_data`.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq

__all__ = ["write_card"]

SPLITS = ("train", "validation", "test")
CONFIGS = ("captions", "points")

FRONT = """---
pretty_name: hf_modalbridge demo data
license:
- cc0-1.0
- cc-by-3.0
- apache-2.0
- mit
- other
license_name: public-domain
license_link: LICENSES.md
language:
- en
annotations_creators:
- found
task_categories:
- image-to-text
- zero-shot-image-classification
- other
tags:
- clip-art
- emoji
- furniture
- point-cloud
- modality-gap
size_categories:
- 1K<n<10K
source_datasets:
- original
configs:
{configs}
dataset_info:
- config_name: points
  features:
  - name: id
    dtype: string
  - name: points
    dtype:
      array2_d:
        shape: [1024, 3]
        dtype: float16
  - name: name
    dtype: string
  - name: caption
    dtype: string
  - name: category
    dtype: string
  - name: tags
    list: string
  - name: size_cm
    list: float32
  - name: creator
    dtype: string
  - name: license
    dtype: string
  - name: split
    dtype: string
---
"""

BODY = """
# Demo data of hf_modalbridge

Real pictures with short English captions, and furniture as point clouds, small enough ({megabytes:.1f} MB)
to travel with the code. Made from public packages by `scripts/build_demo_data.py`, which gives the same
bytes again (`build.json` lists the sha256 of each package and each file, and the library versions they were
written with).

```python
from datasets import load_dataset

pictures = load_dataset("demo_data", "captions")  # id, image, caption, ...
clouds = load_dataset("demo_data", "points")  # id, points (1024, 3), name, ...
```

A cloud's `id` is the id of the same object's icon in `captions`, and both lie in the same split.

## Rows

| config | source | licence | {splits} | all |
|---|---|---|{dashes}---:|
{rows}

## Columns

`captions`: `id`; `image` (WebP on white, square, at most 160 pixels a side: the picture is cut to what is
drawn on it, put on a white ground and scaled down, never up beyond 64 pixels); `caption`; `title` (as the
source states it); `keywords`; `source` (`openclipart`, `emoji`, `sweethome3d`); `source_file` (within its
package); `creator` (empty where the source names none: public domain only); `license`; `split`.

`points`: `points` (1,024 points drawn uniformly from the surface with seed 0, float16, x right, y up, z
depth, scaled to the catalogue's size, centred on the bounding box, the farthest point at distance 1);
`name`; `caption`; `category`; `tags`; `size_cm` (width, depth, height); `creator`; `license`; `split`. No
colour.

## Captions

One deterministic rule (`scripts/demo_captions.py`): the title, or the file name where the title names a
whole series; numbering and file endings removed, lower case, ", black and white" for the drawings marked
so; Italian, French and cut-off phrases replaced by a hand-written table (`scripts/demo_captions.tsv`); a
single word gets the kind of thing it is ("bison, animal"; "washbasin, bathroom"). Two to ten words.
{distinct} captions are distinct; at most 6 pictures share a caption, furniture excepted ("chair, seat":
{chairs}), so draw distractors that have *another* caption.

## Splits

Fixed by a hash of each group's first id; about 76 / 8 / 16 %. A group holds all rows with the same caption
or title after digits, articles, plural endings and words for colour, size, style and gender are taken away
("chair 2", "red chair", "chairs"), and all pictures whose 24-pixel thumbnails nearly agree. So no caption
crosses a split. Do not tune on `test`.

## Left out

Icon themes, generated shapes, gradients, signal flags, further styles of the same playing cards, pictures
without a usable title, near-duplicates, originals above 40 million pixels (Open Clip Art); skin tones,
country flags, keycaps, letters and families (emoji). Clip art is dated (2004 to 2007) and European and
North American in taste; some captions are odd. {flags} rows are flags: an encoder that knows no flags can
tell that it is one, not which.

## Licences and attribution

Each row has its own licence and creator; see `LICENSES.md`. The pictures were cropped, put on white, scaled
and re-encoded; the meshes were sampled to points.
"""

LICENSES = """# Licences of the demo data

Each row states its licence and creator. What was changed: pictures were cropped, put on a white ground,
scaled and re-encoded as WebP; meshes were scaled and sampled to 1,024 points; captions were made from
titles and tags.

| source | what | licence |
|---|---|---|
| Open Clip Art Library 0.18 (Debian `openclipart-png`, `openclipart-svg`) | {openclipart} pictures | \
dedicated to the public domain by their creators; only files whose own metadata says so |
| Noto Emoji (npm `emoji-datasource-google` 16.0.0) | {emoji} pictures | Apache License 2.0, text in \
the repository's `LICENSE` |
| emoji-data (the same package) | names of the emoji | MIT, below |
| SweetHome3D furniture (Debian `sweethome3d-furniture` 1.8-1) | {cc_by} icons and models | \
Creative Commons Attribution 3.0 (creativecommons.org/licenses/by/3.0); those by Kator Legaz and Reallusion: \
Attribution 3.0 United States (creativecommons.org/licenses/by/3.0/us) |
| SweetHome3D furniture, "Blend Swap CC-0" | {cc0} icons and models | CC0 1.0 \
(creativecommons.org/publicdomain/zero/1.0) |

Two models of the CC0 catalogue carry a CC BY 3.0 notice of their own and are marked `cc-by-3.0`.

## Creators of the CC BY rows

{creators}

## emoji-data

Copyright (c) 2013 Cal Henderson

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without
limitation the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of
the Software, and to permit persons to whom the Software is furnished to do so, subject to the following
conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial
portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT
LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO
EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN
AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE
OR OTHER DEALINGS IN THE SOFTWARE.
"""


def _rows(folder: Path, config: str) -> list[dict]:
    wanted = {"id", "caption", "source", "license", "creator", "split"}
    rows = []
    for path in sorted((folder / config).glob("*.parquet")):
        names = [name for name in pq.read_schema(path).names if name in wanted]
        rows += pq.read_table(path, columns=names).to_pylist()
    return rows


def write_card(folder: Path) -> None:
    """Write `README.md` and `LICENSES.md` of a built data folder.

    Args:
        folder: The data set's folder, with `captions/` and `points/`.
    """
    lines, configs = [], []
    tables = {config: _rows(folder, config) for config in CONFIGS}
    for config, rows in tables.items():
        configs.append(f"- config_name: {config}" + ("\n  default: true" if config == "captions" else ""))
        configs.append("  data_files:")
        configs += [f"  - split: {split}\n    path: {config}/{split}-*.parquet" for split in SPLITS]
        counts = Counter((row.get("source", "sweethome3d"), row["license"], row["split"]) for row in rows)
        for source, licence in sorted({key[:2] for key in counts}):
            numbers = [counts[source, licence, split] for split in SPLITS]
            cells = " | ".join(f"{number:,}" for number in [*numbers, sum(numbers)])
            lines.append(f"| {config} | {source} | {licence} | {cells} |")
        totals = [sum(row["split"] == split for row in rows) for split in SPLITS]
        lines.append(f"| **{config}** | | | " + " | ".join(f"**{n:,}**" for n in [*totals, sum(totals)]) + " |")
    captions = Counter(row["caption"] for row in tables["captions"])
    front = FRONT.format(configs="\n".join(configs))
    body = BODY.format(
        megabytes=sum(path.stat().st_size for path in folder.rglob("*.parquet")) / 1e6,
        splits=" | ".join(SPLITS),
        dashes="---:|" * len(SPLITS),
        rows="\n".join(lines),
        distinct=f"{len(captions):,}",
        chairs=captions["chair, seat"],
        flags=sum("flag" in row["caption"].split() for row in tables["captions"]),
    )
    (folder / "README.md").write_text(front + body, encoding="utf-8")
    sources = Counter(row["source"] for row in tables["captions"])
    licences = Counter(row["license"] for row in tables["captions"])
    by = Counter(row["creator"] for row in tables["captions"] if row["license"] == "cc-by-3.0")
    text = LICENSES.format(
        openclipart=f"{sources['openclipart']:,}",
        emoji=f"{sources['emoji']:,}",
        cc_by=licences["cc-by-3.0"],
        cc0=licences["cc0-1.0"],
        creators="; ".join(f"{name} ({count})" for name, count in sorted(by.items())),
    )
    (folder / "LICENSES.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_card(Path(sys.argv[1] if len(sys.argv) > 1 else "demo_data"))
