"""The access rules: with an API key and without, other machines, pages of other sites."""

import hashlib
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fake_pipe import FakePipe
from in_process import serving

from emage.serving.http.app import Options, make_app
from emage.serving.http.auth import AccessOptions
from emage.serving.service import QueueLimits, Service

KEY = "sésame, ouvre-toi"


@pytest.fixture(scope="module")
def locked_url() -> Iterator[str]:
    access = AccessOptions(hashlib.sha256(KEY.encode("latin-1")).hexdigest(), origins=("https://friend.example",))
    with serving(lambda: make_app(Service(FakePipe(), QueueLimits()), Options(access=access))) as address:
        yield address


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Host": "rebound.example"}, "host_not_allowed"),
        ({"Origin": "https://evil.example"}, "origin_not_allowed"),
        ({"Origin": "null"}, "origin_not_allowed"),
    ],
)
def test_without_a_key_other_sites_are_rejected(url: str, headers: dict[str, str], code: str) -> None:
    answer = httpx.post(f"{url}/v1/images/generations", json={"prompt": "a"}, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, code)
    own = {"Origin": url, "Host": url.removeprefix("http://")}
    assert httpx.post(f"{url}/v1/images/generations", json={"prompt": "a"}, headers=own).status_code == 200


def test_without_a_key_other_machines_are_rejected() -> None:
    import asyncio

    async def ask(peer: str) -> int:
        seen: list[dict[str, Any]] = []
        app = make_app(Service(FakePipe(), QueueLimits()), Options())
        transport = httpx.ASGITransport(app, client=(peer, 5000))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            answer = await client.get("/health")
        seen.append(answer.json())
        return answer.status_code

    assert [asyncio.run(ask(peer)) for peer in ("127.0.0.1", "::1", "192.0.2.7")] == [200, 200, 401]


def test_the_key_is_required(locked_url: str) -> None:
    for path in ("/", "/health", "/docs", "/openapi.json", "/page/app.js"):
        assert httpx.get(locked_url + path).status_code == 200, path
    assert httpx.get(f"{locked_url}/v1/models").headers["WWW-Authenticate"] == "Bearer"
    for key in ("x", "wrong", KEY[:-1]):
        headers = {b"Authorization": f"Bearer {key}".encode("latin-1")}
        answer = httpx.post(f"{locked_url}/v1/images/generations", json={"prompt": "a"}, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    correct = {b"Authorization": f"Bearer {KEY}".encode("latin-1")}
    assert httpx.get(f"{locked_url}/v1/models", headers=correct).status_code == 200


def test_pages_of_listed_sites_may_use_the_endpoint(locked_url: str) -> None:
    ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    friend = httpx.options(f"{locked_url}/v1/images/generations", headers={"Origin": "https://friend.example", **ask})
    assert friend.headers["Access-Control-Allow-Origin"] == "https://friend.example"
    rejected = httpx.get(f"{locked_url}/v1/models", headers={"Origin": "https://friend.example"})
    assert rejected.status_code == 401 and rejected.headers["Access-Control-Allow-Origin"] == "https://friend.example"
    other = httpx.options(f"{locked_url}/v1/images/generations", headers={"Origin": "https://evil.example", **ask})
    assert "Access-Control-Allow-Origin" not in other.headers
