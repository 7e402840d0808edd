"""The messages on the troubleshooting page are those that the code prints."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "troubleshooting.md"


def messages() -> list[str]:
    """The headings in backticks, one message each."""
    headings = [line for line in PAGE.read_text().splitlines() if line.startswith("### ")]
    return [message for line in headings for message in re.findall(r"`([^`]+)`", line)]


def texts() -> Iterator[str]:
    """Every string of the code, with "..." where it is filled in; and the Makefile, which checks the Python."""
    for file in (ROOT / "emage").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.JoinedStr):
                yield "".join(v.value if isinstance(v, ast.Constant) else "..." for v in node.values)  # type: ignore[misc]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield re.sub(r"%[sdg]", "...", node.value)
    yield (ROOT / "Makefile").read_text().replace("%d.%d", "...")


@pytest.fixture(scope="module")
def code() -> list[str]:
    return list(texts())


@pytest.mark.parametrize("message", messages())
def test_a_message_on_the_page_is_printed_by_the_code(message: str, code: list[str]):
    fixed_parts = [re.escape(part) for part in message.split("...") if part.strip(" :;,()")]
    pattern = re.compile(".*".join(fixed_parts), re.DOTALL)
    assert any(pattern.search(text) for text in code), (
        f"docs/troubleshooting.md names a message that is gone: {message}"
    )
