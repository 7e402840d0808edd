"""What a token table holds: its layout, where its rows come from, its captions and codes, and images made of them.

    emage inspect PATH [sheet=FILE.png] [pictures=32] [sample=50000] [weights=FILE] [seed=0]

Memory stays flat at any size: the layout is read from the files' footers, rows per data set from that one column, and
everything else from a random sample of row groups. `sheet` decodes images from their tokens, on the CPU, and needs
the tokenizer's weights; nothing else does.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
from omegaconf import MISSING
from PIL import Image
from tqdm import tqdm

from emage import config
from emage.config import cli
from emage.data import schema
from emage.utils import image_grid
from emage.utils.errors import InputError

# torch and open_clip take seconds to import, and only some of this needs them: they are imported where they are used.

pc: Any = pyarrow.compute  # made at import, so that type checkers do not see its functions
CLIP_LENGTH = 77  # positions of CLIP's text encoder, start and end of the text included
SAMPLED = ["uid", "caption", "tokens", "width", "height"]
GROUPS_PER_SHEET = 8  # row groups that the images of a sheet come from
COLUMNS_PER_SHEET = 8
EXAMPLES = 5  # captions that are printed
AT_ONCE = 4  # images decoded together
_BAR: dict[str, Any] = {"delay": 1, "leave": False, "disable": None}  # on a terminal, for what takes over a second


@dataclass(frozen=True)
class InspectionConfig:
    """Token table -> what it holds. PATH may stand alone in front: emage inspect PATH key=value ..."""

    path: str = MISSING
    sheet: str | None = None  # file for a contact sheet of decoded images with their captions
    pictures: int = 32  # on the sheet
    sample: int = 50_000  # rows
    weights: str | None = None  # the tokenizer's, for the sheet; without it, the published ones are fetched
    seed: int = 0  # of the samples


class _File(NamedTuple):
    path: str
    bytes: int
    groups: list[int]  # rows of each row group


def inspect(path: str, *, sample: int = 50_000, seed: int = 0) -> dict[str, Any]:
    """The figures of the token table at `path`; those under "sample" are of at most `sample` rows.

    Raises InputError where `path` is no token table, or where a file of it is damaged or unlike the others.
    """
    if sample < 1:
        raise InputError(f"sample={sample}: at least one row is needed")
    names, info = schema.open_token_table(path)
    files = [_footer(name, info) for name in tqdm(names, "footers", **_BAR)]
    rows = sum(sum(file.groups) for file in files)
    if not rows:
        raise InputError(f"{path}: the token table has no rows")
    return {
        "path": str(path),
        "rows": rows,
        "files": len(files),
        "bytes": sum(file.bytes for file in files),
        "rows_per_file": spread([sum(file.groups) for file in files]),
        "row_groups": sum(len(file.groups) for file in files),
        "rows_per_row_group": spread([rows for file in files for rows in file.groups]),
        "tokenizer": asdict(info),
        "version": _version(names[0]),
        "datasets": _datasets(files, rows),
        "sample": _of_sample(files, info, min(sample, rows), seed),
    }


def contact_sheet(path: str, *, num_images: int = 32, weights: str | None = None, seed: int = 0) -> Image.Image:
    """Random images of the table, decoded from their tokens, with their captions.

    Raises InputError where the tokenizer's weights cannot be had, or are not those that made the table.
    """
    import torch

    if num_images < 1:
        raise InputError(f"pictures={num_images}: a sheet needs at least one")
    names, info = schema.open_token_table(path)
    tokenizer = _tokenizer(info, weights)
    files = [_footer(name, info) for name in names]
    images, captions = [], []
    spread_over = min(GROUPS_PER_SHEET, sum(len(file.groups) for file in files))
    with tqdm(total=num_images, desc="images", **_BAR) as bar:
        for table in _sample(files, num_images, seed, at_most=math.ceil(num_images / spread_over)):
            captions += table["caption"].to_pylist()
            for ids in torch.from_numpy(_tokens(table).astype(np.int64)).split(AT_ONCE):
                with torch.no_grad():
                    pixels = tokenizer.decode(ids, info.grid).permute(0, 2, 3, 1)  # (b, H, W, 3)
                images += [Image.fromarray(image) for image in (pixels * 255).round().byte().numpy()]
                bar.update(len(ids))
    return image_grid.sheet(images, captions, COLUMNS_PER_SHEET)


def spread(values: Sequence[int] | np.ndarray) -> dict[str, float]:
    """How numbers are distributed: least, median, 90th and 99th percentile, most."""
    least, median, p90, p99, most = np.percentile(values, (0, 50, 90, 99, 100)).tolist()
    return {"least": least, "median": median, "p90": p90, "p99": p99, "most": most}


# --- Reading ---------------------------------------------------------------------------------------------------------


@contextmanager
def _readable(file: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{file}: cannot be read ({str(error).splitlines()[0]}); ingest again to replace it") from None


def _footer(file: str, info: schema.TokenizerInfo) -> _File:
    """A file's size and row groups. Raises InputError where it does not belong to this table."""
    with _readable(file):
        metadata = pq.read_metadata(file)
        columns = metadata.schema.to_arrow_schema()
    try:
        if (other := schema.tokenizer_of(columns)) != info:
            raise InputError(f"{file} is of {other}, the table's first file of {info}; keep one table to a folder")
    except ValueError as error:
        raise InputError(f"{file}: not of a token table ({error}); pipelines/ingest.py writes one") from None
    if not columns.equals(schema.token_table(info, "")):  # without their metadata
        raise InputError(f"{file}: not the columns of a token table (it has: {', '.join(columns.names)})")
    groups = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    return _File(file, Path(file).stat().st_size, groups)


def _version(file: str) -> str:
    """The release of emage that wrote a file."""
    return (pq.read_schema(file).metadata or {}).get(b"emage.version", b"unknown").decode()


def _datasets(files: Iterable[_File], rows: int) -> dict[str, int]:
    """Rows of every data set, the largest first."""
    counts: Counter[str] = Counter()
    with tqdm(total=rows, desc="data sets", unit=" rows", **_BAR) as bar:
        for file in files:
            with _readable(file.path), pq.ParquetFile(file.path, read_dictionary=["dataset"]) as table:
                for batch in table.iter_batches(columns=["dataset"]):
                    for count in batch["dataset"].value_counts().to_pylist():
                        counts[count["values"]] += count["counts"]
                    bar.update(len(batch))
    return dict(counts.most_common())


def _sample(files: Iterable[_File], rows: int, seed: int, at_most: int | None = None) -> Iterator[pa.Table]:
    """Row groups in random order, up to `rows` rows in all; of a group that is cut, random rows.

    at_most: rows of one group. Without it groups are used up, which reads the least.
    """
    rng = np.random.default_rng(seed)
    groups = [(file.path, i) for file in files for i in range(len(file.groups))]
    for place in rng.permutation(len(groups)):
        name, i = groups[place]
        with _readable(name), pq.ParquetFile(name) as file:
            table = file.read_row_group(i, columns=SAMPLED)
        most = min(rows, at_most or rows)
        if len(table) > most:
            table = table.take(np.sort(rng.choice(len(table), most, replace=False)))
        yield table
        rows -= len(table)
        if not rows:
            return


def _tokens(table: pa.Table) -> np.ndarray:
    """(rows, N) uint16."""
    return table["tokens"].combine_chunks().flatten().to_numpy().reshape(len(table), -1)


def _tokenizer(info: schema.TokenizerInfo, weights: str | None) -> Any:
    from emage import tokenizers

    try:
        tokenizer = tokenizers.load(info.name, weights)
    except (ValueError, OSError) as error:
        raise InputError(f"no sheet without the weights of {info.name}: {error}; pass weights=FILE") from None
    if tokenizer.sha256 != info.sha256:
        raise InputError(
            f"no sheet: the table was made by weights of sha256 {info.sha256}, these have {tokenizer.sha256}; "
            "pass weights=FILE"
        )
    return tokenizer


# --- Figures of the sample -------------------------------------------------------------------------------------------


def _of_sample(files: Sequence[_File], info: schema.TokenizerInfo, rows: int, seed: int) -> dict[str, Any]:
    codes = np.zeros(info.vocab_size, np.int64)
    captions: list[str] = []
    uids, widths, heights = [], [], []
    with tqdm(total=rows, desc="sample", unit=" rows", **_BAR) as bar:
        for table in _sample(files, rows, seed):
            counts = np.bincount(_tokens(table).ravel(), minlength=info.vocab_size)
            if len(counts) > info.vocab_size:
                raise InputError(f"the table has token {len(counts) - 1}, the vocabulary {info.vocab_size} codes")
            codes += counts
            captions += pc.fill_null(table["caption"], "").to_pylist()
            for values, name in ((uids, "uid"), (widths, "width"), (heights, "height")):
                values.append(table[name].to_numpy())
            bar.update(len(table))
    shown = np.random.default_rng(seed).choice(rows, min(EXAMPLES, rows), replace=False)
    return {
        "rows": rows,
        "captions": _of_captions(captions),
        "codes": of_codes(codes),
        "width": spread(np.concatenate(widths)),
        "height": spread(np.concatenate(heights)),
        "same_uid": rows - len(np.unique(np.concatenate(uids))),
        "same_caption": rows - len(set(captions)),
        "examples": [captions[place] for place in shown],
    }


def of_codes(counts: np.ndarray) -> dict[str, float]:
    """counts: (V,) how often each code occurs -> how many occur at all, entropy in bits, the commonest one's share."""
    shares = counts[counts > 0] / counts.sum()
    entropy = -(shares * np.log2(shares)).sum()
    return {"live": len(shares), "entropy_bits": abs(float(entropy)), "commonest_share": float(shares.max())}


def _of_captions(captions: Sequence[str]) -> dict[str, Any]:
    import open_clip

    tokenizer = open_clip.SimpleTokenizer(context_length=CLIP_LENGTH)
    tokens = [len(tokenizer.encode(text)) + 2 for text in tqdm(captions, "caption tokens", **_BAR)]
    return {
        "characters": spread([len(text) for text in captions]),
        "words": spread([len(text.split()) for text in captions]),
        "clip_tokens": spread(tokens),  # with those for start and end
        "share_cut": float(np.mean(np.array(tokens) > CLIP_LENGTH)),
    }


# --- On the terminal -------------------------------------------------------------------------------------------------


def show(figures: dict[str, Any]) -> None:
    """Prints what `inspect` found."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=Text(f"token table {image_grid.printable(figures['path'])}"), title_justify="left", show_header=False
    )
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for section in (_layout_lines(figures), _dataset_lines(figures), _sample_lines(figures)):
        for name, value in section:
            table.add_row(Text(image_grid.printable(name)), Text(value))  # Text: brackets in a caption are no markup
        table.add_section()
    for caption in figures["sample"]["examples"]:
        table.add_row("a caption", Text(image_grid.printable(caption)))
    Console().print(table)


def _layout_lines(figures: dict[str, Any]) -> list[tuple[str, str]]:
    info = figures["tokenizer"]
    height, width = info["grid"]
    per_row = figures["bytes"] / figures["rows"]
    return [
        ("rows", f"{figures['rows']:,}"),
        ("files", f"{figures['files']:,} of {_sizes(figures['rows_per_file'])} rows"),
        ("row groups", f"{figures['row_groups']:,} of {_sizes(figures['rows_per_row_group'])} rows"),
        ("bytes", f"{figures['bytes']:,} ({per_row:,.0f} a row)"),
        ("tokenizer", f"{info['name']}, {info['vocab_size']:,} codes, grid {height}x{width}"),
        ("weights sha256", info["sha256"]),
        ("written by", f"emage {figures['version']}"),
    ]


def _dataset_lines(figures: dict[str, Any]) -> list[tuple[str, str]]:
    return [(name, f"{rows:,} rows ({rows / figures['rows']:.1%})") for name, rows in figures["datasets"].items()]


def _sample_lines(figures: dict[str, Any]) -> list[tuple[str, str]]:
    sample, vocabulary = figures["sample"], figures["tokenizer"]["vocab_size"]
    captions, codes = sample["captions"], sample["codes"]
    of = "every row" if sample["rows"] == figures["rows"] else f"a sample of {sample['rows']:,} rows"
    return [
        ("what follows", f"is of {of}"),
        ("caption length", f"{_percentiles(captions['characters'])} characters"),
        ("caption words", _percentiles(captions["words"])),
        ("CLIP tokens", f"{_percentiles(captions['clip_tokens'])}; {captions['share_cut']:.2%} over {CLIP_LENGTH}"),
        ("live codes", f"{codes['live']:,} of {vocabulary:,} ({codes['live'] / vocabulary:.1%})"),
        ("entropy", f"{codes['entropy_bits']:.2f} of {np.log2(vocabulary):.2f} bits a token"),
        ("commonest code", f"{codes['commonest_share']:.2%} of the tokens"),
        ("width", f"{_percentiles(sample['width'])} px as downloaded"),
        ("height", f"{_percentiles(sample['height'])} px as downloaded"),
        ("same uid", f"{sample['same_uid']:,} rows" + (": the table is broken" if sample["same_uid"] else "")),
        ("same caption", f"{sample['same_caption']:,} rows repeat one ({sample['same_caption'] / sample['rows']:.1%})"),
    ]


def _sizes(values: dict[str, float]) -> str:
    """The sizes of files or row groups: they are meant to be equal, apart from a last one or one row more."""
    least, median, most = (int(values[name]) for name in ("least", "median", "most"))
    return f"{most:,}" if least == most else f"{least:,} to {most:,} (median {median:,})"


def _percentiles(values: dict[str, float]) -> str:
    return f"median {values['median']:,.0f}, p90 {values['p90']:,.0f}, p99 {values['p99']:,.0f}"


def main(argv: Sequence[str]) -> None:
    """Exits with 2 on bad input: where only the sheet fails, after everything else was printed."""
    words = list(argv)
    if words and "=" not in words[0] and not words[0].startswith("-"):
        words[0] = f"path={words[0]}"
    with cli.one_line():
        settings = config.parse(InspectionConfig, words)
        if settings.sheet and Path(settings.sheet).suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
            raise InputError(f"sheet={settings.sheet}: end it in .png, .jpg or .webp")
        show(inspect(settings.path, sample=settings.sample, seed=settings.seed))
        if settings.sheet:
            sheet = contact_sheet(
                settings.path, num_images=settings.pictures, weights=settings.weights, seed=settings.seed
            )
            _save(sheet, settings.sheet)


def _save(sheet: Image.Image, file: str) -> None:
    try:
        sheet.save(file)
    except OSError as error:
        raise InputError(f"sheet={file}: {error.strerror or error}") from None
    print(f"{file}: images decoded from their tokens")
