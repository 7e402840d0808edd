"""The whole job on this machine: pictures it draws itself, local HTTP, local Ray, SQLite MLflow. No GPU needed.

    make demo                                       # or: python pipelines/demo.py demo
    python pipelines/demo.py demo pictures=300 held_out=16 steps=50    # two minutes; learns nothing worth drawing

About 13 minutes on two cores. Everything lands in runs/demo.
"""

from emage.config import DemoConfig
from emage.on_ray import launch
from emage.on_ray.demo import demo

if __name__ == "__main__":
    launch.main(DemoConfig, demo)
