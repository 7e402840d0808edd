"""Actions on the playground page for its tests. Chromium is the first one found on the path."""

import base64
import io
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# The last five keep Chromium from contacting other servers.
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
ARGUMENTS += ["--disable-component-update", "--disable-sync"]
PROMPT = "a small red circle above a large blue square"
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the path")
expect.set_options(timeout=15_000)


def opened(page: Page, url: str) -> Page:
    page.goto(url)
    expect(page.locator("#about")).to_contain_text("tokens")  # the model's description has arrived
    return page


def generate(page: Page, prompt: str = PROMPT) -> None:
    page.fill("#prompt", prompt)
    page.keyboard.press("Enter")


def expect_done(page: Page) -> None:
    expect(page.locator("#stage")).to_have_class("done", timeout=20_000)


def shown(page: Page) -> np.ndarray:
    """Return the pixels of the large image, in the size that the server sent."""
    url = page.evaluate(
        """async () => {
            const image = document.querySelector('#shown');
            await image.decode();
            const canvas = document.createElement('canvas');
            [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
            canvas.getContext('2d').drawImage(image, 0, 0);
            return canvas.toDataURL();
        }"""
    )
    return np.array(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB"))


def same_by_shell(page: Page, command: str, folder: Path) -> bool:
    subprocess.run(["sh", "-c", command], cwd=folder, check=True, timeout=30)
    (file,) = folder.glob("emage-[0-9]*.png")
    return bool((np.array(Image.open(file)) == shown(page)).all())
