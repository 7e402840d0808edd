"""Generate images for captions with a checkpoint, rank the candidates, score them and write a report.

    ray job submit --working-dir . -- python pipelines/evaluate.py paper checkpoint=/data/runs/paper/model \\
        captions=/data/captions_val2014.json judge.reference=/data/val2014 output=/data/evaluate num_actors=8

On this machine, without a cluster: the same line from `python` on.
Cost: 30,000 captions x 16 candidates are 480,000 images; limit=100 is a quick check, into another output=.
Result: report.md with the metrics (FID, CLIP score and others) and image grids; the same command resumes.
"""

import sys

from emage import commands

if __name__ == "__main__":
    commands.run("evaluate", sys.argv[1:])
