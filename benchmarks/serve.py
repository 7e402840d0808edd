"""What serving costs beside drawing alone, and what the endpoint withstands: a real client, over loopback, bounded.

    python benchmarks/serve.py                              # the shipped model: 10 minutes on two cores
    python benchmarks/serve.py parts=[latency,throughput]   # or memory, kill
    python benchmarks/serve.py checkpoint=paper grid=16 model.width=256 model.depth=4 model.num_heads=4 pictures=32 \
        pairs=20 clients=[1,8,32] server.timeout_s=300      # random weights of any size; the paper's by default

Starts pipelines/serve.py as a person does, and is its only client. All share this machine's cores.
- latency: one client. A request and a direct `pipe.generate` of the same image take turns, so that drift falls on
  both. JSON, PNG and base64 are in the server's time and not in the direct one; a PNG by itself is timed as well.
- throughput: closed loops, each client asking again when it has its answer; one that is refused (429) waits as it is
  told. Between the levels the same images are drawn by one `pipe.generate` in full batches, by as many threads as
  are fastest, the server being idle: a level's ratio is to the mean of the two around it. A sample of the answers is
  compared with the model's own images, pixel by pixel.
- memory: of each process, over many requests of all kinds: n=3, refused ones, streams, clients that leave them.
- kill: SIGKILL under load to the process that holds the model, then to the one that speaks HTTP. What every request
  got, and when it is whole again.
Prints a table each and writes results/serve.json.
"""

import json
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import serve_faults
import serve_speed
import torch
from serve_bench import PARTS, Bench, ServeBenchmark
from serve_program import arguments, serving

import emage
from emage import config, tokenizers
from emage.config import CheckpointConfig, ServeConfig, cli
from emage.model import checkpoint
from emage.on_ray.serving.deployment import cpu_threads
from emage.tokenizers.vqgan import VQGAN, VQGANConfig
from emage.utils import provenance
from emage.utils.errors import InputError, exit_on_bad_input


def main(argv: Sequence[str]) -> None:
    """Exits with 2 and one line on bad input."""
    with exit_on_bad_input():
        settings = cli.parse(ServeBenchmark, argv)
        check(settings)
        with tempfile.TemporaryDirectory() as folder:
            run(settings, Path(folder))


def check(settings: ServeBenchmark) -> None:
    for part in settings.parts:
        if part not in PARTS:
            raise InputError(f"parts: {part!r} is none of {', '.join(PARTS)}")
    for name in ("pairs", "pictures", "level_s", "requests", "load_s", "grid"):
        if getattr(settings, name) <= 0:
            raise InputError(f"{name}={getattr(settings, name)}: there must be some")
    if not settings.clients or min(settings.clients) < 1:
        raise InputError(f"clients={list(settings.clients)}: at least one level, and at least one at each")


def run(settings: ServeBenchmark, folder: Path) -> dict[str, Any]:
    model = random_model(settings, folder / "model") if settings.checkpoint == "paper" else settings.checkpoint
    command = arguments(model, settings.server)
    served = config.parse(ServeConfig, command)
    threads = settings.threads or cpu_threads(served)
    torch.set_num_threads(threads)
    pipe = emage.Emage.from_pretrained(model, device=served.device, dtype=served.dtype)
    record: dict[str, Any] = {
        **surroundings(threads),
        # Files by name: where they lie on this disk is nobody's business.
        "settings": asdict(settings) | {key: Path(getattr(settings, key)).name for key in ("checkpoint", "results")},
        "server": asdict(served) | {"checkpoint": Path(model).name},
    }
    parts = {
        "latency": serve_speed.latency,
        "throughput": serve_speed.throughput,
        "memory": serve_faults.memory,
        "kill": serve_faults.kill,
    }
    with serving(command, served.port, folder) as (url, process):
        bench = Bench(settings, served, pipe, psutil.Process(process.pid), url)
        for part in settings.parts:
            record[part] = parts[part](bench)
            Path(settings.results).parent.mkdir(exist_ok=True)
            Path(settings.results).write_text(json.dumps(record, indent=1) + "\n")
    return record


def random_model(settings: ServeBenchmark, folder: Path) -> str:
    """A checkpoint of a network and a tokenizer that know nothing; what they cost does not depend on it."""
    torch.manual_seed(0)
    weights = folder.with_name("tokenizer.safetensors")
    tokenizers.save(VQGAN(VQGANConfig(resolution=8 * settings.grid, quantizer="gumbel"), "random-f8-8192"), weights)
    tokenizer = tokenizers.load_file(weights)
    described = CheckpointConfig(vocab_size=8192, grid=(settings.grid, settings.grid), model=settings.model)
    checkpoint.save(folder, checkpoint.build(described), tokenizer, described, {"step": 0})
    return str(folder)


# --- Where it was measured --------------------------------------------------------------------------------------------


def surroundings(threads: int) -> dict[str, Any]:
    """Device, versions, commit."""
    packages = {name: version(name) for name in ("torch", "ray", "fastapi", "uvicorn", "aiohttp")}
    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"{threads} threads, {processor()}",
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "versions": {"python": platform.python_version(), "emage": emage.__version__, **packages},
        "commit": provenance.commit(),
    }


def processor() -> str:
    """The CPU's name, where the system tells it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main(sys.argv[1:])
