"""The OpenAPI description and the pages: complete, with examples that work, and nothing from other sites."""

import re

import httpx
from api_requests import post


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
