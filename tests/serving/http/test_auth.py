"""The access rules: with an API key and without, other machines, pages of other sites."""

import hashlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from fake_pipe import FakePipe
from in_process import serving

from emage.serving.http.app import Options, make_app
from emage.serving.http.auth import AccessOptions
from emage.serving.limits import WRONG_KEY_DELAY_S
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
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    own = {"Origin": url, "Host": url.removeprefix("http://")}
    assert httpx.post(f"{url}/v1/images/generations", json={"prompt": "a"}, headers=own).status_code == 200


@pytest.mark.parametrize(
    "header",
    [
        "Forwarded: for=192.0.2.7",
        "X-Real-IP: 192.0.2.7",
        "Via: 1.1 front",
        "X-Forwarded-Host: emage.example",
        "X-Forwarded-For: 127.0.0.1",
        "X-Forwarded-Proto: https",
        "CF-Connecting-IP: 192.0.2.7",
    ],
)
def test_without_a_key_requests_of_a_proxy_are_rejected(url: str, locked_url: str, header: str) -> None:
    name, value = header.split(": ")
    answer = httpx.get(f"{url}/v1/models", headers={name: value})
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    with_key = {b"Authorization": f"Bearer {KEY}".encode("latin-1"), name.encode(): value.encode()}
    assert httpx.get(f"{locked_url}/v1/models", headers=with_key).status_code == 200


def test_a_header_that_is_there_twice_is_rejected(url: str) -> None:
    for name in ("Origin", "Content-Type"):
        twice = [(name, "http://127.0.0.1"), (name, "http://evil.example")]
        answer = httpx.get(f"{url}/health", headers=twice)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")


def test_wrong_keys_are_answered_late_and_the_right_one_at_once(locked_url: str) -> None:
    def seconds(key: str) -> float:
        started = time.monotonic()
        headers = {b"Authorization": f"Bearer {key}".encode("latin-1")}
        assert httpx.get(f"{locked_url}/v1/models", headers=headers).status_code == (200 if key == KEY else 401)
        return time.monotonic() - started

    with ThreadPoolExecutor(8) as pool:
        guesses = [pool.submit(seconds, f"guess {i}") for i in range(8)]
        assert seconds(KEY) < WRONG_KEY_DELAY_S
        assert min(guess.result() for guess in guesses) >= WRONG_KEY_DELAY_S


def test_every_answer_has_the_security_headers(locked_url: str, url: str) -> None:
    broken = httpx.get(f"{url}/broken")
    assert broken.status_code == 404
    for answer in (broken, httpx.get(f"{locked_url}/v1/models"), httpx.get(f"{locked_url}/docs"), httpx.get(url)):
        assert answer.headers.get_list("X-Content-Type-Options") == ["nosniff"], answer.url
        assert answer.headers.get_list("Referrer-Policy") == ["no-referrer"], answer.url


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
