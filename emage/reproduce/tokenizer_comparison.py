"""Table 2 of the paper for a folder of images: reconstruction metrics of each tokenizer (Sec. 4.1).

The paper's numbers are for the 40,504 images of COCO's val2014. Prints a table; after every tokenizer it writes
record.json (metrics, settings, versions) and sheet.png (originals above reconstructions) to `output`.

Letters: B batch, H W image, N tokens of an image, V codes.
"""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.console import Console
from rich.table import Column, Table
from torch import Tensor
from tqdm import tqdm

from emage import tokenizers
from emage.config import Table2Config
from emage.config import check as check_config
from emage.data.images import image_files
from emage.data.images.image_files import ImageFile, UsableImages
from emage.evaluation.metrics import frechet
from emage.evaluation.metrics.reconstruction import MetricNetworks, ReconstructionMetrics, load_networks
from emage.model.device_support import check_device
from emage.reproduce.paper_numbers import TABLE2
from emage.tokenizers import TOKENIZERS, weights_cache
from emage.utils import image_grid, manifest
from emage.utils.errors import InputError
from emage.utils.redact import redact_settings
from emage.version import __version__

NUM_SHOWN = 6  # images in the grid
IMAGE_GRID = "sheet.png"


def run(config: Table2Config) -> dict[str, Any]:
    """Measure every tokenizer whose weights are available; return the contents of record.json.

    Raises:
        InputError: A setting is invalid, or images or weights are unavailable.
    """
    device = check(config)
    if config.pictures is None:
        raise InputError("table2.pictures is required: add table2.pictures=FOLDER (the paper's: COCO's val2014)")
    found = image_files.find(config.pictures)
    available, skipped = load_available(config)
    networks = load_networks(config.inception, config.lpips, config.fetch, device)
    images = image_files.check_images(found._replace(files=found.files[: config.limit]))
    print(f"table2.pictures: {images.summary()}", file=sys.stderr)
    record = describe(config, device, images, networks, skipped)
    rows: dict[str, list[Image.Image]] = {}
    for name, tokenizer in available.items():
        values, shown = measure(tokenizer.to(device), images.files, networks, config.batch_size, device)
        record["tokenizers"][name] = {**values, "paper": TABLE2.get(name)}
        rows.setdefault("original", [original for original, _ in shown])
        rows[name] = [rebuilt for _, rebuilt in shown]
        write(Path(config.output), record, rows)
    show(record)
    return record


def check(config: Table2Config) -> str:
    """Return the device. Raise InputError if a setting is invalid."""
    check_config(config, prefix="table2.")
    if Path(config.output).exists() and not Path(config.output).is_dir():
        raise InputError(f"output={config.output} is a file; name a folder")
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    check_device(device)
    return device


# --- Tokenizers -------------------------------------------------------------------------------------------------------


def load_available(config: Table2Config) -> tuple[dict[str, Any], dict[str, str]]:
    """Load the requested tokenizers on the CPU, all of them before the first is measured.

    A damaged file is thus found at once and not after hours.

    Returns:
        The tokenizers by name, and for those whose weights are unavailable how to get them.

    Raises:
        InputError: A file is damaged, or no tokenizer is available.
    """
    names = list(config.tokenizers) or list(TABLE2)
    names += [name for name in config.weights if name not in names]
    found: dict[str, Any] = {}
    skipped: dict[str, str] = {}
    for name in names:
        if name in TOKENIZERS and not is_available(name, config):
            skipped[name] = how_to_get(name)
            continue
        try:
            found[name] = tokenizers.load(name, weights=config.weights.get(name))
        except ConnectionError as error:  # the other tokenizers are measured in spite of one dead link
            skipped[name] = f"{error}; table2.weights.{name}=FILE takes a file"
        except ValueError as error:
            raise InputError(" ".join(str(error).split())) from None
    if not found:
        print(*skipped_lines(skipped), sep="\n", file=sys.stderr)
        raise InputError("the weights of no tokenizer are available: the lines above state where each is published")
    return found, skipped


def skipped_lines(skipped: dict[str, str]) -> list[str]:
    return [f"skipped {name}: {how}" for name, how in skipped.items()]


def how_to_get(name: str) -> str:
    """Return what to do to get a published tokenizer's weights."""
    urls = TOKENIZERS[name].urls.values()
    kind = "FILE" if len(urls) == 1 else "FOLDER"
    return f"fetch {' and '.join(urls)} and pass table2.weights.{name}={kind}, or table2.fetch=true"


def is_available(name: str, config: Table2Config) -> bool:
    """Return whether `tokenizers.load` needs no network, or may use it."""
    cached = weights_cache.cache_folder() / f"{name}.safetensors"
    return name in config.weights or name == tokenizers.DEMO or config.fetch or cached.exists()


# --- Measuring one tokenizer ------------------------------------------------------------------------------------------


def measure(
    tokenizer: Any, files: Sequence[ImageFile], networks: MetricNetworks, batch_size: int, device: str
) -> tuple[dict[str, Any], list[tuple[Image.Image, Image.Image]]]:
    """Return the metrics of a tokenizer, and the first pairs of an original and its reconstruction."""
    length = tokenizer.grid[0] * tokenizer.grid[1]
    blank = tokenizer.decode(torch.zeros(1, length, dtype=torch.int64, device=device))  #  (1, 3, H, W)
    tokenizer.encode(blank)  # warm-up: a GPU's first calls are slow
    side = blank.shape[-1]
    used = torch.zeros(tokenizer.vocab_size, dtype=torch.int64)  #  (V,)
    metrics, seconds = ReconstructionMetrics(networks), 0.0
    shown: list[tuple[Image.Image, Image.Image]] = []
    with tqdm(total=len(files), desc=tokenizer.name, unit="image") as bar:
        for originals in image_files.batches(files, side, batch_size):  #  (B, 3, H, W)
            started = time.perf_counter()
            ids, rebuilt = reconstruct(tokenizer, originals, device)
            seconds += time.perf_counter() - started
            used += ids.flatten().bincount(minlength=len(used))
            metrics.add(originals, rebuilt)
            pairs = [(to_image(a), to_image(b)) for a, b in zip(originals, rebuilt, strict=True)]
            shown += pairs[: NUM_SHOWN - len(shown)]
            bar.update(len(originals))
    frequency = used[used > 0] / used.sum()
    values = {
        "weights_sha256": tokenizer.sha256,
        "side": side,
        "length": length,
        "vocabulary": tokenizer.vocab_size,
        **metrics.values(),
        "live_codes": len(frequency),
        "code_bits": float(-(frequency * frequency.log2()).sum()),
        "pictures_per_second": len(files) / seconds,
    }
    return values, shown


def reconstruct(tokenizer: Any, pixels: Tensor, device: str) -> tuple[Tensor, Tensor]:
    """Encode and decode uint8 pixels (B, 3, H, W).

    Returns:
        Ids (B, N) and reconstructions, uint8 (B, 3, H, W) as in a saved image, both on the CPU. The copy synchronizes
        a GPU, so a clock around this call counts its work.
    """
    ids = tokenizer.encode(pixels.to(device).float() / 255)
    rebuilt = (255 * tokenizer.decode(ids)).round().to(torch.uint8)
    return ids.cpu(), rebuilt.cpu()


def to_image(pixels: Tensor) -> Image.Image:
    """Turn uint8 pixels (3, H, W) into an image."""
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


# --- The report -------------------------------------------------------------------------------------------------------


def describe(
    config: Table2Config, device: str, images: UsableImages, networks: MetricNetworks, skipped: dict[str, str]
) -> dict[str, Any]:
    """Return record.json without measurements: settings, device, versions, images, networks."""
    packages = ("torch", "torchvision", "torch-fidelity", "lpips", "pillow")
    return {
        "settings": redact_settings(asdict(config)),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu",
        "threads": torch.get_num_threads(),
        "versions": {"emage": __version__, **{name: version(name) for name in packages}},
        "pictures": {"count": len(images.files), "sha256": images.sha256, "refused": dict(images.rejected)},
        "judges": networks.metadata,
        "skipped": skipped,
        "tokenizers": {},
    }


COLUMNS = (
    "tokenizer",
    "length",
    "vocabulary",
    "Frechet",
    "paper",
    "PSNR dB",
    "LPIPS",
    "live codes",
    "bits",
    "images/s",
)


def table_rows(record: dict[str, Any]) -> list[list[str]]:
    """Return the rows of the table as text, by COLUMNS."""
    mark = "*" if record["pictures"]["count"] < frechet.MIN_IMAGES_FOR_FID else ""
    return [
        [
            name,
            str(values["length"]),
            str(values["vocabulary"]),
            "-" if values["frechet"] is None else f"{values['frechet']:.2f}{mark}",
            "-" if values["paper"] is None else f"{values['paper']:.2f}",
            f"{values['psnr']:.2f}",
            "-" if values["lpips"] is None else f"{values['lpips']:.4f}",
            str(values["live_codes"]),
            f"{values['code_bits']:.2f}",
            f"{values['pictures_per_second']:.3g}",
        ]
        for name, values in record["tokenizers"].items()
    ]


def notes(record: dict[str, Any]) -> list[str]:
    """Return caveats for the reader: too few images, other networks than the published ones, missing weights."""
    count, rejected = record["pictures"]["count"], record["pictures"]["refused"]
    lines = [f"{count} images, as ingest keeps them (JPEG)" + (f", rejected {rejected}" if rejected else "")]
    columns = {"inception": "Frechet", "lpips": "LPIPS"}
    for setting, metadata in record["judges"].items():
        if metadata["missing"]:
            lines.append(
                f"no {columns[setting]}: the weights of its network are not available; {metadata['missing']} "
                f"(table2.{setting}, table2.fetch)"
            )
        elif not metadata["published"]:
            lines.append(
                f"{columns[setting]} IS MEANINGLESS: table2.{setting}= holds other weights than the published ones"
            )
    if count < frechet.MIN_IMAGES_FOR_FID and record["judges"]["inception"]["sha256"]:
        lines.append(
            f"* DO NOT COMPARE: with fewer than {frechet.MIN_IMAGES_FOR_FID} images the distance is much too large"
        )
    return lines + skipped_lines(record["skipped"])


def write(output: Path, record: dict[str, Any], rows: dict[str, list[Image.Image]]) -> None:
    """Write record.json and sheet.png; `rows` are the rows of the image grid by label."""
    output.mkdir(parents=True, exist_ok=True)
    manifest.write_json(output / "record.json", record)
    labels = [name for name, row in rows.items() for _ in row]
    shown = [image for row in rows.values() for image in row]
    image_grid.make_grid(shown, labels, len(rows["original"])).save(output / IMAGE_GRID)


def markdown(record: dict[str, Any], grid: str) -> str:
    """Return the report as Markdown; `grid` is the path from it to the image grid."""
    table = [COLUMNS, ["---"] * len(COLUMNS), *table_rows(record)]
    made_by = {key: record[key] for key in ("settings", "device", "versions", "pictures", "judges")}
    lines = [
        *("# Table 2: reconstruction by each tokenizer", ""),
        *("| " + " | ".join(row) + " |" for row in table),
        "",
        "Frechet: FID between images and their reconstructions, lower is better; the paper's are for COCO's val2014.",
        "",
        *(f"- {note}" for note in notes(record)),
        *("", f"![originals above reconstructions]({grid})", ""),
        *("```json", json.dumps(made_by, indent=2), "```", ""),
    ]
    return "\n".join(lines)


def show(record: dict[str, Any]) -> None:
    """Print the table and the notes."""
    table = Table(*(Column(name, no_wrap=True) for name in COLUMNS))
    for row in table_rows(record):
        table.add_row(*row)
    console = Console(width=140)
    console.print(table)
    for note in notes(record):
        console.print(note, markup=False, highlight=False, soft_wrap=True)
