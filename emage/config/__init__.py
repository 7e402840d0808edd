"""Every setting of every program: frozen dataclasses, checked by one mechanism and described where they are defined.

One config per program. `parse(TrainConfig, ["demo", "optim.steps=100"])` takes a preset's values and then the
overrides; the result is a frozen dataclass that has been checked. `to_yaml` writes the form that goes to the terminal,
to MLflow and into the checkpoint. Defaults that the paper states are its run ("paper, Sec. N"); the others are ours.
"""

from emage.config.cli import from_yaml, parse, preset, to_yaml
from emage.config.environment import DoctorConfig, MLflowConfig, TrainMLflowConfig
from emage.config.evaluation import EvaluateConfig, FidMode, JudgeConfig, Metric, Rank, SetMetric
from emage.config.fields import check, check_arguments, nearest
from emage.config.help_text import print_help, usage
from emage.config.ingest import (
    DownloadConfig,
    IngestConfig,
    InspectionConfig,
    SelectConfig,
    ShuffleConfig,
    SourceConfig,
    TokenizeConfig,
)
from emage.config.model import (
    CheckpointConfig,
    Dtype,
    GuidanceSchedule,
    Method,
    ModelConfig,
    Revise,
    SamplingConfig,
    Schedule,
    UnmaskingOrder,
)
from emage.config.presets import PRESETS
from emage.config.reproduce import DemoConfig, PaperConfig, ReproduceConfig, SmallConfig, StudyName, Table2Config
from emage.config.serving import AccessConfig, AutoscalingConfig, ServeConfig
from emage.config.training import (
    CurvesConfig,
    DataConfig,
    ObjectiveConfig,
    OptimConfig,
    Precision,
    RunConfig,
    TrainConfig,
)

__all__ = [
    "PRESETS",
    "AccessConfig",
    "AutoscalingConfig",
    "CheckpointConfig",
    "CurvesConfig",
    "DataConfig",
    "DemoConfig",
    "DoctorConfig",
    "DownloadConfig",
    "Dtype",
    "EvaluateConfig",
    "FidMode",
    "GuidanceSchedule",
    "IngestConfig",
    "InspectionConfig",
    "JudgeConfig",
    "MLflowConfig",
    "Method",
    "Metric",
    "ModelConfig",
    "ObjectiveConfig",
    "OptimConfig",
    "PaperConfig",
    "Precision",
    "Rank",
    "ReproduceConfig",
    "Revise",
    "RunConfig",
    "SamplingConfig",
    "Schedule",
    "SelectConfig",
    "ServeConfig",
    "SetMetric",
    "ShuffleConfig",
    "SmallConfig",
    "SourceConfig",
    "StudyName",
    "Table2Config",
    "TokenizeConfig",
    "TrainConfig",
    "TrainMLflowConfig",
    "UnmaskingOrder",
    "check",
    "check_arguments",
    "from_yaml",
    "nearest",
    "parse",
    "preset",
    "print_help",
    "to_yaml",
    "usage",
]
