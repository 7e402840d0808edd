"""Actions on the playground page for its tests. Chromium is the first one found on the path."""

import base64
import email
import io
import shutil
import subprocess
from pathlib import Path
from typing import Any

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
    expect_ready(page)
    return page


def expect_ready(page: Page) -> None:
    """Wait until the model's description has arrived and earlier images are shown again."""
    expect(page.locator("#about")).to_contain_text("tokens")
    expect(page.locator("#upload")).to_be_enabled()


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


def downloaded(page: Page, button: str) -> tuple[str, Path]:
    """Click a button; return the name and the path of the file that it saves."""
    with page.expect_download() as download:
        page.click(button)
    return download.value.suggested_filename, download.value.path()


def form(body: bytes) -> dict[str, bytes]:
    """The fields of a multipart body."""
    kind = body.split(b"\r\n", 1)[0][2:].decode()
    message = email.message_from_bytes(f"Content-Type: multipart/form-data; boundary={kind}\r\n\r\n".encode() + body)
    parts: Any = message.get_payload()
    return {part.get_param("name", header="content-disposition"): part.get_payload(decode=True) for part in parts}


def marked_positions(mask: bytes) -> set[tuple[int, int]]:
    """Return the grid positions (row, column), of 8 x 8 pixels, that are transparent; every other pixel is opaque."""
    alpha = np.array(Image.open(io.BytesIO(mask)))[..., 3]
    assert alpha.shape == (64, 64)
    blocks = alpha.reshape(8, 8, 8, 8).transpose(0, 2, 1, 3).reshape(8, 8, 64)
    assert ((blocks == 0).all(-1) | (blocks == 255).all(-1)).all()
    return {(int(row), int(column)) for row, column in np.argwhere(blocks[..., 0] == 0)}
