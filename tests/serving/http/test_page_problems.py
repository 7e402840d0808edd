"""The playground page in headless Chromium: problems, and what the page shows of them."""

import threading

import pytest
from page_server import CutOff, Scripted, Write, completed, failed, fails_after_a_preview, frame
from pages import expect_done, generate, needs_chromium, opened
from playwright.sync_api import Page, Route, expect

from emage.serving.limits import MAX_PROMPT_CHARACTERS

pytestmark = needs_chromium
GENERATIONS_ROUTE = "**/v1/images/generations"


def reject(
    page: Page, status: int, message: str, headers: dict[str, str] | None = None, code: str | None = None
) -> None:
    error = {"message": message, "type": "server_error", "param": None, "code": code}
    page.route(
        GENERATIONS_ROUTE, lambda route: route.fulfill(status=status, headers=headers, json={"error": error}), times=1
    )


def expect_at_rest(page: Page) -> None:
    expect(page.locator("#generate")).to_be_visible()
    expect(page.locator("#stop")).to_be_hidden()


def test_a_server_that_fails_once(page: Page, script: Scripted) -> None:
    script.stream = lambda write: write(completed())
    opened(page, script.url)
    reject(page, 500, "the log says why")
    generate(page)
    expect(page.get_by_role("alert")).to_contain_text("the log says why")
    expect_at_rest(page)
    page.click("#retry")
    expect_done(page)
    expect(page.locator("#problem")).to_be_hidden()


def test_an_error_page_of_a_proxy_is_not_shown(page: Page, script: Scripted) -> None:
    opened(page, script.url)
    page.route(GENERATIONS_ROUTE, lambda route: route.fulfill(status=502, body="<h1>Bad gateway</h1>"))
    generate(page)
    expect(page.get_by_role("alert")).to_contain_text("The server answered with status 502.")
    expect_at_rest(page)


def test_a_busy_server_is_tried_again_after_its_retry_after(page: Page, script: Scripted) -> None:
    script.stream = lambda write: write(completed())
    opened(page, script.url)
    reject(page, 429, "128 images wait already", {"Retry-After": "3"})
    generate(page)
    expect(page.get_by_role("alert")).to_contain_text("128 images wait already")
    expect(page.locator("#retry")).to_be_disabled()
    expect(page.locator("#retry")).to_contain_text("Try again in")
    expect(page.locator("#retry")).to_be_enabled()
    expect(page.locator("#retry")).to_have_text("Try again")
    page.click("#retry")
    expect_done(page)


def test_a_missing_key_is_requested_and_remembered(page: Page, script: Scripted) -> None:
    keys: list[str | None] = []

    def require_key(route: Route) -> None:
        keys.append(route.request.headers.get("authorization"))
        error = {"message": "the API key is missing or wrong", "code": "invalid_api_key"}
        route.continue_() if keys[-1] == "Bearer s3cret" else route.fulfill(status=401, json={"error": error})

    script.stream = lambda write: write(completed())
    page.route("**/v1/**", require_key)
    page.goto(script.url)
    page.fill("#key", "wrong")
    page.keyboard.press("Enter")
    expect(page.locator("#key")).to_have_value("")
    page.fill("#key", "s3cret")
    page.keyboard.press("Enter")
    expect(page.locator("#about")).to_contain_text("tokens")
    generate(page)
    expect_done(page)
    assert keys == [None, "Bearer wrong", "Bearer s3cret", "Bearer s3cret"]
    curl = page.locator("#curl").text_content() or ""
    assert "$EMAGE_API_KEY" in curl and "s3cret" not in curl


def test_a_model_that_is_loading_is_waited_for(page: Page, script: Scripted) -> None:
    error = {"message": "no model is ready yet", "code": "not_ready"}
    answer = {"status": 503, "headers": {"Retry-After": "1"}, "json": {"error": error}}
    page.route("**/v1/models", lambda route: route.fulfill(**answer), times=1)
    page.goto(script.url)
    expect(page.get_by_role("alert")).to_contain_text("no model is ready yet")
    expect(page.locator("#about")).to_contain_text("tokens")  # by itself
    expect(page.locator("#problem")).to_be_hidden()


def test_a_server_that_cannot_be_reached(page: Page, script: Scripted) -> None:
    opened(page, script.url)
    page.route(GENERATIONS_ROUTE, lambda route: route.abort("connectionrefused"))
    generate(page)
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

    script.stream = cut
    opened(page, script.url)
    generate(page)
    expect(page.locator("#filmstrip label")).to_have_count(2)
    seen.set()
    expect(page.get_by_role("alert")).to_contain_text("The connection was lost")
    expect_at_rest(page)
    expect(page.locator("#filmstrip label")).to_have_count(2)  # what came stays
    expect(page.locator("#progress-text")).to_contain_text("Interrupted. Step 2 of 4")


def test_an_error_in_a_stream_leaves_the_frames(page: Page, script: Scripted) -> None:
    script.stream = fails_after_a_preview
    opened(page, script.url)
    generate(page)
    expect(page.get_by_role("alert")).to_contain_text("generation failed")
    expect_at_rest(page)
    expect(page.locator("#filmstrip label")).to_have_count(1)


def test_stop_closes_the_connection(page: Page, script: Scripted) -> None:
    def endless(write: Write) -> None:
        write(frame(1))
        while not script.client_gone.wait(0.05):
            write(b": still here\n\n")

    script.stream = endless
    opened(page, script.url)
    generate(page)
    expect(page.locator("#filmstrip label")).to_have_count(1)
    page.click("#stop")
    assert script.client_gone.wait(10)
    expect_at_rest(page)
    expect(page.locator("#progress-text")).to_contain_text("Stopped.")
    expect(page.locator("#problem")).to_be_hidden()


def test_characters_are_counted_and_too_many_are_not_sent(page: Page, script: Scripted) -> None:
    """Characters as the server counts them: an emoji is one."""
    opened(page, script.url)
    count = page.locator("#count")
    expect(count).to_have_text(f"0 of {MAX_PROMPT_CHARACTERS:,} characters")
    page.fill("#prompt", "  a cat 🐈 ")
    expect(count).to_have_text(f"7 of {MAX_PROMPT_CHARACTERS:,} characters")
    generate(page, "x" * (MAX_PROMPT_CHARACTERS + 1))
    expect(count).to_have_attribute("data-over", "")
    expect(page.get_by_role("alert")).to_contain_text("It has 32,001 characters; up to 32,000 are allowed.")
    expect(page.locator("#prompt")).to_have_attribute("aria-invalid", "true")
    assert script.requests == []
    script.stream = lambda write: write(completed())
    generate(page, "🐈" * MAX_PROMPT_CHARACTERS)
    expect_done(page)
    assert [len(request["prompt"]) for request in script.requests] == [MAX_PROMPT_CHARACTERS]


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("prompt", "  ", "The description is empty"),
        ("steps", "5", "Steps: a whole number from 1 to 4."),
        ("steps", "1.5", "Steps: a whole number from 1 to 4."),
        ("seed", "blue", "The seed is a whole number of up to 15 digits; empty, it is random."),
        ("temperature", "-1", "Temperature: a number from 0 to 100."),
        ("guidance", "", "Guidance: a number from 0 to 100."),
    ],
)
def test_a_wrong_setting_in_our_words(page: Page, script: Scripted, field: str, value: str, text: str) -> None:
    """Not in those of the browser, whose bubble speaks the language of the browser. The field has the focus."""
    opened(page, script.url)
    page.fill("#prompt", "a red circle")
    page.locator(f"#{field}").evaluate("(input, value) => { input.value = value; }", value)
    page.click("#generate")
    expect(page.get_by_role("alert")).to_contain_text(text)
    expect(page.locator(f"#{field}")).to_be_focused()
    expect(page.locator(f"#{field}")).to_have_attribute("aria-invalid", "true")
    assert script.requests == []


def test_a_rejected_prompt_is_not_tried_again(page: Page, script: Scripted) -> None:
    opened(page, script.url)
    reject(page, 400, "not a cat", code="content_policy_violation")
    generate(page)
    expect(page.get_by_role("alert")).to_contain_text("The server rejected this")
    expect(page.locator("#retry")).to_be_hidden()
    script.stream = lambda write: write(failed("not a dog", "content_policy_violation"))
    generate(page)
    expect(page.get_by_role("alert")).to_contain_text("The server rejected thisnot a dog")
    expect(page.locator("#retry")).to_be_hidden()
