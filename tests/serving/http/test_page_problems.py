"""The playground page in headless Chromium: what goes wrong, and what is said of it."""

import threading

import pytest
from page_server import CutOff, Scripted, Write, completed, fails_on_the_way, frame
from pages import draw, expect_done, needs_chromium, opened
from playwright.sync_api import Page, Route, expect

pytestmark = needs_chromium
DRAW = "**/v1/images/generations"


def refuse(page: Page, status: int, message: str, headers: dict[str, str] | None = None) -> None:
    error = {"message": message, "type": "server_error", "param": None, "code": None}
    page.route(DRAW, lambda route: route.fulfill(status=status, headers=headers, json={"error": error}), times=1)


def expect_at_rest(page: Page) -> None:
    expect(page.locator("#draw")).to_be_visible()
    expect(page.locator("#stop")).to_be_hidden()


def test_a_server_that_fails_and_then_does_not(page: Page, script: Scripted) -> None:
    script.draw = lambda write: write(completed())
    opened(page, script.url)
    refuse(page, 500, "the log says why")
    draw(page)
    expect(page.get_by_role("alert")).to_contain_text("the log says why")
    expect_at_rest(page)
    page.click("#retry")
    expect_done(page)
    expect(page.locator("#problem")).to_be_hidden()


def test_an_error_page_of_a_proxy_is_not_shown(page: Page, script: Scripted) -> None:
    opened(page, script.url)
    page.route(DRAW, lambda route: route.fulfill(status=502, body="<h1>Bad gateway</h1>"))
    draw(page)
    expect(page.get_by_role("alert")).to_contain_text("The server answered with status 502.")
    expect_at_rest(page)


def test_a_busy_server_is_asked_again_when_it_says(page: Page, script: Scripted) -> None:
    script.draw = lambda write: write(completed())
    opened(page, script.url)
    refuse(page, 429, "128 images wait already", {"Retry-After": "3"})
    draw(page)
    expect(page.get_by_role("alert")).to_contain_text("128 images wait already")
    expect(page.locator("#retry")).to_be_disabled()
    expect(page.locator("#retry")).to_contain_text("Try again in")
    expect(page.locator("#retry")).to_be_enabled()
    expect(page.locator("#retry")).to_have_text("Try again")
    page.click("#retry")
    expect_done(page)


def test_a_key_is_asked_for_and_kept(page: Page, script: Scripted) -> None:
    keys: list[str | None] = []

    def gate(route: Route) -> None:
        keys.append(route.request.headers.get("authorization"))
        error = {"message": "the API key is missing or wrong", "code": "invalid_api_key"}
        route.continue_() if keys[-1] == "Bearer s3cret" else route.fulfill(status=401, json={"error": error})

    script.draw = lambda write: write(completed())
    page.route("**/v1/**", gate)
    page.goto(script.url)
    page.fill("#key", "wrong")
    page.keyboard.press("Enter")
    expect(page.locator("#key")).to_have_value("")
    page.fill("#key", "s3cret")
    page.keyboard.press("Enter")
    expect(page.locator("#about")).to_contain_text("tokens")
    draw(page)
    expect_done(page)
    assert keys == [None, "Bearer wrong", "Bearer s3cret", "Bearer s3cret"]
    curl = page.locator("#curl").text_content() or ""
    assert "$EMAGE_API_KEY" in curl and "s3cret" not in curl


def test_a_model_that_loads_is_waited_for(page: Page, script: Scripted) -> None:
    error = {"message": "no model is ready yet", "code": "not_ready"}
    answer = {"status": 503, "headers": {"Retry-After": "1"}, "json": {"error": error}}
    page.route("**/v1/models", lambda route: route.fulfill(**answer), times=1)
    page.goto(script.url)
    expect(page.get_by_role("alert")).to_contain_text("no model is ready yet")
    expect(page.locator("#about")).to_contain_text("tokens")  # by itself
    expect(page.locator("#problem")).to_be_hidden()


def test_a_server_that_is_not_there(page: Page, script: Scripted) -> None:
    opened(page, script.url)
    page.route(DRAW, lambda route: route.abort("connectionrefused"))
    draw(page)
    expect(page.get_by_role("alert")).to_contain_text("can't be reached")
    expect_at_rest(page)


@pytest.mark.parametrize("how", ["breaks", "ends"])
def test_a_stream_that_ends_too_early(page: Page, script: Scripted, how: str) -> None:
    seen = threading.Event()

    def cut(write: Write) -> None:
        write(frame(1))
        write(frame(2))
        assert seen.wait(15)
        if how == "breaks":
            raise CutOff

    script.draw = cut
    opened(page, script.url)
    draw(page)
    expect(page.locator("#strip label")).to_have_count(2)
    seen.set()
    expect(page.get_by_role("alert")).to_contain_text("The connection broke off")
    expect_at_rest(page)
    expect(page.locator("#strip label")).to_have_count(2)  # what came stays
    expect(page.locator("#pass")).to_contain_text("Broken off. Pass 2 of 4")


def test_an_error_on_the_way_leaves_the_frames(page: Page, script: Scripted) -> None:
    script.draw = fails_on_the_way
    opened(page, script.url)
    draw(page)
    expect(page.get_by_role("alert")).to_contain_text("the drawing failed")
    expect_at_rest(page)
    expect(page.locator("#strip label")).to_have_count(1)


def test_stop_closes_the_connection(page: Page, script: Scripted) -> None:
    def endless(write: Write) -> None:
        write(frame(1))
        while not script.gone.wait(0.05):
            write(b": still here\n\n")

    script.draw = endless
    opened(page, script.url)
    draw(page)
    expect(page.locator("#strip label")).to_have_count(1)
    page.click("#stop")
    assert script.gone.wait(10)
    expect_at_rest(page)
    expect(page.locator("#pass")).to_contain_text("Stopped.")
    expect(page.locator("#problem")).to_be_hidden()
