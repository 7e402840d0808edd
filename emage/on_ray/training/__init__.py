"""Token table -> checkpoint, on a cluster."""
