"""Data: the columns of every file, the ingest, the token table and how to inspect it, the toy world of shapes."""
