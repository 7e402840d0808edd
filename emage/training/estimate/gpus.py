"""The GPUs that a run is planned for: their data sheets, and the rates that training is assumed to reach.

MFU (model FLOP utilization) has one meaning everywhere: the FLOP/s of training divided by the FLOP/s that the device
reaches in one large matrix product (`device_support.matmul_rate`). A run measures both and logs `mfu`. A plan has
neither, so it assumes two numbers: what a large product reaches of the data sheet's peak, and the MFU. Once a run has
logged its `mfu`, the days of the plan are to be multiplied by ASSUMED_MFU / mfu.
"""

from typing import NamedTuple

from emage.config import Precision

GIB = 1 << 30
ASSUMED_MATMUL_FRACTION = 0.8  # of the data sheet's peak, reached by one large matrix product
ASSUMED_MFU = 0.5  # of the rate of that product, reached by training


class Gpu(NamedTuple):
    """A GPU by its data sheet.

    Args:
        name: "V100".
        peak: FLOP/s of dense matrix products in the run's precision.
        memories: The memory sizes it is sold with, in GiB.
    """

    name: str
    peak: float
    memories: tuple[int, ...]

    @property
    def assumed_flops_per_s(self) -> float:
        """FLOP/s that training is assumed to reach on one GPU: 40 % of the data sheet's peak."""
        return self.peak * ASSUMED_MATMUL_FRACTION * ASSUMED_MFU


GPUS: dict[Precision, Gpu] = {
    "float32": Gpu("V100", 15.7e12, (16, 32)),
    "tf32": Gpu("A100", 156e12, (40, 80)),
    "bfloat16": Gpu("A100", 312e12, (40, 80)),
}
