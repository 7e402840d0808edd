"""Tables of URLs, whose images are on the web: see url_table.py and tables/."""

from emage.data.ingest.tables.row_count import survey
from emage.data.ingest.tables.table_files import find_files
from emage.data.ingest.url_table import check, read, split

__all__ = ["check", "find_files", "read", "split", "survey"]
