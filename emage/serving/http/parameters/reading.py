"""The parameters of a request and the images of an edit, read from a JSON body or from a form.

Both kinds of body are checked alike: a form's fields are JSON values without the quotes of texts.
"""

import asyncio
import json
import re
from collections.abc import Sequence
from typing import Any

from fastapi import Request
from starlette.datastructures import FormData, Headers, UploadFile

from emage.config.fields import shown_value
from emage.serving.http.parameters.checks import MAX_SHOWN, checked, schema_of
from emage.serving.http.parameters.image_references import markup_error, several_images_error, take_files
from emage.serving.http.parameters.schema import ImageRequest
from emage.serving.http.transport.bodies import FORM, is_json, media_type
from emage.serving.limits import MAX_FORM_FIELD_BYTES, MAX_FORM_FIELDS, MAX_FORM_FILES, MAX_JSON_VALUES
from emage.serving.request import RequestError

FILES = ("image", "mask")
_JSON_SCALAR = re.compile(r"true|false|-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", re.ASCII)


async def from_json(http: Request) -> ImageRequest:
    """Return the parameters in a JSON body. Raises RequestError."""
    return checked(await _json_object(http))


async def _json_object(http: Request) -> dict[str, Any]:
    """Return the JSON object that is the body. Raises RequestError."""
    _check_encoding(http.headers)
    kind = media_type(http.headers)
    body = await http.body()
    if not body:
        raise RequestError("missing_required_parameter", "a JSON body is required")
    if not is_json(kind):
        said = f"not {kind[:MAX_SHOWN]!r}" if kind else "and there is none"
        raise RequestError("invalid_json", f"the header Content-Type must be application/json, {said}")
    if sum(map(body.count, (b",", b"[", b"{"))) > MAX_JSON_VALUES:  # before any of them takes memory
        raise RequestError("invalid_json", f"the body has more than {MAX_JSON_VALUES:,} values or commas")
    values = await asyncio.to_thread(_parse_json, body)
    if not isinstance(values, dict):
        raise RequestError("invalid_json", "the body is JSON, but not an object: {...}")
    return values


async def from_edit(http: Request) -> tuple[ImageRequest, dict[str, bytes]]:
    """Return the parameters of an edit and its files, from a form or from JSON. Raises RequestError."""
    if is_json(media_type(http.headers)):
        values = await _json_object(http)
        files = await asyncio.to_thread(take_files, values)
        return checked(values), files
    return await _from_form(http)


async def _from_form(http: Request) -> tuple[ImageRequest, dict[str, bytes]]:
    _check_encoding(http.headers)
    if media_type(http.headers) != FORM:
        raise RequestError("invalid_form", f"the body must be {FORM}, or application/json with data URLs")
    limits = {"max_files": MAX_FORM_FILES, "max_fields": MAX_FORM_FIELDS, "max_part_size": MAX_FORM_FIELD_BYTES}
    async with http.form(**limits) as form:
        files = await _files(form)
        parameters = checked(_fields(form))
    if "image" not in files:
        raise RequestError("missing_required_parameter", "image is required, as a file", "image")
    return parameters, files


def _check_encoding(headers: Headers) -> None:
    coding = headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("identity", ""):
        message = f"the header Content-Encoding is {coding[:MAX_SHOWN]!r}: send the body as it is, not packed"
        raise RequestError("invalid_request", message)


def _parse_json(body: bytes) -> Any:
    def reject(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        return json.loads(body.decode("utf-8-sig"), parse_constant=reject)
    except UnicodeDecodeError as error:
        reason = f"byte {error.start} is not UTF-8"
    except RecursionError:
        reason = "it is nested too deeply"
    except ValueError as error:  # also a number of more digits than Python reads
        reason = str(error).partition(";")[0]
    raise RequestError("invalid_json", f"the body is not JSON: {reason}")


# --- Forms ------------------------------------------------------------------------------------------------------------


async def _files(form: FormData) -> dict[str, bytes]:
    """Return the files of a form. An empty one is not given. Raises RequestError."""
    uploads: dict[str, list[UploadFile]] = {}
    for key, value in form.multi_items():
        if isinstance(value, UploadFile) and value.size:
            uploads.setdefault(_without_brackets(key), []).append(value)
    for name, same_name in uploads.items():
        _check_files(name, same_name)
    return {name: await same_name[0].read() for name, same_name in uploads.items()}


def _check_files(name: str, uploads: Sequence[UploadFile]) -> None:
    """Raise RequestError for files that are not an image and its mask."""
    if name == "markup":
        raise markup_error()
    if name not in FILES:
        name = shown_value(name[:MAX_SHOWN])
        raise RequestError("unknown_parameter", f"unknown file {name!r}: only image and mask", name)
    if len(uploads) > 1:
        raise several_images_error(name, f"{len(uploads)} files", name)


def _fields(form: FormData) -> dict[str, Any]:
    """Return the fields of a form as values of JSON. `metadata[team]` is a part of the object `metadata`."""
    fields: dict[str, Any] = {}
    parts_of: dict[str, dict[str, str]] = {}
    for key, value in form.multi_items():
        if isinstance(value, UploadFile):
            continue
        name, _, part = key.partition("[")
        if part.rstrip("]") and _json_type(name) == "object":
            parts_of.setdefault(name, {})[part.rstrip("]")] = value
            continue
        name = _without_brackets(key)
        if name in FILES and value:
            raise RequestError("invalid_value", f"{name}: must be a file, not text", name)
        if name in fields:
            raise _given_twice(name)
        fields[name] = _form_value(name, value)
    if both := next((name for name in parts_of if fields.get(name)), None):
        raise _given_twice(both)
    return fields | parts_of


def _given_twice(name: str) -> RequestError:
    name = shown_value(name[:MAX_SHOWN])
    return RequestError("invalid_value", f"{name} is given twice", name)


def _form_value(name: str, text: str) -> Any:
    """Return a form's field as the value that it would have in JSON. A text that its type does not fit stays a text."""
    if _json_type(name) == "object" and text.startswith("{"):
        return _parse_json(text.encode())
    is_scalar = len(text) < 100 and _JSON_SCALAR.fullmatch(text)
    return json.loads(text) if is_scalar and _json_type(name) != "string" else text


def _json_type(name: str) -> str | None:
    """Return the type of a parameter in JSON; None if there is no such parameter."""
    return schema_of(name).get("type")


def _without_brackets(name: str) -> str:
    """Return `image` for `image[]`, OpenAI's name for several images."""
    return name.removesuffix("[]")
