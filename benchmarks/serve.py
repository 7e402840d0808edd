"""What serving costs beside drawing alone, and what the endpoint withstands: a real client, over loopback, bounded.

    python benchmarks/serve.py                              # the shipped model: 10 minutes on two cores
    python benchmarks/serve.py parts=[latency,throughput]   # or memory, kill
    python benchmarks/serve.py checkpoint=paper grid=16 model.width=256 model.depth=4 model.num_heads=4 pictures=32 \
        pairs=20 clients=[1,8,32] server.timeout_s=300      # random weights of any size; the paper's by default

Starts pipelines/serve.py as a person does, and is its only client. All share this machine's cores.
- latency: one client. A request and a direct `pipe.generate` of the same picture take turns, so that drift falls on
  both. JSON, PNG and base64 are in the server's time and not in the direct one; a PNG by itself is timed as well.
- throughput: closed loops, each client asking again when it has its answer; one that is refused (429) waits as it is
  told. Between the levels the same pictures are drawn by one `pipe.generate` in full batches, by as many threads as
  are fastest, the server being idle: a level's ratio is to the mean of the two around it. A sample of the answers is
  compared with the model's own pictures, pixel by pixel.
- memory: of each process, over many requests of all kinds: n=3, refused ones, streams, clients that leave them.
- kill: SIGKILL under load to the process that holds the model, then to the one that speaks HTTP. What every request
  got, and when it is whole again.
Prints a table each and writes results/serve.json.
"""

import asyncio
import io
import itertools
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import numpy as np
import psutil
import torch
from PIL import Image
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from serve_client import Answer, Ask, ask, closed_loops, open_session, percentiles, stream
from serve_program import arguments, megabytes, processes, serving

import emage
from emage import checkpoint, command_line, config, provenance, tokenizers
from emage.config import CheckpointConfig, ModelConfig, ServeConfig
from emage.errors import InputError
from emage.on_ray.serve import cpu_threads
from emage.shapes import held_out_scenes
from emage.tokenizers.vqgan import VQGAN, VQGANConfig

RESULTS = Path(__file__).parent / "results"
PARTS = ("latency", "throughput", "memory", "kill")
VICTIMS = ("Model", "Frontend")  # deployments
PROMPTS = [scene.caption for scene in held_out_scenes(256, seed=0)]
SPARE_S = 15.0  # an answer so much later than the server's own deadline is none
PAUSE_S = 0.02  # threads that wait for work spin a while first: they shall not do so in the other's time
SAMPLE = 16  # pictures compared at each level
WARM_UP = 200  # requests of the memory part that do not count
FLAT_MB = 5.0  # growth in 1,000 requests up to which memory is called flat


@dataclass(frozen=True)
class ServeBenchmark:
    """What serving costs beside drawing alone, and what the endpoint withstands (benchmarks/serve.py)."""

    checkpoint: str = "demo"  # a folder, or paper: random weights by `model` and `grid`
    parts: tuple[str, ...] = PARTS
    steps: int | None = None  # of a picture; none: the model's own
    threads: int | None = None  # of direct drawing; none: as many as a replica takes on a CPU
    pairs: int = 200  # latency
    clients: tuple[int, ...] = (1, 8, 32, 64, 256)  # throughput: a level each
    pictures: int = 256  # of a level; four a client where that is more
    level_s: float = 120.0  # after which a level asks for no more
    requests: int = 2_000  # memory
    load_s: float = 40.0  # kill: of load by 8 clients; the kill comes after a quarter of it
    model: ModelConfig = field(default_factory=ModelConfig)
    grid: int = 32
    server: dict[str, Any] = field(default_factory=dict)  # server.KEY=VALUE, settings of pipelines/serve.py
    results: str = str(RESULTS / "serve.json")


class Bench(NamedTuple):
    """What every part is given."""

    settings: ServeBenchmark
    config: ServeConfig
    pipe: emage.Emage  # the same model in this process; it rests while the server works
    server: psutil.Process
    url: str

    def body(self, number: int) -> dict[str, Any]:
        """The request of picture `number`, which is the same in every part and for the model itself."""
        own = {} if self.settings.steps is None else {"steps": self.settings.steps}
        return {"prompt": PROMPTS[number % len(PROMPTS)], "seed": number, **own}

    async def ask(self, session: aiohttp.ClientSession, number: int) -> Answer:
        return await ask(session, number, self.body(number))

    def draw(self, numbers: Sequence[int]) -> list[Image.Image]:
        """Pictures without a server, in batches as large as its."""
        bodies = [self.body(number) for number in numbers]
        prompts, seeds = ([body.pop(name) for body in bodies] for name in ("prompt", "seed"))
        return self.pipe.generate(prompts, seed=seeds, batch_size=self.config.max_batch_size, **bodies[0])

    @property
    def deadline_s(self) -> float:
        return self.config.timeout_s + SPARE_S


def main(argv: Sequence[str]) -> None:
    """Exits with 2 and one line on bad input."""
    try:
        settings = command_line.parse(ServeBenchmark, argv)
        check(settings)
        with tempfile.TemporaryDirectory() as folder:
            run(settings, Path(folder))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


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
        "settings": {**asdict(settings), "results": Path(settings.results).name},
        "server": asdict(served),
    }
    with serving(command, served.port, folder) as (url, process):
        bench = Bench(settings, served, pipe, psutil.Process(process.pid), url)
        for part in settings.parts:
            record[part] = {"latency": latency, "throughput": throughput, "memory": memory, "kill": kill}[part](bench)
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


@contextmanager
def bar(what: str, total: float) -> Iterator[Callable[[], object]]:
    """A progress bar on a terminal, drawn so rarely that it costs nothing; what it gives moves it on by one."""
    with Progress(refresh_per_second=1, disable=not Console().is_terminal, transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda: progress.advance(task)


# --- Latency ----------------------------------------------------------------------------------------------------------


def latency(bench: Bench) -> dict[str, Any]:
    """Milliseconds of one client's requests, of direct calls, and of the difference pair by pair."""
    served, direct, encoding = np.array(asyncio.run(take_turns(bench))).T * 1e3
    columns = {"a request": served, "pipe.generate": direct, "added": served - direct, "a PNG": encoding}
    found = {name: percentiles(ms) for name, ms in columns.items()}
    table = Table("ms, one client", "median", "p95", "p99", title=f"{len(served)} pairs, goal: added under 10 ms")
    for name, row in found.items():
        table.add_row(name, *(f"{value:.1f}" for value in row.values()))
    Console().print(table)
    return found


async def take_turns(bench: Bench) -> list[tuple[float, float, float]]:
    """Seconds of a request, of the same picture drawn directly, and of making a PNG of it; after five to warm up."""
    pairs = []
    total = bench.settings.pairs + 5
    with bar("latency", total) as moved:
        async with open_session(bench.url, bench.deadline_s) as session:
            for number in range(total):
                await asyncio.sleep(PAUSE_S)
                answer = await bench.ask(session, number)
                if answer.outcome != "200":
                    raise InputError(f"the only client of the server was told {answer.outcome}")
                await asyncio.sleep(PAUSE_S)
                started = time.perf_counter()
                (picture,) = bench.draw([number])
                drawn = time.perf_counter()
                picture.save(io.BytesIO(), "PNG")
                pairs.append((answer.seconds, drawn - started, time.perf_counter() - drawn))
                moved()
    return pairs[5:]


# --- Throughput -------------------------------------------------------------------------------------------------------


def throughput(bench: Bench) -> dict[str, Any]:
    """Figures of each level, of drawing offline between them, and the best of the ratios."""
    before, rates = torch.get_num_threads(), rates_by_threads(bench)
    fastest = max(rates, key=rates.__getitem__)
    offline, levels, sample = [offline_rate(bench, fastest)], list[dict[str, Any]](), list[Answer]()
    for clients in bench.settings.clients:
        answers, found = level(bench, clients)
        offline.append(offline_rate(bench, fastest))
        levels.append({**found, "ratio": found["pictures_per_s"] / statistics.mean(offline[-2:])})
        drawn = [answer for answer in answers if answer.png]
        sample += drawn[:: max(1, len(drawn) // SAMPLE)][:SAMPLE]
    best = max(row["ratio"] for row in levels)
    found = {"levels": levels, "offline_pictures_per_s": offline, "offline_threads": fastest, "best_ratio": best}
    found["replica_threads"], found["offline_replica_threads_per_s"] = before, offline_rate(bench, before)
    found |= {"offline_by_threads": rates, **compare(bench, sample)}
    show_levels(found)
    return found


def rates_by_threads(bench: Bench) -> dict[int, float]:
    """Pictures/s of a few full batches drawn offline, by how many threads draw: more are not always faster."""
    numbers, rates = range(4 * bench.config.max_batch_size), {}
    for threads in sorted({1, torch.get_num_threads(), os.cpu_count() or 1}):
        torch.set_num_threads(threads)
        bench.draw(numbers[: bench.config.max_batch_size])
        started = time.perf_counter()
        bench.draw(numbers)
        rates[threads] = len(numbers) / (time.perf_counter() - started)
    return rates


def offline_rate(bench: Bench, threads: int) -> float:
    """Pictures/s of `pipe.generate` in full batches; the server rests, though its processes are there."""
    torch.set_num_threads(threads)
    started = time.perf_counter()
    bench.draw(range(bench.settings.pictures))
    return bench.settings.pictures / (time.perf_counter() - started)


def level(bench: Bench, clients: int) -> tuple[list[Answer], dict[str, Any]]:
    """All answers, and figures of them."""
    total = max(bench.settings.pictures, 4 * clients)
    limits = {"clients": clients, "seconds": bench.settings.level_s, "deadline_s": bench.deadline_s}
    started, own = time.perf_counter(), time.process_time()
    with bar(f"{clients} clients", total) as moved:
        answers = asyncio.run(closed_loops(bench.url, bench.ask, range(total), moved=moved, **limits))
    seconds, own = time.perf_counter() - started, time.process_time() - own
    return answers, {**summary(answers, seconds), "clients": clients, "client_cpu_ms": own * 1e3 / len(answers)}


def summary(answers: Sequence[Answer], seconds: float) -> dict[str, Any]:
    """Percentiles are of what was drawn, each from its last asking to its answer."""
    drawn = [answer.seconds * 1e3 for answer in answers if answer.outcome == "200"]
    outcomes = dict(Counter(answer.outcome for answer in answers))
    return {"pictures_per_s": len(drawn) / seconds, "seconds": seconds, "ms": percentiles(drawn), "outcomes": outcomes}


def compare(bench: Bench, answers: Sequence[Answer]) -> dict[str, Any]:
    """How many of the answers are, pixel by pixel, what the model draws for them alone."""
    differences = []
    for answer in answers:
        served = np.asarray(Image.open(io.BytesIO(answer.png or b""))).astype(int)
        differences.append(int(np.abs(served - np.asarray(bench.draw([answer.number])[0])).max()))
    return {
        "compared": len(differences),
        "equal": differences.count(0),
        "largest_difference": max(differences, default=0),
    }


def show_levels(found: dict[str, Any]) -> None:
    offline = statistics.mean(found["offline_pictures_per_s"])
    title = f"offline {offline:.1f} pictures/s; best ratio {found['best_ratio']:.2f}, goal 0.9"
    table = Table("clients", "pictures/s", "of offline", "p50 ms", "p95 ms", "p99 ms", "answers", title=title)
    for row in found["levels"]:
        ms = (f"{value:,.0f}" if value else "" for value in row["ms"].values())
        said = ", ".join(f"{count} x {what}" for what, count in row["outcomes"].items())
        table.add_row(str(row["clients"]), f"{row['pictures_per_s']:.1f}", f"{row['ratio']:.2f}", *ms, said)
    Console().print(table)
    threads = ", ".join(f"{count}: {rate:.1f}" for count, rate in found["offline_by_threads"].items())
    print("{equal} of {compared} answers equal the model's own pictures in every pixel; ".format(**found), end="")
    rates = found["offline_pictures_per_s"]
    print(f"offline by threads {threads}; its fastest run / its slowest {max(rates) / min(rates):.2f}")
    served = max(row["pictures_per_s"] for row in found["levels"])
    equal = found["offline_replica_threads_per_s"]
    count = found["replica_threads"]
    print(f"offline by as many threads as a replica has ({count}): {equal:.1f} pictures/s, ratio {served / equal:.2f}")


# --- Memory -----------------------------------------------------------------------------------------------------------


def memory(bench: Bench) -> dict[str, Any]:
    """Megabytes of each kind of process over the requests, and their growth in 1,000 of them."""
    answers, samples = asyncio.run(watch_memory(bench))
    counts = np.array([count for count, _ in samples])
    rows: dict[str, dict[str, float]] = {}
    for name in samples[-1][1]:
        rss, uss, pss = np.array([sample.get(name, (np.nan,) * 3) for _, sample in samples]).T
        growth = {"uss_mb_per_1000": slope(counts, uss, WARM_UP), "rss_mb_per_1000": slope(counts, rss, WARM_UP)}
        rows[name] = {"rss_mb": rss[-1], "uss_mb": uss[-1], "pss_mb": pss[-1], **growth}
    total = sum(row["uss_mb_per_1000"] for name, row in rows.items() if name != "rest of Ray")
    found = {"requests": len(answers), "uss_mb_per_1000": total, "flat": bool(total < FLAT_MB), "processes": rows}
    found["outcomes"] = dict(Counter(answer.outcome for answer in answers))
    found["samples"] = [(count, {name: round(mb[1], 1) for name, mb in sample.items()}) for count, sample in samples]
    show_memory(found)
    return found


async def watch_memory(bench: Bench) -> tuple[list[Answer], list[tuple[int, dict[str, tuple[float, ...]]]]]:
    """All answers, and every second how many there were and what the processes held."""
    count, samples = itertools.count(1), [(0, megabytes(bench.server))]
    limits = {"clients": 8, "seconds": 900, "deadline_s": bench.deadline_s}
    last = time.monotonic()

    def moved() -> None:
        nonlocal last
        progress()
        done = next(count)
        if time.monotonic() - last > 1 or done == bench.settings.requests:
            samples.append((done, megabytes(bench.server)))
            last = time.monotonic()

    with bar("memory", bench.settings.requests) as progress:
        numbers = range(bench.settings.requests)
        return await closed_loops(bench.url, mixed(bench), numbers, moved=moved, **limits), samples


def mixed(bench: Bench) -> Ask:
    """Requests of all kinds in turn, half of them plain."""

    async def ask_for(session: aiohttp.ClientSession, number: int) -> Answer:
        body = bench.body(number)
        match number % 8:
            case 0:
                return await ask(session, number, {**body, "n": 3})
            case 2:
                return await stream(session, number, body, leave=False)
            case 4:
                return await ask(session, number, {**body, "steps": 0})
            case 6:
                return await stream(session, number, body, leave=True)
        return await ask(session, number, body)

    return ask_for


def slope(counts: np.ndarray, values: np.ndarray, warm_up: int) -> float:
    """Of the line through the values after the warm-up, in 1,000 counts; 0 where they are too few for one."""
    late = (counts >= warm_up) & np.isfinite(values)
    if late.sum() < 3:
        return 0.0
    return float(np.polyfit(counts[late] / 1e3, values[late], 1)[0])


def show_memory(found: dict[str, Any]) -> None:
    verdict = f"{found['uss_mb_per_1000']:+.1f} MB in 1,000, {'flat' if found['flat'] else 'it grows'}"
    columns = ("RSS MB", "USS MB", "PSS MB", "USS, in 1,000", "RSS, in 1,000")
    table = Table("process", *columns, title=f"{found['requests']} requests: {verdict} (USS, without the rest of Ray)")
    for name, row in found["processes"].items():
        now = (f"{row[unit]:.0f}" for unit in ("rss_mb", "uss_mb", "pss_mb"))
        table.add_row(name, *now, f"{row['uss_mb_per_1000']:+.2f}", f"{row['rss_mb_per_1000']:+.2f}")
    Console().print(table)
    print(", ".join(f"{count} x {what}" for what, count in found["outcomes"].items()))


# --- Kill -------------------------------------------------------------------------------------------------------------


def kill(bench: Bench) -> dict[str, Any]:
    """By deployment: what every request got, how long there were no pictures, whether it is whole afterwards."""
    there = processes(bench.server)
    if VICTIMS[0] not in there:
        raise InputError(f"there is no process of {VICTIMS[0]} to kill, only {', '.join(there)}")
    found = {}
    for name in VICTIMS:
        if name in there:
            answers, killed = asyncio.run(kill_under_load(bench, there[name][0]))
            found[name] = {**aftermath(answers, killed), "whole_again": asyncio.run(is_whole(bench))}
            show_aftermath(name, found[name])
    return found


async def kill_under_load(bench: Bench, victim: psutil.Process) -> tuple[list[Answer], float]:
    """All answers, and the moment of the kill."""

    async def strike() -> float:
        await asyncio.sleep(bench.settings.load_s / 4)
        victim.kill()
        return time.perf_counter()

    striking = asyncio.create_task(strike())
    limits = {"clients": 8, "seconds": bench.settings.load_s, "deadline_s": bench.deadline_s}
    answers = await closed_loops(bench.url, bench.ask, itertools.count(), **limits)
    return answers, await striking


def aftermath(answers: Sequence[Answer], killed: float) -> dict[str, Any]:
    """Counts of what was begun before the kill and had no answer then, and of what was begun later."""
    under_way = [answer for answer in answers if answer.started <= killed < answer.started + answer.seconds]
    later = [answer for answer in answers if answer.started > killed]
    pictures = [answer.started + answer.seconds - killed for answer in later if answer.outcome == "200"]
    return {
        "answers": len(answers),
        "under way": dict(Counter(answer.outcome for answer in under_way)),
        "later": dict(Counter(answer.outcome for answer in later)),
        "first_picture_s": min(pictures, default=None),
        "slowest_s": max((answer.seconds for answer in answers), default=None),
        "unclean": sum(not answer.is_clean for answer in answers),
    }


async def is_whole(bench: Bench) -> bool:
    """Whether each of 32 more requests, by eight clients, gets its picture without being told to come again."""
    limits = {"clients": 8, "seconds": bench.deadline_s, "deadline_s": bench.deadline_s}
    answers = await closed_loops(bench.url, bench.ask, range(32), **limits)
    return [answer.outcome for answer in answers] == ["200"] * 32


def show_aftermath(name: str, found: dict[str, Any]) -> None:
    outcomes = sorted(found["under way"] | found["later"])
    table = Table("requests", *outcomes, title=f"kill -9 of {name}, {found['answers']} requests by 8 clients")
    for when in ("under way", "later"):
        table.add_row(when, *(str(found[when].get(outcome, 0)) for outcome in outcomes))
    Console().print(table)
    first = "never" if found["first_picture_s"] is None else f"{found['first_picture_s']:.1f} s"
    print(f"first picture of a later request after {first}, slowest answer {found['slowest_s']:.1f} s,", end=" ")
    print("{unclean} without a clean answer, whole again: {whole_again}".format(**found))


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
