"""The OpenAPI description and the pages: complete, with examples that work, and nothing from other sites.

Also requests that schemathesis generates from the description.
"""

import re

import httpx
import hypothesis
import schemathesis
from api_requests import post
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from emage.serving.http.app import Options, make_app


def test_page_and_description_load_nothing_from_other_sites(endpoint: str) -> None:
    page = httpx.get(endpoint)
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    for text in (page.text, httpx.get(f"{endpoint}/docs").text):
        assert not re.search(r"""(src|href)=["'](https?:)?//""", text)
    described = httpx.get(f"{endpoint}/openapi.json").json()
    assert {"/v1/images/generations", "/v1/images/edits", "/v1/models", "/health"} <= set(described["paths"])
    examples = described["paths"]["/v1/images/generations"]["post"]["requestBody"]["content"]["application/json"]
    for example in examples["examples"].values():
        assert post(endpoint, **example["value"]).status_code == 200


CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
schema = schemathesis.openapi.from_dict(make_app(None, Options()).openapi())  # type: ignore[arg-type]
few = hypothesis.settings(max_examples=hypothesis.settings().max_examples // 5)


@schema.parametrize()
@few
def test_answers_match_the_description(case: schemathesis.Case, endpoint: str) -> None:
    if isinstance(case.body, dict):  # a valid request is generated; 160 images per example would take too long
        case.body |= {key: 2 for key in ("n", "candidates") if case.body.get(key) in range(3, 17)}
    case.call_and_validate(base_url=endpoint, checks=CHECKS)
