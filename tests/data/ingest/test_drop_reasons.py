"""Every drop reason in the code is explained."""

import re
from pathlib import Path

import pytest

from emage.data.ingest import decode_image, fetch
from emage.data.ingest.captions.caption_rules import RULES
from emage.data.ingest.drop_reasons import EXPLANATIONS, Explanation, explain


def test_every_drop_reason_in_the_code_is_explained():
    source = Path(fetch.__file__).read_text() + Path(decode_image.__file__).read_text()
    names = set(re.findall(r'(?:FetchError\(|ImageError\(|return )"([a-z_]+)"', source))
    assert {"timeout", "private_address", "opted_out", "too_small"} <= names
    assert not names - EXPLANATIONS.keys()


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_is_explained_by_its_docstring(rule: str):
    description = explain("rejected", rule).description
    assert description and description in (RULES[rule].__doc__ or "")


def test_explanations():
    assert explain("failed", "empty") != explain("rejected", "empty")
    assert explain("failed", "http_418").description == "The server answered: I'm a Teapot."
    assert explain("failed", "http_503").description == "The server failed: Service Unavailable."
    assert "does not define" in explain("failed", "http_999").description
    assert "source.where" in explain("filtered", "NSFW==UNLIKELY").description
    assert explain("failed", "never_seen") == Explanation("")
