"""What an ingest records of its tables' files: to notice that one has changed, and to compare the counts of its rows.

The record of a file is {"name", "size", "mtime_ns", "rows", "sha256"}: its path in the table's folder, bytes, time of
the last change (None if the storage has none), rows by `kinds.survey`, digest of its bytes.
"""

from collections import Counter
from pathlib import PurePosixPath
from typing import Any

import pyarrow.fs

from emage.config import SourceConfig
from emage.data.ingest.sources import kinds
from emage.data.ingest.tables import table_files

Record = dict[str, Any]


def facts(table: table_files.TableFiles, info: pyarrow.fs.FileInfo) -> Record:
    """Return the part of a file's record that is known without reading it."""
    return {"name": table.name_of(info.path), "size": info.size, "mtime_ns": info.mtime_ns}


def content(files: list[Record]) -> list[list[str]]:
    """Return the part of a table's record that depends on its bytes alone, not on the time of a copy."""
    return [[file["name"], file["sha256"]] for file in files]


def has_changed(files: list[Record], config: SourceConfig) -> bool:
    """Return True if a table is not what it was when it was recorded.

    A file is read only if its time differs: a copy has another one, with the same bytes.
    """
    table = kinds.find_files(config)
    now = [facts(table, info) for info in table.infos]
    if files and isinstance(files[0], list):  # of a version that recorded names and sizes alone
        return files != [[PurePosixPath(file["name"]).name, file["size"]] for file in now]
    if [(file["name"], file["size"]) for file in files] != [(file["name"], file["size"]) for file in now]:
        return True
    return any(
        (new["mtime_ns"] is None or new["mtime_ns"] != old["mtime_ns"])
        and kinds.survey(config, info.path)["sha256"] != old["sha256"]
        for old, new, info in zip(files, now, table.infos, strict=True)
    )


def compare_counts(tables: list[tuple[str, list[Record]]], read: Counter[tuple[str, str]]) -> list[dict[str, Any]]:
    """Return the files in which the reader met another number of rows than the count found that is independent of it.

    Args:
        tables: The records of each data set's files.
        read: Rows that the reader met, by data set and name of the file.

    Returns:
        {"dataset", "file", "read", "counted"} of each such file.
    """
    return [
        {"dataset": dataset, "file": file["name"], "read": read[dataset, file["name"]], "counted": file["rows"]}
        for dataset, files in tables
        for file in files
        if read[dataset, file["name"]] != file["rows"]
    ]
