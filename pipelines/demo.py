"""The whole job on this machine: images it draws itself, local HTTP, local Ray, SQLite MLflow. No GPU needed.

    make demo                                       # or: python pipelines/demo.py demo
    python pipelines/demo.py demo pictures=300 held_out=16 steps=50    # two minutes; learns nothing worth drawing

12 minutes on two cores. Everything lands in runs/demo.
"""

import sys

from emage import commands

if __name__ == "__main__":
    commands.run("demo", sys.argv[1:])
