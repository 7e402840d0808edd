"""Whether this build of PyTorch has kernels for the GPU it finds."""

import torch

from emage.errors import InputError


def check_device(device: str | torch.device) -> None:
    """Raises InputError, in one line, where `device` is a GPU that is missing or that the build has no code for.

    Newer builds drop older GPUs: the V100 (sm_70) is in the default build of PyTorch 2.10 and in none after it.
    """
    if torch.device(device).type != "cuda":
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


def _runs_on(arch: str, major: int, minor: int) -> bool:
    """Whether code for `arch` runs on a GPU of this capability: sm_ within a major version, compute_ on all newer."""
    kind, _, number = arch.partition("_")
    digits = "".join(c for c in number if c.isdigit())
    have = (int(digits[:-1]), int(digits[-1]))
    return have <= (major, minor) and (kind == "compute" or have[0] == major)
