"""Table 2 of the paper for a folder of images: what each tokenizer loses of them (Sec. 4.1).

The paper's figures are for the 40,504 images of COCO's val2014. Prints a table; writes record.json (the figures and
what made them) and sheet.png (originals above reconstructions) to `output`, after every tokenizer.

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
from emage.evaluation.metrics import frechet, image_files
from emage.evaluation.metrics.image_files import ImageFile, Survey
from emage.evaluation.metrics.reconstruction import Damage, Judges, load_judges
from emage.model.device_support import check_device
from emage.reproduce.paper_numbers import TABLE2
from emage.tokenizers import TOKENIZERS, download
from emage.utils import image_grid, manifest
from emage.utils.errors import InputError
from emage.version import __version__

SHOWN = 6  # images of the sheet
IMAGE_GRID = "sheet.png"


def run(config: Table2Config) -> dict[str, Any]:
    """Measures every tokenizer that is here. Raises InputError for settings that could not end well."""
    device = check(config)
    if config.pictures is None:
        raise InputError("table2.pictures is required: add table2.pictures=FOLDER (the paper's: COCO's val2014)")
    files = image_files.find(config.pictures)[: config.limit]
    found, skipped = choose(config)
    judges = load_judges(config.inception, config.lpips, config.fetch, device)
    survey = image_files.survey(files)
    record = describe(config, device, survey, judges, skipped)
    rows: dict[str, list[Image.Image]] = {}
    for name, tokenizer in found.items():
        figures, shown = measure(tokenizer.to(device), survey.files, judges, config.batch_size, device)
        record["tokenizers"][name] = {**figures, "paper": TABLE2.get(name)}
        rows.setdefault("original", [original for original, _ in shown])
        rows[name] = [rebuilt for _, rebuilt in shown]
        write(Path(config.output), record, rows)
    show(record)
    return record


def check(config: Table2Config) -> str:
    """The device. Raises InputError, before anything is read, for a setting that could not end well."""
    check_config(config, prefix="table2.")
    if Path(config.output).exists() and not Path(config.output).is_dir():
        raise InputError(f"output={config.output} is a file; name a folder")
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    check_device(device)
    return device


# --- What there is to measure, and with what --------------------------------------------------------------------------


def choose(config: Table2Config) -> tuple[dict[str, Any], dict[str, str]]:
    """The tokenizers whose weights are here, on the CPU, and for the others how to get theirs.

    All are loaded before the first is measured: a damaged file shows now and not after hours.
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
        except ConnectionError as error:  # one dead link leaves the others
            skipped[name] = f"{error}; table2.weights.{name}=FILE takes a file"
        except ValueError as error:
            raise InputError(" ".join(str(error).split())) from None
    if not found:
        print(*told(skipped), sep="\n", file=sys.stderr)
        raise InputError("the weights of no tokenizer are here: see above where each is")
    return found, skipped


def told(skipped: dict[str, str]) -> list[str]:
    return [f"skipped {name}: {how}" for name, how in skipped.items()]


def how_to_get(name: str) -> str:
    urls = TOKENIZERS[name].urls.values()
    kind = "FILE" if len(urls) == 1 else "FOLDER"
    return f"fetch {' and '.join(urls)} and pass table2.weights.{name}={kind}, or table2.fetch=true"


def is_available(name: str, config: Table2Config) -> bool:
    """Whether `tokenizers.load` would need no network, or may use it."""
    cached = download.cache_folder() / f"{name}.safetensors"
    return name in config.weights or name == tokenizers.DEMO or config.fetch or cached.exists()


# --- The figures of one tokenizer -------------------------------------------------------------------------------------


def measure(
    tokenizer: Any, files: Sequence[ImageFile], judges: Judges, batch_size: int, device: str
) -> tuple[dict[str, Any], list[tuple[Image.Image, Image.Image]]]:
    """Its figures, and the first pairs of an original and what became of it."""
    length = tokenizer.grid[0] * tokenizer.grid[1]
    blank = tokenizer.decode(torch.zeros(1, length, dtype=torch.int64, device=device))  #  (1, 3, H, W)
    tokenizer.encode(blank)  # a GPU's first calls are slow: they are not counted
    side = blank.shape[-1]
    used = torch.zeros(tokenizer.vocab_size, dtype=torch.int64)  #  (V,)
    damage, seconds = Damage(judges), 0.0
    shown: list[tuple[Image.Image, Image.Image]] = []
    with tqdm(total=len(files), desc=tokenizer.name, unit="image") as bar:
        for originals in image_files.batches(files, side, batch_size):  #  (B, 3, H, W)
            started = time.perf_counter()
            ids, rebuilt = reconstruct(tokenizer, originals, device)
            seconds += time.perf_counter() - started
            used += ids.flatten().bincount(minlength=len(used))
            damage.add(originals, rebuilt)
            shown += [(image(a), image(b)) for a, b in zip(originals, rebuilt, strict=True)][: SHOWN - len(shown)]
            bar.update(len(originals))
    share = used[used > 0] / used.sum()
    figures = {
        "weights_sha256": tokenizer.sha256,
        "side": side,
        "length": length,
        "vocabulary": tokenizer.vocab_size,
        **damage.figures(),
        "live_codes": len(share),
        "code_bits": float(-(share * share.log2()).sum()),
        "pictures_per_second": len(files) / seconds,
    }
    return figures, shown


def reconstruct(tokenizer: Any, pixels: Tensor, device: str) -> tuple[Tensor, Tensor]:
    """uint8 (B, 3, H, W) -> ids (B, N) and uint8 (B, 3, H, W), as a saved image would hold it, on the CPU again.

    The way back waits for a GPU to finish, so that the clock around this call counts its work.
    """
    ids = tokenizer.encode(pixels.to(device).float() / 255)
    rebuilt = (255 * tokenizer.decode(ids)).round().to(torch.uint8)
    return ids.cpu(), rebuilt.cpu()


def image(pixels: Tensor) -> Image.Image:
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


# --- What is told -----------------------------------------------------------------------------------------------------


def describe(
    config: Table2Config, device: str, survey: Survey, judges: Judges, skipped: dict[str, str]
) -> dict[str, Any]:
    """The record without figures: what they are of and what makes them."""
    used = ("torch", "torchvision", "torch-fidelity", "lpips", "pillow")
    images = {"count": len(survey.files), "sha256": survey.sha256, "refused": dict(survey.refused)}
    return {
        "settings": asdict(config),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu",
        "threads": torch.get_num_threads(),
        "versions": {"emage": __version__, **{name: version(name) for name in used}},
        "pictures": images,
        "judges": judges.facts,
        "skipped": skipped,
        "tokenizers": {},
    }


COLUMNS = ("tokenizer", "length", "vocabulary", "Frechet", "paper", "PSNR dB", "LPIPS", "live codes", "bits", "pict./s")


def table_rows(record: dict[str, Any]) -> list[list[str]]:
    mark = "*" if record["pictures"]["count"] < frechet.ENOUGH else ""
    return [
        [
            name,
            str(f["length"]),
            str(f["vocabulary"]),
            "-" if f["frechet"] is None else f"{f['frechet']:.2f}{mark}",
            "-" if f["paper"] is None else f"{f['paper']:.2f}",
            f"{f['psnr']:.2f}",
            "-" if f["lpips"] is None else f"{f['lpips']:.4f}",
            str(f["live_codes"]),
            f"{f['code_bits']:.2f}",
            f"{f['pictures_per_second']:.3g}",
        ]
        for name, f in record["tokenizers"].items()
    ]


def notes(record: dict[str, Any]) -> list[str]:
    """What a reader must know of the figures: too few images, other networks than the published, what is missing."""
    count, refused = record["pictures"]["count"], record["pictures"]["refused"]
    lines = [f"{count} images, as ingest keeps them (JPEG)" + (f", refused {refused}" if refused else "")]
    columns = {"inception": "Frechet", "lpips": "LPIPS"}
    for setting, facts in record["judges"].items():
        if facts["missing"]:
            lines.append(
                f"no {columns[setting]}: its network is not here; {facts['missing']} (table2.{setting}, table2.fetch)"
            )
        elif not facts["published"]:
            lines.append(f"{columns[setting]} IS MEANINGLESS: table2.{setting}= holds other weights than the published")
    if count < frechet.ENOUGH and record["judges"]["inception"]["sha256"]:
        lines.append(f"* COMPARE WITH NOTHING: of fewer than {frechet.ENOUGH} images the distance is much too large")
    return lines + told(record["skipped"])


def write(output: Path, record: dict[str, Any], rows: dict[str, list[Image.Image]]) -> None:
    """record.json and sheet.png, one row of images below the other."""
    output.mkdir(parents=True, exist_ok=True)
    manifest.write_json(output / "record.json", record)
    labels = [name for name, row in rows.items() for _ in row]
    shown = [image for row in rows.values() for image in row]
    image_grid.make_grid(shown, labels, len(rows["original"])).save(output / IMAGE_GRID)


def markdown(record: dict[str, Any], sheet: str) -> str:
    """The report; `sheet` is the way from it to the image."""
    table = [COLUMNS, ["---"] * len(COLUMNS), *table_rows(record)]
    made_by = {key: record[key] for key in ("settings", "device", "versions", "pictures", "judges")}
    lines = [
        *("# Table 2: what each tokenizer loses of an image", ""),
        *("| " + " | ".join(row) + " |" for row in table),
        "",
        "Frechet: FID of the images and what became of them, lower is better; the paper's are for COCO's val2014.",
        "",
        *(f"- {note}" for note in notes(record)),
        *("", f"![originals above reconstructions]({sheet})", ""),
        *("```json", json.dumps(made_by, indent=2), "```", ""),
    ]
    return "\n".join(lines)


def show(record: dict[str, Any]) -> None:
    table = Table(*(Column(name, no_wrap=True) for name in COLUMNS))
    for row in table_rows(record):
        table.add_row(*row)
    console = Console(width=140)
    console.print(table)
    for note in notes(record):
        console.print(note, markup=False, highlight=False, soft_wrap=True)
