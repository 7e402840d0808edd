"""Evaluation on a cluster: checkpoint and captions -> images and a report."""
