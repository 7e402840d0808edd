"""Each problem is a row of the table with advice."""

import http.server
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
from programs import wait_until

from emage.config import DoctorConfig, MLflowConfig
from emage.on_ray.programs import doctor
from emage.on_ray.programs.doctor import Check


def rows(checks: Iterator[Check]) -> dict[str, Check]:
    return {check.what: check for check in checks}


def test_this_machine_is_checked():
    found = rows(doctor.check_machine(DoctorConfig()))
    assert found["Python"].result == "ok" and found["C++ compiler"].found
    assert {"memory", "disk, working folder", "disk, temporary files"} <= set(found)
    if not torch.cuda.is_available():
        assert found["GPUs here"].result == "skipped"


def test_a_gpu_without_code_in_the_build_is_a_failure_that_names_the_torch_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla V100")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 0))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_80", "sm_90"])
    found = rows(doctor.check_gpus())
    assert found["GPU 0"].result == "failed" and "torch==2.10.0" in found["GPU 0"].advice
    assert found["NCCL"].result == "skipped"


@pytest.mark.ray
def test_every_node_writes_and_reads_the_shared_storage(ray_cluster, tmp_path: Path):
    found = rows(doctor.check_cluster(DoctorConfig(storage=str(tmp_path / "shared"), gpus=8)))
    assert found["GPUs of the cluster"].result == "failed" and "ray status" in found["GPUs of the cluster"].advice
    storage = [check for what, check in found.items() if what.startswith("storage")]
    assert len(storage) == 2 and all(check.result == "ok" for check in storage)
    assert not list((tmp_path / "shared").iterdir())  # nothing is left behind


@pytest.mark.ray
def test_storage_that_cannot_be_written_fails_and_ends_with_1(ray_cluster, tmp_path: Path, capsys):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(SystemExit) as ended:
        doctor.run(DoctorConfig(storage=str(tmp_path / "file"), mlflow=MLflowConfig(uri="sqlite:///runs.db")))
    printed = capsys.readouterr()
    assert ended.value.code == 1 and printed.err == "2 checks failed\n"
    assert "mount the same storage" in printed.out


class Healthy(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, *_) -> None: ...


def test_a_tracking_server_that_does_not_answer_is_a_warning():
    with http.server.HTTPServer(("127.0.0.1", 0), Healthy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        uri = f"http://127.0.0.1:{server.server_port}"
        assert doctor.check_tracking_server(uri).result == "ok"
        server.shutdown()
    away = doctor.check_tracking_server(uri)
    assert away.result == "warning" and "Connection refused" in away.found and "MLFLOW_TRACKING_URI" in away.advice


def test_another_server_or_address_is_a_warning():
    assert doctor.check_tracking_server("http://127.0.0.1:port").result == "warning"
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=lambda: server.accept()[0].sendall(b"no HTTP\r\n"), daemon=True).start()
        found = doctor.check_tracking_server(f"http://127.0.0.1:{server.getsockname()[1]}")
    assert found.result == "warning" and "\n" not in found.found


def test_a_command_that_hangs_is_ended_with_its_processes(tmp_path: Path):
    code = f"import subprocess; subprocess.run('echo $$ > {tmp_path}/pid; exec sleep 60', shell=True)"
    assert not doctor.succeeds([sys.executable, "-c", code], 3)
    pid = int((tmp_path / "pid").read_text())
    wait_until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, 10)
    assert doctor.succeeds([sys.executable, "-c", ""], 30)


def test_a_tracking_file_that_cannot_be_written_is_a_warning(tmp_path: Path):
    assert doctor.check_tracking_server(f"sqlite:///{tmp_path}/to/come/mlflow.db").result == "ok"
    (tmp_path / "file").touch()
    assert doctor.check_tracking_server(f"sqlite:///{tmp_path}/file").result == "ok"
    below = doctor.check_tracking_server(f"sqlite:///{tmp_path}/file/mlflow.db")
    assert below.result == "warning" and f"{tmp_path}/file can't be written" in below.found


def test_missing_weights_are_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EMAGE_CACHE", str(tmp_path))
    found = rows(doctor.check_services(DoctorConfig()))
    assert [check.result for check in found.values()] == ["ok", "warning", "warning"]
    assert "tokenize.weights=FILE" in found["tokenizer vqgan-gumbel-f8-8192"].advice
    wrong = rows(doctor.check_services(DoctorConfig(tokenizer="vqgan")))
    assert wrong["tokenizer"].result == "failed" and "vqgan-gumbel-f8-8192" in wrong["tokenizer"].advice
