"""The background thread that writes one run to MLflow: its queue, its retries, and the reopening of a run.

No call waits for the tracking server and none raises because of it. While the server is unreachable, records wait in
a queue and one warning is printed; they are written when it answers again, or are lost at the end of the stage.
"""

import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emage.config import MLflowConfig
from emage.utils import manifest
from emage.utils.errors import first_line
from emage.utils.redact import redact, redact_settings

if TYPE_CHECKING:
    from mlflow import MlflowClient

RETRY_S = 30.0  # between two attempts while the server is unreachable
POLL_S = 0.5
MAX_ATTEMPTS = 1000  # per record, over eight hours: one that makes the server fail must not block the rest forever
MAX_QUEUED_RECORDS = 10_000  # while the server is unreachable; later ones are dropped
CLOSE_TIMEOUT_S = 60.0  # the longest that the end of a stage waits for a slow server

_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")  # used without a server: the client chooses the artifact folder
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # the queue retries
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # bounds what an unreachable server costs at the start and the end of a stage
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}

Record = Callable[[Any, str], object]  # (client, run id) -> whatever the client returns

_log = logging.getLogger(__name__)


class MlflowWriter:
    """One run and the thread that writes to it.

    Attributes:
        run_id: None if tracking is off, or until the server has been reached.
        is_new: False if the run existed before this process opened it.
        last_step: the last step whose loss was recorded before this process opened the run; -1 for a new run.
    """

    def __init__(self, config: MLflowConfig, *, stage: str | None, run_file: Path | None, parent: str | None):
        """Start the thread, unless tracking is off.

        Args:
            config: The `mlflow` settings, with an absolute URI.
            stage: Name of a run that is started here; None if it belongs to another process, which also ends it.
            run_file: JSON file with the id of the run.
            parent: Id of the parent run, below which MLflow's pages show this one.
        """
        self.run_id: str | None = None
        self.is_new, self.last_step = True, -1
        self._config, self._stage, self._run_file, self._parent = config, stage, run_file, parent
        self._created: str | None = None  # id of a run that was created and may not be in the run file yet
        self._started_ms = now_ms()
        self._client: MlflowClient | None = None
        self._records: queue.SimpleQueue[Record | None] = queue.SimpleQueue()
        self._first_attempt_done, self._closing = threading.Event(), threading.Event()
        self._warned: set[str] = set()
        self._is_reachable = True  # False after a failed attempt, until the next one succeeds
        self._thread = threading.Thread(target=self._run, name="mlflow", daemon=True) if config.enabled else None
        if self._thread is not None:
            _import()  # not in the thread: two threads that import at once can see a module that is half imported
            self._thread.start()

    def put(self, record: Record) -> bool:
        """Queue a record for the thread. Does nothing and returns False if tracking is off or the queue is full."""
        if self._thread is None or self._records.qsize() >= MAX_QUEUED_RECORDS:
            return False
        self._records.put(record)
        return True

    def put_and_wait(self, record: Record) -> None:
        """Queue a record that may take long, and block until it is written, rejected, or the server is unreachable."""
        done = threading.Event()

        def write(client: Any, run_id: str) -> None:
            try:
                record(client, run_id)
            finally:
                done.set()

        is_waiting = self.put(write)
        while is_waiting:
            is_waiting = not done.wait(POLL_S) and self._is_reachable

    def wait(self) -> None:
        """Block until the first record has been attempted."""
        if self._thread is not None:
            self._first_attempt_done.wait()

    def close(self, status: str) -> None:
        """Write the queued records and end the run if it was started here.

        If the server is unreachable, one more attempt is made and what is queued is lost.
        """
        if self._thread is None:
            return
        if self._stage is not None:
            self._records.put(lambda client, run_id: client.set_terminated(run_id, status))
        self._records.put(None)
        self._closing.set()
        self._thread.join(CLOSE_TIMEOUT_S)
        self._thread = None

    def _run(self) -> None:
        while (record := self._records.get()) is not None:
            for _ in range(MAX_ATTEMPTS):
                if self._write(record):
                    break
                if self._closing.is_set():  # that was the last attempt
                    return
                self._closing.wait(RETRY_S)

    def _write(self, record: Record) -> bool:
        """Write one record. Return False if the server is unreachable and the record should be attempted again."""
        try:
            if self._client is None:
                self._client = _connect(self._config)
            if self.run_id is None:
                self.run_id = self._open(self._client)
            record(self._client, self.run_id)
            self._is_reachable = True
        except Exception as error:  # whatever a server and its drivers raise: the stage continues
            unreachable = _is_unreachable(error)
            self._is_reachable = not unreachable
            self._warn("unreachable" if unreachable else "rejected", error)
        finally:
            self._first_attempt_done.set()
        return self._is_reachable

    def _open(self, client: "MlflowClient") -> str:
        """Return the id of the run in the run file or, in the process that starts the stage, of a new run."""
        saved = manifest.read_json(self._run_file) if self._run_file else None
        server = redact_settings(self._config.uri)  # its password may change, and is not for a file
        if saved and redact_settings(saved["uri"]) == server:
            return self._reopen(client, saved["run"])
        if self._stage is None:
            raise ConnectionError("the driver has not reached it yet")
        self._created = self._created or self._create(client)  # once, even if a full disk rejects the run file
        if self._run_file:
            manifest.write_json(self._run_file, {"uri": server, "run": self._created})
        return self._created

    def _reopen(self, client: "MlflowClient", run_id: str) -> str:
        if self._stage is not None:
            client.update_run(run_id, status="RUNNING")
        self.is_new = False
        self.last_step = max((point.step for point in client.get_metric_history(run_id, "loss")), default=-1)
        return run_id

    def _create(self, client: "MlflowClient") -> str:
        experiment = client.get_experiment_by_name(self._config.experiment)
        experiment_id = experiment.experiment_id if experiment else _new_experiment(client, self._config)
        tags = {"stage": self._stage, "mlflow.source.name": Path(sys.argv[0]).name, "mlflow.source.type": "JOB"}
        if self._parent:
            tags["mlflow.parentRunId"] = self._parent
        return client.create_run(experiment_id, self._started_ms, tags, run_name=self._stage).info.run_id

    def _warn(self, trouble: str, error: Exception) -> None:
        """Print one line, once per run for each kind of trouble."""
        if trouble in self._warned:
            return
        self._warned.add(trouble)
        reason = redact(first_line(error))[:160]
        server = redact_settings(self._config.uri)
        if trouble == "unreachable":
            _log.warning(
                "MLflow at %s is unreachable; the stage continues, records follow if it returns (%s)", server, reason
            )
        else:
            _log.warning("MLflow at %s rejects a record; the stage continues without it (%s)", server, reason)


def now_ms() -> int:
    """Return the time in milliseconds since 1970, as MLflow takes it."""
    return int(time.time() * 1000)


def sqlite_file(config: MLflowConfig) -> Path | None:
    """Return the database file, or None if the URI is not one of SQLite."""
    scheme, _, path = config.uri.partition(":///")
    return Path(path.partition("?")[0]) if scheme == "sqlite" and path else None


def _import() -> None:
    """Import MLflow, which takes seconds and reads its settings from the environment."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import mlflow  # noqa: F401

    logging.getLogger("alembic").setLevel(logging.WARNING)  # a page of migrations
    logging.getLogger("mlflow").setLevel(logging.CRITICAL)  # stack traces of what `_warn` prints as one line


def _connect(config: MLflowConfig) -> "MlflowClient":
    from mlflow import MlflowClient

    if database := sqlite_file(config):
        database.parent.mkdir(parents=True, exist_ok=True)
    return MlflowClient(tracking_uri=config.uri)


def _new_experiment(client: "MlflowClient", config: MLflowConfig) -> str:
    """Create the experiment.

    A server chooses the artifact folder itself. With a database alone, MLflow's default is relative to the working
    folder of the first client.
    """
    is_database = config.uri.startswith(_DATABASES)
    artifacts = config.artifacts if "://" in config.artifacts else Path(config.artifacts).as_uri()
    return client.create_experiment(config.experiment, artifact_location=artifacts if is_database else None)


def _is_unreachable(error: Exception) -> bool:
    """Return True if the call may succeed later: no connection, a server's own fault, a locked or full database."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    if isinstance(error, MlflowException):
        status = error.get_http_status_code()
    elif isinstance(error, (FileNotFoundError, PermissionError)):  # of a file that was to be recorded
        status = 400
    else:  # requests' errors are OSErrors, with a response if the server sent one
        status = getattr(getattr(error, "response", None), "status_code", 503)
        status = status if isinstance(error, (OSError, SQLAlchemyError)) else 400
    return status >= 500 or status == 429
