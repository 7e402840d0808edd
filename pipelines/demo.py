"""Run the whole job on this machine, without a GPU: render images, ingest them by URL, train, evaluate, serve.

    make demo                                       # or: python pipelines/demo.py demo
    python pipelines/demo.py demo pictures=300 held_out=16 steps=50    # a quick check: its model learns nothing

Cost: 12 minutes on two cores; the second line 2 minutes. Result: a table of stages with seconds, and in runs/demo the
model, an evaluation report and images.
"""

import sys

from emage import commands

if __name__ == "__main__":
    commands.run("demo", sys.argv[1:])
