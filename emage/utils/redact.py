"""Removal of keys, secrets and passwords from addresses that are shown or stored."""

import re

# A secret may hold slashes, as those of object storage do; a user without one does not.
_USER = re.compile(r"(?<=://)([^\s/@:]+:[^\s@]*|[^\s/@]+)@")


def redact(text: str) -> str:
    """Return a text with credentials in its addresses replaced: s3://key:secret@bucket/path -> s3://***@bucket/path."""
    return _USER.sub("***@", text)
