"""The sums and sentences of an ingest report, worked out by hand."""

from ingest_reports import HALF_WAY, REPORT

from emage.data.ingest.drop_reasons import EXPLANATIONS
from emage.data.ingest.report import chart
from emage.data.ingest.report.summary import list_outcomes, percent, summarize


def test_the_lines_add_up_to_the_rows_that_came_in():
    lines = list_outcomes(REPORT)
    assert sum(rows for *_, rows in lines) == 1000
    assert lines[:3] == [("written", "", 400), ("filtered", "similarity>=0.3", 150), ("filtered", "duplicate", 50)]
    assert list_outcomes(HALF_WAY)[:2] == [("written", "", 0), ("waiting", "for the next stage", 7)]


def test_the_difference_of_a_report_that_does_not_add_up():
    wrong = REPORT | {"written": 390}
    assert list_outcomes(wrong)[-1] == ("unaccounted for", "", 10)


def test_percent():
    assert percent(341, 1000) == "34.1%"
    assert percent(1, 10_000_000) == "<0.1%"
    assert percent(0, 10) == percent(0, 0) == "0.0%"


def test_sentences_on_what_was_dropped_and_what_to_do():
    assert summarize(REPORT) == [
        "40.0% of 1,000 rows are in the token table.",
        "The token table is 80.0% laion400m, 20.0% cc3m.",
        "20.0% of the rows were filtered, most by similarity>=0.3 (a condition of source.where).",
        "37.5% of the images did not arrive, most with http_404 (link rot: the page does not exist any more): "
        "nothing to do.",
        "11 images arrived in a later retry round.",
        "20.0% of the captions were rejected, most by file_name.",
        "7 images have the same bytes as another one and were kept (shuffle.drop_same_content=true drops them; "
        "leave it if these are several captions of one image).",
        f"5.0% of the images failed with dns_error: {EXPLANATIONS['dns_error'].advice}.",
        f"2.5% of the images failed with timeout: {EXPLANATIONS['timeout'].advice}.",
    ]
    assert summarize(HALF_WAY)[1] == "7 rows wait for the stages that have not run yet."


def test_shares_of_the_token_table_are_of_what_was_written():
    """The paper's (Sec. 4), in millions of pairs; the order is that of the shares."""
    pairs = {"cc3m": 2, "cc12m": 5, "laion400m": 260, "yfcc100m": 13}
    datasets = {name: {"rows_in": 1000, "selected": 900, "arrived": 300, "written": n} for name, n in pairs.items()}
    sentences = summarize(REPORT | {"rows_in": 4000, "written": 280, "datasets": datasets})
    assert sentences[1] == "The token table is 92.9% laion400m, 4.6% yfcc100m, 1.8% cc12m, 0.7% cc3m."
    many = {f"d{i}": {"rows_in": 9, "selected": 9, "arrived": 9, "written": 20 - i} for i in range(12)}
    assert summarize(REPORT | {"written": 174, "datasets": many})[1].endswith("6.3% d9, 10.9% 2 others.")
    one = {"web": {"rows_in": 1000, "selected": 800, "arrived": 500, "written": 400}}
    assert not any("token table is" in sentence for sentence in summarize(REPORT | {"datasets": one}))


def test_rows_that_still_wait():
    assert "7 rows wait for the stages that have not run yet." in summarize(HALF_WAY)


def test_images_dropped_for_their_content_had_arrived():
    report = REPORT | {"filtered": {"duplicate": 193, "same_content": 7}}
    sentences = summarize(report)
    assert "37.2% of the images did not arrive" in sentences[3]  # 300 of 807
    assert "7 images have the same bytes as another one and were dropped." in sentences
    assert ("rejected", "same_content", 7) in chart.reason_bars(report)  # the colour of late drops


def test_no_advice_for_rare_failures():
    report = REPORT | {"failed": {"http_404": 295, "timeout": 5}}
    assert not any("timeout" in sentence for sentence in summarize(report))
    evenly = REPORT | {"failed": {"http_404": 100, "too_big": 100, "opted_out": 100}}
    assert "most often with http_404" in summarize(evenly)[3]


def test_rows_that_two_counts_find_differently_and_files_that_are_not_read_are_said():
    miscounted = [{"dataset": "cc3m", "file": "a/b.csv", "read": 1200, "counted": 1199}]
    sentences = summarize(
        REPORT | {"miscounted": miscounted, "passed_over": ["/t: 2 files of this folder are not read"]}
    )
    assert set(summarize(REPORT)) < set(sentences)
    assert "a/b.csv of cc3m: 1,200 rows were read, but a count of its lines finds 1,199: " in "\n".join(sentences)
    assert "/t: 2 files of this folder are not read." in sentences
