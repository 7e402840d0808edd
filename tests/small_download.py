"""Settings of a download of a few images from a server on this machine, and answers of that server."""

import web
from PIL import Image

from emage.config import DownloadConfig

CONFIG = DownloadConfig(
    shard_rows=100,
    image_size=32,
    min_image_size=16,
    threads=8,
    timeout_s=5.0,
    retries=0,
    allow_private_hosts=True,
    min_success_rate=0.0,
)
GREY = web.encode(Image.new("RGB", (64, 64), "grey"))
BUSY = web.answer(b"", 503)
