"""The Space in a real browser: all four pages with real files, on a desktop and on a phone, in light and dark.

With MODALBRIDGE_SCREENSHOTS=docs it also writes docs/space-*.png. The model is the one that `make demo` leaves, or that
MODALBRIDGE_SPACE_MODEL names, beside it modalbridge-pc if it is there; without either a random one.
"""

from __future__ import annotations

import io
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("gradio")
sync_api = pytest.importorskip("playwright.sync_api")
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
from PIL import Image  # noqa: E402
from space_server import ROOT, Server, serve  # noqa: E402
from space_world import npy  # noqa: E402

from hf_modalbridge.demo import load_captions, load_clouds  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium"),
]
FLAGS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
FLAGS += ["--ignore-gpu-blocklist"]
SIZES = {"desktop": (1280, 860), "phone": (360, 760)}
PATIENCE = 180_000  # milliseconds: one core, perhaps a busy one
SCREENSHOTS = os.environ.get("MODALBRIDGE_SCREENSHOTS")
POINTS = ROOT / "runs" / "modalbridge-pc" / "stage2" / "model"
DEMO = Path(os.environ.get("MODALBRIDGE_SPACE_MODEL") or ROOT / "runs" / "demo" / "realign" / "stage2" / "model")


@pytest.fixture(scope="module")
def space(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    model = DEMO if (DEMO / "config.json").is_file() else request.getfixturevalue("tiny_run")
    points = POINTS if model == DEMO and (POINTS / "config.json").is_file() else None
    yield from serve(model, points, tmp_path_factory.mktemp("browser"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


class Visit:
    """A page that is open, and what it asked of other servers or complained about."""

    def __init__(self, browser: Any, server: Server, size: str, theme: str) -> None:
        width, height = SIZES[size]
        self.size, self.theme = size, theme
        self.page = browser.new_page(viewport={"width": width, "height": height}, has_touch=size == "phone")
        self.page.set_default_timeout(PATIENCE)
        self.strangers: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", self._note_request)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.home = server.url
        self.page.goto(f"{server.url}/?__theme={theme}")
        self.page.locator("#chat-question textarea, #chat-question input").first.wait_for()

    def _note_request(self, request: Any) -> None:
        if not request.url.startswith((self.home, "data:", "blob:")):
            self.strangers.append(request.url)

    def open(self, name: str) -> None:
        tab = self.page.get_by_role("tab", name=name)
        if not tab.is_visible():  # on a phone the last tabs are behind a button
            self.page.locator(".overflow-menu > button").click()
            tab = self.page.locator(".overflow-dropdown").get_by_text(name)
        tab.click()

    def drop(self, place: str, *paths: Path) -> None:
        self.page.locator(f"{place} input[type=file]").set_input_files([str(path) for path in paths])

    def says(self, place: str, words: str) -> None:
        sync_api.expect(self.page.locator(place)).to_contain_text(words, timeout=PATIENCE)

    def draws(self, place: str) -> None:
        """Wait until a canvas shows many colours: a shape, and not an empty ground."""
        canvas = self.page.locator(place)
        canvas.wait_for()
        for _ in range(90):
            with Image.open(io.BytesIO(canvas.screenshot())) as image:
                colours = image.convert("RGB").getcolors(1 << 20) or []
            if len(colours) > 200:
                return
            self.page.wait_for_timeout(1000)
        raise AssertionError(f"{place} shows {len(colours)} colours only")

    def fits(self) -> None:
        width = self.page.evaluate("document.documentElement.scrollWidth")
        assert width <= SIZES[self.size][0], f"the page is {width} pixels wide"

    def picture(self, name: str) -> None:
        self.fits()
        if SCREENSHOTS and (self.size, self.theme) in (("desktop", "light"), ("phone", "dark")):
            self.page.evaluate("document.querySelectorAll('.toast-close').forEach(button => button.click())")
            self.page.wait_for_timeout(1500)
            suffix = "" if self.size == "desktop" else "-phone"
            path = ROOT / SCREENSHOTS / f"space-{name}{suffix}.png"
            with Image.open(io.BytesIO(self.page.screenshot(full_page=True))) as image:
                image.convert("RGB").save(path, optimize=True)
            assert path.stat().st_size < 300_000


@pytest.fixture(params=[("desktop", "light"), ("phone", "dark")], ids=["desktop", "phone"])
def visit(request: pytest.FixtureRequest, browser: Any, space: Server) -> Iterator[Visit]:
    opened = Visit(browser, space, *request.param)
    yield opened
    opened.page.close()
    assert not opened.strangers, "the page asks no other server"
    assert not opened.errors


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Real files as a visitor has them: a held-out picture, a cloud, a table of embeddings with captions."""
    folder = tmp_path_factory.mktemp("files")
    pictures, clouds = load_captions("test"), load_clouds("test")
    index = next(i for i, caption in enumerate(pictures.captions) if "chair" in caption)
    pictures[index]["image"].convert("RGB").save(folder / "chair.png")
    chair = next(i for i, name in enumerate(clouds.names) if "chair" in name.lower())
    (folder / "chair.npy").write_bytes(npy(clouds.points[chair]))
    rng = np.random.default_rng(0)
    words = ["a red chair", "a green table", "a blue boat", "a black clock"]
    labels = rng.integers(0, 4, 160)
    rows = (rng.normal(size=(4, 16))[labels] + 0.05 * rng.normal(size=(160, 16))).astype(np.float32)
    captions = [words[i] for i in labels]
    if not SCREENSHOTS:
        captions[0] = "<img src=x onerror=\"document.title='owned'\">"
    table = {"embedding": list(rows), "caption": captions}
    pq.write_table(pa.table(table), folder / "sensor.parquet")
    for name, offset in (("text", 1.0), ("sensor", -1.0)):
        (folder / f"{name}.npy").write_bytes(npy((rows + offset).astype(np.float32)))
    for name in ("weights.pkl", "disguised.npy"):
        (folder / name).write_bytes(b"\x80\x04N.")
    return {path.name: path for path in folder.iterdir()}


def test_chat(visit: Visit, files: dict[str, Path]):
    page = visit.page
    visit.says("#chat-shown", "appears here")
    page.locator("#chat-question button.submit-button").click()
    visit.says("body", "Choose something to talk about first")
    visit.drop("#chat-drop", files["weights.pkl"])
    visit.says("body", "Invalid file type: weights.pkl")
    visit.drop("#chat-drop", files["disguised.npy"])
    visit.says("body", "inside it is a pickle")
    page.locator("#chat-examples button").first.click()
    visit.says("#chat-status", "ask away")
    visit.drop("#chat-drop", files["chair.png"])
    visit.says("#chat-status", "chair.png")
    assert page.locator("#chat-shown img").evaluate("image => image.naturalWidth") > 0
    page.get_by_text("Parameters").click()
    page.get_by_label("Longest answer, in tokens").first.wait_for()
    page.get_by_text("Parameters").click()
    question = page.locator("#chat-question textarea, #chat-question input").first
    question.fill("What is in this picture? Answer in a few words.")
    question.press("Enter")
    answers = page.locator("#chat-talk [data-testid=bot]")
    answers.first.wait_for()
    idle = "box => !box.querySelector('.stop-button')"
    page.wait_for_function(idle, arg=page.locator("#chat-question").element_handle())
    assert answers.first.inner_text().strip() not in ("", "…")
    visit.picture("chat")
    question.fill("And <b>what</b> else?")
    question.press("Enter")
    visit.says("#chat-talk", "And <b>what</b> else?")
    assert page.locator("#chat-talk b").count() == 0, "what is typed stays text"
    answers.nth(1).wait_for()
    page.wait_for_function(idle, arg=page.locator("#chat-question").element_handle())
    visit.drop("#chat-drop", files["chair.npy"])  # last: drawing in software takes all of a core
    visit.draws("#chat-viewer canvas")
    status = page.locator("#chat-status")
    sync_api.expect(status).to_contain_text(re.compile("reads no 3D objects|chair.npy: ask away"), timeout=PATIENCE)
    if "ask away" in status.inner_text():
        question.fill("What is this?")
        question.press("Enter")
        answers.first.wait_for()
        page.wait_for_function(idle, arg=page.locator("#chat-question").element_handle())
    visit.picture("cloud")


def test_imagine(visit: Visit):
    visit.open("Imagine")
    visit.says("#imagine-result", "appear here")
    text = visit.page.locator("#imagine-text textarea, #imagine-text input").first
    text.fill("a red chair")
    text.press("Enter")
    visit.says("#imagine-result", "After it (realign)")
    images = visit.page.locator("#imagine-result section > .mb-grid img")
    assert images.count() == 16
    images.nth(15).scroll_into_view_if_needed()
    visit.page.wait_for_function("image => image.naturalWidth > 0", arg=images.nth(15).element_handle())
    visit.page.evaluate("scrollTo(0, 0)")
    visit.picture("imagine")


def test_gap_explorer(visit: Visit, files: dict[str, Path], tmp_path: Path):
    page = visit.page
    visit.open("Gap explorer")
    if visit.size == "desktop":
        page.locator("#gap-go").click()
        visit.says("#gap-said", "measured on")
        page.locator("#gap-plot .js-plotly-plot").wait_for()
        visit.picture("gap")
        page.locator("#gap-view").get_by_text("Spectra").click()
        visit.says("#gap-plot", "eigenvalue")
        with page.expect_download() as download:
            page.locator("#gap-download").click()
        assert download.value.suggested_filename.endswith(".zip")
    page.get_by_text("My two files").click()
    visit.drop("#gap-source", files["text.npy"])
    visit.drop("#gap-target", files["sensor.npy"])
    page.get_by_label("Row i of one belongs to row i of the other").check()
    page.locator("#gap-go").click()
    visit.says("#gap-said", "Fitted on 80 source and 80 target rows")
    page.locator("#gap-plot .js-plotly-plot").wait_for()
    visit.fits()
    if visit.size == "phone":
        visit.picture("gap")


def test_bring_your_modality(visit: Visit, files: dict[str, Path]):
    page = visit.page
    visit.open("Bring your modality")
    visit.says("#bring-status", "text_embedding")
    assert page.locator("#bring-go").is_disabled()
    visit.drop("#bring-drop", files["sensor.parquet"])
    visit.says("#bring-status", "160 rows of width 16")
    if not SCREENSHOTS:
        visit.says("#bring-status", "<img src=x onerror=")
    minutes = page.locator("#bring-minutes input[type=number]")
    minutes.fill("2" if SCREENSHOTS else "0.5")
    minutes.press("Tab")
    page.locator("#bring-go").click()
    page.locator("#bring-plot .js-plotly-plot").wait_for()
    visit.says("#bring-said", "nats per")
    visit.says("#bring-said", "rows that it has not seen:")
    visit.says("#bring-tried", "What the model says")
    page.locator("#bring-row input[type=number]").fill("9")
    page.locator("#bring-row input[type=number]").press("Tab")
    page.locator("#bring-ask").click()
    page.locator("#bring-tried td", has_text="9").first.wait_for()
    assert page.locator("img[src=x]").count() == 0 and page.title() != "owned", "captions stay text"
    visit.picture("bring")


def test_the_keyboard_is_enough(visit: Visit):
    """Tab reaches the pages and the question; arrows and Enter do the rest."""
    page = visit.page
    seen = []
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.closest('[id]')?.id || document.activeElement.tagName"))
    assert any(name.startswith("chat-question") or "textbox" in name for name in seen), seen
    page.get_by_role("tab", name="Chat").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.get_by_role("tab", selected=True).inner_text().strip() in ("Imagine", "Chat")
