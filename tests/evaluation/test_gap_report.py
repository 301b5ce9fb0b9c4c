"""The gap report on arrays and stores: numbers, samples, recommendation, warnings and what is written."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from hf_modalbridge import C3, EmbeddingStore, EmbeddingStoreWriter, GapReport, MeanShift, ReAlign
from hf_modalbridge.evaluation.gap_inputs import report_on_stores, split_rows
from hf_modalbridge.evaluation.gap_rows import RowSubset
from hf_modalbridge.functional import gap

DIM = 10
HOSTILE = '<script>alert("x")</script>|"&*'


def sides(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Pairs with a gap: a shared latent, own noise, own offset."""
    rng = np.random.default_rng(seed)
    spread = np.arange(1, DIM + 1) ** -0.3
    offset = np.random.default_rng(99).normal(size=DIM)
    shared = rng.normal(size=(rows, DIM)) * spread
    out = []
    for sign in (1, -1):
        x = shared + 0.3 * rng.normal(size=(rows, DIM)) * spread + sign * 0.8 * offset
        out.append(x / np.linalg.norm(x, axis=1, keepdims=True))
    return out[0], out[1]


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    return sides(240, seed=1)


@pytest.fixture(scope="module")
def fitted() -> dict[str, MeanShift]:
    text, image = sides(300, seed=2)
    return {kind.correction_type: kind.fit(text, image) for kind in (MeanShift, ReAlign, C3)}


@pytest.fixture(scope="module")
def report(data, fitted) -> GapReport:
    return GapReport.compute(*data, fitted, pairs=True, bootstrap=60)


def write(path, rows: np.ndarray, **kwargs) -> EmbeddingStore:
    with EmbeddingStoreWriter(path, dim=rows.shape[1], dtype="float64", rows_per_shard=70, **kwargs) as writer:
        writer.append([f"n{i}" for i in range(len(rows))], rows)
    return EmbeddingStore.open(path)


def test_numbers_are_those_of_the_functions(report, data, fitted):
    text, image = data
    with torch.no_grad():
        moved = fitted["realign"](torch.from_numpy(text)).numpy()
    for name, z in (("source", text), ("realign", moved)):
        found = report.sets[name]
        covariances = [torch.from_numpy(np.cov(x.T, bias=True)) for x in (z, image)]
        spectra = [gap.sorted_spectrum(c) for c in covariances]
        expected = {
            "gap": np.linalg.norm(z.mean(0) - image.mean(0)),
            "trace_ratio": gap.trace_ratio(*covariances),
            "covariance_gap": gap.covariance_gap(*covariances),
            "spectrum_correlation": gap.spectrum_correlation(*spectra),
            "effective_rank": gap.effective_rank(spectra[0]),
            "pair_cosine": np.mean([a @ b for a, b in zip(z, image, strict=True)]),
            "residual_trace": np.trace(np.cov((image - z).T, bias=True)),
            "recall@1": np.mean((z @ image.T).argmax(1) == np.arange(len(z))),
        }
        for key, value in expected.items():
            assert found[key].value == pytest.approx(value, abs=1e-7), key
            assert found[key].low <= found[key].value <= found[key].high, key
    assert report.sets["realign"]["phi"].value == pytest.approx(
        np.mean([a @ b for a, b in zip(text, moved, strict=True)])
    )
    pools = [np.vstack([image, moved]), np.repeat([True, False], 240)]
    share = []
    for i, z in enumerate(moved):
        cosines = pools[0] @ z
        cosines[240 + i] = -9
        share.append(pools[1][np.argsort(-cosines)[:20]].mean())
    entropy = [0 if p in (0, 1) else -p * np.log2(p) - (1 - p) * np.log2(1 - p) for p in share]
    assert report.sets["realign"]["mixing_z"].value == pytest.approx(np.mean(entropy) / 0.964, rel=0.01)
    before, after = (np.argsort(-(x @ x.T) + 9 * np.eye(240), 1)[:, :20] for x in (text, moved))
    kept = np.mean([len(set(a) & set(b)) / 20 for a, b in zip(before, after, strict=True)])
    assert report.sets["realign"]["omega"].value == pytest.approx(kept, abs=1e-3)


def test_a_correction_that_moves_the_target_is_compared_with_the_moved_target(report, data, fitted):
    side = report.sides["target through c3"]
    moved = fitted["c3"].transform_target(torch.from_numpy(data[1])).numpy()
    assert side.mean_norm == pytest.approx(np.linalg.norm(moved.mean(0))) and side.trace > 0.95
    assert report.sets["c3"]["gap"].value < 0.3 < report.sets["source"]["gap"].value


def test_stores_are_streamed_to_the_same_numbers(data, fitted, tmp_path, report):
    stores = [write(tmp_path / name, rows) for name, rows in zip(("a", "b"), data, strict=True)]
    again = GapReport.compute(*stores, fitted, pairs=True, bootstrap=60)
    for name, estimates in report.sets.items():
        for key, estimate in estimates.items():
            assert again.sets[name][key].value == pytest.approx(estimate.value, abs=1e-9), (name, key)
            assert again.sets[name][key].low == pytest.approx(estimate.low, abs=1e-9) or estimate.low is None
    parts = GapReport.compute([data[0][:100], data[0][100:]], data[1], bootstrap=0)
    assert parts.sets["source"]["mixing_x"].value == pytest.approx(report.sets["source"]["mixing_x"].value)
    with torch.no_grad():
        rows = fitted["realign"](torch.from_numpy(data[0])).numpy()
    given = GapReport.compute(*stores, write(tmp_path / "c", rows), pairs=True, bootstrap=0)
    assert given.sets["corrected"]["omega"].value == pytest.approx(report.sets["realign"]["omega"].value)
    assert given.sets["corrected"]["psi"].value == pytest.approx(report.sets["realign"]["psi"].value)


def test_samples_and_pools_are_bounded_and_reported(data, fitted):
    got = GapReport.compute(*data, fitted, pairs=True, sample=50, pool=120, bootstrap=10, k=5)
    assert got.settings["source_queries"] == got.settings["target_queries"] == got.pairs == 50
    assert got.sides["source"].rows == 240 and any("120 rows of 240" in w for w in got.warnings)
    assert "50 source and 50 target rows" in got.to_markdown()
    again = GapReport.compute(*data, fitted, pairs=True, sample=50, pool=120, bootstrap=10, k=5)
    assert again.to_json() == got.to_json(), "the seed decides everything"
    other = GapReport.compute(*data, fitted, pairs=True, sample=50, pool=120, bootstrap=10, k=5, seed=1)
    assert other.to_json() != got.to_json()


def test_limits_of_the_whole(data):
    text, image = data
    permuted = image[np.random.default_rng(0).permutation(240)]
    got = GapReport.compute(text, image, {"same": image, "permuted": permuted}, pairs=True, bootstrap=40)
    same, shuffled = got.sets["same"], got.sets["permuted"]
    for key in ("gap", "covariance_gap", "angular_js", "residual_trace"):
        assert same[key].value == pytest.approx(0, abs=1e-6), key
    assert same["pair_cosine"].value == pytest.approx(1) and same["recall@1"].value == 1
    assert same["separability"].value == pytest.approx(0.5)
    for mixed in (same, shuffled):
        assert mixed["mixing_z"].value == pytest.approx(1, abs=0.06) == mixed["mixing_x"].value
    assert shuffled["omega"].value == pytest.approx(got.references["omega"], abs=0.02)
    assert shuffled["recall@10"].value < 0.1
    assert got.sets["source"]["separability"].value > 0.95 and got.sets["source"]["mixing_z"].value < 0.1
    assert got.recommendation.startswith("Use same:")
    for estimates in got.sets.values():
        if "phi" in estimates:
            assert estimates["phi"].value <= estimates["phi_ceiling"].value + 1e-12


def test_recommendation_prefers_the_best_then_the_simpler(data, fitted, report):
    assert "mean reciprocal rank" in report.recommendation and not report.recommendation.startswith("Leave")
    text, image = data
    shift, realign = fitted["mean_shift"], fitted["realign"]
    twin = GapReport.compute(text, image, {"realign": realign, "mean_shift": shift}, bootstrap=60)
    assert "balance of mixing and kept neighbourhoods" in twin.recommendation
    assert twin.recommendation.startswith("Use mean_shift:"), "level with ReAlign here, and stores less"
    permuted = image[np.random.default_rng(0).permutation(240)]
    paired = GapReport.compute(text, image, {"permuted": permuted, "realign": realign}, pairs=True, bootstrap=60)
    unpaired = GapReport.compute(text, image, {"permuted": permuted, "realign": realign}, bootstrap=60)
    assert paired.recommendation.startswith("Use realign:") and unpaired.recommendation.startswith("Use realign:")
    assert GapReport.compute(image, image, {"realign": realign}, bootstrap=60).recommendation.startswith("Leave")
    assert "nothing to choose" in GapReport.compute(text, image, bootstrap=0).recommendation


def test_warnings(data, tmp_path, fitted):
    def warnings(*args, **kwargs) -> str:
        return " ".join(GapReport.compute(*args, bootstrap=0, **kwargs).warnings)

    text, image = data
    assert warnings(text, image) == ""
    assert "240 of 240 rows of the source do not have length one" in warnings(3 * text, image)
    assert "3 of 240 rows of the target repeat" in warnings(text, np.vstack([image[:237], image[:3]]))
    assert "9 rows on the smaller side for 10 dimensions" in warnings(text[:9], image)
    assert "Only 9 rows" in warnings(text[:9], image) and "neighbours; 8 were used" in warnings(text[:9], image)
    assert "sampling floor" in warnings(*sides(240, seed=4)[:1] * 2)
    own = ReAlign.fit(text, image)
    message = warnings(text, image, corrected={"own": own}, pairs=True)
    assert "own was fitted on the very rows of the source and target" in message and "the pairs among them" in message
    assert "fitted on" not in warnings(text, image, corrected=fitted)
    assert "40 of 240 measured rows of the target are in the data" in warnings(
        text, image, fitted_on=(sides(50, seed=7)[0], image[200:])
    )
    stores = [
        write(tmp_path / name, rows, encoder={"id": name, "dim": DIM})
        for name, rows in (("clip", text), ("clap", image))
    ]
    assert "different encoders, clip" in warnings(*stores)
    shared = warnings(*stores, fitted_on=(stores[0], stores[1]))
    assert "240 of 240 measured rows of the source" in shared


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"corrected": {"x": np.ones((3, DIM))}}, "3 corrected rows and the source 240"),
        ({"corrected": {"target": np.ones((240, DIM))}}, "cannot be the name"),
        ({"corrected": {"x": np.ones((240, 4))}}, "differ in width"),
        ({"pairs": ([0, 1], [0])}, "as many source as target"),
        ({"pairs": ([0, 400], [0, 1])}, "rows 0 to 400 of the source"),
        ({"sample": 0}, "sample is at least 1"),
        ({"corrected": {"x": MeanShift(DIM)}}, "never fitted"),
    ],
)
def test_what_does_not_fit_is_refused(data, arguments, message):
    with pytest.raises(ValueError, match=message):
        GapReport.compute(*data, **arguments)


def test_a_correction_of_another_encoder_is_refused(data, tmp_path):
    fitted = ReAlign.fit(*data, source_encoder={"id": "clap", "dim": DIM})
    with pytest.raises(ValueError, match="clap"):
        GapReport.compute(write(tmp_path / "a", data[0], encoder={"id": "clip", "dim": DIM}), data[1], fitted)


class Page(HTMLParser):
    """Collects what a page loads, its tags and ids."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "srcset", "data", "poster", "action"):
                self.loads.append(value or "")
            if name == "id":
                self.ids.append(value or "")


def test_the_page_stands_alone_and_escapes_names(data, fitted, tmp_path):
    names = {HOSTILE: fitted["realign"], "_-->": fitted["mean_shift"], "$x^$": fitted["c3"]}
    got = GapReport.compute(*data, names, pairs=True, bootstrap=16)
    text = got.to_html(tmp_path / "page.html", title="<b>title</b>")
    assert (tmp_path / "page.html").read_text() == text and "&lt;b&gt;title" in text
    page = Page()
    page.feed(text)
    assert page.loads and all(load.startswith("#") for load in page.loads)
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags) and page.tags.count("svg") == 5
    assert not re.search(r"@import|url\((?!#)|https?://(?!www\.w3\.org)", text)
    assert "<script" not in text and "&lt;script&gt;" in text
    assert {load[1:] for load in page.loads} <= set(page.ids)
    assert "prefers-color-scheme: dark" in text and 'name="viewport"' in text and "currentColor" in text
    markdown = got.to_markdown()
    assert "<script" not in markdown and all(
        len(re.findall(r"(?<!\\)\|", line)) == len(re.findall(r"(?<!\\)\|", head))
        for table in re.findall(r"(?:^\|.*\n?)+", markdown, re.M)
        for head, line in ((table.splitlines()[0], line) for line in table.splitlines())
    )


def test_outputs_hold_the_same_numbers(report, tmp_path, capsys):
    for kind in ("json", "md", "html"):
        report.save(tmp_path / f"r.{kind}")
    numbers = json.loads((tmp_path / "r.json").read_text())
    value = report.sets["realign"]["mixing_x"].value
    assert numbers["sets"]["realign"]["mixing_x"]["value"] == pytest.approx(value)
    assert (
        numbers["retrieval"]["source"]["1"] == report.retrieval["source"][1] == report.sets["source"]["recall@1"].value
    )
    report.print()
    shown = capsys.readouterr().out
    for text in (shown, (tmp_path / "r.md").read_text(), (tmp_path / "r.html").read_text()):
        assert f"{value:.3f}" in text and "realign" in text
    assert report.recommendation in " ".join((tmp_path / "r.md").read_text().split())
    assert set(report.plot()) == {"spectra", "angles", "view", "mixing", "retrieval"}
    with pytest.raises(ValueError, match=".json, .md or .html"):
        report.save(tmp_path / "r.txt")


def test_nan_is_null_in_json():
    text, image = sides(12)
    got = GapReport.compute(text, np.tile(image[:1], (12, 1)), bootstrap=4)
    assert json.loads(got.to_json())["sets"]["source"]["spectrum_correlation"]["value"] is None


def test_plots_without_matplotlib_say_what_to_install(report, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"hf-modalbridge\[report\]"):
        report.plot()
    assert report.to_markdown()


def test_halves_keep_equal_values_together():
    source, target = [*"aabbccdd", None, None], [*"abcdefgh", None]
    fit, measured = split_rows(source, target, seed=3)
    for side in range(2):
        assert sorted([*fit[side], *measured[side]]) == list(range(len((source, target)[side])))
    seen = [{(source, target)[s][i] for s in range(2) for i in part[s]} - {None} for part in (fit, measured)]
    assert not seen[0] & seen[1] and len(seen[0]) == 4
    with pytest.raises(ValueError, match="too few"):
        split_rows(["a"], ["a"])


def test_a_type_is_fitted_on_the_other_half(data, tmp_path):
    stores = [write(tmp_path / name, rows) for name, rows in zip(("a", "b"), data, strict=True)]
    got = report_on_stores(*stores, ["realign", "mean_shift"], pair_column="id", bootstrap=0)
    fit, measured = split_rows(*(store.ids for store in stores), seed=0)
    expected = ReAlign.fit(*(rows[part] for rows, part in zip(data, fit, strict=True)))
    with torch.no_grad():
        z = expected(torch.from_numpy(data[0][measured[0]])).numpy()
    distance = np.linalg.norm(z.mean(0) - data[1][measured[1]].mean(0))
    assert got.sets["realign"]["gap"].value == pytest.approx(distance, abs=1e-7) and got.pairs == 120
    assert not any("fitted" in warning for warning in got.warnings)


def test_a_subset_reads_like_a_store(data, tmp_path):
    store = write(tmp_path / "a", data[0])
    for of in (store, data[0], torch.from_numpy(data[0])):
        subset = RowSubset(of, [200, 3, 71])
        assert np.allclose(subset[:], data[0][[200, 3, 71]]) and len(subset) == 3 and subset.dim == DIM
        blocks = [rows for _, rows in subset.iter_batches(2)]
        assert [len(b) for b in blocks] == [2, 1] and np.allclose(np.vstack(blocks), subset[:], atol=1e-6)
    assert RowSubset(store, [200, 3]).ids == ["n200", "n3"] == RowSubset(store, [200, 3]).column("id")
    assert RowSubset(data[0], [1]).ids is None
