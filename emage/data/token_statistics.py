"""Statistics of a token table: layout and data sets of all rows; captions, codes and image sizes of a random sample.

Memory stays constant for a table of any size: the layout is read from the files' footers, rows per data set from the
column `dataset` alone, and everything else from a random sample of row groups (token_samples.py).
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow.compute
import pyarrow.parquet as pq
from tqdm import tqdm

from emage.config import InspectionConfig, check_arguments
from emage.data import schema, token_samples
from emage.data.token_samples import TokenFile
from emage.utils.errors import InputError

# open_clip takes seconds to import, and only the captions need it: it is imported where it is used.

pc: Any = pyarrow.compute  # made at import, so that type checkers do not see its functions
CLIP_LENGTH = 77  # positions of CLIP's text encoder, including the start and the end token
NUM_EXAMPLES = 5  # captions that are printed
# Options of tqdm: the bar appears after one second, and only on a terminal.
PROGRESS_BAR: dict[str, Any] = {"delay": 1, "leave": False, "disable": None}


def compute_statistics(path: str, *, sample: int = 50_000, seed: int = 0) -> dict[str, Any]:
    """Return the statistics of the token table at `path`.

    Args:
        path: The table's folder.
        sample: Maximum number of rows for the numbers under "sample".
        seed: Decides which rows.

    Returns:
        "rows", "files", "bytes", "rows_per_file", "row_groups", "rows_per_row_group" (see `distribution`), "tokenizer",
        "version", "datasets" (rows by data set) and "sample": captions, codes (see `code_statistics`), image sizes,
        repeated uids and captions, and a few example captions.

    Raises:
        InputError: The folder is not a token table, or one of its files is damaged or belongs to another table.
    """
    check_arguments(InspectionConfig, sample=sample, seed=seed)
    names, info = schema.open_token_table(path)
    files = [token_samples.read_footer(name, info) for name in tqdm(names, "footers", **PROGRESS_BAR)]
    rows = sum(file.rows for file in files)
    if not rows:
        raise InputError(f"{path}: the token table has no rows")
    return {
        "path": str(path),
        "rows": rows,
        "files": len(files),
        "bytes": sum(file.bytes for file in files),
        "rows_per_file": distribution([file.rows for file in files]),
        "row_groups": sum(len(file.group_rows) for file in files),
        "rows_per_row_group": distribution([rows for file in files for rows in file.group_rows]),
        "tokenizer": asdict(info),
        "version": _version(names[0]),
        "datasets": _count_datasets(files, rows),
        "sample": _sample_statistics(files, info, min(sample, rows), seed),
    }


def distribution(values: Sequence[int] | np.ndarray) -> dict[str, float]:
    """Return the minimum, the median, the 90th and 99th percentile and the maximum of some numbers, by name."""
    least, median, p90, p99, most = np.percentile(values, (0, 50, 90, 99, 100)).tolist()
    return {"min": least, "median": median, "p90": p90, "p99": p99, "max": most}


def code_statistics(counts: np.ndarray) -> dict[str, float]:
    """Return how many codes occur ("live"), the entropy per token in bits, and the commonest code's fraction of tokens.

    Args:
        counts: (V,), the number of occurrences of each of the V codes.
    """
    fractions = counts[counts > 0] / counts.sum()
    entropy = -(fractions * np.log2(fractions)).sum()
    # abs: a single code gives -0.0
    return {"live": len(fractions), "entropy_bits": abs(float(entropy)), "commonest_fraction": float(fractions.max())}


def _version(file: str) -> str:
    """Return the release of emage that wrote a file."""
    return (pq.read_schema(file).metadata or {}).get(b"emage.version", b"unknown").decode()


def _count_datasets(files: Iterable[TokenFile], rows: int) -> dict[str, int]:
    """Return the rows of every data set, the largest first."""
    counts: Counter[str] = Counter()
    with tqdm(total=rows, desc="data sets", unit=" rows", **PROGRESS_BAR) as bar:
        for file in files:
            with (
                token_samples.explain_read_errors(file.path),
                pq.ParquetFile(file.path, read_dictionary=["dataset"], page_checksum_verification=True) as table,
            ):
                for batch in table.iter_batches(columns=["dataset"]):
                    for count in batch["dataset"].value_counts().to_pylist():
                        counts[count["values"]] += count["counts"]
                    bar.update(len(batch))
    return dict(counts.most_common())


def _sample_statistics(files: Sequence[TokenFile], info: schema.TokenizerInfo, rows: int, seed: int) -> dict[str, Any]:
    codes = np.zeros(info.vocab_size, np.int64)
    captions: list[str] = []
    uids, widths, heights = [], [], []
    with tqdm(total=rows, desc="sample", unit=" rows", **PROGRESS_BAR) as bar:
        for table in token_samples.sample_rows(files, rows, seed):
            counts = np.bincount(token_samples.token_array(table).ravel(), minlength=info.vocab_size)
            if len(counts) > info.vocab_size:
                raise InputError(f"the table has token {len(counts) - 1}, the vocabulary {info.vocab_size} codes")
            codes += counts
            captions += pc.fill_null(table["caption"], "").to_pylist()
            for values, name in ((uids, "uid"), (widths, "width"), (heights, "height")):
                values.append(table[name].to_numpy())
            bar.update(len(table))
    examples = np.random.default_rng(seed).choice(rows, min(NUM_EXAMPLES, rows), replace=False)
    return {
        "rows": rows,
        "captions": _caption_statistics(captions),
        "codes": code_statistics(codes),
        "width": distribution(np.concatenate(widths)),
        "height": distribution(np.concatenate(heights)),
        "same_uid": rows - len(np.unique(np.concatenate(uids))),
        "same_caption": rows - len(set(captions)),
        "examples": [captions[index] for index in examples],
    }


def _caption_statistics(captions: Sequence[str]) -> dict[str, Any]:
    import open_clip

    tokenizer = open_clip.SimpleTokenizer(context_length=CLIP_LENGTH)
    tokens = [len(tokenizer.encode(text)) + 2 for text in tqdm(captions, "caption tokens", **PROGRESS_BAR)]
    return {
        "characters": distribution([len(text) for text in captions]),
        "words": distribution([len(text.split()) for text in captions]),
        "clip_tokens": distribution(tokens),  # with the start and the end token
        "truncated_fraction": float(np.mean(np.array(tokens) > CLIP_LENGTH)),
    }
