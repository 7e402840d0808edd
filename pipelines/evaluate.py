"""Draws captions with a checkpoint, ranks the candidates and reports.

    ray job submit --working-dir . -- python pipelines/evaluate.py paper checkpoint=runs/paper/model \\
        captions=captions_val2014.json output=runs/evaluate

30,000 captions x 16 candidates are 480,000 pictures. On this machine: the same line without `ray job submit --`.
"""

from emage.config import EvaluateConfig
from emage.on_ray import launch
from emage.on_ray.evaluate import evaluate

if __name__ == "__main__":
    launch.main(EvaluateConfig, evaluate)
