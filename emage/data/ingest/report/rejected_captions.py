"""Examples for the ingest report: captions that each rule rejected, selected at random from the tokenized shards."""

import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from emage.data.ingest.captions.caption_rules import RULES
from emage.utils import manifest

REJECTED_FILE = "rejected.parquet"  # of a tokenized shard
MAX_SHARDS = 64  # read for the examples; 640,000 rows at 10,000 rows per shard


def select_captions(tokenized: Path, seed: int = 0, num_per_rule: int = 20) -> dict[str, list[str]]:
    """Return captions that were rejected, by rule, from the shards of the tokenizing stage.

    Shards are read in random order until there are enough captions for every rule, at most MAX_SHARDS of them.

    Args:
        tokenized: The stage's folder. If its shards were deleted, there are no examples.
        seed: Decides the order of the shards and the captions.
        num_per_rule: Maximum number of captions of one rule.

    Raises:
        InputError: A shard is damaged.
    """
    rng = np.random.default_rng(seed)
    numbers = sorted(name for name in os.listdir(tokenized) if name.isdigit()) if tokenized.is_dir() else []
    counts = (manifest.read_json(tokenized / manifest.NAME) or {}).get("rejected", {})
    wanted = {rule: min(num_per_rule, counts[rule]) for rule in RULES if counts.get(rule)}
    captions: dict[str, list[str]] = {rule: [] for rule in wanted}
    for index in rng.permutation(len(numbers))[:MAX_SHARDS]:
        if all(len(captions[rule]) >= wanted[rule] for rule in wanted):
            break
        (file,) = manifest.check_outputs(tokenized / numbers[index], [REJECTED_FILE])
        table = pq.read_table(file, columns=["caption", "cause"])
        rules, texts = table["cause"].to_pylist(), table["caption"].to_pylist()
        for row in rng.permutation(len(table)):
            if len(captions.get(rules[row], ())) < wanted.get(rules[row], 0):
                captions[rules[row]].append(texts[row] or "")
    return {rule: texts for rule, texts in captions.items() if texts}
