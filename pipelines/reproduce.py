"""Reproduce the paper's tables and figures: the paper's numbers next to ours, as Markdown, JSON and an image of each.

    python pipelines/reproduce.py table3 output=runs/reproduce                  # small: hours on two cores, no GPU
    ray job submit --working-dir . -- python pipelines/reproduce.py all scale=paper output=/data/reproduce \\
        paper.data=/data/ingest/tokens paper.captions=captions_val2014.json paper.reference=/data/val2014

Cost: dry_run=true prints what it needs and how long that takes.
Result: table3.md, .json and .png, likewise for each table and figure. Tables share experiments: the same command, or
another table's, also at the same time, runs only those that are missing. force=true runs all again.
"""

import sys

from emage import commands

if __name__ == "__main__":
    commands.run("reproduce", sys.argv[1:])
