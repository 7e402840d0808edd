"""Prompt in, image out: the pipeline people use, and what makes it fast."""
