"""The playground page after a reload: the address, the gallery and the Keep button are as they were."""

from urllib.parse import parse_qs, urlsplit

from page_server import Server
from pages import PROMPT, expect_done, generate, needs_chromium, opened, shown
from playwright.sync_api import Page, expect
from programs import wait_until

pytestmark = needs_chromium


def in_address(page: Page) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(page.url).fragment).items()}


def reloaded(page: Page) -> None:
    page.reload()
    expect(page.locator("#about")).to_contain_text("tokens")


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
