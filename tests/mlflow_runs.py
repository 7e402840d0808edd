"""Settings of MLflow runs in a folder, and what is in its database."""

import sqlite3
from pathlib import Path
from typing import Any

from emage.config import IngestConfig, MLflowConfig, preset


def ingest_config(mlflow: MLflowConfig) -> IngestConfig:
    """Return the settings of a stage, one of them longer than MLflow takes."""
    values = {"uri": mlflow.uri, "artifacts": mlflow.artifacts, "enabled": mlflow.enabled}
    return preset(IngestConfig, "tiny", output="out", source={"table": "urls.csv", "dataset": "x" * 600}, mlflow=values)


def in_folder(folder: Path) -> MLflowConfig:
    """Return settings that put database and artifacts into a folder."""
    return MLflowConfig(uri=f"sqlite:///{folder}/mlflow.db", artifacts=f"{folder}/artifacts")


def rows(folder: Path, query: str, *values: object) -> list[Any]:
    """Return the rows that an SQL query gives on the folder's database."""
    with sqlite3.connect(folder / "mlflow.db") as database:
        return database.execute(query, values).fetchall()


def run_status(folder: Path, run_id: str | None) -> str:
    """Return FINISHED, RUNNING, FAILED or KILLED."""
    return rows(folder, "select status from runs where run_uuid = ?", run_id)[0][0]
