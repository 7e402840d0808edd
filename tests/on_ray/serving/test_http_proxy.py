"""Ray Serve's own answers, in the API's form. The tests with Serve itself are in test_serve*.py."""

import asyncio
import importlib
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse

from emage.config import environment
from emage.on_ray import launch
from emage.on_ray.serving import http_proxy
from emage.on_ray.serving.http_proxy import REMOVED_HEADERS, ApiErrorMiddleware
from emage.serving.http.transport.protocol import LimitedProtocol
from emage.serving.limits import MAX_JSON_BYTES

ROOT = Path(__file__).parents[3]


def ask(inner: Any, headers: dict[str, str] | None = None) -> httpx.Response:
    async def scene() -> httpx.Response:
        transport = httpx.ASGITransport(ApiErrorMiddleware(inner))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.get("/x", headers=headers)

    return asyncio.run(scene())


@pytest.mark.parametrize(
    ("status", "text", "expected", "code"),
    [
        (404, "Path '/' not found", 503, "not_ready"),
        (408, "Request 1 timed out", 408, "timeout"),
        (429, "Request dropped due to backpressure", 429, "rate_limit_exceeded"),
        (503, "Request dropped due to backpressure", 429, "rate_limit_exceeded"),
        (503, "Deployment is unavailable", 503, "not_ready"),
    ],
)
def test_serves_own_answers_become_errors_of_the_api(status: int, text: str, expected: int, code: str) -> None:
    answer = ask(PlainTextResponse(f"{text}\nTraceback", status))
    assert (answer.status_code, answer.json()["error"]["code"]) == (expected, code) and "Traceback" not in answer.text
    assert ("Retry-After" in answer.headers) == (code != "timeout")


def test_a_request_whose_process_was_lost_gets_an_error() -> None:
    async def dies(scope: Any, receive: Any, send: Any) -> None:
        """End without an answer, as Serve's proxy does if the replica has ended."""

    answer = ask(dies)
    assert (answer.status_code, answer.json()["error"]["code"], answer.headers["Retry-After"]) == (
        503,
        "replica_lost",
        "1",
    )


def test_other_answers_are_not_changed() -> None:
    ours = JSONResponse({"error": {"code": "timeout"}}, 408)
    assert ask(ours).json() == {"error": {"code": "timeout"}}
    assert ask(PlainTextResponse("success")).text == "success"
    assert ask(StreamingResponse(iter(["a", "b"]))).text == "ab"


def test_clients_cannot_disable_serves_timeout() -> None:
    async def echo_headers(scope: Any, receive: Any, send: Any) -> None:
        await JSONResponse([key.decode() for key, _ in scope["headers"]])(scope, receive, send)

    got = ask(
        echo_headers, {"X-Request-Timeout-Seconds": "0", "x-request-disconnect-disabled": "?1", "x-mine": "1"}
    ).json()
    assert "x-mine" in got and not set(got) & {name.decode() for name in REMOVED_HEADERS}


def test_what_is_too_large_is_rejected_before_a_frontend_is_asked() -> None:
    async def unexpected(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError

    for headers, status in (
        ({"Content-Length": str(MAX_JSON_BYTES + 1), "Content-Type": "application/json"}, 413),
        ({"Content-Length": "100000001", "Content-Type": "multipart/form-data; boundary=b"}, 413),
        ({"X-Long": "x" * 16_400}, 431),
    ):
        answer = ask(unexpected, headers)
        assert answer.status_code == status and answer.headers["X-Content-Type-Options"] == "nosniff"


def post(inner: Any, pieces: list[bytes], pause_s: float = 0.0, kind: str = "application/json") -> httpx.Response:
    """Send a body in chunks."""

    async def body() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece
            await asyncio.sleep(pause_s)

    async def scene() -> httpx.Response:
        transport = httpx.ASGITransport(ApiErrorMiddleware(inner))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.post("/x", content=body(), headers={"Content-Type": kind})

    return asyncio.run(scene())


def test_a_body_in_chunks_that_is_too_large_or_too_slow_reaches_no_frontend(monkeypatch: pytest.MonkeyPatch) -> None:
    async def unexpected(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError

    answer = post(unexpected, [b"x" * (MAX_JSON_BYTES // 2)] * 3)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
    monkeypatch.setattr(http_proxy, "LIMITS", replace(http_proxy.LIMITS, timeout_s=0.2))
    answer = post(unexpected, [b"x"] * 10, pause_s=0.1)
    assert (answer.status_code, answer.json()["error"]["code"]) == (408, "timeout")


@pytest.mark.parametrize(("kind", "expected"), [("application/json", [6]), ("multipart/form-data; boundary=b", [2, 4])])
def test_serve_gets_json_at_once_and_a_form_as_it_arrives(kind: str, expected: list[int]) -> None:
    async def lengths(scope: Any, receive: Any, send: Any) -> None:
        found, more = list[int](), True
        while more:
            message = await receive()
            more = message["more_body"]
            found += [len(message["body"])] if message["body"] else []
        await JSONResponse(found)(scope, receive, send)

    assert post(lengths, [b"ab", b"cdef"], kind=kind).json() == expected


def test_serves_list_of_applications_is_for_this_machine_alone() -> None:
    app = ApiErrorMiddleware(PlainTextResponse('{"/": "emage"}'))

    async def status(path: str, peer: str = "127.0.0.1", **headers: str) -> int:
        transport = httpx.ASGITransport(app, client=(peer, 5000))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8000") as client:
            return (await client.get(path, headers=headers)).status_code

    async def scene() -> list[int]:
        routes = "/-/routes"
        return [
            await status(routes),
            await status(routes, "192.0.2.7"),
            await status(routes, host="rebound.example"),
            await status(routes, via="1.1 front"),
            await status("/-/healthz", "192.0.2.7"),  # which load balancers and Kubernetes ask
        ]

    assert asyncio.run(scene()) == [200, 404, 404, 404, 200]


def test_serves_http_server_gets_the_parser_with_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(uvicorn.config.HTTP_PROTOCOLS, "auto", "uvicorn.protocols.http.auto:AutoHTTPProtocol")
    http_proxy.middlewares()
    config = uvicorn.Config(ask)  # as Serve makes it
    config.load()
    assert config.http_protocol_class is LimitedProtocol


def test_the_process_that_speaks_http_holds_no_pytorch() -> None:
    import subprocess

    code = "import sys, emage.on_ray.serving.frontend; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_hook_names_the_middlewares_and_the_cluster_files_repeat_it() -> None:
    """Serve imports the hook by this text on every node, so files outside Python have to spell it out."""
    variable, path = launch.PROXY_HOOK
    module, _, function = path.partition(":")
    assert getattr(importlib.import_module(module), function) is http_proxy.middlewares
    assert environment.VARIABLES[variable].default == path
    for file in ("cluster/Dockerfile", "cluster/serve.yaml", "docs/guides/serving.md"):
        assert f"{variable}={path}" in (ROOT / file).read_text(), file
