"""Make a token table from tables of image URLs: select, download, tokenize, shuffle; every row is accounted for.

    python pipelines/ingest.py demo source.table=urls.parquet output=runs/my_ingest         # this machine, small
    ray job submit --working-dir . -- python pipelines/ingest.py laion400m source.table=/data/laion400m \\
        output=/data/ingest tokenize.num_actors=64 download.min_success_rate=0.2

Cost: for 280 million rows about 80 node-hours of 16 cores, 2,000 GPU-hours and 15 TB, estimated (docs/guides/scale.md).
Result: output/tokens, the token table, and ingest_report.md: rows in = written + dropped, by drop reason.
The same command resumes. stage=select|tokenize|shuffle runs one stage alone, stage=download the first two.
"""

import sys

from emage import commands

if __name__ == "__main__":
    commands.run("ingest", sys.argv[1:])
