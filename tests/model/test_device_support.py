import pytest
import torch

from emage.config import Precision
from emage.model.device_support import (
    _precision_problem,
    _runs_on,
    check_device,
    check_precision,
    matmul_rate,
    set_precision,
)
from emage.utils.errors import InputError


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
def test_which_code_runs_on_which_gpu(arch: str, capability: tuple[int, int], runs: bool):
    assert _runs_on(arch, *capability) is runs


def test_what_is_no_device_is_reported():
    with pytest.raises(InputError, match="device=gpu: there is no such device; use auto, cpu, cuda or cuda:1"):
        check_device("gpu")


def test_a_missing_gpu_is_reported():
    check_device("cpu")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(InputError, match="sees no GPU here; use device=cpu"):
        check_device("cuda")


@pytest.mark.parametrize("precision", ["bfloat16", "tf32"])
@pytest.mark.parametrize(("name", "capability"), [("Tesla V100-SXM2-32GB", (7, 0)), ("Tesla T4", (7, 5))])
def test_older_gpus_compute_in_float32_alone(name: str, capability: tuple[int, int], precision: Precision):
    refusal = _precision_problem(precision, name, capability)
    assert refusal is not None and "\n" not in refusal
    assert f"run.precision={precision}" in refusal and f"{name} is sm_7{capability[1]}" in refusal
    assert refusal.endswith("use run.precision=float32")
    assert _precision_problem("float32", name, capability) is None


@pytest.mark.parametrize("capability", [(8, 0), (8, 6), (9, 0), (12, 0)])
def test_newer_gpus_compute_in_all_precisions(capability: tuple[int, int]):
    assert [_precision_problem(name, "a GPU", capability) for name in ("float32", "tf32", "bfloat16")] == [None] * 3


def test_a_cpu_has_no_tf32():
    check_precision("float32", "cpu")
    check_precision("bfloat16", "cpu")  # slow, but it works
    with pytest.raises(InputError, match=r"device=cpu has no TF32.*use run.precision=float32"):
        check_precision("tf32", "cpu")


def test_a_precision_is_that_of_matrix_products():
    before = torch.get_float32_matmul_precision()
    a = torch.ones(2, 2, requires_grad=True)
    try:
        for precision, dtype, setting in (
            ("float32", torch.float32, "highest"),
            ("tf32", torch.float32, "high"),
            ("bfloat16", torch.bfloat16, "highest"),
        ):
            forward = set_precision(precision, "cpu")
            for _ in range(2):  # a step has many micro-batches
                with forward:
                    assert (a @ a).dtype == dtype
            assert torch.get_float32_matmul_precision() == setting
            assert (a @ a).dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_rate_of_a_product_is_a_rate_and_leaves_the_settings_alone(precision: Precision):
    before = torch.get_float32_matmul_precision()
    assert 1e6 < matmul_rate("cpu", precision) < 1e15
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpus_rate_is_above_a_teraflop():
    assert 1e12 < matmul_rate("cuda", "float32") < 1e16
