"""What is wrong with the parameters of a request, in our words."""

import json
from typing import Any

from pydantic import ValidationError

from emage.config import nearest
from emage.config.fields import describe_allowed, shown_value
from emage.serving.http.parameters import effects
from emage.serving.http.parameters.schema import OTHER_NAMES, SAMPLING_SETTINGS, ImageRequest
from emage.serving.request import RequestError

MAX_SHOWN = 100  # characters of a name or a value in a message
FIELDS = ImageRequest.model_json_schema()["properties"]
_EMPTY = (None, "")
_SIMPLE_KINDS = {"boolean": "true or false", "object": "an object"}


def checked(values: dict[str, Any]) -> ImageRequest:
    """Return the parameters of a request. One that is null or empty is not given, except for an empty prompt.

    Raises RequestError for the first that is wrong.
    """
    given = {name: value for name, value in values.items() if value not in _EMPTY or (name == "prompt" and value == "")}
    if unknown := [name for name in given if name not in FIELDS]:
        name = shown_value(unknown[0][:MAX_SHOWN])
        raise RequestError("unknown_parameter", f"unknown parameter {name!r}{nearest(name, list(FIELDS))}", name)
    effects.check_refused(given)
    try:
        return ImageRequest.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    name = str(first["loc"][0])
    if first["type"] == "missing":
        raise RequestError("missing_required_parameter", f"{name} is required", name)
    raise RequestError("invalid_value", f"{name}: must be {allowed(name)}, not {_shown(given[name])}", name)


def allowed(name: str) -> str:
    """Return what a parameter may be, in words: "a whole number from 1 to 10", "one of png, jpeg, webp"."""
    if (setting := OTHER_NAMES.get(name, name)) in SAMPLING_SETTINGS:
        return describe_allowed(SAMPLING_SETTINGS[setting])
    kind = schema_of(name)
    if "enum" in kind:
        return f"one of {', '.join(kind['enum'])}"
    if kind["type"] in _SIMPLE_KINDS:
        return _SIMPLE_KINDS[kind["type"]]
    if kind["type"] == "integer":
        return f"a whole number from {kind['minimum']:,} to {kind['maximum']:,}"
    return f"text of {kind.get('minLength', 0)} to {kind['maxLength']:,} characters" if "maxLength" in kind else "text"


def schema_of(name: str) -> dict[str, Any]:
    """Return the JSON schema of a parameter without its alternative null; empty if there is no such parameter."""
    return not_null(FIELDS.get(name, {}))


def not_null(field: dict[str, Any]) -> dict[str, Any]:
    """Return a JSON schema without its alternative null."""
    return next((option for option in field.get("anyOf", ()) if option.get("type") != "null"), field)


def _shown(value: Any) -> str:
    """Return a value that is wrong as a short piece of one line, as it would be in JSON."""
    if isinstance(value, str) and len(value) > 60:
        return f"one of {len(value):,} characters"
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    return shown_value(json.dumps(value))[:MAX_SHOWN]
