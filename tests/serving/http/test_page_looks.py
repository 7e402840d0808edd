"""The playground page in headless Chromium: a narrow window, light and dark. And the OpenAPI page."""

from typing import Any

import pytest
from page_server import Scripted, Server, fails_after_a_preview
from pages import expect_done, generate, needs_chromium, opened
from playwright.sync_api import Page, expect

pytestmark = needs_chromium


@pytest.mark.parametrize("width", [320, 390])
def test_a_narrow_window_does_not_scroll_sideways(page: Page, server: Server, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 640})
    opened(page, server.url)

    def expect_narrow() -> None:
        assert page.evaluate("document.documentElement.scrollWidth") <= width

    expect_narrow()
    page.click("#settings > summary")
    page.click("#settings details > summary")
    page.check("[name=n][value='4']")
    generate(page)
    expect_done(page)
    expect_narrow()
    page.locator("#thumbnails input").first.check()
    page.click("#command > summary")
    expect_narrow()
    page.click("#edit")
    expect_narrow()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(page: Page, script: Scripted, scheme: Any) -> None:
    """All visible text has a contrast of 4.5 to 1 with the nearest background, as WCAG 2 requires."""
    page.emulate_media(color_scheme=scheme)
    script.stream = fails_after_a_preview
    opened(page, script.url)
    page.click("#settings details > summary")
    generate(page)
    expect(page.get_by_role("alert")).to_contain_text("generation failed")
    assert page.evaluate(CONTRASTS) == []


def test_the_openapi_page_works_under_its_security_policy(page: Page, server: Server) -> None:
    answer = page.goto(f"{server.url}docs")
    assert answer is not None
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    expect(page.get_by_text("/v1/images/generations")).to_be_visible()


CONTRASTS = """() => {
    const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
    const rgb = (colour) => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const light = (c) => {
        const linear = (v) => v <= .04 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
        const [r, g, b] = c.slice(0, 3).map((v) => linear(v / 255));
        return .2126 * r + .7152 * g + .0722 * b;
    };
    const ground = (element) => {
        for (let at = element; at; at = at.parentElement) {
            const colour = rgb(getComputedStyle(at).backgroundColor);
            if (colour[3] === 255) return colour;
        }
    };
    const poor = [];
    for (const element of document.querySelectorAll('body *')) {
        const text = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
        if (!text || !element.checkVisibility() || element.disabled) continue;
        const [a, b] = [light(rgb(getComputedStyle(element).color)), light(ground(element))];
        const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
        if (ratio < 4.5) poor.push(`${element.outerHTML.slice(0, 80)}: ${ratio.toFixed(1)}`);
    }
    return poor;
}"""
