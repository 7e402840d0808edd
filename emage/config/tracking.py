"""Settings of MLflow, which every program has, and of the look at a machine and what is around it."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class MLflowConfig:
    """Where runs are recorded. MLFLOW_TRACKING_URI, where it is set, wins over `uri`."""

    uri: str = "sqlite:///runs/mlflow.db"
    artifacts: str = "runs/mlflow-artifacts"  # for experiments created in an sqlite store
    experiment: str = "emage"
    enabled: bool = True


@dataclass(frozen=True)
class DoctorConfig:
    """What of this machine or cluster is not as it must be (emage doctor)."""

    storage: str = ""  # a folder or URI that all nodes share, where outputs will lie; none: not looked at
    gpus: int = 0  # that the cluster must have
    tokenizer: str = "vqgan-gumbel-f8-8192"
    mlflow: MLflowConfig = field(default_factory=MLflowConfig)
