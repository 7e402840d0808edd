"""The report of an evaluation: every figure with all that made it, and images to look at.

report.json   for programs: figures, warnings, made_by
report.md     for people
grid.png      the first images of the list; best.png and worst.png by CLIP, or by what ranked
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from emage.evaluation import image_shards
from emage.evaluation.caption_list import Task
from emage.evaluation.image_shards import BEST, Shard
from emage.evaluation.metrics import frechet
from emage.evaluation.scoring import CLIP, ON_SETS
from emage.utils import image_grid, manifest

SHOWN, COLUMNS = 24, 6  # images of a grid


@dataclass(frozen=True)
class Report:
    figures: dict[str, float]
    captions: int
    captions_cut: int  # longer than the text encoder reads
    made_by: dict[str, Any]  # all that the figures depend on; `judges` and `reference` are there where they are used


def warnings(report: Report) -> list[str]:
    """What keeps these figures from being compared with others."""
    lines: list[str] = []
    sets = [
        report.made_by["judges"][name] for name in dict.fromkeys(ON_SETS.values()) if name in report.made_by["judges"]
    ]
    real = report.made_by["reference"]["count"] if sets else 0
    if sets and min(report.captions, real) < frechet.ENOUGH:
        lines.append(
            f"COMPARE WITH NOTHING OF ANOTHER NUMBER: {report.captions} images against {real}, and of fewer than "
            f"{frechet.ENOUGH} a Frechet distance is much too large"
        )
    for network in dict.fromkeys(facts["network"] for facts in sets if not facts["published"]):
        lines.append(
            f"the features are those of {network} and not of the published Inception: no FID, and only distances by "
            "the same network compare"
        )
    if any(name.endswith("_first") for name in report.figures):
        lines.append("images are the best of several, which flatters them; *_first is of the first ones, unchosen")
    return lines


def grids(output: Path, parts: Sequence[Shard], scores: Sequence[float] | None) -> dict[str, Image.Image]:
    """grid.png of the first images and, with one score an image, best.png and worst.png. All are written."""
    tasks = [task for part in parts for task in part.tasks]
    chosen = {"grid.png": list(range(len(tasks)))[:SHOWN]}
    if scores is not None and len(set(scores)) > 1:
        order = sorted(range(len(tasks)), key=lambda i: -scores[i])
        chosen |= {"best.png": order[:SHOWN], "worst.png": order[::-1][:SHOWN]}
    wanted = {i for places in chosen.values() for i in places}
    images = dict(zip(sorted(wanted), image_shards.images(output, BEST, parts, wanted), strict=True))
    made: dict[str, Image.Image] = {}
    for name, places in chosen.items():
        captions = [_caption(tasks[i], None if name == "grid.png" or scores is None else scores[i]) for i in places]
        made[name] = image_grid.make_grid([images[i] for i in places], captions, COLUMNS)
        made[name].save(output / name)
    return made


def write(output: Path, report: Report, images: Sequence[str]) -> None:
    """report.json and report.md; `images` are the names of the grids beside them."""
    record = {
        "figures": report.figures,
        "captions": report.captions,
        "captions_cut": report.captions_cut,
        "warnings": warnings(report),
        "made_by": report.made_by,
    }
    manifest.write_json(output / "report.json", record)
    counted = f"{report.captions} captions, {report.captions_cut} of them longer than the text encoder reads."
    lines = ["# Evaluation", "", counted, "", "| figure | value | of |", "|---|---|---|"]
    lines += [f"| {name} | {value:.4f} | {_of(name, report)} |" for name, value in report.figures.items()]
    if told := warnings(report):
        lines += ["", "Before you compare:", "", *(f"- {line}" for line in told)]
    lines += [line for name in images for line in ("", f"## {_TITLES[name]}", "", f"![{_TITLES[name]}]({name})")]
    lines += ["", "## Made by", "", "```json", json.dumps(report.made_by, indent=2), "```", ""]
    with manifest.new_file(output / "report.md") as fresh:
        fresh.write_text("\n".join(lines))


_TITLES = {"grid.png": "The first images", "best.png": "The best by score", "worst.png": "The worst by score"}
_SHAPES = ("objects_right", "relation_right", "all_right")


def _of(name: str, report: Report) -> str:
    """What a figure is of, in one cell: networks, numbers of images, reference."""
    if name in _SHAPES:
        return "share of captions, read off the pixels by the checker of emage.data.shapes; higher is better"
    images = "first candidates" if name.endswith("_first") else "images"
    if name.startswith(CLIP):
        clip = report.made_by["judges"][CLIP]
        return f"{report.captions} {images} by {clip['model']} ({clip['weights_sha256'][:8]}); higher is better"
    of_tokenizer = "tokenizer" in name and name.startswith("frechet") and "tokenizer" in report.made_by["judges"]
    facts = report.made_by["judges"]["tokenizer" if of_tokenizer else "inception"]
    reference = report.made_by["reference"]
    better = "higher" if name.startswith(("precision", "recall")) else "lower"
    return (
        f"{report.captions} {images} against {reference['count']} of {reference['place']} "
        f"({reference['sha256'][:8]}), {facts['mode']}, weights {facts['weights_sha256'][:8]}; {better} is better"
    )


def _caption(task: Task, score: float | None) -> str:
    return task.caption if score is None else f"{score:.2f} {task.caption}"
