"""URL table -> token table, on a cluster."""
