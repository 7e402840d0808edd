"""Draws captions with a checkpoint, ranks the candidates and reports.

    ray job submit --working-dir . -- python pipelines/evaluate.py paper checkpoint=/data/runs/paper/model \\
        captions=/data/captions_val2014.json judge.reference=/data/val2014 output=/data/evaluate num_actors=8

30,000 captions x 16 candidates are 480,000 images; limit=100 is a quick look, into another output. On this machine:
the line from `python` on.
"""

import sys

from emage import commands

if __name__ == "__main__":
    commands.run("evaluate", sys.argv[1:])
