"""The playground page after a reload: the address, the gallery and the Keep button are as they were."""

import io
import threading
from urllib.parse import parse_qs, urlsplit

from page_server import Scripted, Server, Write, completed, frame
from pages import PROMPT, expect_done, expect_ready, generate, needs_chromium, opened, shown
from PIL import Image
from playwright.sync_api import Browser, Page, expect
from programs import wait_until

pytestmark = needs_chromium


def in_address(page: Page) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(page.url).fragment).items()}


def reloaded(page: Page) -> None:
    page.reload()
    expect_ready(page)


def test_the_address_names_several_images_and_a_reload_keeps_the_gallery(page: Page, server: Server) -> None:
    opened(page, server.url)
    page.fill("#steps", "3")
    generate(page)
    expect_done(page)
    first, seed = shown(page), page.input_value("#seed")
    assert in_address(page)["seed"] == seed and page.get_attribute("#keep", "aria-pressed") == "false"

    page.check("[name=n][value='2']")
    page.click("#generate")
    expect(page.locator("#runs label")).to_have_count(2)
    expect_done(page)
    named = in_address(page)
    assert named["n"] == "2" and named["seed"] == page.input_value("#seed") != seed
    page.locator("#thumbnails input").nth(1).check()
    assert in_address(page).get("n") is None and int(in_address(page)["seed"]) == int(named["seed"]) + 1
    page.click("#all")
    assert in_address(page) == named

    reloaded(page)
    expect(page.locator("#runs label")).to_have_count(2)
    expect(page.locator("#thumbnails input")).to_have_count(2)
    assert in_address(page) == named and page.is_checked("[name=n][value='2']")
    assert page.get_attribute("#keep", "aria-pressed") == "false"
    page.locator("#runs input").nth(1).check()
    wait_until(lambda: (shown(page) == first).all(), 10)
    expect(page.locator("#filmstrip label")).to_have_count(3)
    assert in_address(page)["seed"] == seed

    reloaded(page)  # now the earlier run is shown
    wait_until(lambda: (shown(page) == first).all(), 10)
    assert page.get_attribute("#shown", "alt") == PROMPT


def test_a_kept_seed_stays_kept_and_a_link_keeps_its_seed(page: Page, server: Server) -> None:
    opened(page, server.url)
    page.fill("#steps", "2")
    page.fill("#seed", "5")
    generate(page)
    expect_done(page)
    reloaded(page)
    assert (page.input_value("#seed"), page.get_attribute("#keep", "aria-pressed")) == ("5", "true")
    page.click("#keep")
    reloaded(page)
    assert page.get_attribute("#keep", "aria-pressed") == "false"

    link = page.url
    page.goto("about:blank")
    opened(page, link)
    assert (page.input_value("#seed"), page.get_attribute("#keep", "aria-pressed")) == ("5", "true")
    expect(page.locator("#empty")).to_be_visible()  # a link shows no earlier run
    assert page.url == link


def test_an_edit_has_an_address_in_the_browser_that_made_it(page: Page, server: Server, browser: Browser) -> None:
    opened(page, server.url)
    page.fill("#steps", "2")
    generate(page)
    expect_done(page)
    original = page.url
    page.click("#edit")
    for key in ("Space", "ArrowRight", "Space"):
        page.keyboard.press(key)
    page.check("[name=n][value='2']")
    page.click("#brush .main")
    expect(page.locator("#thumbnails input")).to_have_count(2)
    expect_done(page)
    both = in_address(page)
    assert both.keys() == {"kept"}
    page.locator("#thumbnails input").nth(1).check()
    assert in_address(page) == both | {"image": "2"}
    second, address = shown(page), page.url
    reloaded(page)
    wait_until(lambda: (shown(page) == second).all(), 10)
    assert page.url == address and page.input_value("#prompt") == PROMPT
    page.click("#back")
    assert in_address(page) == {name: value for name, value in in_address(page).items() if name != "kept"}
    assert in_address(page)["seed"] in original

    other_tab = page.context.new_page()
    opened(other_tab, address)
    wait_until(lambda: (shown(other_tab) == second).all(), 10)
    expect(other_tab.locator("#thumbnails input").nth(1)).to_be_checked()

    stranger = browser.new_context()
    elsewhere = stranger.new_page()
    opened(elsewhere, address)
    expect(elsewhere.get_by_role("alert")).to_contain_text("The image of this address is not here")
    stranger.close()


def test_an_upload_survives_a_reload(page: Page, server: Server) -> None:
    opened(page, server.url)
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "teal").save(file, "PNG")
    page.set_input_files("#file", {"name": "teal.png", "mimeType": "image/png", "buffer": file.getvalue()})
    expect(page.locator("#brush")).to_be_visible()
    before, address = shown(page), page.url
    assert in_address(page).keys() == {"kept"}
    reloaded(page)
    wait_until(lambda: (shown(page) == before).all(), 10)
    expect(page.locator("#caption")).to_have_text("teal.png")
    assert page.url == address


def test_another_address_is_shown_like_a_link(page: Page, server: Server) -> None:
    opened(page, server.url)
    page.fill("#steps", "2")
    generate(page)
    expect_done(page)
    page.evaluate("location.hash = 'prompt=a+large+green+cross&steps=3&seed=9'")
    expect(page.locator("#empty")).to_be_visible()
    expect(page.locator("#prompt")).to_have_value("a large green cross")
    expect(page.locator("#runs label")).to_have_count(1)  # what was generated before is still there
    page.click("#generate")
    expect_done(page)
    assert in_address(page) == {"prompt": "a large green cross", "steps": "3", "seed": "9"}


def test_the_address_has_the_seed_from_the_first_step_on(page: Page, script: Scripted) -> None:
    seen = threading.Event()

    def wait_after_a_preview(write: Write) -> None:
        write(frame(1))
        assert seen.wait(15)
        write(completed())

    script.stream = wait_after_a_preview
    opened(page, script.url)
    generate(page)
    expect(page.locator("#filmstrip label")).to_have_count(1)
    assert in_address(page) == {"prompt": PROMPT, "steps": "4", "seed": "7"}
    seen.set()
    expect_done(page)


def test_picking_an_image_writes_nothing_to_the_gallery(page: Page, server: Server) -> None:
    page.add_init_script(
        """window.numPuts = 0;
        const put = IDBObjectStore.prototype.put;
        IDBObjectStore.prototype.put = function (...values) { window.numPuts++; return put.apply(this, values); };"""
    )
    opened(page, server.url)
    page.fill("#steps", "2")
    page.check("[name=n][value='4']")
    generate(page)
    expect_done(page)
    for index in range(4):
        page.locator("#thumbnails input").nth(index).check()
    page.click("#all")
    assert page.evaluate("numPuts") == 1  # of the run, when it ended
