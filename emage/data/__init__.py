"""The files that pass between stages, the token table, the made-up data set of shapes."""
