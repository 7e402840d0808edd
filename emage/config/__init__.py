"""Every setting of every program: frozen dataclasses whose defaults are the paper's run.

One config per pipeline. `parse(TrainConfig, ["demo", "optim.steps=100"])` takes a preset's values and then the
overrides; what comes out is a plain frozen dataclass, and `to_yaml` writes the form that goes to the terminal, to
MLflow and into the checkpoint. Sections in comments are the paper's.
"""

from emage.config.choices import Dtype, FidMode, Method, Precision, Rank, Schedule, Study, UnmaskingOrder
from emage.config.cli import from_yaml, nearest, parse, preset, to_yaml, usage
from emage.config.evaluation import EvaluateConfig, JudgeConfig
from emage.config.ingest import DownloadConfig, IngestConfig, SelectConfig, ShuffleConfig, SourceConfig, TokenizeConfig
from emage.config.model import CheckpointConfig, ModelConfig, SamplingConfig
from emage.config.presets import PRESETS
from emage.config.reproduce import DemoConfig, PaperConfig, ReproduceConfig, SmallConfig, Table2Config
from emage.config.serving import AccessConfig, AutoscalingConfig, ServeConfig
from emage.config.tracking import DoctorConfig, MLflowConfig
from emage.config.training import DataConfig, ObjectiveConfig, OptimConfig, RunConfig, TrainConfig

__all__ = [
    "PRESETS",
    "AccessConfig",
    "AutoscalingConfig",
    "CheckpointConfig",
    "DataConfig",
    "DemoConfig",
    "DoctorConfig",
    "DownloadConfig",
    "Dtype",
    "EvaluateConfig",
    "FidMode",
    "IngestConfig",
    "JudgeConfig",
    "MLflowConfig",
    "Method",
    "ModelConfig",
    "ObjectiveConfig",
    "OptimConfig",
    "PaperConfig",
    "Precision",
    "Rank",
    "ReproduceConfig",
    "RunConfig",
    "SamplingConfig",
    "Schedule",
    "SelectConfig",
    "ServeConfig",
    "ShuffleConfig",
    "SmallConfig",
    "SourceConfig",
    "Study",
    "Table2Config",
    "TokenizeConfig",
    "TrainConfig",
    "UnmaskingOrder",
    "from_yaml",
    "nearest",
    "parse",
    "preset",
    "to_yaml",
    "usage",
]
