"""MLflow, and nothing else knows it: one run a stage, with its settings, metrics, tables and images.

    with tracking.start(config.mlflow, stage="train", settings=config, run_file=file) as run:   # the driver
        ...                                                           # run.config and the record's path to the workers
        with tracking.attach(run_config, file) as same_run:                                   # a worker
            same_run.metrics({"loss": 4.2}, step=50)

`record` is a file that names the run. A driver that finds one goes on with that run, after any restart, and no step is
recorded twice; a worker waits for it, so that a store which is away at the start is no more than a delay.

A run is written by a background thread, so no call waits for the store and none raises for its sake. While the store
is away, records wait in a queue and one warning is printed; they are written when it is back, or are lost at the end.
The thread knows no stage; a stage knows no MLflow.
"""

import dataclasses
import functools
import json
import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from emage.config import MLflowConfig, to_yaml
from emage.utils import manifest
from emage.utils.redact import redact

if TYPE_CHECKING:
    from mlflow import MlflowClient

RUN_FILE = "mlflow.json"  # in the output of a stage that goes on with its run
RETRY_S = 30.0  # between two tries while the store is away
MAX_ATTEMPTS = 1000  # of one record, over eight hours: a store that chokes on it must not hold up the rest for ever
MAX_WAITING = 10_000  # records kept while the store is away
CLOSE_S = 60.0  # the most that the end of a stage waits for a slow store
MAX_PARAM = 500  # characters
PARAMS_PER_CALL = 100  # MLflow's own limit

_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")  # reached without a server, so the client places the artifacts
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # the queue is the retry
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # bounds what an unreachable server costs at the start and the end of a stage
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}

_log = logging.getLogger(__name__)


def resolve_uri(config: MLflowConfig) -> str:
    """The tracking URI in force: MLFLOW_TRACKING_URI wins over the config; an SQLite file's path is made absolute."""
    address = os.environ.get("MLFLOW_TRACKING_URI") or config.uri
    scheme, separator, path = address.partition(":///")
    return scheme + separator + os.path.abspath(path) if scheme == "sqlite" and path else address


def start(
    config: MLflowConfig, *, stage: str, settings: Any, run_file: Path | None = None, parent: str | None = None
) -> "TrackedRun":
    """A run, recorded with `settings` (a config dataclass). Its end depends on how the `with` block ends.

    It is a new one, unless `record` names one in the same store. MLflow's pages show it below the run `parent`. Waits
    for the store's first answer, or its absence, a few seconds.
    """
    artifacts = config.artifacts if "://" in config.artifacts else os.path.abspath(config.artifacts)
    config = dataclasses.replace(config, uri=resolve_uri(config), artifacts=artifacts)
    run = TrackedRun(config, stage=stage, run_file=run_file, parent=parent)
    run.params(dataclasses.asdict(settings))
    run.text("config.yaml", redact(to_yaml(settings)))
    run.wait()
    return run


def attach(config: MLflowConfig, run_file: Path) -> "TrackedRun":
    """The run that a driver started, in another process. `config` is the driver's `run.config`: its paths are absolute.

    `close` (or the end of a `with` block) writes what is left and leaves the run open for its driver. Metrics of steps
    that the run has from before are not written again.
    """
    config = dataclasses.replace(config, uri=resolve_uri(config))
    database = _sqlite_file(config)
    if config.enabled and database is not None and not database.is_file():
        _log.warning("MLflow: no %s on this machine, nothing is recorded from here; several need a server", database)
        config = dataclasses.replace(config, enabled=False)
    return TrackedRun(config, run_file=run_file)


class TrackedRun:
    """A run to write to. `id` is None when tracking is off, or while the store has not been reached yet."""

    def __init__(
        self,
        config: MLflowConfig,
        *,
        stage: str | None = None,
        run_file: Path | None = None,
        parent: str | None = None,
    ):
        self.config = config
        self.id: str | None = None
        self._stage = stage  # None: the run belongs to another process, which also ends it
        self._run_file, self._parent = run_file, parent
        self._created: str | None = None
        self._is_new, self._last_step = True, -1  # of the metrics that the run had when it was opened here
        self._started = _now()
        self._client: MlflowClient | None = None
        self._jobs: queue.SimpleQueue[Callable[[Any, str], object] | None] = queue.SimpleQueue()
        self._tried, self._closing = threading.Event(), threading.Event()
        self._warned: set[str] = set()
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True) if config.enabled else None
        if self._thread is not None:
            _import()  # here, not in the thread: two threads importing at once can see half a module
            self._thread.start()

    def __enter__(self) -> "TrackedRun":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close("FINISHED" if kind is None else "FAILED" if issubclass(kind, Exception) else "KILLED")

    def params(self, settings: dict[str, Any]) -> None:
        """A (nested) dict of settings, flattened to dotted names. A run keeps those that it began with."""
        flat = _flat(settings)

        def write(client: Any, run_id: str, names: list[str]) -> None:
            if self._is_new:
                client.log_batch(run_id, params=_params(flat, names))

        for names in (list(flat)[i : i + PARAMS_PER_CALL] for i in range(0, len(flat), PARAMS_PER_CALL)):
            self._put(functools.partial(write, names=names))

    def metrics(self, values: dict[str, float], step: int | None = None) -> None:
        """Numbers, at a step of a curve or (None) once."""
        when, numbers = _now(), {name: float(value) for name, value in values.items()}

        def write(client: Any, run_id: str) -> None:
            if step is None or step > self._last_step:
                client.log_batch(run_id, metrics=_metrics(numbers, when, step or 0))

        self._put(write)

    def table(self, name: str, columns: dict[str, list[Any]]) -> None:
        """Columns of equal length as a table artifact; `name` ends in .json."""
        self._put(lambda client, run_id: client.log_table(run_id, columns, name))

    def image(self, name: str, image: Image.Image) -> None:
        """An image artifact, such as "samples/step_000500.png"."""
        frozen = image.copy()
        self._put(lambda client, run_id: client.log_image(run_id, frozen, name))

    def text(self, name: str, text: str) -> None:
        """A text artifact."""
        self._put(lambda client, run_id: client.log_text(run_id, text, name))

    def file(self, path: str | Path, folder: str = "") -> None:
        """A copy of a file as an artifact. It is read a little later: leave it where it is until the run is closed."""
        self._put(lambda client, run_id: client.log_artifact(run_id, str(path), folder or None))

    def wait(self) -> None:
        """Until the first record has been tried."""
        if self._thread is not None:
            self._tried.wait()

    def close(self, status: str = "FINISHED") -> None:
        """Writes what is waiting (one try, if the store is away) and, where the run was started here, ends it."""
        if self._thread is None:
            return
        if self._stage is not None:
            self._jobs.put(lambda client, run_id: client.set_terminated(run_id, status))
        self._jobs.put(None)
        self._closing.set()
        self._thread.join(CLOSE_S)
        self._thread = None

    def _put(self, job: Callable[[Any, str], object]) -> None:
        if self._thread is not None and self._jobs.qsize() < MAX_WAITING:
            self._jobs.put(job)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            for _ in range(MAX_ATTEMPTS):
                if self._done_with(job):
                    break
                if self._closing.is_set():  # that was the last try
                    return
                self._closing.wait(RETRY_S)

    def _done_with(self, job: Callable[[Any, str], object]) -> bool:
        """Writes one record. False: the store is away and the record should be tried again."""
        try:
            if self._client is None:
                self._client = _connect(self.config)
            if self.id is None:
                self.id = self._open(self._client)
            job(self._client, self.id)
            return True
        except Exception as error:  # whatever a store and its drivers raise, the stage goes on
            away = _is_away(error)
            self._warn("away" if away else "refused", error)
            return not away
        finally:
            self._tried.set()

    def _open(self, client: "MlflowClient") -> str:
        """The id of the run that the record names or, for its driver, of a new one."""
        known = manifest.read_json(self._run_file) if self._run_file else None
        if known and known["uri"] == self.config.uri:
            return self._reopen(client, known["run"])
        if self._stage is None:
            raise ConnectionError("the driver has not reached it yet")
        self._created = self._created or self._create(client)  # once, though a full disk may refuse the record
        if self._run_file:
            manifest.write_json(self._run_file, {"uri": self.config.uri, "run": self._created})
        return self._created

    def _reopen(self, client: "MlflowClient", run_id: str) -> str:
        if self._stage is not None:
            client.update_run(run_id, status="RUNNING")
        self._is_new = False
        self._last_step = max((point.step for point in client.get_metric_history(run_id, "loss")), default=-1)
        return run_id

    def _create(self, client: "MlflowClient") -> str:
        experiment = client.get_experiment_by_name(self.config.experiment)
        number = experiment.experiment_id if experiment else _new_experiment(client, self.config)
        tags = {"stage": self._stage, "mlflow.source.name": Path(sys.argv[0]).name, "mlflow.source.type": "JOB"}
        if self._parent:
            tags["mlflow.parentRunId"] = self._parent
        return client.create_run(number, self._started, tags, run_name=self._stage).info.run_id

    def _warn(self, what: str, error: Exception) -> None:
        """One line, once a run for each kind of trouble."""
        if what in self._warned:
            return
        self._warned.add(what)
        reason = redact((str(error) or repr(error)).splitlines()[0])[:160]
        store = redact(self.config.uri)
        if what == "away":
            _log.warning("MLflow at %s is away; the stage goes on, records follow if it returns (%s)", store, reason)
        else:
            _log.warning("MLflow at %s refuses a record; the stage goes on without it (%s)", store, reason)


def _import() -> None:
    """MLflow takes seconds to import and reads its settings from the environment."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import mlflow  # noqa: F401

    logging.getLogger("alembic").setLevel(logging.WARNING)  # a page of migrations
    logging.getLogger("mlflow").setLevel(logging.CRITICAL)  # stack traces of what `_warn` says in a line


def _connect(config: MLflowConfig) -> "MlflowClient":
    from mlflow import MlflowClient

    if database := _sqlite_file(config):
        database.parent.mkdir(parents=True, exist_ok=True)
    return MlflowClient(tracking_uri=config.uri)


def _sqlite_file(config: MLflowConfig) -> Path | None:
    scheme, _, path = config.uri.partition(":///")
    return Path(path.partition("?")[0]) if scheme == "sqlite" and path else None


def _new_experiment(client: "MlflowClient", config: MLflowConfig) -> str:
    """A server places artifacts itself. A bare database would place them relative to whoever comes first."""
    is_database = config.uri.startswith(_DATABASES)
    artifacts = config.artifacts if "://" in config.artifacts else Path(config.artifacts).as_uri()
    return client.create_experiment(config.experiment, artifact_location=artifacts if is_database else None)


def _is_away(error: Exception) -> bool:
    """Whether the same call may succeed later: no connection, a server's own fault, a locked or full database."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    if isinstance(error, MlflowException):
        status = error.get_http_status_code()
    elif isinstance(error, (FileNotFoundError, PermissionError)):  # of a file that was to be recorded
        status = 400
    else:  # requests' errors are OSErrors, with the response where there was one
        status = getattr(getattr(error, "response", None), "status_code", 503)
        status = status if isinstance(error, (OSError, SQLAlchemyError)) else 400
    return status >= 500 or status == 429


def _params(flat: dict[str, str], names: list[str]) -> list[Any]:
    from mlflow.entities import Param

    return [Param(name, flat[name]) for name in names]


def _metrics(values: dict[str, float], when: int, step: int) -> list[Any]:
    from mlflow.entities import Metric

    return [Metric(name, value, when, step) for name, value in values.items()]


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """{"a": {"b": [1]}} -> {"a.b": "[1]"}, values cut to what MLflow takes."""
    flat: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            flat[prefix + name] = redact(text)[:MAX_PARAM]
    return flat


def _now() -> int:
    return int(time.time() * 1000)
