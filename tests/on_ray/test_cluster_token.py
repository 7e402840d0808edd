"""The token of a Ray cluster: made for one user alone, and asked for."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from emage.on_ray import cluster_token
from emage.on_ray.programs import doctor


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path of the token in an empty home folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / ".ray" / "auth_token"


def mode(file: Path) -> int:
    return file.stat().st_mode & 0o777


def test_a_new_token_is_this_users_alone(file: Path):
    cluster_token.make_private()
    assert mode(file) == 0o600 and len(file.read_text()) == 64
    assert [path.name for path in file.parent.iterdir()] == ["auth_token"]
    before = file.read_text()
    cluster_token.make_private()
    assert file.read_text() == before


def test_a_token_that_ray_wrote_for_everyone_is_closed_and_kept(file: Path):
    file.parent.mkdir()
    file.write_text("a" * 64)
    file.chmod(0o644)
    cluster_token.make_private()
    assert mode(file) == 0o600 and file.read_text() == "a" * 64


def test_a_named_file_that_others_can_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    assert cluster_token.exposed_file() is None  # there is none
    (tmp_path / "token").touch(0o600)
    assert cluster_token.exposed_file() is None
    (tmp_path / "token").chmod(0o640)
    assert cluster_token.exposed_file() == tmp_path / "token"


def test_an_empty_file_is_no_token(file: Path):
    file.parent.mkdir()
    file.touch(0o600)
    cluster_token.make_private()
    assert mode(file) == 0o600 and len(file.read_text()) == 64


def test_programs_that_start_at_once_have_one_token(file: Path):
    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(lambda _: cluster_token.make_private(), range(8)):
            pass
    assert len(file.read_text()) == 64 and [path.name for path in file.parent.iterdir()] == ["auth_token"]


@pytest.mark.parametrize("name", ["RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"])
def test_a_token_of_the_environment_is_left_alone(name: str, file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(name, "mine")
    cluster_token.make_private()
    assert not file.parent.exists()


def test_without_a_home_folder_the_token_is_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    monkeypatch.setenv("RAY_AUTH_TOKEN", "")  # so that the test's end removes what is set here
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    cluster_token.make_private()

    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64


def test_the_doctor_says_that_the_tests_cluster_has_a_token(ray_cluster):
    row = doctor.check_token()
    assert (row.what, row.result, row.found) == ("token of the cluster", "ok", "required")


@pytest.mark.faults
def test_the_doctor_says_that_a_cluster_has_none():
    code = "import ray; ray.init(num_cpus=1)\nfrom emage.on_ray.programs import doctor; print(doctor.check_token())"

    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "RAY_AUTH_MODE": "disabled"}, capture_output=True, text=True
    )
    assert "failed" in done.stdout and "it lets in any client" in done.stdout, done.stderr[-2000:]


@pytest.mark.faults
def test_a_cluster_that_a_program_starts_asks_for_the_token(file: Path):
    """As a user has it: no variable is set, and no token is there."""
    code = (
        "from emage.on_ray import launch; from emage.on_ray.programs import doctor\n"
        "launch.start_ray(); print(doctor.check_token())"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert "result='ok', found='required'" in done.stdout, done.stderr[-2000:]
    assert mode(file) == 0o600
