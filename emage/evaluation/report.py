"""The report of an evaluation: metric values with everything that they depend on, and images to look at.

report.json   for programs; keys: figures (metric values), captions, captions_cut, warnings, made_by
report.md     the same for readers
grid.png      the first images of the list; best.png and worst.png by CLIP score, or by the ranker's score
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from emage.evaluation import image_shards
from emage.evaluation.caption_list import ListedCaption
from emage.evaluation.image_shards import BEST, Shard
from emage.evaluation.metrics import frechet
from emage.evaluation.scoring import CLIP, SET_METRIC_NETWORKS
from emage.utils import image_grid, manifest

GRID_IMAGES, GRID_COLUMNS = 24, 6


@dataclass(frozen=True)
class Report:
    """Contents of a report.

    Args:
        values: Metric values by name.
        num_captions: Number of captions.
        num_truncated: How many of them are longer than the text encoder reads.
        made_by: Everything that the values depend on. Its keys are those of report.json; `judges` (the scorers) may be
            empty, and `reference` is missing if no metric compares with real images.
    """

    values: dict[str, float]
    num_captions: int
    num_truncated: int
    made_by: dict[str, Any]


def warnings(report: Report) -> list[str]:
    """Return the reasons not to compare these values with those of other reports."""
    lines: list[str] = []
    scorers = report.made_by["judges"]
    networks = [scorers[name] for name in dict.fromkeys(SET_METRIC_NETWORKS.values()) if name in scorers]
    num_real = report.made_by["reference"]["count"] if networks else 0
    if networks and min(report.num_captions, num_real) < frechet.MIN_IMAGES_FOR_FID:
        lines.append(
            f"DO NOT COMPARE WITH VALUES FOR OTHER NUMBERS OF IMAGES: {report.num_captions} images against {num_real}; "
            f"with fewer than {frechet.MIN_IMAGES_FOR_FID} a Frechet distance is much too large"
        )
    for network in dict.fromkeys(metadata["network"] for metadata in networks if not metadata["published"]):
        lines.append(
            f"the features are those of {network} and not of the published Inception: there is no FID, and distances "
            "can be compared only if the same network was used"
        )
    if any(name.endswith("_first") for name in report.values):
        lines.append(
            "images are the best of several candidates, which improves the values; *_first is of the first candidates, "
            "unranked"
        )
    return lines


def grids(output: Path, shards: Sequence[Shard], scores: Sequence[float] | None) -> dict[str, Image.Image]:
    """Write grid.png of the first images and, if there are different scores, best.png and worst.png; return them.

    Args:
        output: Folder of the evaluation.
        shards: All shards.
        scores: One score per image, higher is better; None without scores.
    """
    captions = [listed for shard in shards for listed in shard.captions]
    chosen = {"grid.png": list(range(len(captions)))[:GRID_IMAGES]}
    if scores is not None and len(set(scores)) > 1:
        order = sorted(range(len(captions)), key=lambda i: -scores[i])
        chosen |= {"best.png": order[:GRID_IMAGES], "worst.png": order[::-1][:GRID_IMAGES]}
    wanted = {i for indices in chosen.values() for i in indices}
    images = dict(zip(sorted(wanted), image_shards.images(output, BEST, shards, wanted), strict=True))
    made: dict[str, Image.Image] = {}
    for name, indices in chosen.items():
        shown = None if name == "grid.png" else scores
        texts = [_caption(captions[i], None if shown is None else shown[i]) for i in indices]
        made[name] = image_grid.make_grid([images[i] for i in indices], texts, GRID_COLUMNS)
        made[name].save(output / name)
    return made


def write(output: Path, report: Report, images: Sequence[str]) -> None:
    """Write report.json and report.md; `images` are the file names of the grids in the same folder."""
    record = {
        "figures": report.values,
        "captions": report.num_captions,
        "captions_cut": report.num_truncated,
        "warnings": warnings(report),
        "made_by": report.made_by,
    }
    manifest.write_json(output / "report.json", record)
    counts = f"{report.num_captions} captions, {report.num_truncated} of them longer than the text encoder reads."
    lines = ["# Evaluation", "", counts, "", "| metric | value | computed from |", "|---|---|---|"]
    lines += [f"| {name} | {value:.4f} | {_description(name, report)} |" for name, value in report.values.items()]
    if found := warnings(report):
        lines += ["", "Before you compare:", "", *(f"- {line}" for line in found)]
    lines += [line for name in images for line in ("", f"## {_TITLES[name]}", "", f"![{_TITLES[name]}]({name})")]
    lines += ["", "## Made by", "", "```json", json.dumps(report.made_by, indent=2), "```", ""]
    with manifest.new_file(output / "report.md") as fresh:
        fresh.write_text("\n".join(lines))


_TITLES = {"grid.png": "The first images", "best.png": "The best by score", "worst.png": "The worst by score"}
_SHAPES = ("objects_right", "relation_right", "all_right")


def _description(name: str, report: Report) -> str:
    """Describe in one table cell what a value was computed from: networks, numbers of images, reference."""
    if name in _SHAPES:
        return "fraction of captions, by the checker of emage.data.shapes; higher is better"
    images = "first candidates" if name.endswith("_first") else "images"
    if name.startswith(CLIP):
        clip = report.made_by["judges"][CLIP]
        return f"{report.num_captions} {images} by {clip['model']} ({clip['weights_sha256'][:8]}); higher is better"
    of_tokenizer = "tokenizer" in name and name.startswith("frechet") and "tokenizer" in report.made_by["judges"]
    network = report.made_by["judges"]["tokenizer" if of_tokenizer else "inception"]
    reference = report.made_by["reference"]
    captioned = " captioned images" if reference.get("images") == "captioned" else ""
    better = "higher" if name.startswith(("precision", "recall")) else "lower"
    return (
        f"{report.num_captions} {images} against {reference['count']}{captioned} of {reference['place']} "
        f"({reference['sha256'][:8]}), {network['mode']}, weights {network['weights_sha256'][:8]}; {better} is better"
    )


def _caption(listed: ListedCaption, score: float | None) -> str:
    return listed.caption if score is None else f"{score:.2f} {listed.caption}"
