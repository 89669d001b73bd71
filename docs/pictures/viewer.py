"""Photograph the page of ``transnext see``: docs/pictures/viewer.png.

Run: ``pip install ".[test]"``, with Chromium and its driver, and ``python docs/pictures/viewer.py
[FOLDER]``. With a folder, every view goes there at three widths in both themes, to be looked at
before a release.
"""

from __future__ import annotations

import base64
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from selenium import webdriver

from transnext_models.classification.classifier import Classifier
from transnext_models.seeing.viewer import Session, Subject, ViewerServer, sample_images

WIDTHS, HEIGHT = (360, 768, 1280), 800
VIEWS = ("vision", "attention", "positional", "erf", "maps")
SHOWN = "theme=light&image=4&stage=2&block=0&a=33,34"  # of the documentation


def browser() -> Any:
    """Return Chromium without a window."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("headless=new", "no-sandbox", "disable-gpu"):
        options.add_argument(f"--{argument}")
    return webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))


def photograph(driver: Any, address: str, width: int, path: Path) -> None:
    """Write the whole page, at a width, once it shows what its address says."""
    size = {"width": width, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver.get("about:blank")
    driver.get(address)
    while not driver.execute_script("return document.body.dataset.ready"):
        time.sleep(0.05)
    tall = driver.execute_script("return document.documentElement.scrollHeight")
    clip = {"x": 0, "y": 0, "width": width, "height": tall, "scale": 1}
    asked = {"format": "png", "captureBeyondViewport": True, "clip": clip}
    shot = driver.execute_cdp_cmd("Page.captureScreenshot", asked)["data"]
    path.write_bytes(base64.b64decode(shot))


def main(folder: Path | None) -> None:
    """Write the documentation's picture, or those of a release."""
    session = Session([Subject(Classifier.load())], sample_images())
    driver = browser()
    try:
        with ViewerServer(session) as server:
            if folder is None:
                path = Path(__file__).with_suffix(".png")
                photograph(driver, f"{server.url}#{SHOWN}", WIDTHS[-1], path)
                return
            folder.mkdir(parents=True, exist_ok=True)
            for width in WIDTHS:
                for theme in ("light", "dark"):
                    for view in VIEWS:
                        path = folder / f"{width}-{theme}-{view}.png"
                        address = f"{server.url}#theme={theme}&view={view}&image=4"
                        photograph(driver, address, width, path)
    finally:
        driver.quit()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else None)
