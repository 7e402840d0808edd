"""The playground page in headless Chromium: an image of the user's own, picked, dropped or pasted, and regenerated."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from page_server import Server
from pages import PROMPT, expect_done, form, marked_positions, needs_chromium, opened, shown
from PIL import Image, ImageOps
from playwright.sync_api import FilePayload, Page, expect
from programs import wait_until

pytestmark = needs_chromium
UPSIDE = 6  # EXIF orientation of a camera that was turned: rotate by 90 degrees clockwise to view


def photo(size: tuple[int, int] = (300, 200), orientation: int = 1) -> Image.Image:
    """Return an image of four colours with a black stripe at both ends, as a camera stores it."""
    image = Image.new("RGB", size, "white")
    width, height = size
    for colour, x, y in (("red", 0, 0), ("lime", 1, 0), ("blue", 0, 1)):
        image.paste(colour, (x * width // 2, y * height // 2, (x + 1) * width // 2, (y + 1) * height // 2))
    for x in (0, width - width // 8):  # a square from the middle has none of these
        image.paste("black", (x, 0, x + width // 8, height))
    image.getexif()[0x0112] = orientation
    return image


def payload(image: Image.Image, name: str, kind: str = "JPEG") -> FilePayload:
    file = io.BytesIO()
    options = {"exif": image.getexif()} if image.getexif() else {}
    image.save(file, kind, **options)
    return {"name": name, "mimeType": f"image/{kind.lower()}", "buffer": file.getvalue()}


def give(page: Page, event: str, files: list[FilePayload], text: str = "") -> None:
    """Drop or paste files, with a text beside them."""
    page.evaluate(
        """([name, files, text]) => {
            const data = new DataTransfer();
            for (const [name, type, content] of files) {
                const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
                data.items.add(new File([bytes], name, { type }));
            }
            if (text) data.setData('text/plain', text);
            const init = { bubbles: true, cancelable: true };
            const events = {
                drop: () => [new DragEvent('dragover', { ...init, dataTransfer: data }),
                             new DragEvent('drop', { ...init, dataTransfer: data })],
                paste: () => [new ClipboardEvent('paste', { ...init, clipboardData: data })],
            };
            for (const event of events[name]()) document.querySelector('#prompt').dispatchEvent(event);
        }""",
        [event, [[f["name"], f["mimeType"], base64.b64encode(f["buffer"]).decode()] for f in files], text],
    )


def test_a_photo_is_fitted_brushed_and_regenerated(page: Page, server: Server) -> None:
    """The photo stands upright, its middle is in the model's size, and what is not marked stays."""
    image = photo(orientation=UPSIDE)
    opened(page, server.url)
    sent_before = len(server.bodies)
    page.set_input_files("#file", payload(image, "beach.jpg"))
    expect(page.locator("#brush")).to_be_visible()
    expect(page.locator("#positions")).to_be_focused()
    expect(page.locator("#live")).to_have_text(
        "beach.jpg is shown. Fitted to the model: the middle 200 × 200 of 200 × 300 pixels, scaled to 64 × 64."
    )
    upright = ImageOps.exif_transpose(image)
    expected = np.array(ImageOps.fit(upright, (64, 64), Image.Resampling.LANCZOS)).astype(int)
    fitted = shown(page)
    difference = np.abs(fitted - expected).max(-1)
    difference[30:34] = difference[:, 30:34] = 0  # at the edges of the colours the filters differ
    assert fitted.shape == (64, 64, 3) and difference.max() < 16
    assert len(server.bodies) == sent_before  # nothing is sent before the user asks for it

    for key in ("ArrowDown", "ArrowRight", "Space", "ArrowRight", "Space"):
        page.keyboard.press(key)
    page.fill("#prompt", PROMPT)
    page.click("#brush .main")
    expect_done(page)
    path, body = server.bodies[-1]
    sent = form(body)
    assert path == "/v1/images/edits"
    assert (np.array(Image.open(io.BytesIO(sent["image"])).convert("RGB")) == fitted).all()
    assert marked_positions(sent["mask"]) == {(1, 1), (1, 2)}

    page.click("#back")
    wait_until(lambda: (shown(page) == fitted).all(), 10)
    expect(page.locator("#caption")).to_have_text("beach.jpg")
    expect(page.locator("#details")).to_contain_text("the middle 200 × 200 of 200 × 300 pixels")
    for button in ("#download", "#copy-link", "#copy-curl"):
        expect(page.locator(button)).to_be_hidden()
    expect(page.locator("#runs label")).to_have_count(2)


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_an_image_is_dropped_or_pasted(page: Page, server: Server, event: str) -> None:
    opened(page, server.url)
    notes: FilePayload = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"hello"}
    give(page, event, [notes, payload(photo((64, 64)), "small.png", "PNG")])
    expect(page.locator("#brush")).to_be_visible()
    expect(page.locator("#details")).to_have_text("64 × 64 pixels, the model's size.")
    assert (shown(page) == np.array(photo((64, 64)))).all()
    assert page.input_value("#prompt") == ""


def test_an_image_of_the_page_itself_is_no_upload(page: Page, server: Server) -> None:
    opened(page, server.url)
    page.fill("#steps", "2")
    page.fill("#prompt", PROMPT)
    page.keyboard.press("Enter")
    expect_done(page)
    page.drag_and_drop("#shown", "#timings")
    page.wait_for_timeout(300)
    expect(page.locator("#problem")).to_be_hidden()  # there is no file either
    expect(page.locator("#brush")).to_be_hidden()
    give(page, "drop", [payload(photo(), "beach.jpg")])  # a file after that is one
    expect(page.locator("#brush")).to_be_visible()


def test_transparent_parts_are_white(page: Page, server: Server) -> None:
    opened(page, server.url)
    page.set_input_files("#file", payload(Image.new("RGBA", (40, 80), (0, 0, 0, 0)), "nothing.webp", "WEBP"))
    expect(page.locator("#brush")).to_be_visible()
    assert (shown(page) == 255).all()


def test_pasted_text_stays_text(page: Page, server: Server) -> None:
    """An office program puts a picture of the text beside the text."""
    opened(page, server.url)
    give(page, "paste", [payload(photo(), "text.png", "PNG")], text="a red circle")
    page.wait_for_timeout(300)
    expect(page.locator("#brush")).to_be_hidden()


def test_what_is_no_image_is_refused_in_our_words(page: Page, server: Server, tmp_path: Path) -> None:
    opened(page, server.url)
    alert = page.get_by_role("alert")
    page.set_input_files("#file", {"name": "report.pdf", "mimeType": "application/pdf", "buffer": b"%PDF-1.7"})
    expect(alert).to_contain_text("This browser can't read “report.pdf”.")
    cut = payload(photo(), "cut.jpg")
    page.set_input_files("#file", {**cut, "buffer": cut["buffer"][:200]})
    expect(alert).to_contain_text("This browser can't read “cut.jpg”.")
    huge = tmp_path / "huge.png"
    with huge.open("wb") as file:
        file.truncate(101_000_000)
    page.set_input_files("#file", huge)
    expect(alert).to_contain_text("“huge.png” has 101 MB, and 100 MB are read at most.")
    page.evaluate(
        """() => {
            const dataTransfer = new DataTransfer();
            dataTransfer.setData('text/uri-list', 'https://example.org/image.png');
            for (const type of ['dragover', 'drop'])
                document.body.dispatchEvent(new DragEvent(type, { bubbles: true, cancelable: true, dataTransfer }));
        }"""
    )
    expect(alert).to_contain_text("This is not a file")
    expect(page.locator("#brush")).to_be_hidden()
    page.set_input_files("#file", payload(photo(), "good.jpg"))
    expect(page.locator("#problem")).to_be_hidden()
    expect(page.locator("#brush")).to_be_visible()


def test_an_upload_by_keyboard_in_a_window_of_a_phone(page: Page, server: Server) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.on("filechooser", lambda chooser: None)  # it is intercepted from now on; later may be too late for Enter
    opened(page, server.url)
    page.focus("#prompt")
    page.keyboard.press("Tab")
    expect(page.locator("#generate")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.locator("#upload")).to_be_focused()
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(payload(photo(), "a name that is much longer than a phone is wide " * 5 + ".jpg"))
    expect(page.locator("#positions")).to_be_focused()
    expect(page.locator("#positions")).to_be_in_viewport()
    page.keyboard.press("Escape")
    expect(page.locator("#edit")).to_be_focused()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_no_upload_while_an_image_is_generated(page: Page, server: Server) -> None:
    opened(page, server.url)
    page.fill("#steps", "64")
    page.fill("#prompt", PROMPT)
    page.keyboard.press("Enter")
    expect(page.locator("#stop")).to_be_visible()
    expect(page.locator("#upload")).to_be_disabled()
    give(page, "drop", [payload(photo(), "beach.jpg")])
    expect(page.locator("#live")).to_have_text("Not while an image is generated.")
    page.click("#stop")
    expect(page.locator("#upload")).to_be_enabled()
    expect(page.locator("#brush")).to_be_hidden()
