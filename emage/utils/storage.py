"""Local paths and URIs of object storage (s3://, gs://, hdfs://, abfs://, hf://), through pyarrow."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow.fs

from emage.utils.errors import InputError, first_line
from emage.utils.redact import redact, redact_settings

_BRACES = re.compile(r"\{[^{}]*(?:\.\.|,)[^{}]*\}")


def split_braces(uri: str) -> tuple[str, list[str]]:
    """Return the folder of the files that braces name, as a shell expands them, and the files' paths in it.

    "shards/{000..002}.tar" is ("shards", ["000.tar", "001.tar", "002.tar"]); a path without braces has no files.
    """
    head, mark, query = uri.partition("?") if "://" in uri else (uri, "", "")
    if not (braces := _BRACES.search(head)):
        return uri, []
    from braceexpand import braceexpand  # of the extra "pipelines"

    folder, slash, _ = head[: braces.start()].rpartition("/")
    names = list(braceexpand(head.removeprefix(folder + slash)))
    return f"{folder or (slash or '.')}{mark}{query}", names


def find(uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """Return the file system of a path or URI, and the path in it; of files that braces name, their folder's.

    Raises:
        InputError: The URI is not valid.
    """
    uri, _ = split_braces(uri)
    if "://" not in uri:
        return pyarrow.fs.LocalFileSystem(), uri
    address = uri
    if uri.startswith(("gs://", "gcs://")) and "retry_limit_seconds" not in uri:
        # Google's client retries for 15 minutes before it reports an error; half a minute is enough.
        address += ("&" if "?" in uri else "?") + "retry_limit_seconds=30"
    if uri.startswith(("http://", "https://")):
        raise InputError(
            f"{redact_settings(uri)}: files of web servers are not read; download it first, and name the file"
        )
    with explain_errors(uri):
        return pyarrow.fs.FileSystem.from_uri(address)


@contextmanager
def explain_errors(uri: str) -> Iterator[None]:
    """Turn an error of the storage into an InputError of one line that names the address.

    Each kind of storage has its own client and errors: hf:// raises those of the HTTP library, for example.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(redact(f"{redact_settings(uri)}: {first_line(error)}")) from None


def absolute(uri: str) -> str:
    """Return a path as an absolute one, for processes with another working folder; a URI is returned unchanged."""
    return uri if "://" in uri else os.path.abspath(uri)
