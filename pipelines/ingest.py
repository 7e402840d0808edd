"""URL table -> token table: downloads, filters captions, tokenizes and shuffles, with an account of every row.

    ray job submit --working-dir . -- python pipelines/ingest.py laion400m source.table=/data/laion400m \\
        output=/data/ingest tokenize.num_actors=64 download.min_success_rate=0.2

On this machine, small: python pipelines/ingest.py demo source.table=urls.parquet output=runs/my_ingest
The same command resumes. stage=select|download|tokenize|shuffle runs one stage alone; download runs select first.
"""

import sys

from emage import commands

if __name__ == "__main__":
    commands.run("ingest", sys.argv[1:])
