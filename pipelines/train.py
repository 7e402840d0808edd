"""Trains one of the five methods on a token table.

    ray job submit --working-dir . -- python pipelines/train.py paper data.path=/data/tokens \\
        run.output=/data/runs/paper run.num_workers=64

That is the paper's run: iterative3, 500k steps of 1024 images. On this machine, small:

    python pipelines/train.py demo data.path=runs/demo/ingest/tokens run.output=runs/my_model method=iterative1

The same command goes on from its last checkpoint.
"""

import sys

from emage import commands

if __name__ == "__main__":
    commands.run("train", sys.argv[1:])
