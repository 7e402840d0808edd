"""MLflow tracking: one run per stage, with its settings, metrics, tables, images and files.

    with tracking.start(config.mlflow, stage="train", settings=config, run_file=file) as run:   # the driver
        ...                                    # passes run.config and the path of the run file to its workers
        with tracking.attach(run_config, file) as same_run:                                     # a worker
            same_run.metrics({"loss": 4.2}, step=50)

The run file names the run. A driver that finds one continues that run, after any restart, and no step is recorded
twice. A worker waits for the file, so a server that is unreachable at the start only delays its records.

Only this module, `mlflow_writer` and `mlflow_model` depend on MLflow. All recording calls but `model` return at once: a
thread writes.
"""

import dataclasses
import functools
import json
import logging
import os
from pathlib import Path
from typing import Any

from PIL import Image

from emage.config import MLflowConfig, to_yaml
from emage.on_ray.mlflow_writer import MlflowWriter, now_ms, sqlite_file
from emage.utils.redact import redact_settings

RUN_FILE = "mlflow.json"  # in the output of a stage that continues its run
MAX_PARAM_CHARS = 500
PARAMS_PER_CALL = 100  # MLflow's own limit

_log = logging.getLogger(__name__)


def resolve_uri(config: MLflowConfig) -> str:
    """Return the tracking URI that is used.

    MLFLOW_TRACKING_URI overrides the config; the path of an SQLite file is made absolute, with `~` expanded.
    """
    address = os.environ.get("MLFLOW_TRACKING_URI") or config.uri
    scheme, separator, path = address.partition(":///")
    return scheme + separator + os.path.abspath(os.path.expanduser(path)) if scheme == "sqlite" and path else address


def start(
    config: MLflowConfig, *, stage: str, settings: Any, run_file: Path | None = None, parent: str | None = None
) -> "TrackedRun":
    """Start a run, or continue the one that `run_file` names on the same server.

    Waits for the server's first answer, or a timeout of a few seconds.

    Args:
        config: The `mlflow` settings; relative paths are made absolute.
        stage: Name of the run: "ingest", "train", "evaluate", "serve".
        settings: Config dataclass, recorded as parameters and as config.yaml.
        run_file: JSON file with the id of the run, written here if it does not exist.
        parent: Id of the parent run, below which MLflow's pages show this one.

    Returns:
        The run. As a context manager it ends as FINISHED, or as FAILED or KILLED if the block raises.
    """
    artifacts = config.artifacts if "://" in config.artifacts else os.path.abspath(config.artifacts)
    config = dataclasses.replace(config, uri=resolve_uri(config), artifacts=artifacts)
    run = TrackedRun(config, stage=stage, run_file=run_file, parent=parent)
    run.params(dataclasses.asdict(settings))
    run.text("config.yaml", to_yaml(settings, show_secrets=False))
    run.wait()
    return run


def attach(config: MLflowConfig, run_file: Path) -> "TrackedRun":
    """Open the run that a driver started, in another process.

    `close` (or the end of a `with` block) writes the queued records and leaves the run open for its driver. Metrics of
    steps that were recorded before are not written again.

    Args:
        config: `run.config` of the driver, whose paths are absolute.
        run_file: The file that the driver passed to `start`.
    """
    config = dataclasses.replace(config, uri=resolve_uri(config))
    database = sqlite_file(config)
    if config.enabled and database is not None and not database.is_file():
        _log.warning(
            "MLflow: %s is not on this machine, nothing is recorded from here; several machines need a server", database
        )
        config = dataclasses.replace(config, enabled=False)
    return TrackedRun(config, run_file=run_file)


class TrackedRun:
    """A run to write to. All methods do nothing if tracking is off (`mlflow.enabled=false`)."""

    def __init__(
        self,
        config: MLflowConfig,
        *,
        stage: str | None = None,
        run_file: Path | None = None,
        parent: str | None = None,
    ):
        self.config = config
        self._writer = MlflowWriter(config, stage=stage, run_file=run_file, parent=parent)

    def __enter__(self) -> "TrackedRun":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close("FINISHED" if kind is None else "FAILED" if issubclass(kind, Exception) else "KILLED")

    @property
    def id(self) -> str | None:
        """The run's id; None if tracking is off, or until the server has been reached."""
        return self._writer.run_id

    def params(self, settings: dict[str, Any]) -> None:
        """Record a (nested) dict of settings under dotted names. A run that is continued keeps its first settings."""
        flat = _flatten(redact_settings(settings))

        def write(client: Any, run_id: str, names: list[str]) -> None:
            if self._writer.is_new:
                client.log_batch(run_id, params=_params(flat, names))

        for names in (list(flat)[i : i + PARAMS_PER_CALL] for i in range(0, len(flat), PARAMS_PER_CALL)):
            self._writer.put(functools.partial(write, names=names))

    def metrics(self, values: dict[str, float], step: int | None = None) -> None:
        """Record numbers, as points of curves at `step` or, with None, once."""
        when, numbers = now_ms(), {name: float(value) for name, value in values.items()}

        def write(client: Any, run_id: str) -> None:
            if step is None or step > self._writer.last_step:
                client.log_batch(run_id, metrics=_metrics(numbers, when, step or 0))

        self._writer.put(write)

    def table(self, name: str, columns: dict[str, list[Any]]) -> None:
        """Record columns of equal length as a table artifact; `name` ends in .json."""
        self._writer.put(lambda client, run_id: client.log_table(run_id, columns, name))

    def image(self, name: str, image: Image.Image) -> None:
        """Record an image artifact, such as "samples/step_000500.png"."""
        frozen = image.copy()
        self._writer.put(lambda client, run_id: client.log_image(run_id, frozen, name))

    def text(self, name: str, text: str) -> None:
        """Record a text artifact."""
        self._writer.put(lambda client, run_id: client.log_text(run_id, text, name))

    def file(self, path: str | Path, folder: str = "") -> None:
        """Record a copy of a file as an artifact. It is read later: it must exist until the run is closed."""
        self._writer.put(lambda client, run_id: client.log_artifact(run_id, str(path), folder or None))

    def model(self, checkpoint: Path, register_as: str = "") -> None:
        """Record a checkpoint as the run's MLflow model. Blocks until it is uploaded, or the server is unreachable.

        Args:
            checkpoint: The folder that `Emage.save_pretrained` wrote.
            register_as: Name in the model registry; "": not registered.
        """
        from emage.on_ray import mlflow_model  # with it PyTorch, which takes seconds

        self._writer.put_and_wait(lambda client, run_id: mlflow_model.log(client, run_id, checkpoint, register_as))

    def wait(self) -> None:
        """Block until the first record has been attempted."""
        self._writer.wait()

    def close(self, status: str = "FINISHED") -> None:
        """Write the queued records and end the run if it was started here."""
        self._writer.close(status)


def _params(flat: dict[str, str], names: list[str]) -> list[Any]:
    from mlflow.entities import Param

    return [Param(name, flat[name]) for name in names]


def _metrics(values: dict[str, float], when: int, step: int) -> list[Any]:
    from mlflow.entities import Metric

    return [Metric(name, value, when, step) for name, value in values.items()]


def _flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Return dotted names and texts: {"a": {"b": [1]}} -> {"a.b": "[1]"}. Texts are truncated to what MLflow takes."""
    flat: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            flat[prefix + name] = text[:MAX_PARAM_CHARS]
    return flat
