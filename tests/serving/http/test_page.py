"""The playground page in headless Chromium: generation, with the shipped model and with scripted streams."""

import threading
from pathlib import Path

import numpy as np
from page_server import Scripted, Server, Write, completed, frame
from pages import PROMPT, expect_done, generate, needs_chromium, opened, same_by_shell, shown
from PIL import Image
from playwright.sync_api import Page, expect
from programs import wait_until

pytestmark = needs_chromium


def test_type_and_watch_the_image_form(page: Page, server: Server) -> None:
    opened(page, server.url)
    generate(page)
    expect_done(page)
    expect(page.locator("#filmstrip label")).to_have_count(16)
    expect(page.locator("#progress-text")).to_contain_text("16 steps in")
    assert page.get_attribute("#shown", "alt") == PROMPT
    numbers = dict(zip(page.locator("dt").all_inner_texts(), page.locator("dd").all_inner_texts(), strict=True))
    assert numbers.keys() == {"First image", "Per step", "Total", "Seed"} and "–" not in numbers.values()

    last = shown(page)
    page.locator("#filmstrip input").first.check()
    expect(page.locator("#progress-text")).to_contain_text("Step 1 of 16")
    wait_until(lambda: (shown(page) != last).any(), 10)
    page.keyboard.press("ArrowLeft")  # round to the last one, as radio buttons do
    wait_until(lambda: (shown(page) == last).all(), 10)

    with page.expect_download() as download:
        page.click("#download")
    assert download.value.suggested_filename == f"emage-{numbers['Seed']}.png"
    assert (np.array(Image.open(download.value.path())) == last).all()


def test_every_frame_shows_before_the_next_is_sent(page: Page, script: Scripted) -> None:
    seen = threading.Semaphore(0)

    def one_at_a_time(write: Write) -> None:
        for step in range(1, 4):
            write(frame(step))
            assert seen.acquire(timeout=15)
        write(completed())

    script.stream = one_at_a_time
    opened(page, script.url)
    generate(page)
    for step in range(1, 4):
        expect(page.locator("#filmstrip label")).to_have_count(step)
        expect(page.locator("#progress-text")).to_have_text(f"Step {step} of 4 · {25 * step} % of tokens unmasked")
        wait_until(lambda step=step: (shown(page) == 40 * step).all(), 10)
        expect(page.locator("#stop")).to_be_visible()
        seen.release()
    expect_done(page)
    wait_until(lambda: (shown(page) == 255).all(), 10)
    expect(page.locator("#filmstrip label")).to_have_count(4)  # the finished image replaces the last step's preview
    assert script.requests == [{"prompt": PROMPT, "steps": 4, "stream": True}]


def test_an_answer_may_come_in_any_pieces(page: Page, script: Scripted) -> None:
    opened(page, script.url)
    read = """async (chunks) => {
        const { events } = await import(new URL('page/request/sse.js', location));
        const body = new ReadableStream({ start(to) {
            for (const chunk of chunks) to.enqueue(Uint8Array.from(chunk));
            to.close();
        } });
        const found = [];
        for await (const data of events(body)) found.push(data);
        return found;
    }"""
    stream = ": hello\r\nevent: a\r\ndata: früh\r\ndata:spät\r\n\r\nid: 1\ndata: 2\n\nretry: 3\r\rdata: cut off\n"
    whole = stream.encode()
    for size in (1, 2, 3, 7, len(whole)):
        pieces = [list(whole[at : at + size]) for at in range(0, len(whole), size)]
        assert page.evaluate(read, pieces) == ["früh\nspät", "2"], size


def test_a_truncated_prompt_is_reported(page: Page, script: Scripted) -> None:
    script.stream = lambda write: write(completed(prompt_cut=True))
    opened(page, script.url)
    generate(page)
    expect(page.locator("#truncated")).to_be_visible()


def test_one_of_several_is_picked(page: Page, server: Server) -> None:
    opened(page, server.url)
    page.check("[name=n][value='4']")
    page.fill("#seed", "1")  # the images of 1 to 4 differ; those of some seeds are the same
    generate(page)
    expect_done(page)
    tiles = page.locator("#thumbnails input")
    expect(tiles).to_have_count(4)
    expect(page.locator("#large")).to_be_hidden()

    tiles.nth(2).check()
    expect(page.locator("#large")).to_be_visible()
    expect(page.locator("#filmstrip label")).to_have_count(16)
    third = shown(page)
    page.keyboard.press("ArrowRight")
    expect(tiles.nth(3)).to_be_checked()
    wait_until(lambda: (shown(page) != third).any(), 10)
    page.click("#all")
    expect(page.locator("#large")).to_be_hidden()
    expect(tiles.nth(3)).not_to_be_checked()


def test_a_kept_seed_generates_the_same_image_and_a_link_carries_it(page: Page, server: Server) -> None:
    opened(page, server.url)
    generate(page)
    expect_done(page)
    first, seed = shown(page), page.input_value("#seed")
    page.click("#keep")
    page.click("#generate")
    expect(page.locator("#runs label")).to_have_count(2)
    expect_done(page)
    assert (shown(page) == first).all() and page.input_value("#seed") == seed

    link = page.url
    page.goto("about:blank")  # the address alone would load nothing
    opened(page, link)
    assert (page.input_value("#prompt"), page.input_value("#seed")) == (PROMPT, seed)
    page.click("#generate")
    expect_done(page)
    wait_until(lambda: (shown(page) == first).all(), 10)


def test_the_curl_command_generates_the_same_image(page: Page, server: Server, tmp_path: Path) -> None:
    opened(page, server.url)
    page.fill("#steps", "5")
    generate(page, 'a "small" circle that\'s red; $HOME `id` \\ ü')
    expect_done(page)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.click("#copy-curl")
    expect(page.locator("#copy-curl")).to_have_text("Copied")
    assert same_by_shell(page, page.evaluate("navigator.clipboard.readText()"), tmp_path)
