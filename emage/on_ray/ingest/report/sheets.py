"""Two images for a look at an ingest: the first images that were taken, and dropped rows with their reasons."""

from collections import Counter
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from emage.data.images import decode_image
from emage.data.ingest.drop_reasons import explain
from emage.data.ingest.report.summary import DROPPED
from emage.on_ray.ingest import tokenize_shards
from emage.on_ray.ingest.download import image_shards
from emage.utils import image_grid, manifest

MAX_IMAGES = 32  # on the sheet of taken images
MAX_EXAMPLES = 4  # of a drop reason
MAX_SHARDS = 8  # in which examples are looked for
COLUMNS = 8
TILE = 128  # px, the side of a row without an image

Row = dict[str, Any]


def draw_taken(output: Path) -> Image.Image | None:
    """Return the first images of the first shard, as they go to the tokenizer, with their captions."""
    shown: list[tuple[Image.Image, str]] = []
    has_shard = image_shards.read_manifest(output / "shards", 0) is not None
    for row in islice(image_shards.read_rows(output / "shards", 0), MAX_IMAGES) if has_shard else ():
        with suppress(decode_image.ImageError):  # counted by the tokenize stage
            shown.append((Image.fromarray(decode_image.decode_pixels(row["image"])), row["caption"]))
    return image_grid.make_grid(*zip(*shown, strict=True), columns=COLUMNS) if shown else None


def draw_dropped(report: dict[str, Any], output: Path) -> Image.Image | None:
    """Return examples of dropped rows by drop reason, the commonest first: the image if there is one, else a cross.

    Rows that were dropped before the download are not kept: these reasons have one tile with their number.
    """
    examples = _examples(output)
    tiles: list[tuple[Image.Image, str]] = []
    for outcome in DROPPED:
        for reason, rows in Counter(report[outcome]).most_common():
            found = examples.get((outcome, reason), [])
            first = f"{reason}: {rows:,} {'row' if rows == 1 else 'rows'}"
            if not found:
                tiles.append((_crossed(), f"{first}. {explain(outcome, reason).description}"))
            for number, row in enumerate(found):
                text = row["caption"] if outcome == "rejected" else f"{row['url']} {row['caption']}"
                tiles.append((_draw(row), f"{first if number == 0 else reason}. {text or ''}"))
    return image_grid.make_grid(*zip(*tiles, strict=True), columns=COLUMNS) if tiles else None


def _examples(output: Path) -> dict[tuple[str, str], list[Row]]:
    """Return dropped rows, of schema.DROPPED_SCHEMA and with "image" if it arrived, by outcome and drop reason."""
    found: dict[tuple[str, str], list[Row]] = {}
    for number in range(MAX_SHARDS):
        shard = image_shards.read_manifest(output / "shards", number)
        if shard is None:
            break
        folder = image_shards.shard_folder(output / "shards", number)
        for row in pq.read_table(*manifest.check_outputs(folder, [shard["failures"]])).to_pylist():
            _add(found, "failed", row)
        dropped = image_shards.read_manifest(output / "tokenized", number)
        if dropped is None or not (dropped["rejected"] or dropped["failed"]):
            continue
        folder = image_shards.shard_folder(output / "tokenized", number)
        rows = pq.read_table(*manifest.check_outputs(folder, [tokenize_shards.REJECTED])).to_pylist()
        added: dict[str, Row] = {}
        for row in rows:
            if _add(found, "rejected" if row["cause"] in dropped["rejected"] else "failed", row):
                added[row["key"]] = row
        if added:
            _add_images(added, output / "shards", number)
    return found


def _add(found: dict[tuple[str, str], list[Row]], outcome: str, row: Row) -> bool:
    """Add a row to the examples of its drop reason. Return False if there are enough."""
    of_reason = found.setdefault((outcome, row["cause"]), [])
    if len(of_reason) == MAX_EXAMPLES:
        return False
    of_reason.append(row)
    return True


def _add_images(by_key: dict[str, Row], shards: Path, number: int) -> None:
    """Add the images to rows of a shard, which is read up to the last of them."""
    for image in image_shards.read_rows(shards, number):
        if row := by_key.pop(image["key"], None):
            row["image"] = image["image"]
        if not by_key:
            return


def _draw(row: Row) -> Image.Image:
    """Return the image of a dropped row; a cross if it did not arrive, or cannot be decoded."""
    with suppress(decode_image.ImageError):
        if data := row.get("image"):
            return Image.fromarray(decode_image.decode_pixels(data))
    return _crossed()


def _crossed() -> Image.Image:
    tile = Image.new("RGB", (TILE, TILE), "#cfd4da")
    pen = ImageDraw.Draw(tile)
    for line in ((0, 0, TILE, TILE), (0, TILE, TILE, 0)):
        pen.line(line, fill="#aab2bb", width=2)
    return tile
