"""Before the first job: what of this machine, its cluster and its services is not as it must be, and what to do.

    make doctor
    emage doctor storage=/shared mlflow.uri=http://mlflow:5000 gpus=8

"This machine" is where it runs: a job with `--entrypoint-num-gpus=2` runs on a node with GPUs.

1. This machine: Python, compiler, memory, disk, GPUs against the build of PyTorch, a sum over two GPUs by NCCL.
2. The cluster of RAY_ADDRESS, or this machine alone: object stores; every node reads what every other node wrote.
3. Around it: the tracking server, published weights.

Each check is one row of a table; what fails says what to do, and the exit code is 1.
"""

import contextlib
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
import uuid
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any, Literal, NamedTuple

import ray
import torch
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from emage import tokenizers
from emage.config import DoctorConfig
from emage.evaluation.metrics.inception import WEIGHTS as INCEPTION
from emage.model.device_support import check_device
from emage.on_ray import launch, tracking
from emage.tokenizers import download
from emage.utils import storage
from emage.utils.errors import InputError
from emage.utils.redact import redact

GIB = 1 << 30
LEAST_MEMORY, LEAST_DISK, LEAST_STORE = 8 * GIB, 20 * GIB, 1 * GIB
NODE_S = 60.0  # until a node has answered
SERVER_S = 10.0
NCCL_S = 120.0  # where it does not come to an end, it hangs
SUM = "emage.on_ray.programs.nccl_check"


class Check(NamedTuple):
    """One row."""

    what: str
    result: Literal["ok", "warning", "failed", "skipped"]
    found: str
    advice: str = ""


def run(config: DoctorConfig) -> None:
    """Prints the table. Raises SystemExit(1) where a check failed."""
    table = Table("check", "result", "found", "what to do", title="doctor")
    colors = {"ok": "green", "warning": "yellow", "failed": "red", "skipped": "dim"}
    failed = 0
    with Console().status("looking ...") as status:
        for name, checks in (("machine", machine), ("cluster", cluster), ("services", services)):
            status.update(f"looking at the {name} ...")
            for check in checks(config):
                failed += check.result == "failed"
                color = colors[check.result]
                cells = (check.what, f"[{color}]{check.result}[/]", escape(check.found), escape(check.advice))
                table.add_row(*cells)
    Console(width=None if Console().is_terminal else 160).print(table)
    if failed:
        print(f"{failed} {'check' if failed == 1 else 'checks'} failed", file=sys.stderr)
        sys.exit(1)


# --- This machine -----------------------------------------------------------------------------------------------------


def machine(config: DoctorConfig) -> Iterator[Check]:
    python = platform.python_version()
    good = (3, 11) <= sys.version_info[:2] < (3, 14)
    yield verdict("Python", good, python, "install Python 3.11, 3.12 or 3.13")
    compiler = next((name for name in ("c++", "g++", "clang++") if shutil.which(name)), "")
    yield verdict("C++ compiler", bool(compiler), compiler or "none", "install g++: DeepSpeed builds a kernel with it")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    yield verdict("memory", memory >= LEAST_MEMORY, gib(memory), f"a node needs {gib(LEAST_MEMORY)} at least")
    advice = f"make room: {gib(LEAST_DISK)} at least (Ray spills objects, checkpoints are gigabytes)"
    for name, folder in {"working folder": Path.cwd(), "temporary files": Path(tempfile.gettempdir())}.items():
        free = shutil.disk_usage(folder).free
        yield verdict(f"disk, {name}", free >= LEAST_DISK, f"{gib(free)} free in {folder}", advice, otherwise="warning")
    yield from gpus()


def gpus() -> Iterator[Check]:
    """Each GPU against the build of PyTorch; a sum over two of them."""
    count = torch.cuda.device_count()
    if not count:
        yield Check("GPUs here", "skipped", f"none that PyTorch {torch.__version__} sees")
        return
    for i in range(count):
        try:
            check_device(f"cuda:{i}")
            major, minor = torch.cuda.get_device_capability(i)
            yield Check(f"GPU {i}", "ok", f"{torch.cuda.get_device_name(i)}, sm_{major}{minor}")
        except InputError as error:
            yield Check(f"GPU {i}", "failed", torch.cuda.get_device_name(i), str(error))
    if count < 2:
        yield Check("NCCL", "skipped", "one GPU alone")
        return
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", SUM]
    advice = "look at NCCL_DEBUG=INFO; NCCL_P2P_DISABLE=1 or NCCL_IB_DISABLE=1 tell the paths apart"
    yield verdict("NCCL", ends_well(command, NCCL_S), "a sum over two GPUs", advice)


def ends_well(command: list[str], seconds: float) -> bool:
    """Whether it ends with 0 in time. What it started is gone afterwards."""
    output = subprocess.DEVNULL
    process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    try:
        return process.wait(seconds) == 0
    except subprocess.TimeoutExpired:
        return False
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


# --- The cluster ------------------------------------------------------------------------------------------------------


def cluster(config: DoctorConfig) -> Iterator[Check]:
    launch.start_ray()
    nodes = [node for node in ray.nodes() if node["Alive"]]
    there = ray.cluster_resources().get("GPU", 0)
    yield Check("nodes", "ok", f"{len(nodes)}, {ray.cluster_resources().get('CPU', 0):g} CPUs, {there:g} GPUs")
    if config.gpus:
        advice = "start GPU nodes, or look why they did not join (ray status)"
        yield verdict("GPUs of the cluster", there >= config.gpus, f"{there:g} of {config.gpus}", advice)
    for node in nodes:
        store = node["Resources"].get("object_store_memory", 0)
        advice = f"ray start --object-store-memory={LEAST_STORE} or more, and a /dev/shm as large"
        yield verdict(f"object store, {name_of(node)}", store >= LEAST_STORE, gib(store), advice, otherwise="warning")
    if config.storage:
        yield from shared_storage(storage.absolute(config.storage), nodes)
    else:
        yield Check("shared storage", "skipped", "none given", "storage=FOLDER, where all nodes will write")


def shared_storage(place: str, nodes: list[dict[str, Any]]) -> Iterator[Check]:
    """Every node writes a file; then every node reads those of all."""
    token = uuid.uuid4().hex
    paths = {node["NodeID"]: f"{place}/.doctor-{token}-{node['NodeID'][:12]}" for node in nodes}
    advice = "mount the same storage, writable, on every node (or give object storage by its URI)"
    for node in nodes:
        wrong = on(node, _write, paths[node["NodeID"]], token)
        yield verdict(f"storage written, {name_of(node)}", not wrong, wrong or redact(place), advice)
    for node in nodes:
        wrong = on(node, _read, list(paths.values()), token)
        yield verdict(f"storage read, {name_of(node)}", not wrong, wrong or redact(place), advice)
    for path in paths.values():
        system, path = storage.find(path)
        with contextlib.suppress(OSError):  # it may never have been written
            system.delete_file(path)


def on(node: dict[str, Any], work: Any, *arguments: Any) -> str:
    """What the work finds wrong on this node; or what keeps it from running there."""
    pinned = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    try:
        wrong: Any = ray.get(work.options(num_cpus=0, scheduling_strategy=pinned).remote(*arguments), timeout=NODE_S)
    except RayError as error:
        wrong = storage.first_line(error)
    return redact(wrong)


@ray.remote
def _write(path: str, token: str) -> str:
    """What is wrong, or nothing."""
    try:
        system, path = storage.find(path)
        system.create_dir(os.path.dirname(path), recursive=True)
        with system.open_output_stream(path) as file:
            file.write(token.encode())
    except (OSError, InputError) as error:
        return storage.first_line(error)
    return ""


@ray.remote
def _read(paths: list[str], token: str) -> str:
    for path in paths:
        try:
            system, path = storage.find(path)
            with system.open_input_stream(path) as file:
                if file.read().decode() != token:
                    return f"{os.path.basename(path)} holds something else"
        except (OSError, InputError):
            return "does not see what another node wrote"
    return ""


# --- Around it --------------------------------------------------------------------------------------------------------


def services(config: DoctorConfig) -> Iterator[Check]:
    yield tracking_server(tracking.resolve_uri(config.mlflow))
    if config.tokenizer in tokenizers.TOKENIZERS:
        yield weights(f"tokenizer {config.tokenizer}", download.cached(config.tokenizer), "tokenize.weights=FILE")
    else:
        yield Check("tokenizer", "failed", config.tokenizer, f"one of {', '.join(tokenizers.TOKENIZERS)}")
    yield weights("Inception, for FID", INCEPTION.cached, "judge.inception=FILE")


def tracking_server(uri: str) -> Check:
    shown = redact(uri)
    if uri.startswith("sqlite:///"):
        file = Path(uri.removeprefix("sqlite:///"))
        there = next(path for path in (file, *file.parents) if os.path.exists(path))  # Path.exists() may raise
        good = os.access(there, os.W_OK) and (there.is_dir() or there == file)
        advice = "a place that you may write: MLFLOW_TRACKING_URI; runs go on without it, and lose their record"
        return verdict("tracking", good, shown if good else f"{shown}: {there} can't be written", advice, "warning")
    if not uri.startswith("http"):
        return Check("tracking", "skipped", shown)
    advice = "start it (mlflow server), or set MLFLOW_TRACKING_URI; runs go on without it, and lose their record"
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=SERVER_S) as answer:
            return verdict("tracking", answer.status == 200, shown, advice, otherwise="warning")
    except (OSError, HTTPException, ValueError) as error:  # nobody; something else than a server; no address
        return Check("tracking", "warning", f"{shown}: {storage.first_line(error)}", advice)


def weights(what: str, path: Path, setting: str) -> Check:
    if path.exists():
        return Check(what, "ok", str(path))
    return Check(what, "warning", "not here", f"it is fetched by name at first use; without a network: {setting}")


# --- Parts ------------------------------------------------------------------------------------------------------------


def verdict(
    what: str, good: bool, found: str, advice: str, otherwise: Literal["warning", "failed"] = "failed"
) -> Check:
    return Check(what, "ok", found) if good else Check(what, otherwise, found, advice)


def name_of(node: dict[str, Any]) -> str:
    return node["NodeManagerHostname"]


def gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB"
