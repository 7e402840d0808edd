"""Captions per second of the caption rules and of caption cleaning, on one core; the goal of the rules is 60,000.

    python benchmarks/captions.py [URL_TABLE.parquet] [column=TEXT]

Takes a few seconds. Without a table it makes 10,000 captions of typical kinds, one in sixteen not ASCII. Prints rates
by CPU time of ten rounds: the best one, which other load on the machine hardly changes, and the median.
"""

import sys
import time
from statistics import median

import pyarrow.parquet as pq

from emage.data.ingest.captions.caption_cleaning import normalise
from emage.data.ingest.captions.caption_rules import RULES, drop_reason

SYNTHETIC = [
    *["a small red circle above a large blue square", "Vintage 1964 Tires SIGN 50th Anniversary 23x14 Station Garage"]
    * 5,
    "Three young men camping beside a lake, with a mountain behind them and a dog in front",
    "Soap &amp; Glory <b>body</b> butter",
    "harbour-bridge-sydney-2",
    "Click to enlarge image 4 of 10",
    "2014 yamaha V Star 950 for sale",
    "Caf\u00e9 terrace \u2014 \u201cat night\u201d",
]


def main(table: str | None = None, column: str = "TEXT") -> None:
    """Measure and print; `table` is a parquet file with captions in `column`."""
    captions = pq.read_table(table, columns=[column])[column].to_pylist() if table else SYNTHETIC * 625
    rates = [measure(drop_reason, captions) for _ in range(10)]
    cleaning = max(measure(normalise, captions) for _ in range(10))
    kept = sum(drop_reason(caption) is None for caption in captions)
    print(f"{len(captions):,} captions, {len(RULES)} rules, {kept / len(captions):.1%} kept")
    print(f"drop_reason  {max(rates):>9,.0f} captions/s per core (median {median(rates):,.0f})")
    print(f"normalise    {cleaning:>9,.0f} captions/s per core")


def measure(function, captions: list[str]) -> float:
    """Return calls of the function per CPU second."""
    start = time.process_time()
    for caption in captions:
        function(caption)
    return len(captions) / (time.process_time() - start)


if __name__ == "__main__":
    main(*(argument.removeprefix("column=") for argument in sys.argv[1:]))
