"""The viewer in headless Chromium: Python's numbers, keys, links, exports, and no other request."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from seeing.viewer_sessions import demonstrator
from transnext_models.seeing.viewer import ViewerServer, static_page

webdriver = pytest.importorskip("selenium.webdriver")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromium-driver"),
]


class Browser:
    """A browser whose log is looked at when a test is over."""

    def __init__(self, downloads: Path) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for argument in (
            "headless=new",
            "no-sandbox",
            "disable-gpu",
            "force-device-scale-factor=1",
        ):
            options.add_argument(f"--{argument}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        service = webdriver.ChromeService(DRIVER)
        self.driver: Any = webdriver.Chrome(options=options, service=service)
        self.downloads = downloads
        self.resize(1400, 1000)
        behaviour = {"behavior": "allow", "downloadPath": str(downloads)}
        self.driver.execute_cdp_cmd("Browser.setDownloadBehavior", behaviour)

    def resize(self, width: int, height: int) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def until(self, script: str) -> Any:
        deadline = time.monotonic() + 60
        while not (value := self.run(f"return {script}")):
            assert time.monotonic() < deadline, script
            time.sleep(0.02)
        return value

    def open(self, url: str) -> None:
        self.driver.get("about:blank")
        self.driver.get(url)
        self.until("document.body.dataset.ready")

    def shown(self) -> list[str]:
        return str(self.run("return document.body.dataset.shown")).split(" ")

    def press(self, key: str, **modifiers: bool) -> None:
        self.run(
            "document.activeElement.dispatchEvent(new KeyboardEvent('keydown',"
            "{key: arguments[0], bubbles: true, cancelable: true, ...arguments[1]}))",
            key,
            modifiers,
        )

    def click(self, y: int, x: int, panel: int = 0, **modifiers: bool) -> None:
        """Click on a pixel of a panel's image, and wait until it is shown."""
        self.run(
            "const canvas = document.querySelectorAll('figure canvas')[arguments[2]],"
            "box = canvas.getBoundingClientRect(), size = viewer.models[0].size;"
            "canvas.dispatchEvent(new MouseEvent('click', {bubbles: true, ...arguments[3],"
            "clientX: box.left + (arguments[1] + .5) / size[1] * box.width,"
            "clientY: box.top + (arguments[0] + .5) / size[0] * box.height}))",
            y,
            x,
            panel,
            modifiers,
        )
        self.until(f"document.body.dataset.shown.split(' ')[1].split(';').includes('{y},{x}')")

    def downloaded(self, ending: str) -> Path:
        deadline = time.monotonic() + 60
        while not (found := list(self.downloads.glob(f"*.{ending}"))):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return found[0]

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requested(self) -> set[str]:
        """Return the addresses that the page has asked for since the last call."""
        messages = [
            json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")
        ]
        return {
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        }


@pytest.fixture(scope="module")
def server() -> Iterator[ViewerServer]:
    with ViewerServer(demonstrator()) as running:
        yield running


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("downloads"))
    yield browser
    browser.driver.quit()


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    """A browser, of which the test leaves no complaint in the console."""
    chromium.complaints()
    chromium.requested()
    for old in chromium.downloads.iterdir():
        old.unlink()
    yield chromium
    chromium.resize(1400, 1000)
    assert chromium.complaints() == []


def densities(browser: Browser) -> np.ndarray:
    values = browser.run("const panel = viewer.panels[0]; return Array.from(viewer.density(panel))")
    return np.array(values)


@pytest.mark.parametrize("stage", [1, 2, 3, 4])
def test_clicks_equal_python(browser: Browser, server: ViewerServer, stage: int) -> None:
    browser.open(f"{server.url}#image=0&stage={stage}&block=0")
    record = server.session.record("0")
    for y, x in ((3, 5), (28, 33), (62, 60)):
        browser.click(y, x)
        query = record.query(stage, 0, pixel=(y, x))
        got = browser.run("return viewer.exportJson().panels[0]")
        assert got["position"] == list(query.position)
        for head, numbers in enumerate(got["heads"]):
            for name in ("window", "pooled", "positional"):
                expected = getattr(query, name)[head].flatten().numpy()
                np.testing.assert_allclose(numbers[name], expected, atol=1e-4)
            assert numbers["sum"] == pytest.approx(1, abs=1e-4)
            for name in ("foveal_share", "entropy"):
                expected = float(getattr(query, name)()[head])
                assert numbers[name] == pytest.approx(expected, abs=1e-4)
            expected = float(query.mean_distance()[head])
            assert numbers["mean_distance"] == pytest.approx(expected, rel=1e-4)
        assert browser.run("return document.getElementById('sum').textContent") == "1.000"
        stride, (rows, columns) = query.stride, query.grid
        at = np.ix_([row * stride for row in range(rows)], [col * stride for col in range(columns)])
        expected = query.density().numpy()[at]
        np.testing.assert_allclose(densities(browser), expected.flatten(), rtol=1e-3, atol=1e-7)


def test_hovering_answers_at_once(browser: Browser, server: ViewerServer) -> None:
    """It promises 50 ms; here other tests run too."""
    browser.open(server.url)
    browser.run("viewer.latency.length = 0")
    for step in range(20):
        browser.run(
            "const canvas = document.querySelector('figure canvas'),"
            "box = canvas.getBoundingClientRect();"
            "canvas.dispatchEvent(new PointerEvent('pointermove', {bubbles: true,"
            "clientX: box.left + box.width * (.2 + .03 * arguments[0]),"
            "clientY: box.top + box.height / 2}))",
            step,
        )
        browser.until(f"viewer.latency.length > {step}")
    latency = sorted(browser.run("return viewer.latency"))
    print(f"hover: median {latency[len(latency) // 2]:.1f} ms, last {latency[-1]:.1f} ms")
    assert latency[len(latency) // 2] <= 250
    assert "Under the pointer" in browser.run("return document.getElementById('under').textContent")


def test_keys_alone_suffice(browser: Browser, server: ViewerServer) -> None:
    browser.open(f"{server.url}#image=0&stage=1&block=0&a=20,20")
    for key, place, expected in (
        ("ArrowDown", slice(2, 4), ["2", "0"]),
        ("ArrowDown", slice(2, 4), ["3", "1"]),
        ("ArrowLeft", slice(2, 4), ["3", "0"]),
        ("ArrowUp", slice(2, 4), ["2", "0"]),
        ("ArrowRight", slice(2, 4), ["3", "0"]),
        ("]", slice(5, 6), ["0"]),
        ("]", slice(5, 6), ["1"]),
        ("[", slice(5, 6), ["0"]),
        ("0", slice(5, 6), ["-1"]),
        ("2", slice(4, 5), ["attention"]),
        ("3", slice(4, 5), ["positional"]),
        ("4", slice(4, 5), ["erf"]),
        ("5", slice(4, 5), ["maps"]),
        ("1", slice(4, 5), ["vision"]),
        ("n", slice(0, 1), ["1"]),
        ("p", slice(0, 1), ["0"]),
    ):
        browser.press(key)
        wanted = json.dumps(expected)
        start, stop = place.start, place.stop
        browser.until(
            f"JSON.stringify(document.body.dataset.shown.split(' ').slice({start}, {stop}))"
            f" === JSON.stringify({wanted})"
        )
    browser.press("ArrowRight", shiftKey=True)
    browser.until("viewer.state.pins[0].x === 36 && viewer.state.pinned")
    browser.press("b")
    browser.until("viewer.panels.length === 2")
    assert "A and B" in browser.run("return document.getElementById('numbers').textContent")
    browser.press("Escape")
    browser.until("viewer.panels.length === 1 && !viewer.state.pinned")
    browser.press("c")
    browser.until("viewer.state.scale === 'log'")
    theme = browser.run("return document.documentElement.dataset.theme")
    browser.press("t")
    assert browser.run("return document.documentElement.dataset.theme") != theme
    browser.press("?")
    assert browser.run("return document.getElementById('helping').open")


def test_space_plays_to_the_last_block(browser: Browser, server: ViewerServer) -> None:
    browser.open(f"{server.url}#image=0&stage=3&block=0")
    browser.press(" ")
    browser.until("viewer.state.depth === viewer.models[0].blocks.length - 1")
    browser.until("document.getElementById('play').getAttribute('aria-pressed') === 'false'")


def test_two_points_and_the_link_to_them(browser: Browser, server: ViewerServer) -> None:
    browser.open(f"{server.url}#image=1&stage=2&block=0&view=attention&scale=log&head=1")
    browser.click(10, 12)
    browser.click(50, 44, shiftKey=True)
    browser.until("viewer.panels.length === 2")
    browser.until("location.hash.includes('b=50,44')")
    link = browser.driver.current_url
    shown = browser.shown()
    assert shown == ["1", "10,12;50,44", "2", "0", "attention", "1"]
    browser.open(link)
    assert browser.shown() == shown
    assert browser.run("return [viewer.state.scale, viewer.state.pinned]") == ["log", True]


def test_two_models_share_the_point(browser: Browser) -> None:
    session = demonstrator(models=2)
    with ViewerServer(session) as server:
        browser.open(f"{server.url}#image=0&stage=3&block=1")
        browser.click(32, 16)
        panels = browser.run("return viewer.exportJson().panels")
        assert [panel["pixel"] for panel in panels] == [[32, 16], [48, 24]]
        query = session.record("0", 1).query(3, 1, pixel=(48, 24))
        for head, numbers in enumerate(panels[1]["heads"]):
            expected = query.pooled[head].flatten().numpy()
            np.testing.assert_allclose(numbers["pooled"], expected, atol=1e-4)
        assert browser.run("return document.querySelectorAll('#tops h3').length") == 2


def test_the_exported_picture_has_its_colours_and_legend(
    browser: Browser, server: ViewerServer
) -> None:
    browser.open(f"{server.url}#image=0&stage=2&block=0&view=attention&below=0&pinned=1&a=32,32")
    browser.press("s")
    image = Image.open(browser.downloaded("png")).convert("RGB")
    made = browser.run(
        "const made = viewer.exportCanvas(); return {areas: made.areas, legend: made.legend}"
    )
    assert image.width == 2400
    (area,), bar = made["areas"], made["legend"]
    middle = bar["y"] + bar["height"] // 2
    assert image.getpixel((bar["x"], middle)) == (68, 1, 84)
    assert image.getpixel((bar["x"] + bar["width"] - 1, middle)) == (253, 231, 37)
    query = server.session.record("0").query(2, 0, pixel=(32, 32))
    density = query.density().numpy()
    row, column = np.unravel_index(density.argmax(), density.shape)
    place = (
        area["x"] + int((column + 0.7) / 64 * area["width"]),
        area["y"] + int((row + 0.7) / 64 * area["height"]),
    )
    assert image.getpixel(place) == (253, 231, 37)
    most = 100 * density.max() * query.stride**2
    assert bar["ticks"][0][1] == "0 %"
    assert float(bar["ticks"][-1][1].split()[0]) == pytest.approx(most, rel=5e-3)


def test_numbers_are_exported(browser: Browser, server: ViewerServer) -> None:
    browser.open(f"{server.url}#image=2&stage=3&block=1&pinned=1&a=8,40")
    browser.press("j")
    document = json.loads(browser.downloaded("json").read_text())
    assert document["image"] == "digit 2"
    assert document["panels"][0]["pixel"] == [8, 40]
    assert "a=8,40" in document["link"]


def test_an_image_is_pasted(browser: Browser, server: ViewerServer) -> None:
    browser.open(server.url)
    before = browser.shown()[0]
    browser.run(
        "const canvas = document.createElement('canvas'); canvas.width = canvas.height = 50;"
        "canvas.getContext('2d').fillRect(20, 0, 8, 50);"
        "canvas.toBlob(blob => { const data = new DataTransfer();"
        "data.items.add(new File([blob], 'mine.png', {type: 'image/png'}));"
        "document.dispatchEvent(new ClipboardEvent('paste',"
        "{clipboardData: data, bubbles: true})) })"
    )
    browser.until(f"document.body.dataset.shown.split(' ')[0] !== '{before}'")
    assert browser.run("return viewer.about.name") == "mine.png"


@pytest.mark.parametrize("width", [360, 800, 1400])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_sticks_out(browser: Browser, server: ViewerServer, width: int, theme: str) -> None:
    browser.resize(width, 800)
    for view in ("vision", "maps"):
        browser.open(f"{server.url}#theme={theme}&view={view}")
        assert browser.run("return document.documentElement.scrollWidth") <= width
        assert browser.run("return document.documentElement.dataset.theme") == theme


def test_it_can_be_read_aloud(browser: Browser, server: ViewerServer) -> None:
    browser.open(f"{server.url}#stage=2&block=0")
    nameless = browser.run(
        "return [...document.querySelectorAll('button, input:not([hidden]), canvas[role]')].filter("
        "one => !(one.textContent.trim() || one.getAttribute('aria-label') || one.title)).length"
    )
    assert nameless == 0
    assert "of its attention" in browser.until("document.getElementById('spoken').textContent")
    label = browser.run("return document.querySelector('figure canvas').getAttribute('aria-label')")
    assert "stage 2" in label


def test_no_request_leaves(browser: Browser, server: ViewerServer) -> None:
    browser.open(server.url)
    for view in "12345":
        browser.press(view)
    time.sleep(0.5)
    outside = [
        url
        for url in browser.requested()
        if not url.startswith((server.url, "data:", "blob:", "about:"))
    ]
    assert outside == []


def test_the_file_needs_no_server(browser: Browser, tmp_path: Path) -> None:
    session = demonstrator(images=1)
    page = tmp_path / "page.html"
    page.write_text(static_page(session).html, encoding="utf-8")
    browser.open(page.as_uri() + "#image=0&stage=2&block=0")
    record = session.record("0")
    for y, x in ((3, 5), (28, 33), (62, 60)):
        browser.click(y, x)
        query = record.query(2, 0, pixel=(y, x))
        panel = browser.run("return viewer.exportJson().panels[0]")
        assert panel["position"] == list(query.position)
        for head, numbers in enumerate(panel["heads"]):
            for name in ("window", "pooled", "positional"):
                expected = getattr(query, name)[head].flatten().numpy()
                largest = np.abs(expected).max() if name == "positional" else 1
                np.testing.assert_allclose(numbers[name], expected, atol=largest / 100)
        assert browser.run("return document.getElementById('sum').textContent") == "1.000"
    for view in "2345":
        browser.press(view)
        name = ("vision", "attention", "positional", "erf", "maps")[int(view) - 1]
        browser.until(f"document.body.dataset.shown.split(' ')[4] === '{name}'")
    outside = [
        url
        for url in browser.requested()
        if not url.startswith(("file:", "data:", "blob:", "about:"))
    ]
    assert outside == []
