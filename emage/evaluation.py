"""What an evaluation is made of, without a cluster: its captions, its work list, its report."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet
from PIL import Image

from emage import manifest, sheets
from emage.errors import InputError

CHUNK = 64  # captions that are drawn, saved and made again together


@dataclass(frozen=True)
class Task:
    """One caption to draw."""

    id: int  # its row in the caption file: names the picture, seeds it
    caption: str

    def seed(self, run_seed: int) -> int:
        return int(np.random.SeedSequence([run_seed, self.id]).generate_state(1, np.uint64)[0] >> 1)


def read_tasks(path: str, limit: int, seed: int) -> list[Task]:
    """`limit` captions drawn at random by `seed`, in file order; all of them where there are fewer.

    Reads parquet, csv, tsv and jsonl (column `caption`), COCO's caption json, and .txt with one caption a line.
    """
    tasks = [Task(i, text) for i, text in enumerate(_read(Path(path))) if text]
    if not tasks:
        raise InputError(f"{path}: no captions in it")
    if len(tasks) > limit:
        tasks = sorted(random.Random(seed).sample(tasks, limit), key=lambda task: task.id)
    return tasks


def _read(path: Path) -> list[str]:
    if not path.is_file():
        raise InputError(f"{path}: no such caption file")
    try:
        if path.suffix == ".txt":
            return path.read_text().splitlines()
        if path.suffix == ".json":
            return [row["caption"] for row in json.loads(path.read_text())["annotations"]]
        readers = {
            ".parquet": pyarrow.parquet.read_table,
            ".csv": pyarrow.csv.read_csv,
            ".tsv": lambda file: pyarrow.csv.read_csv(file, parse_options=pyarrow.csv.ParseOptions(delimiter="\t")),
            ".jsonl": pyarrow.json.read_json,
        }
        if path.suffix not in readers:
            raise InputError(f"{path}: captions come as parquet, csv, tsv, jsonl, COCO json or txt")
        table = readers[path.suffix](path)
    except (pa.ArrowInvalid, ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: unreadable caption file ({str(error).splitlines()[0]})") from None
    if "caption" not in table.column_names:
        raise InputError(f"{path}: no column `caption` (it has {', '.join(table.column_names)})")
    return table["caption"].to_pylist()


def picture_path(output: Path, task: Task) -> Path:
    return output / "pictures" / f"{task.id:08d}.png"


def read_picture(output: Path, task: Task) -> Image.Image:
    """A drawn picture, its file closed again: there may be more of them than a process may keep open."""
    with Image.open(picture_path(output, task)) as image:
        image.load()
    return image


def write_report(
    output: Path,
    tasks: Sequence[Task],
    scores: Sequence[float],
    figures: dict[str, float],
    settings: dict[str, Any],
    captions_cut: int = 0,
) -> Image.Image:
    """report.json, report.md and grid.png (the first 24 pictures), every figure beside what made it."""
    report = {"figures": figures, "captions": len(tasks), "captions_cut": captions_cut, "settings": settings}
    manifest.write_json(output / "report.json", report)
    shown = tasks[:24]
    grid = sheets.sheet([read_picture(output, task) for task in shown], [task.caption for task in shown], 6)
    grid.save(output / "grid.png")
    counted = f"{len(tasks)} captions, {captions_cut} of them longer than the text encoder reads"
    lines = ["# Evaluation", "", counted, "", "| figure | value |", "|---|---|"]
    lines += [f"| {name} | {value:.4f} |" for name, value in figures.items()]
    if any(scores):
        lines.append(f"| mean ranking score | {float(np.mean(scores)):.4f} |")
    lines += ["", "![pictures](grid.png)", "", "## Settings", "", "```json", json.dumps(settings, indent=2), "```", ""]
    (output / "report.md").write_text("\n".join(lines))
    return grid
