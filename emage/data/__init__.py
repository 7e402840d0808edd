"""Data: the columns of every file, the rows of URL tables (ingest/), the token table, the toy world of shapes."""
