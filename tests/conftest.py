"""What tests share: one Ray cluster a session, the folder of real data, a loopback HTTP server."""

import functools
import gc
import http.server
import logging
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # the networks here are tiny: more threads wait for each other longer than they work

# The real data lies beside a developer's checkout; a user's machine has none and those tests skip.
DATA = Path(os.environ.get("EMAGE_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


@pytest.hookimpl(wrapper=True)  # before xdist reads the groups and pytest chooses by markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """Which tests run in the same of several processes: those of one file, of many where they share a Ray cluster.

    Ray's come first: they take longest.
    """
    for item in items:
        if "ray_cluster" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.ray)
        group = item.path.stem
        if item.get_closest_marker("ray"):
            # Two processes at most have a cluster: one makes a token table and trains on it, one has the rest.
            to_a_model = item.path.parent.name in ("ingest", "training")
            group = "cluster for data" if to_a_model else "cluster for models"
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: item.get_closest_marker("ray") is None)
    return (yield)


def pytest_collection_finish() -> None:
    """What the imports made is never garbage: without this, each full collection would walk through all of PyTorch."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()


@pytest.fixture(scope="session")
def real_data() -> Path:
    if not DATA.is_dir():
        pytest.skip(f"no folder of real images at {DATA} (set EMAGE_DATA)")
    return DATA


@pytest.fixture
def run_command(capsys: pytest.CaptureFixture[str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`emage WORDS` in this process: what a process would cost alone is importing PyTorch once more."""

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        from emage import commands

        code: object = 0
        capsys.readouterr()
        try:
            commands.main(words)
        except SystemExit as end:
            code = end.code
        printed = capsys.readouterr()
        assert isinstance(code, int)
        return subprocess.CompletedProcess(["emage", *words], code, printed.out, printed.err)

    return run


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    import ray

    from emage.on_ray import launch

    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    os.environ.update([launch.PROXY_HOOK])
    ray.init(address="local", num_cpus=4, include_dashboard=True, logging_level=logging.WARNING)
    yield
    ray.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def serve_folder(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """An empty folder and the loopback URL under which its files are served."""
    folder = tmp_path / "www"
    folder.mkdir()
    handler = functools.partial(_Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="session")
def token_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A token table of 200 drawn images in two files, as ingest writes it."""
    from emage.data import shapes
    from emage.reproduce.shapes_dataset import write_table

    folder = tmp_path_factory.mktemp("tokens")
    write_table(folder, shapes.sample_train_scenes(200, seed=0), seed=0, files=2, row_group=30)
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder of an untrained network with the demo's tokenizer."""
    from emage import tokenizers
    from emage.config import CheckpointConfig, ModelConfig, SamplingConfig
    from emage.model import checkpoint

    torch.manual_seed(0)
    model = ModelConfig(width=64, depth=2, num_heads=2, text="clip_tiny", text_length=24)
    config = CheckpointConfig("iterative3", 512, (8, 8), model, SamplingConfig(steps=4, order="random"))
    folder = tmp_path_factory.mktemp("checkpoint") / "model"
    tokenizer = tokenizers.load("vqgan-demo-f8-512")
    checkpoint.save(folder, checkpoint.build(config), tokenizer, config, {"step": 0, "method": "iterative3"})
    return folder
