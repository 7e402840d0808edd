"""Images from outside, bytes or Pillow images of any kind -> upright 8-bit RGB, for ingest, evaluation and serving."""
