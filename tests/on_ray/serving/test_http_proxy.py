"""What Ray Serve's proxy says by itself, in the API's form. The scenes with Serve are in test_serve*.py."""

import asyncio
import sys
from typing import Any

import httpx
import pytest
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse

from emage.on_ray.serving.http_proxy import LIFTED, ApiForm


def ask(inner: Any, headers: dict[str, str] | None = None) -> httpx.Response:
    async def scene() -> httpx.Response:
        transport = httpx.ASGITransport(ApiForm(inner))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.get("/x", headers=headers)

    return asyncio.run(scene())


@pytest.mark.parametrize(
    ("status", "expected", "code"), [(404, 503, "not_ready"), (408, 408, "timeout"), (503, 503, "not_ready")]
)
def test_serves_own_words_become_the_apis(status: int, expected: int, code: str) -> None:
    answer = ask(PlainTextResponse("Request dropped due to backpressure\nTraceback", status))
    assert (answer.status_code, answer.json()["error"]["code"]) == (expected, code) and "Traceback" not in answer.text


def test_a_request_whose_process_was_lost_has_an_answer() -> None:
    async def dies(scope: Any, receive: Any, send: Any) -> None:
        """As Serve's proxy ends where the replica did: without a word."""

    answer = ask(dies)
    assert (answer.status_code, answer.json()["error"]["code"], answer.headers["Retry-After"]) == (
        503,
        "replica_lost",
        "1",
    )


def test_all_else_is_left_alone() -> None:
    ours = JSONResponse({"error": {"code": "timeout"}}, 408)
    assert ask(ours).json() == {"error": {"code": "timeout"}}
    assert ask(PlainTextResponse("success")).text == "success"
    assert ask(StreamingResponse(iter(["a", "b"]))).text == "ab"


def test_clients_cannot_lift_serves_deadline() -> None:
    async def tells(scope: Any, receive: Any, send: Any) -> None:
        await JSONResponse([key.decode() for key, _ in scope["headers"]])(scope, receive, send)

    got = ask(tells, {"X-Request-Timeout-Seconds": "0", "x-request-disconnect-disabled": "?1", "x-mine": "1"}).json()
    assert "x-mine" in got and not set(got) & {name.decode() for name in LIFTED}


def test_the_process_that_speaks_http_holds_no_pytorch() -> None:
    import subprocess

    code = "import sys, emage.on_ray.serving.frontend; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
