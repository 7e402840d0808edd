"""Settings of MLflow, which every program has."""

from dataclasses import dataclass


@dataclass(frozen=True)
class MLflowConfig:
    """Where runs are recorded. MLFLOW_TRACKING_URI, where it is set, wins over `uri`."""

    uri: str = "sqlite:///runs/mlflow.db"
    artifacts: str = "runs/mlflow-artifacts"  # for experiments created in an sqlite store
    experiment: str = "emage"
    enabled: bool = True
