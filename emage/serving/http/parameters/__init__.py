"""The parameters of a request: their schema, how they are read from JSON and from forms, and how they are checked."""
