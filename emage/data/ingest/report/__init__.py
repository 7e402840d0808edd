"""The report of an ingest: its sums and sentences, the Markdown file, the chart, examples of rejected captions."""
