"""The endpoint's metrics, exported by Ray: Prometheus reads them at every node, with the prefix `ray_`.

`RequestMetrics.text` collects the metrics of all nodes' exporters, so that one address shows all replicas. An exporter
is about ten seconds behind its processes.
"""

import asyncio
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import aiohttp
import ray
from ray.util.metrics import Counter, Gauge, Histogram

if TYPE_CHECKING:  # the process that speaks HTTP needs the type only
    from emage.serving.batch_types import BatchRecord


SECONDS_BOUNDARIES = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0]
BATCH_SIZE_BOUNDARIES = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0]
PREFIX = "ray_emage_"
RAY_LABELS = re.compile(r'(otel_scope_\w+|SessionName|Version|Component)="[^"]*",?')  # the same in every line


class ModelMetrics:
    """The metrics of a replica that generates."""

    def __init__(self) -> None:
        self._wait = Histogram(
            "emage_queue_wait_seconds", "time of an image in the queue", boundaries=SECONDS_BOUNDARIES
        )
        self._size = Histogram("emage_batch_size", "images per batch", boundaries=BATCH_SIZE_BOUNDARIES)
        self._step = Histogram(
            "emage_step_seconds", "one decoding step of a batch, previews included", boundaries=SECONDS_BOUNDARIES
        )
        self._images = Counter(
            "emage_pictures",
            "generated images, candidates included; finished=false: all clients had cancelled, or the batch failed",
            tag_keys=("finished",),
        )
        self._loaded = Gauge("emage_model_step", "training step of the loaded model")

    def record_batch(self, record: "BatchRecord") -> None:
        """Record a batch that has ended."""
        self._size.observe(record.size)
        for seconds in record.waits_s:
            self._wait.observe(seconds)
        for seconds in record.steps_s:
            self._step.observe(seconds)
        self._images.inc(record.size, {"finished": str(record.finished).lower()})

    def record_model(self, step: int) -> None:
        """Record the training step of the model that is loaded."""
        self._loaded.set(step)


class RequestMetrics:
    """The metrics of a process that speaks HTTP (emage.serving.http.backend.MetricsSink)."""

    def __init__(self) -> None:
        self._requests = Counter("emage_requests", "answered requests", tag_keys=("route", "status"))
        self._seconds = Histogram(
            "emage_request_seconds", "seconds to the last byte", boundaries=SECONDS_BOUNDARIES, tag_keys=("route",)
        )

    def record_request(self, route: str, status: int, seconds: float) -> None:
        """Record an answered request."""
        self._requests.inc(1, {"route": route, "status": str(status)})
        self._seconds.observe(seconds, {"route": route})

    async def text(self) -> str:
        """Return the metrics of all nodes in Prometheus' text format. A node that does not answer is left out."""
        nodes = [node for node in await asyncio.to_thread(ray.nodes) if node["Alive"]]
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5), trust_env=False) as session:
            texts = await asyncio.gather(*(_exporter_text(session, node) for node in nodes))
        return "\n".join(_merged_lines(texts)) + "\n"


async def _exporter_text(session: aiohttp.ClientSession, node: dict) -> str:
    try:
        async with session.get(f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics") as answer:
            return await answer.text()
    except (TimeoutError, aiohttp.ClientError):
        return ""


def _merged_lines(texts: list[str]) -> Iterator[str]:
    """Yield the lines of our metrics from several exporters, grouped by metric below one HELP and one TYPE line."""
    heads: dict[str, list[str]] = {}
    lines: dict[str, list[str]] = {}
    for text in texts:
        name = ""
        for line in text.splitlines():
            if line.startswith("# "):
                name = line.split(" ", 3)[2]
                if name.startswith(PREFIX) and line not in heads.setdefault(name, []):
                    heads[name].append(line)
            elif name.startswith(PREFIX) and line.startswith(PREFIX):
                lines.setdefault(name, []).append(RAY_LABELS.sub("", line).replace(",}", "}"))
    for name, head in heads.items():
        yield from head
        yield from lines.get(name, [])
