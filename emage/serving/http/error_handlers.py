"""Exception handlers: each exception is answered with an error of the API, one line without a stack trace."""

from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from emage.config.fields import shown_value
from emage.serving.error_codes import ERROR_CODES
from emage.serving.http import schemas
from emage.serving.request import RequestError

SECURITY_HEADERS = {"x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}  # of every answer
INTERNAL_ERROR_TEXT = "something went wrong in the server; its log has the reason"
# Statuses that FastAPI, Starlette and the access rules raise by themselves. All others become invalid_request.
CODES_BY_STATUS = {404: "not_found", 405: "method_not_allowed", 408: "timeout", 413: "request_too_large"}


def error_answer(
    code: str, message: str, param: str | None = None, retry_s: int = 0, headers: dict[str, str] | None = None
) -> Response:
    """Return an error as an answer: its code gives the status.

    Args:
        code: A key of `ERROR_CODES`.
        message: One line: what is wrong and what to do.
        param: The field that is at fault.
        retry_s: Seconds for Retry-After; 0: no such header.
        headers: Further headers.
    """
    retry = {"Retry-After": str(retry_s)} if retry_s else {}
    return JSONResponse(
        schemas.error_body(code, message, param),
        ERROR_CODES[code].status,
        {**SECURITY_HEADERS, **retry, **(headers or {})},
    )


async def on_request_error(_: Request, error: Exception) -> Response:
    """Answer a request that cannot be fulfilled."""
    assert isinstance(error, RequestError)
    return error_answer(error.code, error.message, error.param, error.retry_s)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Answer what FastAPI and Starlette reject by themselves, such as an unknown path, with the headers they gave."""
    assert isinstance(error, HTTPException)
    code, headers = CODES_BY_STATUS.get(error.status_code, "invalid_request"), dict(error.headers or {})
    if code == "method_not_allowed":
        headers.setdefault("Allow", "GET, HEAD")  # of files, whose app names none
    return error_answer(code, shown_value(f"{request.method} {request.url.path}: {error.detail}"), headers=headers)


async def on_exception(_: Request, error: Exception) -> Response:
    """Answer a bug of the server."""
    return error_answer("internal_error", INTERNAL_ERROR_TEXT)


HANDLERS: dict[Any, Any] = {
    RequestError: on_request_error,
    HTTPException: on_http_exception,
    Exception: on_exception,
}
