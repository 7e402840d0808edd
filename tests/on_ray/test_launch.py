"""The one shape of the four drivers: what a run opens and in which order, and that a rejected one opens nothing."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from filelock import FileLock
from programs import free_port

from emage.config import EvaluateConfig, IngestConfig, ServeConfig, TrainConfig, parse
from emage.evaluation.report import Report
from emage.on_ray import launch
from emage.on_ray.evaluation import driver as evaluation
from emage.on_ray.ingest import driver as ingest
from emage.on_ray.ingest.report import reconciliation
from emage.on_ray.serving import driver as serving
from emage.on_ray.training import driver as training
from emage.utils import manifest
from emage.utils.errors import InputError

# Driver -> module, function, settings and a command line that it accepts.
DRIVERS: dict[str, tuple[ModuleType, Callable[[Any], Any], type, str]] = {
    "ingest": (ingest, ingest.ingest, IngestConfig, "tiny source.table=u.csv source.url=link source.caption=[text]"),
    "train": (training, training.train, TrainConfig, "tiny data.path=TABLE"),
    "evaluate": (evaluation, evaluation.evaluate, EvaluateConfig, "tiny checkpoint=MODEL captions=c.txt"),
    "serve": (serving, serving.serve, ServeConfig, "tiny checkpoint=MODEL port=PORT"),
}
WRITERS = ["ingest", "train", "evaluate"]  # drivers with an output
OUTPUT = {"ingest": "output=out", "train": "run.output=out", "evaluate": "output=out", "serve": ""}


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a driver opens, in order. Claim and lock are real; Ray, MLflow, the work and its report are not."""
    seen: list[str] = []

    def spy(module: Any, name: str, event: str) -> None:
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args, **kwargs: (seen.append(event), real(*args, **kwargs))[1])

    def fake(module: Any, name: str, event: str, result: Any = None) -> None:
        monkeypatch.setattr(module, name, lambda *_, **__: (seen.append(event), result)[1])

    @contextmanager
    def tracked() -> Iterator[Any]:
        yield SimpleNamespace()

    spy(manifest, "claim_output", "claim")
    spy(launch, "output_lock", "lock")
    fake(launch, "start_ray", "ray")
    monkeypatch.setattr(launch.tracking, "start", lambda *_, **__: (seen.append("tracking"), tracked())[1])
    for driver, result in ((ingest, {}), (training, None), (evaluation, Report({}, 0, 0, {})), (serving, {})):
        fake(driver, "run", "run", result)
    for module in (reconciliation, training, evaluation, serving):
        fake(module, "print_report", "report")
    return seen


# A setting that the driver does not allow: group (None: at the top), key, value.
BAD: dict[str, tuple[str | None, str, Any]] = {
    "ingest": ("download", "threads", 0),
    "train": ("optim", "lr", float("nan")),
    "evaluate": (None, "num_actors", 0),
    "serve": (None, "num_replicas", 0),
}


@pytest.fixture
def run(
    events: list[str], token_table: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """A driver, called in a folder of its own with its command line, more words, and `edit` of the settings."""
    monkeypatch.chdir(tmp_path)
    Path("u.csv").write_text("link,text\nhttp://a/b.jpg,a cat\n")
    Path("c.txt").write_text("a small red circle\n")

    def call(name: str, *words: str, edit: Callable[[Any], Any] = lambda settings: settings) -> Any:
        _, function, settings, line = DRIVERS[name]
        port = str(free_port())
        for mark, value in (("TABLE", str(token_table)), ("MODEL", str(tiny_model)), ("PORT", port)):
            line = line.replace(mark, value)
        return function(edit(parse(settings, [*line.split(), *OUTPUT[name].split(), *words])))

    return call


@pytest.mark.parametrize("name", WRITERS)
def test_claim_lock_ray_tracking_work_report_in_this_order(name: str, run, events: list[str]):
    run(name)
    assert events == ["claim", "lock", "ray", "tracking", "run", "report"]
    assert manifest.read_json("out/run.json")["program"] == name


def test_serving_starts_ray_then_tracking(run, events: list[str]):
    run("serve")
    assert events == ["ray", "tracking", "run"]


@pytest.mark.parametrize("name", DRIVERS)
def test_every_driver_has_the_same_steps_and_returns_a_dict(name: str, run):
    module = DRIVERS[name][0]
    assert all(callable(getattr(module, step)) for step in ("validate", "resolve", "run"))
    assert isinstance(run(name), dict)


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("ingest", "download.threads=0", "download.threads=0"),
        ("ingest", "source.table=absent.csv", "absent.csv"),
        ("ingest", "tokenize.tokenizer=vqgan-f9", "vqgan-f9"),
        ("ingest", "output=u.csv", "u.csv already exists"),
        ("train", "optim.steps=0", "optim.steps=0"),
        ("train", "data.path=absent", "no token table"),
        ("train", "data.tokenizer=vqgan-f9", "vqgan-f9"),
        ("train", "run.output=u.csv", "u.csv already exists"),
        ("evaluate", "limit=0", "limit=0"),
        ("evaluate", "captions=absent.txt", "no such caption file"),
        ("evaluate", "checkpoint=absent/model/folder", "absent/model/folder"),
        ("evaluate", "metrics=[frechet] judge.reference=absent", "absent: no such folder"),
        ("evaluate", "output=u.csv", "u.csv already exists"),
        ("serve", "dtype=tf32", "no TF32"),
        ("serve", "checkpoint=absent", "no such folder"),
        ("serve", "gpus_per_replica=64", "asks for 64 GPUs"),
        ("serve", "access.api_key_file=absent", "access.api_key_file=absent"),
    ],
)
def test_a_rejected_input_starts_nothing(name: str, words: str, message: str, run, events: list[str], tmp_path: Path):
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match=message):
        run(name, *words.split(), "mlflow.uri=sqlite:///mlflow.db")
    assert not {"lock", "ray", "tracking", "run", "report"} & set(events)
    assert sorted(tmp_path.iterdir()) == before  # no output folder, no MLflow database


@pytest.mark.parametrize("name", DRIVERS)
def test_settings_made_in_code_are_checked_as_well(name: str, run, events: list[str]):
    group, key, value = BAD[name]

    def edit(settings: Any) -> Any:
        if group is None:
            return replace(settings, **{key: value})
        return replace(settings, **{group: replace(getattr(settings, group), **{key: value})})

    with pytest.raises(InputError, match=f"{key}={value}"):
        run(name, edit=edit)
    assert events == [] and not Path("out").exists()


def test_a_port_that_is_taken_leaves_no_run(run, events: list[str]):
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(InputError, match="choose another port="):
        run("serve", f"port={taken.getsockname()[1]}")
    assert events == []


@pytest.mark.parametrize("name", WRITERS)
def test_ray_does_not_start_while_another_program_writes(name: str, run, events: list[str]):
    Path("out").mkdir()
    with FileLock("out/.lock"), pytest.raises(InputError, match="another run is writing there"):
        run(name)
    assert events == ["claim", "lock"]


@pytest.mark.parametrize(
    ("name", "words"), [("ingest", "shuffle.seed=9"), ("train", "run.seed=9"), ("evaluate", "seed=9")]
)
def test_other_settings_on_the_same_output_are_rejected_before_ray(name: str, words: str, run, events: list[str]):
    run(name)
    events.clear()
    with pytest.raises(InputError, match=r"already holds a run with .*seed=0 \(now 9\)"):
        run(name, words)
    assert events == ["claim"]
