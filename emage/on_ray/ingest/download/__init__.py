"""The download stage of the ingest: shards of URLs -> image shards, in one or more rounds."""
