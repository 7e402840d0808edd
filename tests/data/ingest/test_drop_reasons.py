"""Every drop reason in the code is explained."""

import re
from pathlib import Path

import pytest

from emage.data.images import decode_image, file_kinds
from emage.data.ingest.captions.caption_rules import RULES
from emage.data.ingest.download import fetch, statuses
from emage.data.ingest.drop_reasons import EXPLANATIONS, NOTHING_TO_DO, Explanation, explain
from emage.data.ingest.sources import base, tar_shards


def test_every_drop_reason_in_the_code_is_explained():
    files = [*Path(fetch.__file__).parent.glob("*.py"), Path(decode_image.__file__)]
    source = "".join(file.read_text() for file in files)
    names = set(re.findall(r'(?:FetchError\(|ImageError\(|return )"([a-z_]+)"', source))
    stored = "".join(file.read_text() for file in Path(base.__file__).parent.glob("*.py"))
    names |= {*re.findall(r'FetchError\("([a-z_]+)"', stored), base.NO_CAPTION, base.NO_IMAGE, *tar_shards.FAILED}
    assert {"timeout", "private_address", "opted_out", "bad_port", "too_big", "too_small"} <= names
    assert "unreadable_file" in names
    assert not names - EXPLANATIONS.keys()


def test_every_reason_names_what_a_person_can_do():
    reasons = [("failed", name) for name in EXPLANATIONS]
    reasons += [("failed", f"format_{kind}") for kind in file_kinds.REFUSED]
    reasons += [("failed", f"http_{status}") for status in range(300, 600)]
    reasons += [("rejected", rule) for rule in RULES] + [("filtered", "score>0.5")]
    for outcome, reason in reasons:
        explanation = explain(outcome, reason)
        assert explanation.description and explanation.advice, reason


def test_what_may_pass_is_to_be_tried_again():
    for reason in (f"http_{status}" for status in range(300, 600)):
        advice = explain("failed", reason).advice
        assert statuses.may_pass(reason) == ("download.passes" in advice or "download.threads" in advice), reason


def test_no_reason_but_its_own_says_a_web_page():
    names = [*EXPLANATIONS, *(f"format_{kind}" for kind in file_kinds.REFUSED)]
    assert [name for name in names if "are a web page" in explain("failed", name).description] == ["web_page"]


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_is_explained_by_its_docstring(rule: str):
    description = explain("rejected", rule).description
    assert description and description in (RULES[rule].__doc__ or "")


def test_explanations():
    assert explain("failed", "empty") != explain("rejected", "empty")
    assert explain("failed", "http_418").description == "The server answered: I'm a Teapot."
    assert explain("failed", "http_503").description == "The server failed: Service Unavailable."
    assert "does not define" in explain("failed", "http_999").description
    assert explain("failed", "format_jxl").description == "The file is a JPEG XL image, which is not decoded."
    assert "did not answer in time" in explain("failed", "http_522").description
    assert "source.where" in explain("filtered", "NSFW==UNLIKELY").description
    assert explain("failed", "never_seen") == Explanation("", NOTHING_TO_DO)
