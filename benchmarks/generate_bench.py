"""How benchmarks/generate.py measures: its settings, a figure, the clock; and what there is to measure on a device."""

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, get_args

import generate_ours as ours
import generate_peers as peers
import torch

from emage.config import Dtype, SamplingConfig
from emage.inference.pipeline import Emage
from emage.methods import METHODS
from emage.model.device_support import arithmetic, check_dtype, choose, has_bfloat16_units, matmul_rate, wait_for
from emage.utils import provenance
from emage.utils.errors import InputError

LONG_S = 5.0  # on a CPU, work that takes longer is timed once, and that is the first time
OURS, STEPS = "iterative3", 16  # what all else is compared with
PASS, STEP = "one pass", "one step of its loop"
AMUSED, MUSE = "aMUSEd-256 (diffusers)", "muse-maskgit-pytorch"
LARGER = f"{AMUSED} at 1024 tokens"
ROUNDS = 4  # of works that take turns, after one to warm up
PACKAGES = ("diffusers", "muse-maskgit-pytorch", "transformers")


@dataclass(frozen=True)
class GenerateBenchmark:
    """What an image costs, ours and theirs (benchmarks/generate.py; it has no presets of its own)."""

    preset: str = "emage_346m"  # of training: its model
    device: str = "auto"  # auto: cuda where there is one
    dtypes: tuple[str, ...] = ()  # none: those that the device is good at
    batches: tuple[int, ...] = ()  # none: 1, and on a GPU 8 and 64
    methods: tuple[str, ...] = tuple(METHODS)  # beside iterative3 at batch 1
    steps: tuple[int, ...] = ()  # of iterative3; none: 4, 8, 16, 32, on a CPU 4 and 16
    compile: bool | None = None  # torch.compile of ours and theirs; none: on a GPU
    peers: bool = True  # installed by make bench
    seconds: float = 1.0  # that each figure is measured for, at least
    results: str | None = None  # a JSON file; none: one a device in benchmarks/results


@dataclass
class Figure:
    """What is timed, and what came of it."""

    what: str
    dtype: Dtype
    batch: int
    steps: int  # passes that an image takes
    scope: str = "text to pixels"
    flops: int = 0  # of an image; 0: not counted
    ms_a_picture: float = 0.0
    rounds: int = 0  # that the median is of
    share_of_matmul: float | None = None
    peak_gib: float | None = None  # of a GPU's memory
    ratio: float | None = None  # to OURS in STEPS steps, of the same precision and batch
    failed: str = ""


Prepare = Callable[[], "Callable[[], object] | float"]  # the work of a whole batch; or its seconds, already taken
Job = tuple[Figure, Prepare]


class Bench:
    """Settings that are checked, and the clock."""

    def __init__(self, settings: GenerateBenchmark):
        """Raises InputError for a setting that could not end well."""
        self.device = torch.device(choose(settings.device))
        self.settings, self.on_gpu = settings, self.device.type == "cuda"
        for name in ("batches", "steps"):
            if any(not 1 <= value <= ours.N for value in getattr(settings, name)):
                raise InputError(f"{name}={list(getattr(settings, name))}: each must lie in 1..{ours.N}")
        self.dtypes: tuple[Dtype, ...] = settings.dtypes or self._usual_dtypes()  # type: ignore[assignment]
        for dtype in self.dtypes:
            if dtype not in get_args(Dtype):
                raise InputError(f"dtypes: {dtype!r} is none of {', '.join(get_args(Dtype))}")
            check_dtype(dtype, self.device)
        for method in settings.methods:
            if method not in METHODS:
                raise InputError(f"methods: {method!r} is none of {', '.join(METHODS)}")
        self.batches = settings.batches or ((1, 8, 64) if self.on_gpu else (1,))
        self.steps = settings.steps or ((4, 8, 16, 32) if self.on_gpu else (4, 16))
        self.compiles = self.on_gpu if settings.compile is None else settings.compile
        self.versions = {"torch": torch.__version__}
        if settings.peers:
            try:
                self.versions |= {package: version(package) for package in PACKAGES}
            except PackageNotFoundError as error:
                how = "make bench installs it, peers=false goes without it"
                raise InputError(f"{error.name} is not installed: {how}") from None
        self.commit = provenance.commit()  # of the code that runs; its results change the checkout
        self.flops = ours.flops(settings.preset)
        self.peaks: dict[Dtype, float] = {}  # FLOP/s of a large matrix product
        self.profiles: dict[str, dict[str, float]] = {}
        self._pipes, self._peer = lru_cache(1)(self._make_pipes), lru_cache(1)(self._make_peer)

    def _usual_dtypes(self) -> tuple[Dtype, ...]:
        if self.on_gpu:
            newer = torch.cuda.get_device_capability(self.device) >= (8, 0)
            return ("float32", "tf32", "bfloat16") if newer else ("float32", "float16")
        return ("float32", "bfloat16") if has_bfloat16_units() else ("float32",)

    # --- What there is to measure ---

    def jobs(self) -> Iterator[Job]:
        """Each on its own, but for what `in_turns` gives."""
        for dtype in self.dtypes:
            for batch in self.batches:
                for steps in self.steps if batch < 64 or dtype == "bfloat16" else (STEPS,):
                    yield self._image(OURS, dtype, batch, steps)
            yield from self._methods(dtype)
            if self.settings.peers and dtype != "tf32":
                for batch in self.batches:
                    yield from self._peers(dtype, batch)

    def in_turns(self) -> Iterator[list[Job]]:
        """Ours as it is written beside the peer of its size: on a CPU what else the machine does falls on both."""
        for dtype in self.dtypes:
            ours_alone: list[Job] = [
                (
                    Figure("decoder, as written", dtype, 1, 1, PASS, self.flops.decoder_pass),
                    lambda dtype=dtype: ours.decoder_pass(self._pipes(dtype, False)[OURS], 1),
                ),
                (
                    Figure("decoder, as written", dtype, 1, 1, STEP),
                    lambda dtype=dtype: ours.loop_step(self._pipes(dtype, False)[OURS]),
                ),
            ]
            theirs: list[Job] = [
                (Figure(MUSE, dtype, 1, 1, PASS), lambda dtype=dtype: self._peer(MUSE, dtype, 1).step),
                (Figure(MUSE, dtype, 1, 1, STEP), lambda dtype=dtype: self._peer(MUSE, dtype, 1).loop_step),
            ]
            # In float16 Muse's loop does not run.
            yield ours_alone + (theirs if self.settings.peers and dtype in ("float32", "bfloat16") else [])

    def _image(self, method: str, dtype: Dtype, batch: int, steps: int) -> Job:
        passes = METHODS[method].num_steps(SamplingConfig(steps=steps), ours.N)
        flops = 0 if METHODS[method].CAUSAL else self.flops.image(passes)
        figure = Figure(method, dtype, batch, passes, flops=flops)
        return figure, lambda: ours.image(self._pipes(dtype, self.compiles)[method], batch, steps)

    def _methods(self, dtype: Dtype) -> Iterator[Job]:
        """The other methods, at batch 1."""
        steps = STEPS if self.on_gpu else min(self.steps)
        causal = "autoregressive" in self.settings.methods
        for method in self.settings.methods:
            if method != OURS and (self.on_gpu or not METHODS[method].CAUSAL):
                yield self._image(method, dtype, 1, steps)
        if causal and not self.on_gpu:
            scope = f"{ours.TOKENS_TIMED} tokens, times {ours.N // ours.TOKENS_TIMED}"
            yield Figure("autoregressive", dtype, 1, ours.N, scope), lambda: self._some_tokens(dtype)
        if causal:
            scope = f"tokens at {', '.join(map(str, ours.LENGTHS))}, lines in between"
            uncached = Figure("autoregressive, uncached", dtype, 1, ours.N, scope)
            yield uncached, lambda: ours.uncached_s(self._pipes(dtype, False)["autoregressive"], self.median_s)

    def _some_tokens(self, dtype: Dtype) -> float:
        work = ours.some_tokens(self._pipes(dtype, self.compiles)["autoregressive"])
        return self.median_s(work) * ours.N / ours.TOKENS_TIMED

    def _peers(self, dtype: Dtype, batch: int) -> Iterator[Job]:
        scope = "text to 256 tokens to pixels"
        yield Figure(AMUSED, dtype, batch, 1, PASS), lambda: self._peer(AMUSED, dtype, batch).step
        yield Figure(AMUSED, dtype, batch, 12, scope), lambda: self._peer(AMUSED, dtype, batch).draw
        if self.compiles and dtype == "bfloat16" and batch == 1:
            figure = Figure(f"{AMUSED}, compiled", dtype, batch, 12, scope)
            yield figure, lambda: self._peer(AMUSED, dtype, batch, compiled=True).draw
        yield Figure(LARGER, dtype, batch, 1, PASS), lambda: self._peer(LARGER, dtype, batch).step
        if self.on_gpu:
            yield Figure(MUSE, dtype, batch, 16, "text states to pixels"), lambda: self._peer(MUSE, dtype, batch).draw

    def _make_pipes(self, dtype: Dtype, compiled: bool) -> dict[str, Emage]:
        torch.compiler.reset()
        made = ours.pipes(self.settings.preset, self.device, dtype)
        if compiled:
            for pipe in made.values():
                pipe.compile()
        return made

    def _make_peer(self, name: str, dtype: Dtype, batch: int, compiled: bool = False) -> peers.Peer:
        kind = getattr(torch, dtype)
        if name == MUSE:
            made = peers.muse_maskgit(self.device, kind, batch)
        else:
            made = peers.amused(self.device, kind, batch, tokens=256 if name == AMUSED else 1024)
        for network in made.networks if compiled else ():
            network.compile(mode="reduce-overhead")  # with CUDA graphs: what aMUSEd's own documentation advises
        return made

    # --- The clock ---

    def measure(self, jobs: Sequence[Job]) -> None:
        """Fills the figures in, in turns where there are several; where a peer fails, with what it said."""
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
        dtype = jobs[0][0].dtype
        peak = matmul_rate(self.device, dtype)
        with arithmetic(dtype, self.device):
            if len(jobs) == 1:
                ((figure, prepare),) = jobs
                seconds = [self._unless_it_fails(figure, lambda: self._alone(figure, prepare))]
            else:
                seconds = self._in_turns(jobs)
        peak = max(peak, matmul_rate(self.device, dtype))
        self.peaks[dtype] = max(peak, self.peaks.get(dtype, 0.0))
        for (figure, _), taken in zip(jobs, seconds, strict=True):
            if taken is not None:
                figure.ms_a_picture = taken * 1e3 / figure.batch
                if figure.flops:
                    figure.share_of_matmul = figure.flops * figure.batch / taken / peak

    def _alone(self, figure: Figure, prepare: Prepare) -> float:
        work = prepare()
        seconds, figure.rounds = (work, 1) if isinstance(work, float) else self.seconds(work)
        if self.on_gpu:
            figure.peak_gib = torch.cuda.max_memory_allocated(self.device) / 2**30
        self._profile(figure, prepare)
        return seconds

    def _in_turns(self, jobs: Sequence[Job]) -> list[float | None]:
        """Median seconds of each after a round to warm up; None for one that failed."""
        works: list[Any] = [self._unless_it_fails(*job) for job in jobs]
        times: list[list[float]] = [[] for _ in jobs]
        for _ in range(ROUNDS + 1):
            for (figure, _), work, taken in zip(jobs, works, times, strict=True):
                if not figure.failed:
                    taken.append(self._unless_it_fails(figure, lambda work=work: self._once(work)))
                    figure.rounds = ROUNDS
        return [None if job[0].failed else statistics.median(taken[1:]) for job, taken in zip(jobs, times, strict=True)]

    def _unless_it_fails(self, figure: Figure, work: Callable[[], Any]) -> Any:
        """What the work gives. Whatever a peer stumbles over, the rest is measured."""
        try:
            return work()
        except Exception as error:
            if not figure.what.startswith((AMUSED, MUSE)):
                raise
            figure.failed = (str(error) or repr(error)).splitlines()[0][:200]
            return None

    def _profile(self, figure: Figure, prepare: Prepare) -> None:
        """What the GPU's kernels take of the image that all is compared with."""
        if self.on_gpu and (figure.what, figure.steps) == (OURS, STEPS):
            work: Any = prepare()
            kernels = ours.kernel_ms(work)
            name = f"{figure.dtype}, batch {figure.batch}"
            self.profiles[name] = {kind: value / figure.batch for kind, value in kernels.items()}

    def median_s(self, work: Callable[[], object]) -> float:
        return self.seconds(work)[0]

    def seconds(self, work: Callable[[], object]) -> tuple[float, int]:
        """Of the work, the median and of how many; twice it is done to warm up."""
        for _ in range(2):
            took = self._once(work)
            if took > LONG_S and not self.on_gpu:
                return took, 1
        rounds = max(3, min(30, int(self.settings.seconds / took)))
        return statistics.median(self._once(work) for _ in range(rounds)), rounds

    def _once(self, work: Callable[[], object]) -> float:
        wait_for(self.device)
        started = time.perf_counter()
        work()
        wait_for(self.device)
        return time.perf_counter() - started
