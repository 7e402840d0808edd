"""Batches that do not fit into memory are halved until they do; rows and their order stay."""

import logging

import pytest
import torch
from fakes import OUT_OF_MEMORY, LimitedMemory

from emage.utils.errors import InputError
from emage.utils.oom import HalvedOnOom

ROWS = torch.arange(22).reshape(11, 2)


def doubled(rows: torch.Tensor) -> torch.Tensor:
    return 2 * rows


ERRORS = [
    OUT_OF_MEMORY,
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes. Error code 12"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]


@pytest.mark.parametrize("error", ERRORS, ids=str)
def test_halved_until_it_fits_and_remembered(error, caplog):
    work = LimitedMemory(doubled, 3, error)
    in_parts = HalvedOnOom(work, most=11)
    with caplog.at_level(logging.WARNING):
        assert in_parts(ROWS).equal(2 * ROWS)
        assert work.calls == [11, 6, 3, 3, 3, 2]
        assert [record.getMessage() for record in caplog.records] == [
            "a batch of 11 does not fit into memory; from here on batches of 6",
            "a batch of 6 does not fit into memory; from here on batches of 3",
        ]
        work.calls.clear()
        assert in_parts(ROWS).equal(2 * ROWS)
    assert work.calls == [3, 3, 3, 2] and len(caplog.records) == 2


def test_a_batch_that_fits_is_not_halved():
    work = LimitedMemory(doubled, 11, ERRORS[0])
    assert HalvedOnOom(work, most=11)(ROWS).equal(2 * ROWS)
    assert work.calls == [11]


def test_a_single_row_that_does_not_fit_is_an_input_error():
    with pytest.raises(InputError, match=r"not even a batch of one fits .* \(CUDA out of memory"):
        HalvedOnOom(LimitedMemory(doubled, 0, ERRORS[0]), most=4)(ROWS)


def test_other_errors_are_raised():
    work = LimitedMemory(doubled, 0, RuntimeError("shape mismatch"))
    with pytest.raises(RuntimeError, match="shape mismatch"):
        HalvedOnOom(work, most=4)(ROWS)
    assert work.calls == [4]


def test_the_cpu_allocator_itself():
    """The message of PyTorch's CPU allocator, for 2**50 bytes, is recognised."""

    def work(rows: torch.Tensor) -> torch.Tensor:
        torch.empty(2**50 if len(rows) > 2 else 1, dtype=torch.uint8)
        return rows

    assert HalvedOnOom(work, most=8)(ROWS).equal(ROWS)
