"""What a finished ingest says of itself: sums that are worked out by hand, text that means nothing to Markdown."""

import copy
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from markdown_it import MarkdownIt

from emage.data.ingest import decode_image, drop_reasons, fetch, ingest_report
from emage.data.ingest.captions.caption_rules import RULES
from emage.utils import manifest

REPORT = {
    "rows_in": 1000,
    "written": 400,
    "waiting": 0,
    "filtered": {"duplicate": 50, "similarity>=0.3": 150},
    "failed": {"timeout": 20, "http_404": 240, "dns_error": 40},
    "rejected": {"placeholder": 25, "file_name": 75},
    "same_content": 7,
    "won_back": 11,
    "datasets": {
        "laion400m": {"rows_in": 800, "selected": 600, "arrived": 400, "written": 320},
        "cc3m": {"rows_in": 200, "selected": 200, "arrived": 100, "written": 80},
    },
    "seconds": {"select": 2.0, "download": 100.0, "tokenize": 50.0, "shuffle": 0.0},
    "stages": ["select", "download", "tokenize", "shuffle"],
}
HALF_WAY = {
    "rows_in": 10,
    "written": 0,
    "waiting": 7,
    "filtered": {},
    "failed": {"http_404": 3},
    "rejected": {},
    "same_content": None,
    "won_back": None,
    "datasets": {"web": {"rows_in": 10, "selected": 10, "arrived": 7}},
    "seconds": {"select": 1.0, "download": 2.0},
    "stages": ["select", "download"],
}


def section(text: str, title: str) -> str:
    return text.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


def cells(table: str) -> list[list[str]]:
    """The lines of a section's table, without its head."""
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


# --- Sums ------------------------------------------------------------------------------------------------------------


def test_the_lines_add_up_to_the_rows_that_came_in():
    lines = ingest_report.outcomes(REPORT)
    assert sum(rows for *_, rows in lines) == 1000
    assert lines[:3] == [("written", "", 400), ("filtered", "similarity>=0.3", 150), ("filtered", "duplicate", 50)]
    assert ingest_report.outcomes(HALF_WAY)[:2] == [("written", "", 0), ("waiting", "for the next stage", 7)]


def test_a_report_that_does_not_add_up_says_so():
    wrong = REPORT | {"written": 390}
    assert ingest_report.outcomes(wrong)[-1] == ("unaccounted for", "", 10)
    assert ["unaccounted for", "10", "1.0%"] in cells(ingest_report.markdown(wrong, {}))


def test_shares():
    assert ingest_report.share(341, 1000) == "34.1%"
    assert ingest_report.share(1, 10_000_000) == "<0.1%"
    assert ingest_report.share(0, 10) == ingest_report.share(0, 0) == "0.0%"


# --- Markdown --------------------------------------------------------------------------------------------------------


def test_markdown_reconciles_and_follows_each_data_set():
    text = ingest_report.markdown(REPORT, {})
    assert cells(section(text, "Where the rows went")) == [
        ["written", "400", "40.0%"],
        ["filtered", "200", "20.0%"],
        ["failed", "300", "30.0%"],
        ["rejected", "100", "10.0%"],
        ["**rows in**", "**1,000**", "**100.0%**"],
    ]
    assert cells(section(text, "By data set")) == [
        ["`all`", "1,000", "800 (80.0%)", "500 (50.0%)", "400 (40.0%)"],
        ["`laion400m`", "800", "600 (75.0%)", "400 (50.0%)", "320 (40.0%)"],
        ["`cc3m`", "200", "200 (100.0%)", "100 (50.0%)", "80 (40.0%)"],
    ]


def test_markdown_lists_causes_by_count_with_their_meaning():
    failed = cells(section(ingest_report.markdown(REPORT, {}), "Failed, by cause"))
    assert [line[:3] for line in failed] == [
        ["`http_404`", "240", "80.0%"],
        ["`dns_error`", "40", "13.3%"],
        ["`timeout`", "20", "6.7%"],
        ["**failed**", "**300**", "**100.0%**"],
    ]
    assert failed[0][3].startswith("Link rot")
    rejected = cells(section(ingest_report.markdown(REPORT, {}), "Rejected, by cause"))
    assert rejected[0][3].startswith("Alt-text that software took from the file")


def test_markdown_has_a_rate_for_every_stage():
    assert cells(section(ingest_report.markdown(REPORT, {}), "Time")) == [
        ["select", "2.0", "1,000", "500"],
        ["download", "100.0", "800", "8"],
        ["tokenize", "50.0", "500", "10"],
        ["shuffle", "0.0", "400", ""],
    ]


def test_markdown_of_a_run_that_is_not_finished():
    text = ingest_report.markdown(HALF_WAY, {})
    assert cells(section(text, "By data set")) == [["`web`", "10", "10 (100.0%)", "7 (70.0%)"]]
    assert ["waiting", "7", "70.0%"] in cells(text)
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


def test_a_hostile_caption_means_nothing_to_markdown():
    text = ingest_report.markdown(REPORT, {"file_name": HOSTILE})
    listed = text.split("### file_name")[1].split("\n## ")[0]
    html = MarkdownIt("commonmark").enable("table").render(listed)
    assert set(re.findall(r"<(\w+)", html)) == {"p", "ul", "li", "code"}
    assert html.count("<li>") == len(HOSTILE)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html and "``` `` ` **bold** _it_ | a | b |" in html
    assert r"\u001b[2J\u202egnp.exe" in html and not {"\x1b", "\u202e"} & set(text)


def test_a_hostile_name_of_a_data_set_stays_in_its_cell():
    report = copy.deepcopy(REPORT)
    report["datasets"]["a|`b`<img src=x>"] = report["datasets"].pop("cc3m")
    html = MarkdownIt("commonmark").enable("table").render(ingest_report.markdown(report, {}))
    assert re.findall(r"<img src=\"(.*?)\"", html) == [ingest_report.CHART]  # ours
    row = next(line for line in html.split("<tr>") if "a|`b`&lt;img src=x&gt;" in line)
    assert row.count("<td") == 5


def test_a_long_caption_is_cut():
    text = ingest_report.markdown(REPORT, {"file_name": ["x" * 5000]})
    assert "x" * 300 + "…" in text and "x" * 301 not in text


# --- Causes and sentences --------------------------------------------------------------------------------------------


def test_every_cause_in_the_code_is_explained():
    source = Path(fetch.__file__).read_text() + Path(decode_image.__file__).read_text()
    names = set(re.findall(r'(?:FetchError\(|ImageError\(|return )"([a-z_]+)"', source))
    assert {"timeout", "private_address", "opted_out", "too_small"} <= names
    assert not names - drop_reasons.CAUSES.keys()


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_is_explained_by_itself(rule: str):
    says = drop_reasons.explain("rejected", rule).says
    assert says and says in (RULES[rule].__doc__ or "")


def test_explanations():
    assert drop_reasons.explain("failed", "empty") != drop_reasons.explain("rejected", "empty")
    assert drop_reasons.explain("failed", "http_418").says == "The server answered: I'm a Teapot."
    assert drop_reasons.explain("failed", "http_503").says == "The server is in trouble: Service Unavailable."
    assert "does not define" in drop_reasons.explain("failed", "http_999").says
    assert "source.where" in drop_reasons.explain("filtered", "NSFW==UNLIKELY").says
    assert drop_reasons.explain("failed", "never_seen") == drop_reasons.Cause("")


def test_why_says_what_was_lost_and_what_to_do():
    assert ingest_report.why(REPORT) == [
        "40.0% of 1,000 rows are in the token table.",
        "20.0% of the rows were filtered, most by similarity>=0.3 (a condition of source.where).",
        "37.5% of the images did not arrive, most with http_404 (link rot: the page is not there any more): "
        "nothing to do.",
        "11 images arrived when they were asked for again in a later pass.",
        "20.0% of the captions were rejected, most by file_name.",
        "7 images have the same bytes as another one and were kept (shuffle.drop_same_content=true drops them).",
        f"5.0% of the images failed with dns_error: {drop_reasons.CAUSES['dns_error'].advice}.",
        f"2.5% of the images failed with timeout: {drop_reasons.CAUSES['timeout'].advice}.",
    ]
    assert ingest_report.why(HALF_WAY)[1] == "7 rows wait for the stages that have not run yet."


def test_why_says_what_still_waits():
    assert "7 rows wait for the stages that have not run yet." in ingest_report.why(HALF_WAY)


def test_images_dropped_for_their_content_had_arrived():
    report = REPORT | {"filtered": {"duplicate": 193, "same_content": 7}}
    sentences = ingest_report.why(report)
    assert "37.2% of the images did not arrive" in sentences[2]  # 300 of 807
    assert "7 images have the same bytes as another one and were dropped." in sentences
    assert ("rejected", "same_content", 7) in ingest_report._cause_bars(report)  # the colour of what is dropped late


def test_why_gives_no_advice_for_a_trifle():
    report = REPORT | {"failed": {"http_404": 295, "timeout": 5}}
    assert not any("timeout" in sentence for sentence in ingest_report.why(report))
    evenly = REPORT | {"failed": {"http_404": 100, "too_big": 100, "opted_out": 100}}
    assert "most often with http_404" in ingest_report.why(evenly)[2]


# --- Chart -----------------------------------------------------------------------------------------------------------


def coloured(image, colour: str) -> np.ndarray:
    """(H, W) bool: where the chart has exactly this colour."""
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return (np.asarray(image) == wanted).all(axis=-1)


def test_the_chart_draws_shares_to_scale():
    report = REPORT | {
        "datasets": {"web": REPORT["datasets"]["laion400m"]},
        "rejected": {},
        "failed": {},
        "filtered": {},
    }
    image = ingest_report.chart(report)  # no causes: the bar of the data set is all that has colours
    widths = {
        outcome: coloured(image, colour).sum(axis=1).max() for outcome, (colour, _) in ingest_report._OUTCOMES.items()
    }
    whole = sum(widths.values())
    for outcome, share in {"written": 0.4, "rejected": 0.1, "failed": 0.25, "filtered": 0.25, "waiting": 0}.items():
        assert widths[outcome] / whole == pytest.approx(share, abs=0.01), outcome


def test_the_chart_is_bounded_however_many_bars_there_are():
    many = copy.deepcopy(REPORT)
    many["failed"] = {f"http_{code}": 1 for code in range(400, 599)}
    many["datasets"] = {f"set {i} $x_$" + "y" * 99: dict(REPORT["datasets"]["cc3m"]) for i in range(40)}
    small, large = ingest_report.chart(REPORT), ingest_report.chart(many)
    assert small.mode == "RGB" and small.width == large.width
    assert small.height < large.height < 1500
    assert [name for name, _ in ingest_report._set_bars(many)][-1] == "30 others"
    assert ingest_report._cause_bars(many)[-1] == ("waiting", "185 others", 185)


# --- Examples --------------------------------------------------------------------------------------------------------


def tokenized(folder: Path, shards: list[dict[str, list[str]]]) -> Path:
    """The tokenizing stage's folder: of each shard, captions by cause."""
    counts: Counter[str] = Counter()
    for number, rejected in enumerate(shards):
        rows = [(cause, caption) for cause, texts in rejected.items() for caption in texts]
        counts.update(cause for cause, _ in rows if cause in RULES)
        columns = {"caption": [caption for _, caption in rows], "cause": [cause for cause, _ in rows]}
        (folder / f"{number:05d}").mkdir(parents=True)
        pq.write_table(pa.table(columns), folder / f"{number:05d}" / "rejected.parquet")
    (folder / ".00099.deadbeef").mkdir()  # what a killed worker leaves
    manifest.write_json(folder / "manifest.json", {"rejected": counts})
    return folder


def test_examples_are_random_captions_of_every_rule(tmp_path: Path):
    shards = [
        {"file_name": [f"file-name-{shard}-{i}" for i in range(50)], "truncated": ["an image of a dog"]}
        for shard in range(5)
    ]
    shards[3]["hashtags"] = ["#a #b #c"]
    folder = tokenized(tmp_path / "tokenized", shards)
    found = ingest_report.examples(folder, seed=1)
    assert {rule: len(texts) for rule, texts in found.items()} == {"file_name": 20, "hashtags": 1}
    assert len(set(found["file_name"])) == 20
    assert found == ingest_report.examples(folder, seed=1)
    assert found != ingest_report.examples(folder, seed=2)


def test_examples_stop_reading_where_there_are_enough(tmp_path: Path, monkeypatch):
    shards = [{"url": [f"{shard}"] * 10} for shard in range(30)]
    folder = tokenized(tmp_path / "tokenized", shards)
    assert len(set(ingest_report.examples(folder, each=10)["url"])) == 1  # one shard was enough
    assert len(set(ingest_report.examples(folder, each=25)["url"])) == 3
    monkeypatch.setattr(ingest_report, "MOST_SHARDS", 4)
    assert len(ingest_report.examples(folder, each=100)["url"]) == 40


def test_no_examples_where_there_are_no_shards(tmp_path: Path):
    assert ingest_report.examples(tmp_path / "tokenized") == {}
    folder = tokenized(tmp_path / "tokenized", [{"url": ["a.test"]}])
    shutil.rmtree(folder / "00000")  # the token table is there, and somebody made room
    assert ingest_report.examples(folder) == {}
