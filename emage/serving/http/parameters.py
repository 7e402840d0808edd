"""The parameters of a request, read from a JSON body or from a form, and what is wrong with them, in our words.

Both kinds of body are checked alike: a form's fields are JSON values without the quotes of texts. A parameter that is
null, or an empty field of a form, is not given.
"""

import json
import re
from typing import Any

from fastapi import Request
from pydantic import ValidationError
from starlette.datastructures import Headers, UploadFile

from emage.config import nearest
from emage.config.fields import describe_allowed, shown_value
from emage.serving.http import schemas
from emage.serving.http.transport.bodies import FORM, media_type
from emage.serving.limits import MAX_FORM_FIELD_BYTES, MAX_FORM_FIELDS, MAX_FORM_FILES
from emage.serving.request import RequestError

FILES = ("image", "mask")
_MAX_NAME = 100  # characters of an unknown parameter in a message
_FIELDS = schemas.ImageRequest.model_json_schema()["properties"]
_JSON_SCALAR = re.compile(r"true|false|-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", re.ASCII)


async def from_json(http: Request) -> schemas.ImageRequest:
    """Return the parameters in a JSON body. Raises RequestError."""
    _check_encoding(http.headers)
    kind = media_type(http.headers)
    body = await http.body()
    if not body:
        raise RequestError("missing_required_parameter", "a JSON body is required")
    if kind != "application/json" and not kind.endswith("+json"):
        said = f"not {kind[:_MAX_NAME]!r}" if kind else "and there is none"
        raise RequestError("invalid_json", f"the header Content-Type must be application/json, {said}")
    values = _parse_json(body)
    if not isinstance(values, dict):
        raise RequestError("invalid_json", "the body is JSON, but not an object: {...}")
    return _checked(values)


async def from_form(http: Request) -> tuple[schemas.ImageRequest, dict[str, bytes]]:
    """Return the parameters and the files of a form. Raises RequestError."""
    _check_encoding(http.headers)
    fields, files = await _read_form(http)
    if unknown := sorted(set(files) - set(FILES)):
        name = shown_value(unknown[0][:_MAX_NAME])
        raise RequestError("unknown_parameter", f"unknown file {name!r}: only image and mask", name)
    parameters = _checked({name: _form_value(name, text) for name, text in fields.items()})
    if "image" not in files:
        raise RequestError("missing_required_parameter", "image is required, as a file", "image")
    return parameters, files


def _check_encoding(headers: Headers) -> None:
    coding = headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("identity", ""):
        message = f"the header Content-Encoding is {coding[:_MAX_NAME]!r}: send the body as it is, not packed"
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


async def _read_form(http: Request) -> tuple[dict[str, str], dict[str, bytes]]:
    """Return the fields and files of a form. `image[]`, OpenAI's name for several images, is read as `image`."""
    if media_type(http.headers) != FORM:
        raise RequestError("invalid_form", f"the body must be {FORM}")
    fields, files = {}, {}
    limits = {"max_files": MAX_FORM_FILES, "max_fields": MAX_FORM_FIELDS, "max_part_size": MAX_FORM_FIELD_BYTES}
    async with http.form(**limits) as form:
        for key, value in form.multi_items():
            name = key.removesuffix("[]")
            if name in fields or name in files:
                name = shown_value(name[:_MAX_NAME])
                raise RequestError("invalid_value", f"{name} is given twice", name)
            if isinstance(value, UploadFile):
                files[name] = await value.read()
            else:
                fields[name] = value
    return fields, files


def _form_value(name: str, text: str) -> Any:
    """Return a form's field as the value that it would have in JSON. A text that its type does not fit stays a text."""
    if text == "" and name != "prompt":
        return None
    is_text = any(option.get("type") == "string" for option in _options(_FIELDS.get(name, {})))
    return json.loads(text) if not is_text and len(text) < 100 and _JSON_SCALAR.fullmatch(text) else text


# --- Checks -----------------------------------------------------------------------------------------------------------


def _checked(values: dict[str, Any]) -> schemas.ImageRequest:
    """Return the parameters of a request. Raises RequestError for the first that is wrong."""
    given = {name: value for name, value in values.items() if value is not None}
    if unknown := [name for name in given if name not in _FIELDS]:
        name = shown_value(unknown[0][:_MAX_NAME])
        raise RequestError("unknown_parameter", f"unknown parameter {name!r}{nearest(name, list(_FIELDS))}", name)
    try:
        return schemas.ImageRequest.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    name = str(first["loc"][0])
    if first["type"] == "missing":
        raise RequestError("missing_required_parameter", f"{name} is required", name)
    raise RequestError("invalid_value", f"{name}: must be {allowed(name)}, not {_shown(given[name])}", name)


def allowed(name: str) -> str:
    """Return what a parameter may be, in words: "a whole number from 1 to 10", "one of png, jpeg"."""
    if name in schemas.SAMPLING_SETTINGS:
        return describe_allowed(schemas.SAMPLING_SETTINGS[name])
    kind = next(option for option in _options(_FIELDS[name]) if option.get("type") != "null")
    if "enum" in kind:
        return f"one of {', '.join(kind['enum'])}"
    if "const" in kind:
        return str(kind["const"])
    if kind["type"] == "boolean":
        return "true or false"
    if kind["type"] == "integer":
        return f"a whole number from {kind['minimum']:,} to {kind['maximum']:,}"
    return f"text of {kind.get('minLength', 0)} to {kind['maxLength']:,} characters" if "maxLength" in kind else "text"


def _options(field: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the alternatives of a JSON schema."""
    return field.get("anyOf", [field])


def _shown(value: Any) -> str:
    """Return a value that is wrong as a short piece of one line, as it would be in JSON."""
    if isinstance(value, str) and len(value) > 60:
        return f"one of {len(value):,} characters"
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    return shown_value(json.dumps(value))[:_MAX_NAME]
