"""Train one of the five methods on a token table.

    python pipelines/train.py demo data.path=runs/demo/ingest/tokens run.output=runs/my_model method=iterative1
    ray job submit --working-dir . -- python pipelines/train.py paper data.path=/data/tokens \\
        run.output=/data/runs/paper run.num_workers=64

Cost: the second line is the paper's run, iterative3 for 500,000 steps of 1,024 images: 19 days on 64 V100s, estimated;
dry_run=true prints memory, FLOP and days for your GPUs. Result: run.output/model, a checkpoint folder, and curves.png.
The same command resumes from its last checkpoint.
"""

import sys

from emage import commands

if __name__ == "__main__":
    commands.run("train", sys.argv[1:])
