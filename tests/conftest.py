"""Settings and fixtures of all tests: one Ray cluster per session, real data, a loopback server, a small model."""

import functools
import gc
import http.server
import logging
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
import torch

torch.set_num_threads(1)  # the networks of tests are tiny: more threads would mostly wait for each other

# The real data is in a folder next to a developer's checkout; elsewhere those tests skip.
DATA = Path(os.environ.get("EMAGE_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))

# Property tests: the same few examples in each run; with --hypothesis-profile=chaos (make chaos) many, and other ones
# each time. No deadline and no health checks: the machines of tests are shared, so that their times differ.
_ALWAYS = {"deadline": None, "database": None, "suppress_health_check": list(hypothesis.HealthCheck)}
hypothesis.settings.register_profile("fast", max_examples=100, derandomize=True, **_ALWAYS)
hypothesis.settings.register_profile("chaos", max_examples=3000, derandomize=False, print_blob=True, **_ALWAYS)
hypothesis.settings.load_profile("fast")


def pytest_make_parametrize_id(val: object) -> str | None:
    """Name long bytes of a parametrized test "bytes": gzip's have the time in them, and xdist compares the names."""
    return "bytes" if isinstance(val, bytes) and len(val) > 20 else None


@pytest.hookimpl(wrapper=True)  # before xdist reads the groups and pytest chooses by markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """Group the tests that xdist runs in one process: those of one file, and all that share a Ray cluster.

    Tests with Ray come first, since they take longest. Property tests get their marker here, since the plugin of
    hypothesis sets it after `-m` has chosen.
    """
    for item in items:
        if hypothesis.is_hypothesis_test(getattr(item, "obj", None)):
            item.add_marker("hypothesis")
        if "ray_cluster" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.ray)
        group = item.path.stem
        if item.get_closest_marker("ray"):
            # At most two processes have a cluster: one ingests and trains, the other runs the rest.
            to_a_model = item.path.parent.name in ("ingest", "training")
            group = "cluster for data" if to_a_model else "cluster for models"
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: item.get_closest_marker("ray") is None)
    return (yield)


def pytest_collection_finish() -> None:
    """Exclude imported objects from garbage collection, which would otherwise walk through all of PyTorch each time."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of real images, or skip the test."""
    if not DATA.is_dir():
        pytest.skip(f"no folder of real images at {DATA} (set EMAGE_DATA)")
    return DATA


@pytest.fixture
def run_command(capsys: pytest.CaptureFixture[str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs `emage WORDS` in this process, which saves importing PyTorch once more."""

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
    """Start a local Ray with 4 CPUs for the session."""
    import ray

    from emage.on_ray import cluster_token, launch

    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    cluster_token.make_private()
    os.environ.update([launch.PROXY_HOOK])
    ray.init(address="local", num_cpus=4, include_dashboard=True, logging_level=logging.WARNING)
    yield
    ray.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def serve_folder(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """Yield an empty folder and the loopback URL that serves its files."""
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
    """Return a token table of 200 rendered images in two files, as ingest writes it."""
    from emage.data import shapes
    from emage.reproduce.shapes_dataset import write_table

    folder = tmp_path_factory.mktemp("tokens")
    write_table(folder, shapes.sample_train_scenes(200, seed=0), seed=0, files=2, row_group=30)
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint folder of an untrained network with the demo's tokenizer."""
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
