"""Reading of URL tables: their files, formats and values. `emage.data.ingest.url_table` is what other code calls."""
