"""Where tables lie: local paths, and URIs of object storage (s3://, gs://, hdfs://) through pyarrow."""

import os

import pyarrow as pa
import pyarrow.fs

from emage.utils.errors import InputError
from emage.utils.redact import redact


def find(uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """The file system of a path or URI, and the path there. Raises InputError where the URI makes no sense."""
    if "://" not in uri:
        return pyarrow.fs.LocalFileSystem(), uri
    address = uri
    if uri.startswith(("gs://", "gcs://")) and "retry_limit_seconds" not in uri:
        # Google's client tries again for 15 minutes before it says what is wrong; half a minute will do.
        address += ("&" if "?" in uri else "?") + "retry_limit_seconds=30"
    try:
        return pyarrow.fs.FileSystem.from_uri(address)
    except (pa.ArrowException, OSError) as error:
        raise InputError(redact(f"{uri}: {first_line(error)}")) from None


def absolute(uri: str) -> str:
    """The same place for processes that work in another folder."""
    return uri if "://" in uri else os.path.abspath(uri)


def first_line(error: Exception) -> str:
    """What an exception says, on one line."""
    return (str(error).splitlines() or [type(error).__name__])[0]
