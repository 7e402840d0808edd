"""The error codes of the HTTP API: the status, the meaning and the remedy of each.

The answers, the OpenAPI description and docs/http_api.md all take them from here: a code has exactly one status.
"""

from dataclasses import dataclass

BROKE_DURING_REQUEST = "model_broke"  # the model broke while it generated this request, which may be the cause
BROKEN_BEFORE_REQUEST = "model_broken"  # the model had broken before this request reached it


@dataclass(frozen=True)
class ErrorCode:
    """The status and the explanation of an error code."""

    status: int
    meaning: str
    remedy: str  # for the client


_FIX = "Correct what `param` names."

ERROR_CODES = {
    "invalid_value": ErrorCode(400, "A parameter has the wrong type or is out of its range.", _FIX),
    "unknown_parameter": ErrorCode(400, "A field or file does not exist in this API.", _FIX),
    "missing_required_parameter": ErrorCode(400, "A required field or file is missing.", _FIX),
    "invalid_json": ErrorCode(
        400,
        "The body is not a JSON object in UTF-8, or its Content-Type says that it is not.",
        "Send a JSON object with `Content-Type: application/json`.",
    ),
    "invalid_form": ErrorCode(
        400, "The body of an edit is neither a form nor JSON.", "Send `multipart/form-data` or `application/json`."
    ),
    "invalid_image": ErrorCode(400, "An uploaded image cannot be decoded or is too large.", _FIX),
    "content_policy_violation": ErrorCode(400, "The safety hook rejected the prompt or image.", "Change the prompt."),
    "invalid_request": ErrorCode(
        400,
        "The HTTP request itself is malformed, or not one that this API answers.",
        "Correct the headers or the body.",
    ),
    "invalid_api_key": ErrorCode(
        401,
        "The API key is missing or wrong; or the endpoint has no key and the client is on another machine.",
        "Send `Authorization: Bearer KEY`.",
    ),
    "host_not_allowed": ErrorCode(
        403, "The endpoint has no key and was reached by another name than localhost.", "Use localhost, or set a key."
    ),
    "origin_not_allowed": ErrorCode(
        403, "The endpoint has no key and the request is from a page of another site.", "Add it to `access.origins`."
    ),
    "model_not_found": ErrorCode(404, "`model` is not the served model.", "Use a name from `GET /v1/models`."),
    "not_found": ErrorCode(404, "The route does not exist.", "Correct the path."),
    "method_not_allowed": ErrorCode(
        405, "The route exists, but not with this method.", "Use one that the header `Allow` lists."
    ),
    "timeout": ErrorCode(
        408,
        "The images were not ready within `timeout_s`, or the body did not arrive in time.",
        "Try again; ask for fewer images or steps.",
    ),
    "request_too_large": ErrorCode(
        413,
        "The body of an edit is larger than `access.max_upload_mb`, or another one larger than a prompt can be.",
        "Send a smaller image or a shorter prompt.",
    ),
    "rate_limit_exceeded": ErrorCode(
        429, "Too many images or requests are waiting.", "Try again after `Retry-After` seconds."
    ),
    "headers_too_large": ErrorCode(431, "Path and headers together are too large.", "Send fewer or shorter headers."),
    "drawing_failed": ErrorCode(500, "The model failed on this batch; the server's log has the reason.", "Try again."),
    "internal_error": ErrorCode(
        500, "The server has a bug; its log has the stack trace.", "Report it with the server's log."
    ),
    "replica_lost": ErrorCode(
        503,
        "The process that handled the request was lost: once if it was a frontend, twice if it was a replica.",
        "Try again; report a request that repeats it.",
    ),
    "not_ready": ErrorCode(
        503,
        "The endpoint is starting or stopping, or its first model is being loaded.",
        "Try again after `Retry-After` seconds.",
    ),
    BROKE_DURING_REQUEST: ErrorCode(
        503,
        "The model failed for good during this request; its replica is being replaced.",
        "Try again after `Retry-After` seconds; report a request that repeats it.",
    ),
    BROKEN_BEFORE_REQUEST: ErrorCode(
        503,
        "The model had failed for good before this request; its replica is being replaced.",
        "Try again after `Retry-After` seconds.",
    ),
}

_TYPES = {401: "authentication_error", 403: "permission_error", 408: "timeout_error", 429: "rate_limit_error"}


def error_type(status: int) -> str:
    """Return OpenAI's `type` for a status."""
    return _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
