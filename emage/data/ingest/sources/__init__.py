"""The inputs of an ingest by kind: tables of URLs, and images that the nodes can read themselves.

A kind is a module with the members that SourceModule in base.py lists; kinds.py has them by name, and finds out which
one a path is. The kinds differ in where rows and bytes come from, and in nothing behind that.
"""
