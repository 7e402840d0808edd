"""Captions of an ingest: their cleaning, and the rules that drop those not worth training on."""
