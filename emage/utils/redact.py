"""Addresses as they may be shown and kept: without the key and secret, or the password, that may stand in them."""

import re

# A secret may hold slashes, as those of object storage do; a user without one does not.
_USER = re.compile(r"(?<=://)([^\s/@:]+:[^\s@]*|[^\s/@]+)@")


def redact(text: str) -> str:
    """s3://key:secret@bucket/path -> s3://***@bucket/path, anywhere in a text."""
    return _USER.sub("***@", text)
