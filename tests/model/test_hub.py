"""Sharing: huggingface_hub's own client against a hub on 127.0.0.1. Nothing here reaches the internet."""

import re
from dataclasses import replace
from pathlib import Path

import local_hub
import numpy as np
import pytest
import torch
from huggingface_hub import constants
from local_hub import Answer
from PIL import Image

import emage
from emage.utils.errors import InputError

REPO = "me/shapes"
NEEDED = {"model.safetensors", "tokenizer.safetensors", "config.yaml", "manifest.json"}
NOBODY = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"


@pytest.fixture
def hub(hub: local_hub.LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> local_hub.LocalHub:
    """The local hub, with a login."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client waits longer and longer between its tries
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no login"))
    monkeypatch.setenv("HF_TOKEN", local_hub.TOKEN)
    return hub


@pytest.fixture(scope="module")
def pipe(tiny_model: Path) -> emage.Emage:
    return emage.Emage.from_pretrained(tiny_model, device="cpu")


@pytest.fixture
def pushed(hub: local_hub.LocalHub, tiny_model: Path) -> local_hub.LocalHub:
    """The hub with the tiny model on it, uploaded without a client."""
    hub.commit(REPO, "main", {file.name: file.read_bytes() for file in tiny_model.iterdir()})
    return hub


def pixels(pipe: emage.Emage) -> np.ndarray:
    return np.asarray(pipe.generate("a cat", seed=3)[0])


def one_line(error: pytest.ExceptionInfo) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


# --- There and back ---------------------------------------------------------------------------------------------------


def test_a_pushed_model_is_downloaded_and_generates_the_same(pipe, hub, capfd, monkeypatch):
    monkeypatch.setenv("TQDM_POSITION", "-1")  # progress bars although this is not a terminal
    url = pipe.push_to_hub(REPO)
    assert url == f"{hub.url}/{REPO}/commit/{hub.oid(REPO, 'main')}"
    assert set(hub.repos[REPO]["main"]) == NEEDED | {"README.md"}
    assert hub.commits == [f"{REPO}@main Upload Emage model"]
    capfd.readouterr()
    again = emage.Emage.from_pretrained(REPO, device="cpu")
    assert np.array_equal(pixels(again), pixels(pipe))
    assert "model.safetensors: 100%" in capfd.readouterr().err
    assert {path.split("/")[-1] for method, path in hub.requests if method == "HEAD"} == NEEDED


def test_the_cards_own_example_runs(pipe, hub, tmp_path: Path, monkeypatch):
    pipe.push_to_hub("shapes", prompts=['a "small" red circle'])  # the hub knows whose
    card = hub.repos[REPO]["main"]["README.md"].decode()
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert f'from_pretrained("{REPO}")' in code
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    expected = pipe.generate('a "small" red circle', seed=7)[0]
    assert np.array_equal(np.asarray(Image.open("image.png")), np.asarray(expected))
    assert "![sample images](samples.png)" in card and "samples.png" in hub.repos[REPO]["main"]


def test_a_revision_is_a_branch_of_its_own(pipe, pushed):
    before = pushed.repos[REPO]["main"]
    other = emage.Emage(
        pipe.network, pipe.tokenizer, replace(pipe.config, sampling=replace(pipe.config.sampling, steps=2))
    )
    other.push_to_hub(REPO, revision="two-steps", commit_message="Fewer steps")
    assert pushed.repos[REPO]["main"] is before and pushed.commits == [f"{REPO}@two-steps Fewer steps"]
    assert emage.Emage.from_pretrained(REPO, device="cpu").config.sampling.steps == 4
    assert emage.Emage.from_pretrained(REPO, device="cpu", revision="two-steps").config.sampling.steps == 2


def test_a_private_model_needs_the_token(pipe, hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    pipe.push_to_hub(REPO, private=True, token=local_hub.TOKEN)
    with pytest.raises(InputError, match="no such model, or it is private: check the name, or log in") as error:
        emage.Emage.from_pretrained(REPO)
    one_line(error)
    assert emage.Emage.from_pretrained(REPO, device="cpu", token=local_hub.TOKEN).config == pipe.config


def test_a_downloaded_model_loads_without_a_network(pipe, pushed, tmp_path: Path, monkeypatch):
    with pytest.raises(
        InputError, match="this machine's cache does not have all of its files, and downloading is switched off"
    ):
        emage.Emage.from_pretrained(REPO, local_files_only=True)
    emage.Emage.from_pretrained(REPO, device="cpu", cache_dir=tmp_path / "mine")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # the discard port, which no program listens on
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", NOBODY)
    for settings in ({}, {"local_files_only": True}):
        again = emage.Emage.from_pretrained(REPO, device="cpu", cache_dir=tmp_path / "mine", **settings)
        assert np.array_equal(pixels(again), pixels(pipe))
    with pytest.raises(InputError, match=r"unreachable \(ConnectError: ") as error:
        emage.Emage.from_pretrained(REPO)
    one_line(error)


def test_offline_mode_is_reported(pushed, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # what the variable of that name does
    with pytest.raises(
        InputError, match="this machine's cache does not have all of its files, and downloading is switched off"
    ):
        emage.Emage.from_pretrained(REPO)
    assert not pushed.requests


def test_an_incomplete_download_is_not_loaded(pushed, tmp_path: Path):
    emage.Emage.from_pretrained(REPO, device="cpu")
    (left,) = Path(constants.HF_HUB_CACHE).glob("models--*/snapshots/*/model.safetensors")
    left.unlink()
    with pytest.raises(InputError, match="this machine's cache does not have all of its files"):
        emage.Emage.from_pretrained(REPO, local_files_only=True)


# --- What goes wrong --------------------------------------------------------------------------------------------------


def test_another_tokenizer_on_the_hub_is_rejected(pushed):
    files = pushed.repos[REPO]["main"]
    other = files["tokenizer.safetensors"][:-1] + bytes([files["tokenizer.safetensors"][-1] ^ 1])
    pushed.commit(REPO, "main", files | {"tokenizer.safetensors": other})
    with pytest.raises(InputError, match="not the one this model was trained with") as error:
        emage.Emage.from_pretrained(REPO, device="cpu")
    one_line(error)


def test_another_projects_model_is_not_downloaded(hub):
    hub.commit("me/gpt", "main", {"config.json": b"{}", "model.safetensors": b"x" * 1000})
    with pytest.raises(InputError, match=r"me/gpt .* it is not an Emage model \(one has manifest.json, ") as error:
        emage.Emage.from_pretrained("me/gpt")
    one_line(error)
    assert not [path for _, path in hub.requests if path.endswith(".safetensors")]


@pytest.mark.parametrize(
    ("repo", "settings", "failures", "message"),
    [
        ("me/nothing", {}, {}, "me/nothing is not a folder here, and on the hub: no such model, or it is private"),
        (REPO, {"revision": "v9"}, {}, "it has no revision 'v9'"),
        (REPO, {}, {("HEAD", "/me"): Answer(401)}, "your login is missing or not valid"),
        (REPO, {}, {("HEAD", "/me"): Answer(403, "GatedRepo")}, "its owner grants access one by one"),
        (REPO, {}, {("HEAD", "/me"): Answer(500)}, "the hub answered 500; try again later"),
        (REPO, {}, {("GET", "/model.safetensors"): Answer(503)}, "the hub answered 503; try again later"),
        (REPO, {}, {("GET", "/model.safetensors"): Answer(418, "", "tea\nonly")}, r"answered 418 \(tea only\)$"),
        (REPO, {"token": True}, {}, "hf auth login"),
        ("me/a b", {}, {}, "not a hub id"),
        ("runs/train/model", {}, {}, "neither a checkpoint folder nor a hub id"),
    ],
)
def test_errors_of_the_hub_are_one_line(pushed, monkeypatch, repo, settings, failures, message):
    if settings.get("token"):
        monkeypatch.delenv("HF_TOKEN")
    pushed.failures = failures
    with pytest.raises(InputError, match=message) as error:
        emage.Emage.from_pretrained(repo, device="cpu", **settings)
    assert one_line(error).startswith(repo)


@pytest.mark.parametrize(
    ("method", "part", "status", "message"),
    [
        ("POST", "/api/repos/create", 401, "your login is missing or not valid: log in with `hf auth login`"),
        ("POST", "/api/repos/create", 403, "your token does not allow this"),
        ("POST", "/preupload/", 403, "your token does not allow this"),
        ("PUT", "/storage/", 403, "your token does not allow this"),
        ("POST", "/commit/", 500, "the hub answered 500; try again later"),
    ],
)
def test_a_push_that_fails_changes_nothing(pipe, pushed, method, part, status, message):
    before = dict(pushed.repos[REPO]["main"])
    pushed.failures = {(method, part): Answer(status)}
    if "create" in part:  # the client checks in any case that the repository exists
        pushed.failures["GET", "/api/models"] = Answer(status)
    changed = emage.Emage(pipe.network, pipe.tokenizer, replace(pipe.config, method="iterative1"))
    with pytest.raises(InputError, match=message) as error:
        changed.push_to_hub(REPO)
    assert one_line(error).startswith(f"{REPO} on the hub: ")
    assert pushed.repos[REPO]["main"] == before and not pushed.commits


def test_a_push_without_a_login_stops_before_anything_is_written(pipe, hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(InputError, match="log in with `hf auth login`, or pass token=") as error:
        pipe.push_to_hub(REPO)
    one_line(error)
    assert not hub.repos and not hub.blobs


@pytest.mark.parametrize("dtype", ["float23", torch.int64, None])
def test_a_dtype_that_does_not_exist_is_rejected(tiny_model: Path, dtype):
    with pytest.raises(InputError, match="must be one of float32, tf32, bfloat16, float16"):
        emage.Emage.from_pretrained(tiny_model, device="cpu", dtype=dtype)
