"""A small URL table with every kind of bad row, and what an ingest must do with each."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import web
from PIL import Image
from web import encode

from emage.config import IngestConfig
from emage.data import shapes
from emage.utils import manifest

NUM_GOOD = 260
NUM_WRITTEN = NUM_GOOD + 1 + 3 + 1  # turned, odd, again
ODD = {"grey": "L", "see-through": "RGBA", "print": "CMYK"}
FILTERED = {"duplicate": 2 + 1, "score>0.5": 1}
FAILED = {  # drop reason -> rows; `table` has the rows
    "http_404": 12,
    "web_page": 2,
    "truncated": 2,
    "too_small": 2,
    "bad_scheme": 2,
    "timeout": 2,
    "too_big": 1,
    "opted_out": 1,
    "too_many_pixels": 1,
    "no_url": 1,
    "connection_error": 1,
}


def table(pages: dict[str, web.Page], address: str) -> list[tuple[str | None, str]]:
    """Add the pages, and return rows of (URL, caption), good and bad ones mixed."""
    scenes = shapes.sample_train_scenes(NUM_GOOD, seed=1)
    images = [Image.fromarray(pixels) for pixels in shapes.render_many(scenes, seed=1)]
    rows: list[tuple[str | None, str]] = []
    for i, (scene, image) in enumerate(zip(scenes, images, strict=True)):
        pages[f"/{i}.png"] = encode(image)
        rows.append((f"{address}/{i}.png", scene.caption))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    pages["/turned.jpg"] = encode(images[0].rotate(180), "JPEG", exif=exif, quality=95, subsampling=0)
    rows.append((f"{address}/turned.jpg", scenes[0].caption))
    for name, mode in ODD.items():
        pages[f"/{name}"] = encode(images[1].convert(mode), "JPEG" if mode == "CMYK" else "PNG")
        rows.append((f"{address}/{name}", f"a {name} image of two shapes"))
    pages |= {
        "/text.jpg": b"<html>this is not an image</html>",
        "/short.jpg": encode(images[2].resize((640, 640)), "JPEG")[:8_000],
        "/small.png": encode(images[3].resize((15, 40))),
        "/huge.png": encode(Image.new("1", (3000, 3000))),
        "/drip.jpg": web.dripping_body,
        "/drip2.jpg": web.dripping_headers,
        "/endless.jpg": web.endless,
        "/hung-up.jpg": lambda handler: None,  # the connection ends without an answer
        "/mine.png": web.answer(pages["/0.png"], X_Robots_Tag="noai"),  # type: ignore[arg-type]
    }
    bad: list[str | None] = [f"{address}/missing{i}.jpg" for i in range(12)]
    for page in ("text.jpg", "short.jpg", "small.png"):
        bad += [f"{address}/{page}"] * 2
    bad += [f"{address}/{page}" for page in ("huge.png", "drip.jpg", "drip2.jpg", "endless.jpg", "mine.png")]
    bad += ["file:///etc/hostname", "data:image/png;base64,iVBORw0KGgo=", None, f"{address}/hung-up.jpg"]
    rows += [(url, f"a caption of something bad, number {i}") for i, url in enumerate(bad)]
    rows += [(f"{address}/0.png", "")] * 3
    order = np.random.default_rng(0).permutation(len(rows))
    return [rows[i] for i in order]


def more_table(pages: dict[str, web.Page], address: str) -> list[tuple[str, str, float]]:
    """Return a second table: a row of the first, its image under another URL, a row with too low a score."""
    pages["/again.png"] = pages["/0.png"]
    caption = shapes.sample_train_scenes(1, seed=1)[0].caption
    return [
        (f"{address}/0.png", caption, 0.9),
        (f"{address}/again.png", caption, 0.9),
        (f"{address}/1.png", "a caption of nothing that is there", 0.1),
    ]


@dataclass(frozen=True)
class Ingested:
    """A finished ingest: its settings, input rows and report."""

    settings: IngestConfig
    rows: list[tuple[str | None, str]]
    report: dict

    @property
    def output(self) -> Path:
        return Path(self.settings.output)

    @property
    def tokens(self) -> pa.Table:
        return pq.read_table(self.output / "tokens")

    def bytes(self) -> dict[str, str]:
        """Return the sha256 of each token file."""
        return {file.name: manifest.sha256(file) for file in sorted((self.output / "tokens").iterdir())}
