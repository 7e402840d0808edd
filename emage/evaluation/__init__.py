"""What an evaluation is made of, without a cluster.

caption_list   which captions are drawn, and with which seeds
shards         the drawn images: PNGs in .tar files, and what was measured of them
report         figures with all that made them, for people and for programs
"""
