"""What the endpoint says of itself, as Ray's metrics: Prometheus finds them at every node's exporter, under `ray_`.

`RequestMeter.text` gathers what the exporters of all nodes hold of ours, so that one address shows all replicas. The
exporters hear from their processes every ten seconds or so.
"""

import asyncio
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import aiohttp
import ray
from ray.util.metrics import Counter, Gauge, Histogram

if TYPE_CHECKING:  # brings PyTorch, which the process that speaks HTTP has no use for
    from emage.serving.batcher import Batch


SECONDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0]
SIZES = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0]
PREFIX = "ray_emage_"
NOISE = re.compile(r'(otel_scope_\w+|SessionName|Version|Component)="[^"]*",?')  # of every line, and the same in all


class ModelMeter:
    """Of a replica that draws."""

    def __init__(self) -> None:
        self._wait = Histogram("emage_queue_wait_seconds", "an image's time in the queue", boundaries=SECONDS)
        self._size = Histogram("emage_batch_size", "images drawn together", boundaries=SIZES)
        self._step = Histogram("emage_step_seconds", "one pass over a batch, previews included", boundaries=SECONDS)
        self._images = Counter(
            "emage_pictures",
            "images drawn, candidates too; finished=false: nobody waited, or it failed",
            tag_keys=("finished",),
        )
        self._loaded = Gauge("emage_model_step", "training step of the model that draws")

    def batch(self, batch: "Batch") -> None:
        self._size.observe(batch.size)
        for seconds in batch.waits_s:
            self._wait.observe(seconds)
        for seconds in batch.steps_s:
            self._step.observe(seconds)
        self._images.inc(batch.size, {"finished": str(batch.finished).lower()})

    def model(self, step: int) -> None:
        self._loaded.set(step)


class RequestMeter:
    """Of a process that speaks HTTP."""

    def __init__(self) -> None:
        self._requests = Counter("emage_requests", "answered requests", tag_keys=("route", "status"))
        self._seconds = Histogram("emage_request_seconds", "to the last byte", boundaries=SECONDS, tag_keys=("route",))

    def request(self, route: str, status: int, seconds: float) -> None:
        self._requests.inc(1, {"route": route, "status": str(status)})
        self._seconds.observe(seconds, {"route": route})

    async def text(self) -> str:
        """Prometheus' text of all nodes. A node that does not answer is left out."""
        nodes = [node for node in await asyncio.to_thread(ray.nodes) if node["Alive"]]
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5), trust_env=False) as session:
            pages = await asyncio.gather(*(_page(session, node) for node in nodes))
        return "\n".join(_ours(pages)) + "\n"


async def _page(session: aiohttp.ClientSession, node: dict) -> str:
    try:
        async with session.get(f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics") as answer:
            return await answer.text()
    except (TimeoutError, aiohttp.ClientError):
        return ""


def _ours(pages: list[str]) -> Iterator[str]:
    """Our lines of several pages; the lines of a metric stand together, below one HELP and one TYPE."""
    heads: dict[str, list[str]] = {}
    lines: dict[str, list[str]] = {}
    for page in pages:
        name = ""
        for line in page.splitlines():
            if line.startswith("# "):
                name = line.split(" ", 3)[2]
                if name.startswith(PREFIX) and line not in heads.setdefault(name, []):
                    heads[name].append(line)
            elif name.startswith(PREFIX) and line.startswith(PREFIX):
                lines.setdefault(name, []).append(NOISE.sub("", line).replace(",}", "}"))
    for name, head in heads.items():
        yield from head
        yield from lines.get(name, [])
