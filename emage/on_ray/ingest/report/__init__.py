"""The report of an ingest: its numbers (reconciliation.py) and its images of taken and dropped rows (sheets.py)."""
