"""Devices: whether this build of PyTorch has kernels for one, its precisions, and its matrix-product rate."""

import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, get_args

import torch

from emage.config import Dtype, Precision
from emage.utils.errors import InputError

# --- Kernels ----------------------------------------------------------------------------------------------------------


def check_device(device: str | torch.device) -> None:
    """Raise InputError for what is no device, and a GPU that is missing or that this build of PyTorch has no code for.

    Newer builds drop older GPUs: the V100 (sm_70) is in the default build of PyTorch 2.10 and in none after it.
    """
    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise InputError(f"device={device}: there is no such device; use auto, cpu, cuda or cuda:1") from None
    if kind != "cuda":
        return
    if not torch.cuda.is_available():
        raise InputError(f"device={device}: PyTorch {torch.__version__} sees no GPU here; use device=cpu")
    major, minor = torch.cuda.get_device_capability(device)
    built = torch.cuda.get_arch_list()
    if not any(_runs_on(arch, major, minor) for arch in built):
        raise InputError(
            f"{torch.cuda.get_device_name(device)} is sm_{major}{minor}, and PyTorch {torch.__version__} is built for "
            f"{', '.join(built)}: install torch==2.10.0 (constraints.txt)"
        )


def choose(device: str) -> str:
    """Return the device; for "auto", cuda if a GPU is available. Raise InputError as `check_device` does."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    check_device(device)
    return device


def _runs_on(arch: str, major: int, minor: int) -> bool:
    """Return whether code for `arch` runs on a GPU of this capability.

    sm_ code runs on GPUs of the same major version, compute_ code on newer ones too.
    """
    kind, _, number = arch.partition("_")
    digits = "".join(c for c in number if c.isdigit())
    have = (int(digits[:-1]), int(digits[-1]))
    return have <= (major, minor) and (kind == "compute" or have[0] == major)


# --- Precision --------------------------------------------------------------------------------------------------------

TF32_AND_BFLOAT16_CAPABILITY = (8, 0)  # compute capability from which GPUs have both; the V100 is (7, 0)


def check_precision(precision: Precision, device: str | torch.device) -> None:
    """Raise InputError if `device` does not support this precision of training (run.precision)."""
    device = torch.device(device)
    on_gpu = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if on_gpu else f"device={device}"
    if problem := _precision_problem(precision, name, torch.cuda.get_device_capability(device) if on_gpu else None):
        raise InputError(problem)


def _precision_problem(precision: Precision, name: str, capability: tuple[int, int] | None) -> str | None:
    """Return why a GPU of this capability (None: a CPU) lacks the precision, and what to do; None if it has it."""
    if precision == "tf32" and capability is None:
        return f"run.precision=tf32: {name} has no TF32, GPUs from the A100 on have; use run.precision=float32"
    if precision == "float32" or capability is None or capability >= TF32_AND_BFLOAT16_CAPABILITY:
        return None
    return (
        f"run.precision={precision} needs an A100 or newer (sm_80); {name} is sm_{capability[0]}{capability[1]}: "
        "use run.precision=float32"
    )


def check_dtype(dtype: Dtype, device: str | torch.device) -> None:
    """Raise InputError if `device` cannot generate in this precision; warn if it can, but slowly."""
    device = torch.device(device)
    if device.type == "cuda":
        if dtype in ("tf32", "bfloat16") and torch.cuda.get_device_capability(device) < TF32_AND_BFLOAT16_CAPABILITY:
            name = torch.cuda.get_device_name(device)
            raise InputError(f"dtype={dtype} needs an A100 or newer (sm_80), not {name}: use float16 or float32")
    elif dtype == "tf32":
        raise InputError("dtype=tf32: a CPU has no TF32; use dtype=float32")
    elif dtype == "bfloat16" and not has_bfloat16_units():
        warnings.warn("this CPU has no bfloat16 units (AMX, AVX512-BF16): dtype=float32 is faster", stacklevel=3)


def has_bfloat16_units() -> bool:
    """Return whether this CPU has bfloat16 units: without them it is slower in bfloat16 than in float32."""
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def dtype_name(dtype: Dtype | torch.dtype) -> Dtype:
    """Return the name of a precision. Raises InputError if nothing can be generated in it."""
    name: Any = str(dtype).removeprefix("torch.")
    if name not in get_args(Dtype):
        raise InputError(f"dtype must be one of {', '.join(get_args(Dtype))}, not {dtype}")
    return name


def weights_dtype(dtype: Dtype) -> torch.dtype:
    """Return the type of the weights: float32 for tf32, which changes only the products."""
    return torch.float32 if dtype == "tf32" else getattr(torch, dtype)


@contextmanager
def arithmetic(dtype: Dtype, device: torch.device) -> Iterator[None]:
    """Let a GPU multiply and convolve float32 numbers in TF32 for dtype=tf32, and exactly for the others.

    The setting is global to the process: threads may use this context at the same time only with the same dtype.
    """
    if device.type != "cuda":
        yield
        return
    with _flags.lock:
        if not _flags.users:
            _flags.before = _Flags.now()
        _flags.users += 1
        _Flags.set("high" if dtype == "tf32" else "highest", dtype == "tf32", True)
    try:
        yield
    finally:
        with _flags.lock:
            _flags.users -= 1
            if not _flags.users:
                _Flags.set(*_flags.before)


class _Flags:
    """PyTorch's global flags: the first user saves them, the last one restores them."""

    def __init__(self) -> None:
        self.lock, self.users = threading.Lock(), 0
        self.before: tuple[str, bool, bool] = ("highest", True, False)

    @staticmethod
    def now() -> tuple[str, bool, bool]:
        return (
            torch.get_float32_matmul_precision(),
            torch.backends.cudnn.allow_tf32,
            torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed(),
        )

    @staticmethod
    def set(products: str, tf32_convolutions: bool, half_sums: bool) -> None:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = tf32_convolutions
        # The VQGAN's attention is too wide for a fused kernel: its products stay in bfloat16.
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(half_sums)


_flags = _Flags()


def set_precision(precision: Precision, device: str | torch.device) -> AbstractContextManager:
    """Set the precision of training in this process, and return the context for forward passes.

    float32 and tf32 need no context, bfloat16 is autocast: weights and optimizer stay float32. The context can be
    entered repeatedly, once at a time.
    """
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    if precision == "bfloat16":
        return torch.autocast(torch.device(device).type, dtype=torch.bfloat16)
    return nullcontext()


# --- Speed ------------------------------------------------------------------------------------------------------------

GPU_SIZE, CPU_SIZE = 8192, 768  # side of the square matrices; a CPU without bfloat16 units is slow at larger ones
ROUNDS = 5


@torch.no_grad()
def matmul_rate(device: str | torch.device, precision: Dtype) -> float:
    """Return the FLOP/s of a large matrix product, the best of ROUNDS: the peak in the MFU of a training step.

    It is measured, not taken from a data sheet, so that clocks, power limits and CPU threads are accounted for.
    """
    device = torch.device(device)
    size = GPU_SIZE if device.type == "cuda" else CPU_SIZE
    a, b = torch.randn(2, size, size, device=device).to(weights_dtype(precision))
    with arithmetic(precision, device):
        seconds = [_seconds_of_product(a, b) for _ in range(ROUNDS + 1)]
    return 2 * size**3 / min(seconds[1:])  # the first one warms up


def _seconds_of_product(a: torch.Tensor, b: torch.Tensor) -> float:
    wait_for(a.device)
    started = time.perf_counter()
    torch.mm(a, b)
    wait_for(a.device)
    return time.perf_counter() - started


def wait_for(device: torch.device) -> None:
    """Block until a GPU has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
