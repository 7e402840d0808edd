"""Checkpoint and captions -> images and a report, on a cluster."""
