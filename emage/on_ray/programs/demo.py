"""The whole job on one machine: ingest images over HTTP, train, evaluate, serve; with the `demo` preset.

Images and captions come from the toy world of emage.data.shapes, and a web server in this process serves them by URL.
The stages are those of a cluster: the same drivers, on a Ray cluster that is started on this machine.
"""

import functools
import http.server
import json
import shutil
import threading
import time
import urllib.request
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from emage.config import DemoConfig, EvaluateConfig, IngestConfig, ServeConfig, TrainConfig, check, preset
from emage.data import shapes
from emage.inference.pipeline import Emage
from emage.on_ray import launch
from emage.on_ray.evaluation.driver import evaluate
from emage.on_ray.ingest.driver import ingest
from emage.on_ray.serving import driver as serve
from emage.on_ray.training.driver import train
from emage.utils import image_grid, manifest
from emage.utils.errors import InputError

BROKEN_ROWS = 10  # of each kind
REPORT = "demo_report.json"


def demo(config: DemoConfig) -> dict[str, Any]:
    """Run every stage and print its result and its seconds. A stage that an earlier attempt finished is not run again.

    Returns:
        The report, also in demo_report.json: the reports of ingest and evaluation, and the seconds of each stage.

    Raises:
        InputError: A setting is not allowed, the output holds something else, or an interrupted demo's port is taken.
    """
    check(config)
    output = Path(config.output).absolute()
    _rename_finished(output)
    manifest.claim_output(output, "demo", {key: value for key, value in asdict(config).items() if key != "output"})
    stages: dict[str, tuple[float, str]] = {}

    def timed(name: str, stage: Callable[[], Any], summary: Callable[[Any], str]) -> Any:
        Console().rule(f"[bold]{name}")
        started = time.monotonic()
        result = stage()
        stages[name] = (time.monotonic() - started, summary(result))
        return result

    # "draw" is a key of the report on disk.
    timed("draw", lambda: _render(config, output), lambda n: f"{n} images with captions, {4 * BROKEN_ROWS} broken rows")
    timed("start Ray", launch.start_ray, lambda _: "one cluster for all stages")
    with _web_server(output / "www"):
        ingested = timed("ingest", lambda: ingest(_ingest_config(config, output)), _ingest_summary)
    trained = timed("train", lambda: train(_train_config(config, output)), lambda _: _train_summary(config, output))
    model = Path(trained["model"])
    metrics = timed(
        "evaluate",
        lambda: evaluate(_evaluate_config(config, output, model)),
        lambda found: _evaluation_summary(config, found),
    )
    timed("steps", lambda: _write_filmstrip(model, output), lambda _: "an image after each decoding step, strip.png")
    timed("serve", lambda: _send_request(config, output, model), lambda took: f"one HTTP request in {took:.2f} s")
    report = {"figures": metrics, "ingest": ingested, "seconds": {name: round(s, 1) for name, (s, _) in stages.items()}}
    manifest.write_json(output / REPORT, report)
    _print(output, stages)
    return report


# --- Stages -----------------------------------------------------------------------------------------------------------


def _rename_finished(output: Path) -> None:
    """Give the folder of a finished demo the next free number; leave an unfinished one, which is resumed."""
    if (output / REPORT).exists():
        number = next(i for i in range(1, 10_000) if not output.with_name(f"{output.name}.{i}").exists())
        output.rename(output.with_name(f"{output.name}.{number}"))
        print(f"the previous demo is now {output.name}.{number}")


def _render(config: DemoConfig, output: Path) -> int:
    """Write www/ with images and broken files, captions.txt for the evaluation and, last, the URL table."""
    if (output / "urls.parquet").exists():
        return config.pictures
    www = output / "www"
    shutil.rmtree(www, ignore_errors=True)
    www.mkdir(parents=True)
    scenes = shapes.sample_train_scenes(config.pictures, config.seed)
    rng = np.random.default_rng(config.seed)
    for i, scene in enumerate(tqdm(scenes, unit="image", mininterval=1)):
        shapes.render(scene, rng).save(www / f"{i:06d}.png", compress_level=1)
    names = [f"{i:06d}.png" for i in range(config.pictures)] + _write_broken_files(www)
    captions = [scene.caption for scene in scenes + scenes[: len(names) - len(scenes)]]
    held_out = shapes.sample_held_out_scenes(config.held_out, config.seed)
    (output / "captions.txt").write_text("".join(f"{scene.caption}\n" for scene in held_out))
    # The port goes into the URLs, and so it must be the same if an interrupted demo resumes.
    with _web_server(www) as port:
        urls = [f"http://127.0.0.1:{port}/{name}" for name in names]
    order = rng.permutation(len(urls))
    table = pa.table({"url": [urls[i] for i in order], "caption": [captions[i] for i in order]})
    pq.write_table(table, output / "urls.tmp")
    (output / "urls.tmp").rename(output / "urls.parquet")
    return config.pictures


def _write_broken_files(www: Path) -> list[str]:
    """Write files that an ingest must reject; return their names, and names of files that do not exist.

    They are text with an image's name, half a JPEG, and an image that is too small.
    """
    whole = www / "whole.jpg"
    Image.effect_noise((256, 256), 50).save(whole)
    for i in range(BROKEN_ROWS):
        (www / f"text_{i}.jpg").write_text("<html>This image has moved.</html>")
        (www / f"half_{i}.jpg").write_bytes(whole.read_bytes()[:2_000])
        Image.new("RGB", (8, 8), "red").save(www / f"small_{i}.png")
    whole.unlink()
    kinds = ("missing_{}.png", "text_{}.jpg", "half_{}.jpg", "small_{}.png")
    return [kind.format(i) for kind in kinds for i in range(BROKEN_ROWS)]


def _read_held_out(output: Path) -> list[str]:
    """Return the captions of the evaluation, which no training image has."""
    return (output / "captions.txt").read_text().splitlines()


def _ingest_config(config: DemoConfig, output: Path) -> IngestConfig:
    source = {"table": str(output / "urls.parquet"), "dataset": "shapes"}
    return preset(IngestConfig, "demo", output=str(output / "ingest"), source=source, shuffle={"seed": config.seed})


def _train_config(config: DemoConfig, output: Path) -> TrainConfig:
    return preset(
        TrainConfig,
        "demo",
        method=config.method,
        data={"path": str(output / "ingest" / "tokens")},
        optim={} if config.steps is None else {"steps": config.steps},
        run={"output": str(output / "train"), "seed": config.seed, "prompts": _read_held_out(output)[:12]},
    )


def _evaluate_config(config: DemoConfig, output: Path, model: Path) -> EvaluateConfig:
    return preset(
        EvaluateConfig,
        "demo",
        checkpoint=str(model),
        captions=str(output / "captions.txt"),
        output=str(output / "evaluate"),
        seed=config.seed,
    )


def _write_filmstrip(model: Path, output: Path) -> None:
    pipe = Emage.from_pretrained(str(model), device="cpu")
    image_grid.make_filmstrip(list(pipe.stream(_read_held_out(output)[0]))).save(output / "strip.png")


def _send_request(config: DemoConfig, output: Path, model: Path) -> float:
    """Serve the model, request an image over HTTP, stop; return the seconds until the answer."""
    settings = preset(ServeConfig, "demo", checkpoint=str(model), port=_free_port())
    serve.validate(settings)
    url = serve.start(serve.resolve(settings))
    try:
        body = json.dumps({"prompt": _read_held_out(output)[0], "seed": config.seed}).encode()
        request = urllib.request.Request(
            f"{url}/v1/images/generations", data=body, headers={"Content-Type": "application/json"}
        )
        started = time.monotonic()
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # not through the environment's proxy
        with direct.open(request, timeout=60) as answer:
            png = b64decode(json.load(answer)["data"][0]["b64_json"])
        took = time.monotonic() - started
    finally:
        serve.stop()
    (output / "http.png").write_bytes(png)
    return took


# --- Web server -------------------------------------------------------------------------------------------------------


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Print nothing: there are six thousand requests."""


@contextmanager
def _web_server(www: Path) -> Iterator[int]:
    """Serve the folder on 127.0.0.1 while the block runs, on the same port each time; yield the port."""
    port_file = www.parent / "port"
    port = int(port_file.read_text()) if port_file.exists() else 0
    handler = functools.partial(_Handler, directory=str(www))
    try:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
    except OSError as error:
        raise InputError(f"port {port} of the interrupted demo is taken ({error}); choose another output=") from None
    port_file.write_text(str(server.server_address[1]))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


def _free_port() -> int:
    with http.server.HTTPServer(("127.0.0.1", 0), _Handler) as server:
        return server.server_address[1]


# --- Report -----------------------------------------------------------------------------------------------------------


def _ingest_summary(report: dict[str, Any]) -> str:
    dropped = " + ".join(f"{sum(report[kind].values())} {kind}" for kind in ("filtered", "rejected", "failed"))
    return f"{report['rows_in']} rows = {report['written']} written + {dropped}"


def _train_summary(config: DemoConfig, output: Path) -> str:
    return f"{config.method}, {_train_config(config, output).optim.steps} steps"


def _evaluation_summary(config: DemoConfig, metrics: dict[str, float]) -> str:
    objects, relation = metrics["objects_right"], metrics["relation_right"]
    return f"{objects:.1%} of {config.held_out} held-out captions correct (shape, colour); {relation:.1%} with relation"


def _print(output: Path, stages: dict[str, tuple[float, str]]) -> None:
    table = Table("stage", "seconds", "what it did", title="Emage demo")
    for name, (seconds, summary) in stages.items():
        table.add_row(name, f"{seconds:.0f}", summary)
    table.add_section()
    table.add_row("all", f"{sum(seconds for seconds, _ in stages.values()):.0f}", "")
    console = Console()
    console.print(table)
    console.print(
        f"images: {output / 'evaluate' / 'grid.png'}, {output / 'strip.png'}, {output / 'http.png'}\n"
        f"report:   {output / 'evaluate' / 'report.md'}\n"
        f"model:    {output / 'train' / 'model'}\n"
        "next:     `make ui` opens the MLflow pages, `make serve` the endpoint of this model",
        soft_wrap=True,
    )
