"""Text from outside in Markdown documents, where it must not become markup."""

import re

from emage.utils.image_grid import printable


def escape(text: str) -> str:
    """Return text on one line in which nothing is markup except our own backticks."""
    return re.sub(r"([\\*\[\]<&])", r"\\\1", printable(text))


def code_span(text: str) -> str:
    """Return text as a code span on one line, inside which Markdown and HTML have no effect.

    The span's fence is longer than any sequence of backticks in the text.
    """
    text = printable(text) or "(nothing)"
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if "`" in text else ""
    return f"{fence}{pad}{text}{pad}{fence}"
