"""Part of benchmarks/generate.py: its settings, the clock, and the list of measurements for a device."""

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

from emage.config import Dtype, SamplingConfig, check
from emage.config.fields import setting
from emage.inference.pipeline import Emage
from emage.methods import METHODS
from emage.model.device_support import arithmetic, check_dtype, choose, has_bfloat16_units, matmul_rate, wait_for
from emage.utils import provenance
from emage.utils.errors import InputError, first_line

SINGLE_RUN_S = 5.0  # on a CPU, work that takes longer is timed once, without warm-up
OURS, STEPS = "iterative3", 16  # the reference of all ratios
PASS, STEP = "one pass", "one step of its loop"
AMUSED, MUSE = "aMUSEd-256 (diffusers)", "muse-maskgit-pytorch"
LARGER = f"{AMUSED} at 1024 tokens"
ROUNDS = 4  # of work timed in turns, after one warm-up round
PACKAGES = ("diffusers", "muse-maskgit-pytorch", "transformers")


@dataclass(frozen=True)
class GenerateBenchmark:
    """Settings of benchmarks/generate.py. It has no presets of its own."""

    preset: str = setting("emage_346m", "Preset of training whose model is used.")
    device: str = setting("auto", "cpu, cuda, cuda:N, or auto: cuda if available.")
    dtypes: tuple[str, ...] = setting(
        (), "Arithmetic of the network. Empty: those in which the device is fast.", choices=get_args(Dtype)
    )
    batches: tuple[int, ...] = setting(
        (), "Batch sizes. Empty: 1, and on a GPU also 8 and 64.", unit="images", minimum=1, maximum=ours.N
    )
    methods: tuple[str, ...] = setting(
        tuple(METHODS), "Methods that are compared with iterative3 at batch 1.", choices=tuple(METHODS)
    )
    steps: tuple[int, ...] = setting(
        (),
        "Decoding steps of iterative3. Empty: 4, 8, 16 and 32; on a CPU 4 and 16.",
        unit="steps",
        minimum=1,
        maximum=ours.N,
    )
    compile: bool | None = setting(None, "Compile all networks with torch.compile. null: on a GPU.")
    peers: bool = setting(True, "Also measure the peers, which `make bench` installs.")
    seconds: float = setting(1.0, "Least time that each number is measured for.", unit="seconds", minimum=0)
    results: str | None = setting(None, "JSON file for the numbers. null: one per device in benchmarks/results.")


@dataclass
class Measurement:
    """One measurement. The field names are keys in the results file."""

    what: str
    dtype: Dtype
    batch: int
    steps: int  # forward passes per image
    scope: str = "text to pixels"
    flops: int = 0  # per image; 0: not counted
    ms_a_picture: float = 0.0
    rounds: int = 0  # number of timings; ms_a_picture is from their median
    share_of_matmul: float | None = None
    peak_gib: float | None = None  # peak of GPU memory
    ratio: float | None = None  # to OURS with STEPS steps, with the same precision and batch size
    failed: str = ""


# Returns a function that generates a whole batch, or the seconds of a batch that it has timed itself.
Prepare = Callable[[], "Callable[[], object] | float"]
PlannedMeasurement = tuple[Measurement, Prepare]


class Bench:
    """Checked settings, the measurements that they select, and the clock. Raises InputError for invalid settings."""

    def __init__(self, settings: GenerateBenchmark):
        self.device = torch.device(choose(settings.device))
        self.settings, self.on_gpu = settings, self.device.type == "cuda"
        check(settings)
        self.dtypes: tuple[Dtype, ...] = settings.dtypes or self._usual_dtypes()  # type: ignore[assignment]
        for dtype in self.dtypes:
            check_dtype(dtype, self.device)
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
        self.commit = provenance.commit()  # read now: writing results changes the checkout
        self.flops = ours.flops(settings.preset)
        self.peaks: dict[Dtype, float] = {}  # FLOP/s of a large matrix product
        self.profiles: dict[str, dict[str, float]] = {}
        self._pipes, self._peer = lru_cache(1)(self._make_pipes), lru_cache(1)(self._make_peer)

    def _usual_dtypes(self) -> tuple[Dtype, ...]:
        if self.on_gpu:
            newer = torch.cuda.get_device_capability(self.device) >= (8, 0)
            return ("float32", "tf32", "bfloat16") if newer else ("float32", "float16")
        return ("float32", "bfloat16") if has_bfloat16_units() else ("float32",)

    # --- Measurements ---

    def planned(self) -> Iterator[PlannedMeasurement]:
        """Yield the measurements that run one by one."""
        for dtype in self.dtypes:
            for batch in self.batches:
                for steps in self.steps if batch < 64 or dtype == "bfloat16" else (STEPS,):
                    yield self._image(OURS, dtype, batch, steps)
            yield from self._methods(dtype)
            if self.settings.peers and dtype != "tf32":
                for batch in self.batches:
                    yield from self._peers(dtype, batch)

    def in_turns(self) -> Iterator[list[PlannedMeasurement]]:
        """Yield groups that run in turns, so that other load affects all: our decoder and the peer of the same size."""
        for dtype in self.dtypes:
            ours_alone: list[PlannedMeasurement] = [
                (
                    Measurement("decoder, as written", dtype, 1, 1, PASS, self.flops.decoder_pass),
                    lambda dtype=dtype: ours.decoder_pass(self._pipes(dtype, False)[OURS], 1),
                ),
                (
                    Measurement("decoder, as written", dtype, 1, 1, STEP),
                    lambda dtype=dtype: ours.loop_step(self._pipes(dtype, False)[OURS]),
                ),
            ]
            theirs: list[PlannedMeasurement] = [
                (Measurement(MUSE, dtype, 1, 1, PASS), lambda dtype=dtype: self._peer(MUSE, dtype, 1).step),
                (Measurement(MUSE, dtype, 1, 1, STEP), lambda dtype=dtype: self._peer(MUSE, dtype, 1).loop_step),
            ]
            # Muse's loop fails in float16 (generate_peers.py).
            yield ours_alone + (theirs if self.settings.peers and dtype in ("float32", "bfloat16") else [])

    def _image(self, method: str, dtype: Dtype, batch: int, steps: int) -> PlannedMeasurement:
        passes = METHODS[method].num_steps(SamplingConfig(steps=steps), ours.N)
        if getattr(METHODS[method], "TWO_STREAMS", False):
            flops = self.flops.grouped_image(self.settings.preset, steps)
        else:
            flops = 0 if METHODS[method].CAUSAL else self.flops.image(passes)  # a cached token is not a pass
        measurement = Measurement(method, dtype, batch, passes, flops=flops)
        return measurement, lambda: ours.image(self._pipes(dtype, self.compiles)[method], batch, steps)

    def _methods(self, dtype: Dtype) -> Iterator[PlannedMeasurement]:
        """Yield the other methods, at batch size 1."""
        steps = STEPS if self.on_gpu else min(self.steps)
        causal = "autoregressive" in self.settings.methods
        for method in self.settings.methods:
            if method != OURS and (self.on_gpu or not METHODS[method].CAUSAL):
                yield self._image(method, dtype, 1, steps)
        if causal and not self.on_gpu:
            scope = f"{ours.TOKENS_TIMED} tokens, times {ours.N // ours.TOKENS_TIMED}"
            yield Measurement("autoregressive", dtype, 1, ours.N, scope), lambda: self._some_tokens(dtype)
        if causal:
            scope = f"tokens at {', '.join(map(str, ours.LENGTHS))}, lines in between"
            uncached = Measurement("autoregressive, uncached", dtype, 1, ours.N, scope)
            yield uncached, lambda: ours.uncached_s(self._pipes(dtype, False)["autoregressive"], self.median_s)

    def _some_tokens(self, dtype: Dtype) -> float:
        work = ours.some_tokens(self._pipes(dtype, self.compiles)["autoregressive"])
        return self.median_s(work) * ours.N / ours.TOKENS_TIMED

    def _peers(self, dtype: Dtype, batch: int) -> Iterator[PlannedMeasurement]:
        scope = "text to 256 tokens to pixels"
        yield Measurement(AMUSED, dtype, batch, 1, PASS), lambda: self._peer(AMUSED, dtype, batch).step
        yield Measurement(AMUSED, dtype, batch, 12, scope), lambda: self._peer(AMUSED, dtype, batch).generate
        if self.compiles and dtype == "bfloat16" and batch == 1:
            measurement = Measurement(f"{AMUSED}, compiled", dtype, batch, 12, scope)
            yield measurement, lambda: self._peer(AMUSED, dtype, batch, compiled=True).generate
        yield Measurement(LARGER, dtype, batch, 1, PASS), lambda: self._peer(LARGER, dtype, batch).step
        if self.on_gpu:
            yield (
                Measurement(MUSE, dtype, batch, 16, "text states to pixels"),
                lambda: self._peer(MUSE, dtype, batch).generate,
            )

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
            network.compile(mode="reduce-overhead")  # with CUDA graphs, as aMUSEd's documentation advises
        return made

    # --- The clock ---

    def measure(self, planned: Sequence[PlannedMeasurement]) -> None:
        """Fill in the measurements, several of them in turns; if a peer fails, with its error message."""
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
        dtype = planned[0][0].dtype
        peak = matmul_rate(self.device, dtype)
        with arithmetic(dtype, self.device):
            if len(planned) == 1:
                ((measurement, prepare),) = planned
                seconds = [self._unless_it_fails(measurement, lambda: self._alone(measurement, prepare))]
            else:
                seconds = self._in_turns(planned)
        peak = max(peak, matmul_rate(self.device, dtype))
        self.peaks[dtype] = max(peak, self.peaks.get(dtype, 0.0))
        for (measurement, _), taken in zip(planned, seconds, strict=True):
            if taken is not None:
                measurement.ms_a_picture = taken * 1e3 / measurement.batch
                if measurement.flops:
                    measurement.share_of_matmul = measurement.flops * measurement.batch / taken / peak

    def _alone(self, measurement: Measurement, prepare: Prepare) -> float:
        work = prepare()
        seconds, measurement.rounds = (work, 1) if isinstance(work, float) else self.seconds(work)
        if self.on_gpu:
            measurement.peak_gib = torch.cuda.max_memory_allocated(self.device) / 2**30
        self._profile(measurement, prepare)
        return seconds

    def _in_turns(self, planned: Sequence[PlannedMeasurement]) -> list[float | None]:
        """Return the median seconds of each after a warm-up round; None for one that failed."""
        works: list[Any] = [self._unless_it_fails(*one) for one in planned]
        times: list[list[float]] = [[] for _ in planned]
        for _ in range(ROUNDS + 1):
            for (measurement, _), work, taken in zip(planned, works, times, strict=True):
                if not measurement.failed:
                    taken.append(self._unless_it_fails(measurement, lambda work=work: self._once(work)))
                    measurement.rounds = ROUNDS
        return [
            None if one[0].failed else statistics.median(taken[1:]) for one, taken in zip(planned, times, strict=True)
        ]

    def _unless_it_fails(self, measurement: Measurement, work: Callable[[], Any]) -> Any:
        """Return the result of the work; an error of a peer is recorded, and the other measurements continue."""
        try:
            return work()
        except Exception as error:
            if not measurement.what.startswith((AMUSED, MUSE)):
                raise
            measurement.failed = first_line(error)[:200]
            return None

    def _profile(self, measurement: Measurement, prepare: Prepare) -> None:
        """Record the times of the GPU's kernels for the reference image."""
        if self.on_gpu and (measurement.what, measurement.steps) == (OURS, STEPS):
            work: Any = prepare()
            kernels = ours.kernel_ms(work)
            name = f"{measurement.dtype}, batch {measurement.batch}"
            self.profiles[name] = {kind: value / measurement.batch for kind, value in kernels.items()}

    def median_s(self, work: Callable[[], object]) -> float:
        """Return the median seconds of the work."""
        return self.seconds(work)[0]

    def seconds(self, work: Callable[[], object]) -> tuple[float, int]:
        """Return the median seconds of the work and the number of timings, after two warm-up calls."""
        for _ in range(2):
            took = self._once(work)
            if took > SINGLE_RUN_S and not self.on_gpu:
                return took, 1
        rounds = max(3, min(30, int(self.settings.seconds / took)))
        return statistics.median(self._once(work) for _ in range(rounds)), rounds

    def _once(self, work: Callable[[], object]) -> float:
        wait_for(self.device)
        started = time.perf_counter()
        work()
        wait_for(self.device)
        return time.perf_counter() - started
