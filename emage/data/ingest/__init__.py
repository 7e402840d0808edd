"""A row of a URL table -> an image and a caption, or a drop reason. Nothing here needs a cluster."""
