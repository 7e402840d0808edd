"""Removal of keys, secrets and passwords from addresses that are shown or stored."""

import re
from typing import Any

# User info, in two forms. By the standard it ends at the last @ before the first / ? #. Keys of object storage and
# passwords that were not percent-encoded hold those and blanks: then it ends at the last @ before the next address; but
# host:port/ is none, except for s3, where no address has a port.
_USER = re.compile(
    r"""(?<=://)
    (?: [^\s/?\#]*@
      | (?! (?<!s3://) [^\s/@:]+ :\d{1,5} (?:[/?\#,\s]|$) ) [^\s/@:]*: (?: (?![a-z0-9]://) [^\n] )*@
    )""",
    re.VERBOSE | re.IGNORECASE,
)
# Parameters of a query, a fragment or a connection string (Azure's) whose name says that they are secret: password,
# sig, secret_key, X-Amz-Signature, AccountKey, session_token ... More names than these match, which does no harm.
_NAME = r"(?P<name>[?&;#][^\s?&;#=]{0,40}(?:pass|pwd|secret|token|sig|key|cred|auth|session)[^\s?&;#=]{0,40}=)"
_IN_TEXT = re.compile(_NAME + r"""[^\s&;#"'<>]+""", re.IGNORECASE)
_IN_ADDRESS = re.compile(_NAME + r"[^&;#]+", re.IGNORECASE)  # here a blank is part of the value


def redact(text: str) -> str:
    """Return a text with the secrets of its addresses replaced.

    User info and values of secret parameters become ***: s3://key:secret@bucket/path -> s3://***@bucket/path,
    https://host/path?page=2&token=abc -> https://host/path?page=2&token=***.
    """
    return _IN_TEXT.sub(r"\g<name>***", _USER.sub("***@", text))


def redact_settings(value: Any) -> Any:
    """Return a setting, or settings in dicts, lists and tuples, with secrets replaced as `redact` does.

    A string that is an address is one to its end, blanks included.
    """
    if isinstance(value, dict):
        return {key: redact_settings(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact_settings(item) for item in value]
    if not isinstance(value, str):
        return value
    return redact(_IN_ADDRESS.sub(r"\g<name>***", value) if "://" in value else value)
