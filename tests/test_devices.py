import pytest
import torch

from emage.devices import _runs_on, check_device
from emage.errors import InputError


@pytest.mark.parametrize(
    ("arch", "capability", "runs"),
    [
        ("sm_70", (7, 0), True),
        ("sm_75", (7, 0), False),  # newer code on an older GPU
        ("sm_80", (8, 6), True),  # within a major version
        ("sm_80", (9, 0), False),
        ("compute_80", (9, 0), True),  # compiled on the spot
        ("sm_90a", (9, 0), True),
        ("sm_120", (12, 0), True),
    ],
)
def test_which_code_runs_where(arch: str, capability: tuple[int, int], runs: bool):
    assert _runs_on(arch, *capability) is runs


def test_a_gpu_that_is_not_there_is_said():
    check_device("cpu")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(InputError, match="sees no GPU here; use device=cpu"):
        check_device("cuda")
