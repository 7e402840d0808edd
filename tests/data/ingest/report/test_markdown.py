"""The Markdown of an ingest report: tables worked out by hand, and captions that have no effect on it."""

import copy
import re

from ingest_reports import HALF_WAY, REPORT
from markdown_it import MarkdownIt

from emage.data.ingest.report.markdown import CHART_FILE, format_markdown


def section(text: str, title: str) -> str:
    return text.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


def table_of(table: str) -> list[list[str]]:
    """Return the lines of a section's table, without its head."""
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_sums_and_each_data_set():
    text = format_markdown(REPORT, {})
    assert table_of(section(text, "Where the rows went")) == [
        ["written", "400", "40.0%"],
        ["filtered", "200", "20.0%"],
        ["failed", "300", "30.0%"],
        ["rejected", "100", "10.0%"],
        ["**rows in**", "**1,000**", "**100.0%**"],
    ]
    assert table_of(section(text, "By data set")) == [
        ["`all`", "1,000", "800 (80.0%)", "500 (50.0%)", "400 (40.0%)", "100.0%"],
        ["`laion400m`", "800", "600 (75.0%)", "400 (50.0%)", "320 (40.0%)", "80.0%"],
        ["`cc3m`", "200", "200 (100.0%)", "100 (50.0%)", "80 (40.0%)", "20.0%"],
    ]


def test_drop_reasons_are_listed_by_count_with_their_meaning():
    failed = table_of(section(format_markdown(REPORT, {}), "Failed, by drop reason"))
    assert [line[:3] for line in failed] == [
        ["`http_404`", "240", "80.0%"],
        ["`dns_error`", "40", "13.3%"],
        ["`timeout`", "20", "6.7%"],
        ["**failed**", "**300**", "**100.0%**"],
    ]
    assert failed[0][3].startswith("Link rot")
    rejected = table_of(section(format_markdown(REPORT, {}), "Rejected, by drop reason"))
    assert rejected[0][3].startswith("Alt-text that software took from the file")


def test_a_rate_for_every_stage():
    assert table_of(section(format_markdown(REPORT, {}), "Time")) == [
        ["select", "2.0", "1,000", "500"],
        ["download", "100.0", "800", "8"],
        ["tokenize", "50.0", "500", "10"],
        ["shuffle", "0.0", "400", ""],
    ]


def test_an_ingest_that_is_not_finished():
    text = format_markdown(HALF_WAY, {})
    assert table_of(section(text, "By data set")) == [["`web`", "10", "10 (100.0%)", "7 (70.0%)"]]
    assert ["waiting", "7", "70.0%"] in table_of(text)
    assert "Rejected" not in text and "7 rows wait" in text and "without `stage=`" in text


HOSTILE = [
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "[a link](http://a.test) ![](http://a.test/x.png) https://a.test www.a.test",
    "``` `` ` **bold** _it_ | a | b |",
    "\n\n# head\n\n- list\n\n<b>",
    "\x1b[2J\u202egnp.exe",
    "`",
    "",
    "\\` <i>",
]


def test_a_hostile_caption_has_no_effect_on_markdown():
    text = format_markdown(REPORT, {"file_name": HOSTILE})
    listed = text.split("### file_name")[1].split("\n## ")[0]
    html = MarkdownIt("commonmark").enable("table").render(listed)
    assert set(re.findall(r"<(\w+)", html)) == {"p", "ul", "li", "code"}
    assert html.count("<li>") == len(HOSTILE)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html and "``` `` ` **bold** _it_ | a | b |" in html
    assert r"\u001b[2J\u202egnp.exe" in html and not {"\x1b", "\u202e"} & set(text)


def test_a_hostile_name_of_a_data_set_stays_in_its_column():
    report = copy.deepcopy(REPORT)
    report["datasets"]["a|`b`<img src=x>"] = report["datasets"].pop("cc3m")
    html = MarkdownIt("commonmark").enable("table").render(format_markdown(report, {}))
    assert re.findall(r"<img src=\"(.*?)\"", html) == [CHART_FILE]  # ours
    row = next(line for line in html.split("<tr>") if "a|`b`&lt;img src=x&gt;" in line)
    assert row.count("<td") == 6


def test_a_long_caption_is_truncated():
    text = format_markdown(REPORT, {"file_name": ["x" * 5000]})
    assert "x" * 300 + "…" in text and "x" * 301 not in text


def test_the_difference_is_shown_if_a_report_does_not_add_up():
    assert ["unaccounted for", "10", "1.0%"] in table_of(format_markdown(REPORT | {"written": 390}, {}))
