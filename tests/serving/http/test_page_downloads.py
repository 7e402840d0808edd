"""The playground page in headless Chromium: images as files, one or all, in three formats."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from page_server import Server
from pages import PROMPT, downloaded, expect_done, generate, needs_chromium, opened, shown
from PIL import Image
from playwright.sync_api import Page, expect

pytestmark = needs_chromium


def images_of(path: Path) -> tuple[dict[str, bytes], list[dict[str, object]]]:
    """Return the images of a zip by name, and their settings."""
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        files = {name: archive.read(name) for name in archive.namelist()}
    settings = json.loads(files.pop("settings.json"))["images"]
    assert [each["file"] for each in settings] == list(files)
    return files, settings


@pytest.mark.parametrize(("format", "kind"), [("webp", "WEBP"), ("jpeg", "JPEG"), ("png", "PNG")])
def test_an_image_in_a_format(page: Page, server: Server, format: str, kind: str) -> None:
    opened(page, server.url)
    page.fill("#steps", "2")
    page.fill("#seed", "5")
    generate(page)
    expect_done(page)
    page.select_option("#format", format)
    name, path = downloaded(page, "#download")
    image = Image.open(path)
    assert (name, image.format) == (f"emage-5.{format}", kind)
    difference = np.abs(np.array(image.convert("RGB")).astype(int) - shown(page))
    assert difference.mean() < (8 if format != "png" else 1e-9)
    page.locator("#filmstrip input").first.check()
    assert downloaded(page, "#download")[0] == f"emage-5-step-1.{format}"


def test_each_of_several_and_all_as_a_zip(page: Page, server: Server) -> None:
    opened(page, server.url)
    page.click("#settings details > summary")
    page.fill("#steps", "2")
    page.fill("#seed", "5")
    page.select_option("#order", "random")
    page.check("[name=n][value='2']")
    generate(page, "ein früher Vogel")
    expect_done(page)
    expect(page.locator("#thumbnails p")).to_have_text(["Seed 5Download", "Seed 6Download"])
    expect(page.locator("#details")).to_contain_text(
        "2 steps, random order, cosine schedule, temperature 1, no guidance"
    )
    name, path = downloaded(page, "[aria-label='Download image 2']")
    assert name == "emage-6.png"

    zip_name, zip_path = downloaded(page, "#zip")
    files, settings = images_of(zip_path)
    assert zip_name == "emage-2-images.zip" and list(files) == ["emage-5.png", "emage-6.png"]
    assert files["emage-6.png"] == path.read_bytes()
    assert [each["seed"] for each in settings] == [5, 6]
    assert {(each["prompt"], each["steps"], each["order"]) for each in settings} == {("ein früher Vogel", 2, "random")}

    generate(page, PROMPT)  # with the same seeds
    expect(page.locator("#runs label")).to_have_count(2)
    expect_done(page)
    page.select_option("#format", "webp")
    all_name, all_path = downloaded(page, "#zip-all")
    files, settings = images_of(all_path)
    assert all_name == "emage-4-images.zip"
    assert list(files) == ["emage-5.webp", "emage-6.webp", "emage-5-2.webp", "emage-6-2.webp"]
    assert {Image.open(io.BytesIO(file)).format for file in files.values()} == {"WEBP"}
    assert [each["prompt"] for each in settings] == [PROMPT] * 2 + ["ein früher Vogel"] * 2
