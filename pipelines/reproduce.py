"""The paper's tables and figures, its column beside ours; Markdown, JSON and an image of each.

    python pipelines/reproduce.py table3 output=runs/reproduce                  # small: hours on two cores, no GPU
    ray job submit --working-dir . -- python pipelines/reproduce.py all scale=paper output=/data/reproduce \\
        paper.data=/data/ingest/tokens paper.captions=captions_val2014.json paper.reference=/data/val2014

dry_run=true prints what it needs and how long that takes. Tables share what they need, and the same command, or another
table's, started again or beside it goes on with what is not there; force=true makes it all again.
"""

import sys

from emage import commands

if __name__ == "__main__":
    commands.run("reproduce", sys.argv[1:])
