"""The command `emage inspect`: it prints statistics of a token table, and writes a contact sheet of its images.

    emage inspect PATH [sheet=FILE.png] [pictures=32] [sample=50000] [weights=FILE] [seed=0]

token_statistics.py computes the numbers. With `sheet`, contact_sheet.py decodes images from their tokens on the CPU;
that alone needs the tokenizer's weights.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from emage import config
from emage.data import contact_sheet, token_statistics
from emage.utils import image_grid
from emage.utils.errors import InputError, exit_on_bad_input

# rich takes long to import: it is imported where it is used.


def main(argv: Sequence[str]) -> None:
    """Run the command. Bad input exits with code 2; if only the sheet fails, the statistics are printed first."""
    words = list(argv)
    if words and "=" not in words[0] and not words[0].startswith("-"):
        words[0] = f"path={words[0]}"
    with exit_on_bad_input():
        settings = config.parse(config.InspectionConfig, words)
        if settings.sheet and Path(settings.sheet).suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
            raise InputError(f"sheet={settings.sheet}: end it in .png, .jpg or .webp")
        show(token_statistics.compute_statistics(settings.path, sample=settings.sample, seed=settings.seed))
        if settings.sheet:
            sheet = contact_sheet.make_contact_sheet(
                settings.path, num_images=settings.pictures, weights=settings.weights, seed=settings.seed
            )
            _save(sheet, settings.sheet)


def _save(sheet: Image.Image, file: str) -> None:
    try:
        sheet.save(file)
    except OSError as error:
        raise InputError(f"sheet={file}: {error.strerror or error}") from None
    print(f"{file}: images decoded from their tokens")


def show(statistics: dict[str, Any]) -> None:
    """Print the result of `token_statistics.compute_statistics` as a table."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    title = Text(f"token table {image_grid.printable(statistics['path'])}")
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for section in (_layout_lines(statistics), _dataset_lines(statistics), _sample_lines(statistics)):
        for name, value in section:
            table.add_row(Text(image_grid.printable(name)), Text(value))  # Text: brackets in a caption are not markup
        table.add_section()
    for caption in statistics["sample"]["examples"]:
        table.add_row("a caption", Text(image_grid.printable(caption)))
    Console().print(table)


def _layout_lines(statistics: dict[str, Any]) -> list[tuple[str, str]]:
    info = statistics["tokenizer"]
    height, width = info["grid"]
    per_row = statistics["bytes"] / statistics["rows"]
    return [
        ("rows", f"{statistics['rows']:,}"),
        ("files", f"{statistics['files']:,} of {_sizes(statistics['rows_per_file'])} rows"),
        ("row groups", f"{statistics['row_groups']:,} of {_sizes(statistics['rows_per_row_group'])} rows"),
        ("bytes", f"{statistics['bytes']:,} ({per_row:,.0f} per row)"),
        ("tokenizer", f"{info['name']}, {info['vocab_size']:,} codes, grid {height}x{width}"),
        ("weights sha256", info["sha256"]),
        ("written by", f"emage {statistics['version']}"),
    ]


def _dataset_lines(statistics: dict[str, Any]) -> list[tuple[str, str]]:
    total = statistics["rows"]
    return [(name, f"{rows:,} rows ({rows / total:.1%})") for name, rows in statistics["datasets"].items()]


def _sample_lines(statistics: dict[str, Any]) -> list[tuple[str, str]]:
    sample, vocabulary = statistics["sample"], statistics["tokenizer"]["vocab_size"]
    captions, codes = sample["captions"], sample["codes"]
    of = "every row" if sample["rows"] == statistics["rows"] else f"a sample of {sample['rows']:,} rows"
    over = f"{captions['truncated_fraction']:.2%} over {token_statistics.CLIP_LENGTH}"
    return [
        ("what follows", f"is of {of}"),
        ("caption length", f"{_percentiles(captions['characters'])} characters"),
        ("caption words", _percentiles(captions["words"])),
        ("CLIP tokens", f"{_percentiles(captions['clip_tokens'])}; {over}"),
        ("live codes", f"{codes['live']:,} of {vocabulary:,} ({codes['live'] / vocabulary:.1%})"),
        ("entropy", f"{codes['entropy_bits']:.2f} of {np.log2(vocabulary):.2f} bits per token"),
        ("commonest code", f"{codes['commonest_fraction']:.2%} of the tokens"),
        ("width", f"{_percentiles(sample['width'])} px as downloaded"),
        ("height", f"{_percentiles(sample['height'])} px as downloaded"),
        ("same uid", f"{sample['same_uid']:,} rows" + (": the table is broken" if sample["same_uid"] else "")),
        ("same caption", f"{sample['same_caption']:,} rows repeat one ({sample['same_caption'] / sample['rows']:.1%})"),
    ]


def _sizes(values: dict[str, float]) -> str:
    """Return the rows per file (or row group) as text: one number if all are equal, else the range and the median."""
    least, median, most = (int(values[name]) for name in ("min", "median", "max"))
    return f"{most:,}" if least == most else f"{least:,} to {most:,} (median {median:,})"


def _percentiles(values: dict[str, float]) -> str:
    return f"median {values['median']:,.0f}, p90 {values['p90']:,.0f}, p99 {values['p99']:,.0f}"
