"""Evaluation without a cluster: captions, generated images, scores and the report.

caption_list         which captions get images, and with which seeds
reference_features   features of the real images, cached by content
image_shards         generated images as PNGs in .tar files, and the networks' outputs for them
scoring              scorers: networks that turn images into features or similarities; metric values from these
report               metric values with everything that they depend on, as JSON and Markdown
metrics/, networks/  the metrics, and the networks whose features they compare
"""
