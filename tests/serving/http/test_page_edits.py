"""The playground page in headless Chromium: regenerating a part, by brush and by keyboard."""

import io
from pathlib import Path

import numpy as np
from page_server import Server
from pages import PROMPT, expect_done, form, generate, marked_positions, needs_chromium, opened, same_by_shell, shown
from PIL import Image
from playwright.sync_api import Page, expect
from programs import wait_until

pytestmark = needs_chromium


def test_brushing_regenerates_a_part(page: Page, server: Server, tmp_path: Path) -> None:
    opened(page, server.url)
    page.fill("#seed", "3")  # its circle is at rows 1 and 2, columns 4 and 5; the square from row 5 on
    generate(page)
    expect_done(page)
    before = shown(page)
    page.click("#edit")
    page.fill("#brush-size", "1")
    box = page.locator("#positions").bounding_box()
    assert box

    def at(column: float, row: float) -> tuple[float, float]:
        return box["x"] + (column + 0.5) * box["width"] / 8, box["y"] + (row + 0.5) * box["height"] / 8

    for row in (1, 2):
        page.mouse.move(*at(3, row))
        page.mouse.down()
        page.mouse.move(*at(6, row))  # in one leap: there are no gaps
        page.mouse.up()
    page.mouse.click(*at(7, 7))
    page.click("#undo")
    page.fill("#prompt", "a small green circle above a large blue square")
    page.click("#brush .main")
    expect(page.locator("#caption")).to_contain_text("green")
    expect_done(page)

    path, body = server.bodies[-1]
    sent = form(body)
    assert path == "/v1/images/edits"
    assert (np.array(Image.open(io.BytesIO(sent["image"]))) == before).all()
    assert marked_positions(sent["mask"]) == {(row, column) for row in (1, 2) for column in range(3, 7)}
    assert b"green" in sent["prompt"]
    expect(page.locator("#filmstrip label")).to_have_count(16)
    change = np.abs(shown(page).astype(int) - before).max(-1)
    assert change[8:24, 24:56].max() > 100
    assert change[40:].max() < 40  # other tokens stay; their pixels know a little of their neighbours

    for name in ("image", "mask"):
        (tmp_path / f"emage-{name}.png").write_bytes(sent[name])
    assert same_by_shell(page, page.locator("#curl").text_content() or "", tmp_path)
    page.click("#back")
    wait_until(lambda: (shown(page) == before).all(), 10)


def test_everything_works_by_keyboard(page: Page, server: Server) -> None:
    """From the prompt, which has the focus, to a regenerated part with the keyboard only."""
    opened(page, server.url)

    def tab_to(selector: str) -> None:
        for _ in range(60):
            if page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
                return
            page.keyboard.press("Tab")
        raise AssertionError(f"the Tab key does not come to {selector}")

    tab_to("#prompt")
    page.keyboard.type(PROMPT)
    page.keyboard.press("Enter")
    expect_done(page)
    expect(page.locator("#live")).to_contain_text("Done in")
    tab_to("#edit")
    page.keyboard.press("Enter")
    expect(page.locator("#positions")).to_be_focused()
    for key in ("ArrowDown", "ArrowRight", "Space", "ArrowRight", "Space"):
        page.keyboard.press(key)
    expect(page.locator("#live")).to_have_text("Row 2, column 3: marked. 2 marked.")
    tab_to("#brush .main")
    page.keyboard.press("Enter")
    expect(page.locator("#brush")).to_be_hidden()
    expect_done(page)
    expect(page.locator("#generate")).to_be_focused()
    assert marked_positions(form(server.bodies[-1][1])["mask"]) == {(1, 1), (1, 2)}


def test_nothing_is_regenerated_without_a_mark(page: Page, server: Server) -> None:
    opened(page, server.url)
    generate(page)
    expect_done(page)
    sent_before = len(server.bodies)
    page.click("#edit")
    page.click("#brush .main")
    expect(page.get_by_role("alert")).to_contain_text("Nothing is marked yet")
    page.keyboard.press("Escape")
    expect(page.locator("#brush")).to_be_hidden()
    assert len(server.bodies) == sent_before
