"""Check this machine, its cluster and its services before the first job, and print what to do about each problem.

    make doctor
    emage doctor storage=/shared mlflow.uri=http://mlflow:5000 gpus=8

"This machine" is where it runs: a job with `--entrypoint-num-gpus=2` runs on a node with GPUs.

1. This machine: Python, compiler, memory, disk, GPUs and the build of PyTorch, a sum over two GPUs with NCCL.
2. The cluster of RAY_ADDRESS, or this machine alone: its token; object stores; every node reads what every other wrote.
3. Services: the tracking server, published weights.

Each check is one row of a table, with advice if it did not pass. If one failed, the exit code is 1.
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
from emage.evaluation.networks.inception import WEIGHTS as INCEPTION
from emage.model.device_support import check_device
from emage.on_ray import cluster_token, launch, tracking
from emage.tokenizers import weights_cache
from emage.utils import storage
from emage.utils.errors import InputError, first_line
from emage.utils.redact import redact, redact_settings

GIB = 1 << 30
MIN_MEMORY, MIN_DISK, MIN_STORE = 8 * GIB, 20 * GIB, 1 * GIB
NODE_TIMEOUT_S = 60.0  # for a node to answer
SERVER_TIMEOUT_S = 10.0
NCCL_TIMEOUT_S = 120.0  # a sum that takes longer hangs
NCCL_CHECK = "emage.on_ray.programs.nccl_check"


class Check(NamedTuple):
    """One row of the table."""

    what: str  # name of the check
    result: Literal["ok", "warning", "failed", "skipped"]
    found: str
    advice: str = ""  # what to do


def run(config: DoctorConfig) -> None:
    """Run all checks and print the table.

    Raises:
        SystemExit: With code 1, if a check failed.
    """
    table = Table("check", "result", "found", "what to do", title="doctor")
    colors = {"ok": "green", "warning": "yellow", "failed": "red", "skipped": "dim"}
    failed = 0
    with Console().status("checking ...") as status:
        for name, checks in (("machine", check_machine), ("cluster", check_cluster), ("services", check_services)):
            status.update(f"checking the {name} ...")
            for check in checks(config):
                failed += check.result == "failed"
                color = colors[check.result]
                result = f"[{color}]{check.result}[/]"
                table.add_row(check.what, result, escape(check.found), escape(check.advice))
    Console(width=None if Console().is_terminal else 160).print(table)
    if failed:
        print(f"{failed} {'check' if failed == 1 else 'checks'} failed", file=sys.stderr)
        sys.exit(1)


# --- This machine -----------------------------------------------------------------------------------------------------


def check_machine(config: DoctorConfig) -> Iterator[Check]:
    """Yield the rows of this machine: Python, compiler, memory, disk, GPUs."""
    python = platform.python_version()
    good = (3, 11) <= sys.version_info[:2] < (3, 14)
    yield make_check("Python", good, python, "install Python 3.11, 3.12 or 3.13")
    compiler = next((name for name in ("c++", "g++", "clang++") if shutil.which(name)), "")
    yield make_check(
        "C++ compiler", bool(compiler), compiler or "none", "install g++: DeepSpeed builds a kernel with it"
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    yield make_check(
        "memory", memory >= MIN_MEMORY, format_gib(memory), f"a node needs {format_gib(MIN_MEMORY)} at least"
    )
    advice = f"free some space: {format_gib(MIN_DISK)} at least (Ray spills objects, checkpoints are gigabytes)"
    for name, folder in {"working folder": Path.cwd(), "temporary files": Path(tempfile.gettempdir())}.items():
        free = shutil.disk_usage(folder).free
        yield make_check(
            f"disk, {name}", free >= MIN_DISK, f"{format_gib(free)} free in {folder}", advice, otherwise="warning"
        )
    yield from check_gpus()


def check_gpus() -> Iterator[Check]:
    """Yield a row per GPU that states whether PyTorch has kernels for it, and one for a sum over two GPUs by NCCL."""
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
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", NCCL_CHECK]
    advice = "run with NCCL_DEBUG=INFO; NCCL_P2P_DISABLE=1 or NCCL_IB_DISABLE=1 show which path fails"
    yield make_check("NCCL", succeeds(command, NCCL_TIMEOUT_S), "a sum over two GPUs", advice)


def succeeds(command: list[str], seconds: float) -> bool:
    """Return whether the command ends with exit code 0 in time. All its processes are ended afterwards."""
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


def check_cluster(config: DoctorConfig) -> Iterator[Check]:
    """Start or join Ray; yield the rows of its nodes, their object stores and the shared storage."""
    launch.start_ray()
    nodes = [node for node in ray.nodes() if node["Alive"]]
    available = ray.cluster_resources().get("GPU", 0)
    yield Check("nodes", "ok", f"{len(nodes)}, {ray.cluster_resources().get('CPU', 0):g} CPUs, {available:g} GPUs")
    if config.gpus:
        advice = "start GPU nodes, or find out why they did not join (ray status)"
        yield make_check("GPUs of the cluster", available >= config.gpus, f"{available:g} of {config.gpus}", advice)
    for node in nodes:
        store = node["Resources"].get("object_store_memory", 0)
        advice = f"ray start --object-store-memory={MIN_STORE} or more, and a /dev/shm as large"
        yield make_check(
            f"object store, {host_name(node)}", store >= MIN_STORE, format_gib(store), advice, otherwise="warning"
        )
    yield check_token()
    if config.storage:
        yield from check_shared_storage(storage.absolute(config.storage), nodes)
    else:
        yield Check("shared storage", "skipped", "none given", "storage=FOLDER, where all nodes will write")


def check_token() -> Check:
    """Return the row that states whether the cluster rejects clients without its token, and who can read the token."""
    try:
        if not cluster_token.is_required(ray.get_runtime_context().gcs_address):
            advice = "start every node with RAY_AUTH_MODE=token and one token: a client that reaches it can run code"
            return Check("token of the cluster", "failed", "none: it lets in any client", advice)
    except subprocess.TimeoutExpired:
        return Check("token of the cluster", "warning", "a client without it got no answer", "run the doctor again")
    exposed = cluster_token.exposed_file()
    found = f"required, but other users can read {exposed}" if exposed else "required"
    return make_check("token of the cluster", not exposed, found, f"chmod 600 {exposed}", otherwise="warning")


def check_shared_storage(folder: str, nodes: list[dict[str, Any]]) -> Iterator[Check]:
    """Let every node write a file, then let every node read all of them; yield a row per node and direction."""
    token = uuid.uuid4().hex
    paths = {node["NodeID"]: f"{folder}/.doctor-{token}-{node['NodeID'][:12]}" for node in nodes}
    advice = "mount the same storage, writable, on every node (or give object storage by its URI)"
    for node in nodes:
        wrong = run_on_node(node, _write, paths[node["NodeID"]], token)
        yield make_check(f"storage written, {host_name(node)}", not wrong, wrong or redact_settings(folder), advice)
    for node in nodes:
        wrong = run_on_node(node, _read, list(paths.values()), token)
        yield make_check(f"storage read, {host_name(node)}", not wrong, wrong or redact_settings(folder), advice)
    for path in paths.values():
        system, path = storage.find(path)
        with contextlib.suppress(OSError):  # it may never have been written
            system.delete_file(path)


def run_on_node(node: dict[str, Any], work: Any, *arguments: Any) -> str:
    """Run the remote function on this node; return the problem that it reports or that kept it from running, or ""."""
    pinned = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    try:
        wrong: Any = ray.get(
            work.options(num_cpus=0, scheduling_strategy=pinned).remote(*arguments), timeout=NODE_TIMEOUT_S
        )
    except RayError as error:
        wrong = first_line(error)
    return redact(wrong)


@ray.remote
def _write(path: str, token: str) -> str:
    """Write the token into a file; return the problem, or ""."""
    try:
        system, path = storage.find(path)
        system.create_dir(os.path.dirname(path), recursive=True)
        with system.open_output_stream(path) as file:
            file.write(token.encode())
    except (OSError, InputError) as error:
        return first_line(error)
    return ""


@ray.remote
def _read(paths: list[str], token: str) -> str:
    """Read every file and compare it with the token; return the problem, or ""."""
    for path in paths:
        try:
            system, path = storage.find(path)
            with system.open_input_stream(path) as file:
                if file.read().decode() != token:
                    return f"{os.path.basename(path)} holds something else"
        except (OSError, InputError):
            return "does not see what another node wrote"
    return ""


# --- Services --------------------------------------------------------------------------------------------------------


def check_services(config: DoctorConfig) -> Iterator[Check]:
    """Yield the rows of the tracking server and of published weights."""
    yield check_tracking_server(tracking.resolve_uri(config.mlflow))
    if config.tokenizer in tokenizers.TOKENIZERS:
        yield check_weights(
            f"tokenizer {config.tokenizer}", weights_cache.cached(config.tokenizer), "tokenize.weights=FILE"
        )
    else:
        yield Check("tokenizer", "failed", config.tokenizer, f"one of {', '.join(tokenizers.TOKENIZERS)}")
    yield check_weights("Inception, for FID", INCEPTION.cached, "judge.inception=FILE")


def check_tracking_server(uri: str) -> Check:
    shown = redact_settings(uri)
    if uri.startswith("sqlite:///"):
        file = Path(uri.removeprefix("sqlite:///"))
        existing = next(path for path in (file, *file.parents) if os.path.exists(path))  # Path.exists() may raise
        good = os.access(existing, os.W_OK) and (existing.is_dir() or existing == file)
        advice = "choose a file that you may write: MLFLOW_TRACKING_URI; runs continue without it, and are not recorded"
        return make_check(
            "tracking", good, shown if good else f"{shown}: {existing} can't be written", advice, "warning"
        )
    if not uri.startswith("http"):
        return Check("tracking", "skipped", shown)
    advice = "start it (mlflow server), or set MLFLOW_TRACKING_URI; runs continue without it, and are not recorded"
    try:
        address = f"{uri.rstrip('/')}/health"
        with urllib.request.urlopen(address, timeout=SERVER_TIMEOUT_S) as answer:  # nosec B310 # http(s) alone, see above
            return make_check("tracking", answer.status == 200, shown, advice, otherwise="warning")
    except (OSError, HTTPException, ValueError) as error:  # no connection; another protocol; no address
        return Check("tracking", "warning", f"{shown}: {first_line(error)}", advice)


def check_weights(what: str, path: Path, setting: str) -> Check:
    """Return the row of published weights in the cache. `setting` is the setting that passes them as a file."""
    if path.exists():
        return Check(what, "ok", str(path))
    return Check(what, "warning", "not here", f"it is fetched by name at first use; without a network: {setting}")


# --- Rows -------------------------------------------------------------------------------------------------------------


def make_check(
    what: str, good: bool, found: str, advice: str, otherwise: Literal["warning", "failed"] = "failed"
) -> Check:
    """Return a row that is "ok" if `good`, and else has the result `otherwise` and the advice."""
    return Check(what, "ok", found) if good else Check(what, otherwise, found, advice)


def host_name(node: dict[str, Any]) -> str:
    return node["NodeManagerHostname"]


def format_gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB"
