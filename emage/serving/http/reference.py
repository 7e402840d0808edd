"""docs/http_api.md, made from the schemas, the error codes and the limits. A test compares the page with them.

python -m emage.serving.http.reference > docs/http_api.md
"""

from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import BaseModel

from emage.config import ServeConfig
from emage.config.fields import format_bound, leaves
from emage.data.images import file_kinds
from emage.serving import limits
from emage.serving.error_codes import ERROR_CODES, error_type
from emage.serving.http import reference_examples, schemas
from emage.serving.http.app import Options, make_app
from emage.serving.http.auth import PUBLIC_PATHS
from emage.serving.http.error_handlers import SECURITY_HEADERS
from emage.serving.http.parameters.checks import not_null
from emage.serving.http.parameters.effects import REFUSED
from emage.serving.http.parameters.schema import OTHER_NAMES, SAMPLING_SETTINGS, ImageRequest

_INTRODUCTION = """# HTTP API
<!-- made by: python -m emage.serving.http.reference > docs/http_api.md -->
The images API of OpenAI, served by `emage serve` (guide: [Serving](guides/serving.md)): OpenAI's clients work with
another base URL. An endpoint also has this description as OpenAPI, at `/docs` and `/openapi.json`."""

_GENERATION = """## Request: a generation

`POST /v1/images/generations` takes a JSON object with these parameters. One that is left out, null or empty has its
default; an unknown one is an error. Every parameter of OpenAI's images API is known: one that cannot change the image
is accepted, and `warnings` of the answer names it; what would be another image than was asked for is refused."""

_REFUSED = """Values of OpenAI's API that are refused (`invalid_value`):"""

_EDIT = """## Request: an edit

`POST /v1/images/edits` takes a form with the same parameters and two files. Numbers, true and false are written as in
JSON; an empty field or file is one that is left out, and `metadata[team]` is a part of the object `metadata`. The
marked part of the image is regenerated, by whole positions of the token grid.

Or it takes JSON with `images`, a list with one `{"image_url": "data:image/png;base64,..."}`, and such an object as
`mask`, in place of the files. Nothing is fetched from other servers, and no files are stored: other URLs and `file_id`
are refused."""

_EVENTS = """## Events of a stream

With `stream`, the answer is `text/event-stream`. Its events are `image_generation.partial_image` (a preview) and
`image_generation.completed` (a finished image); for edits `image_edit.partial_image` and `image_edit.completed`. The
events of several images are interleaved. The last event may be `error`, whose data is the body of an error. Closing
the connection cancels the generation. An error before the first event is a plain answer with its status."""

_ERRORS = """## Errors

Every answer other than 200 is `{"error": {...}}` with these fields, and so is the data of an `error` event:"""

_CODES = """## Error codes

Each code has one status."""

_HEADERS = (
    ("request", "`Authorization: Bearer KEY`", "required if the endpoint has an API key, except for the public routes"),
    ("request", "`Content-Encoding`", "none: a packed body is an error"),
    ("request", "`Content-Type`", "`application/json` for a generation, this or `multipart/form-data` for an edit"),
    ("request", "`Origin`, `Host`", "checked if the endpoint has no API key: localhost, or a site of `access.origins`"),
    ("answer", "`Retry-After`", "seconds until a retry makes sense, with most 429 and 503"),
    ("answer", "`WWW-Authenticate: Bearer`", "with every 401"),
    ("answer", "`Allow`", "with every 405: the methods of the route. A route with GET has HEAD as well"),
    ("answer", "`Cache-Control: no-store`", "with every stream"),
    *(("answer", f"`{name}: {value}`", "with every answer") for name, value in SECURITY_HEADERS.items()),
)


def page() -> str:
    """Return docs/http_api.md."""
    return "\n\n".join(text.strip() for text in _sections()) + "\n"


def _sections() -> Iterator[str]:
    yield _INTRODUCTION
    yield "## Examples\n\n" + reference_examples.examples()
    yield "## Routes\n\n" + _table(("route", "meaning", "API key"), _routes())
    yield _GENERATION + "\n\n" + _table(_PARAMETER_COLUMNS, _parameters())
    yield _REFUSED + "\n\n" + _table(("value", "reason"), _refused())
    yield _EDIT + "\n\n" + _table(_PARAMETER_COLUMNS, _files())
    yield f"## Answer\n\n{_fields(schemas.ImageResponse)}\n\nEach entry of `data`:\n\n{_fields(schemas.ImageData)}"
    yield "`usage`:\n\n" + _fields(schemas.Usage)
    yield "Its `input_tokens_details` and `output_tokens_details`:\n\n" + _fields(schemas.TokenKinds)
    yield _EVENTS + "\n\n" + _fields(schemas.ImageEvent)
    yield "In a preview, also:\n\n" + _fields(schemas.PartialImageEvent, without=schemas.ImageEvent)
    yield "In a finished image, also:\n\n" + _fields(schemas.CompletedEvent, without=schemas.ImageEvent)
    yield "## Models\n\n" + _fields(schemas.ModelList) + "\n\nEach entry:\n\n" + _fields(schemas.ModelDescription)
    yield _ERRORS + "\n\n" + _fields(schemas.ErrorBody)
    yield _CODES + "\n\n" + _table(_ERROR_COLUMNS, _error_codes())
    yield "## Headers\n\n" + _table(("in", "header", "meaning"), _HEADERS)
    yield "## Limits\n\n" + _table(("limit", "value", "setting", "beyond it"), _limits())


_CLOSED = "the connection is closed"
_OLDEST_IS_CLOSED = "the one that has waited longest for a request is closed"
_BODIES_WAIT = f"further ones wait, up to {limits.BODY_TIMEOUT_S:g} seconds: `rate_limit_exceeded`"
_PARAMETER_COLUMNS = ("name", "type", "default", "range", "description")
_ERROR_COLUMNS = ("status", "code", "type", "meaning", "what to do")


def _routes() -> Iterator[tuple[str, str, str]]:
    app = make_app(None, Options(), _NoMetrics())  # type: ignore[arg-type]
    for path, methods in app.openapi()["paths"].items():
        for method, operation in methods.items():
            needs_key = "no" if path in PUBLIC_PATHS else "yes"
            yield f"`{method.upper()} {path}`", " ".join(operation["description"].split()), needs_key
    yield "`GET /`", "The playground page.", "no"
    yield "`GET /docs`, `GET /openapi.json`", "The OpenAPI description.", "no"


class _NoMetrics:
    """A placeholder for a MetricsSink, with which /metrics is among the routes."""


def _parameters() -> Iterator[tuple[str, ...]]:
    schema = ImageRequest.model_json_schema()
    for name, field in schema["properties"].items():
        setting = OTHER_NAMES.get(name, name)
        is_sampling = setting in SAMPLING_SETTINGS
        if name in schema["required"]:
            default = "required"
        else:
            default = "the model's own" if is_sampling else f"`{_json(field.get('default'))}`"
        bounds = _sampling_range(setting) if is_sampling else _range(not_null(field))
        yield f"`{name}`", _type(field), default, bounds, field["description"]


def _refused() -> Iterator[tuple[str, ...]]:
    for (name, value), reason in REFUSED.items():
        yield f"`{name}={value}`", f"{reason[0].upper()}{reason[1:]}."
    yield "another `size`, without `scale`", "The model has one size."
    yield "several images, `markup`", "An edit is of one image, by a mask."


def _files() -> Iterator[tuple[str, ...]]:
    pixels = f"up to {limits.MAX_UPLOAD_PIXELS:,} pixels"
    yield "`image`", "file", "required", pixels, f"{file_kinds.DECODED_NAMES}. Transparent parts become white."
    marked = (
        "The part to regenerate: where it is transparent or, if it is opaque or black and white, where it is white."
    )
    yield "`mask`", "file", "the transparent part of `image`", "the size of `image`", marked


def _fields(model: type[BaseModel], without: type[BaseModel] | None = None) -> str:
    """Return a table of the fields of `model`, except those of `without`."""
    schema = model.model_json_schema()
    excluded = without.model_fields if without else {}
    rows = (
        (f"`{name}`", _type(field), field["description"])
        for name, field in schema["properties"].items()
        if name not in excluded
    )
    return _table(("field", "type", "meaning"), rows)


def _error_codes() -> Iterator[tuple[str, ...]]:
    for code, error in sorted(ERROR_CODES.items(), key=lambda item: item[1].status):
        yield str(error.status), f"`{code}`", f"`{error_type(error.status)}`", error.meaning, error.remedy


def _limits() -> Iterator[tuple[str, ...]]:
    settings = leaves(ServeConfig)

    def default(key: str) -> str:
        value = settings[key].default
        return f"{value:g} {settings[key].setting.unit}"

    yield "prompt", f"{limits.MAX_PROMPT_CHARACTERS:,} characters", "", "`invalid_value`"
    yield "images per request (`n`)", str(limits.MAX_IMAGES), "", "`invalid_value`"
    yield "candidates per image", str(limits.MAX_CANDIDATES), "", "`invalid_value`"
    yield "previews per image", str(limits.MAX_PREVIEWS), "", "`invalid_value`"
    yield "connections at one HTTP process", f"{limits.MAX_CONNECTIONS:,}", "", _OLDEST_IS_CLOSED
    yield "path and headers", f"{limits.MAX_HEADER_BYTES:,} bytes", "", "`headers_too_large` or `invalid_request`"
    yield "time for the headers to arrive", f"{limits.HEADER_TIMEOUT_S:g} seconds", "", _CLOSED
    yield "body that holds no images", f"{limits.MAX_JSON_BYTES:,} bytes", "", "`request_too_large`"
    yield "body of an edit", default("access.max_upload_mb"), "`access.max_upload_mb`", "`request_too_large`"
    yield "bodies in Serve's proxy", f"{limits.MAX_WAITING_BODIES_BYTES / 1e6:g} MB", "", _BODIES_WAIT
    yield "time for the body to arrive", f"{limits.BODY_TIMEOUT_S:g} seconds", "", "`timeout`"
    yield "fields, files of a form", f"{limits.MAX_FORM_FIELDS}, {limits.MAX_FORM_FILES}", "", "`invalid_request`"
    yield "field of a form", f"{limits.MAX_FORM_FIELD_BYTES:,} bytes", "", "`invalid_request`"
    yield "time to read 64 kB of the answer", f"{limits.ANSWER_TIMEOUT_S:g} seconds", "", _CLOSED
    yield "time to end a body after the answer", f"{limits.LINGER_S:g} seconds", "", _CLOSED
    yield "answers to a wrong key", f"after {limits.WRONG_KEY_DELAY_S:g} second", "", "`invalid_api_key`"
    yield "uploaded image", f"{limits.MAX_UPLOAD_PIXELS:,} pixels", "", "`invalid_image`"
    yield "time for a request", default("timeout_s"), "`timeout_s`", "`timeout`"
    yield "waiting images per replica", default("max_queued"), "`max_queued`", "`rate_limit_exceeded`"
    yield "open requests per frontend", f"{limits.MAX_OPEN_REQUESTS:,}", "", "wait in Serve's proxy"


# --- Cells of the tables ---


def _table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(columns)]
    lines += [["---"] * len(lines[0]), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _type(field: dict[str, Any]) -> str:
    kind = not_null(field)
    if "$ref" in kind:
        return "object"
    if choices := kind.get("enum") or ([kind["const"]] if "const" in kind else None):
        return ", ".join(f"`{choice}`" for choice in choices)
    items = (
        [_type(item) for item in (kind.get("prefixItems") or [kind.get("items", {})])]
        if kind["type"] == "array"
        else []
    )
    return f"array of {items[0]}s" if items else kind["type"]


def _range(kind: dict[str, Any]) -> str:
    if "maxLength" in kind:
        return f"{kind.get('minLength', 0)} to {kind['maxLength']:,} characters"
    return f"{kind['minimum']} to {kind['maximum']:,}" if "maximum" in kind else ""


def _sampling_range(name: str) -> str:
    described = SAMPLING_SETTINGS[name].setting
    if name == "steps":
        return f"{described.minimum} to the number of tokens"
    if described.minimum is None or described.maximum is None:
        return ""
    return f"{format_bound(described.minimum)} to {format_bound(described.maximum)}"


def _json(value: Any) -> str:
    return {None: "null"}.get(value, str(value))


if __name__ == "__main__":
    print(page(), end="")
