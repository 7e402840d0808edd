"""DeepSpeed without Ray: resuming gives the same bits, another ZeRO stage or number of ranks the same losses.

A group of two processes trains with every ZeRO stage, and with Muon, which needs stage 0; a single process then
resumes from what they saved.
"""

import math
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as multiprocessing

from emage.config import CheckpointConfig, TrainConfig, preset
from emage.data.token_table import Batch, TokenTable
from emage.model import checkpoint
from emage.training.engine import DistributedContext, Objective
from emage.training.loop import fit
from emage.training.spike_guard import SpikeGuard

pytestmark = pytest.mark.faults
STAGES = (0, 1, 2)
MUON = "muon"
STEPS, BREAK = 6, 3
BAD = 2  # the step whose gradient is NaN


def config(table: str, stage: int | str) -> TrainConfig:
    return preset(
        TrainConfig,
        "tiny",
        method="iterative2",
        data={"path": table},
        model={"width": 32, "depth": 1},
        optim={"steps": STEPS, "micro_batch_size": 3, "optimizer": MUON if stage == MUON else "adamw"},
        run={"output": "unused", "zero_stage": 0 if stage == MUON else stage},
    )


def train(table: str, stage: int | str, ranks: DistributedContext, saved: Any = None) -> tuple[list[tuple], Any, dict]:
    """Return the steps as (loss, gradient norm, samples, skipped), the state after BREAK of them, the last weights."""
    from emage.on_ray.training.deepspeed_engine import DeepSpeedEngine

    settings = config(table, stage)
    rows = TokenTable(table, seed=0)
    torch.manual_seed(0)
    network = checkpoint.build(CheckpointConfig(settings.method, 512, (8, 8), settings.model))
    if saved:
        network.load_state_dict(saved["weights"])
    engine = DeepSpeedEngine(Objective(network, settings.method, settings.objective), settings, ranks.world_size)
    if saved:
        engine.restore(saved["moments"], saved["updates"])
    now = [saved["step"] if saved else 0]
    network.decoder.head.weight.register_hook(lambda g: g * math.nan if now[0] == BAD - 1 else g)
    seen, states = [], []

    def on_step(step: int, values: dict, batch: Batch) -> None:
        now[0] = step
        seen.append((values["loss"], values["grad_norm"], values["samples"], values["skipped"]))
        if step == BREAK:
            weights = {key: value.clone() for key, value in network.state_dict().items()}
            states.append({"weights": weights, "moments": engine.moments(), "updates": BREAK - 1, "step": step})

    guard = SpikeGuard(settings.optim.max_spike)
    fit(engine, rows, settings, on_step, start=now[0], distributed=ranks, guard=guard)
    return seen, states and states[0], {key: value.clone() for key, value in network.state_dict().items()}


def work(rank: int, world_size: int, port: int, table: str, folder: str) -> None:
    """Train with every stage from the start and from the middle; with one rank, from what two with ZeRO 1 saved."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=world_size)
    ranks, found = DistributedContext(rank, world_size), {}
    if world_size == 1:
        saved = torch.load(f"{folder}/saved.pt")
        found = {stage: train(table, stage, ranks, saved) for stage in (0, 1)}
    else:
        for stage in (*STAGES, MUON):
            whole = train(table, stage, ranks)
            found[stage] = (whole, train(table, stage, ranks, whole[1]))
        if rank == 0:
            torch.save(found[1][0][1], f"{folder}/saved.pt")
    if rank == 0:
        torch.save(found, f"{folder}/found_{world_size}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def found(token_table: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Any]:
    folder = tmp_path_factory.mktemp("engine")
    for world_size in (2, 1):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        arguments = (world_size, port, str(token_table), str(folder))
        multiprocessing.start_processes(work, arguments, nprocs=world_size, start_method="spawn")
    return {world_size: torch.load(folder / f"found_{world_size}.pt") for world_size in (1, 2)}


@pytest.mark.parametrize("stage", [*STAGES, MUON])
def test_resuming_gives_the_same_bits(found: dict[int, Any], stage: int | str):
    (seen, _, weights), (seen_again, _, weights_again) = found[2][stage]
    assert len(seen) == STEPS and seen_again == seen[BREAK:]
    assert all(torch.equal(weights[key], weights_again[key]) for key in weights)


def test_the_zero_stages_agree(found: dict[int, Any]):
    reference = found[2][0][0]
    for stage in (1, 2):
        seen, state, weights = found[2][stage][0]
        assert [values[0] for values in seen] == pytest.approx([values[0] for values in reference[0]], abs=1e-5)
        assert [values[2] for values in seen] == [values[2] for values in reference[0]]
        # Rounding decides the sign of a gradient near 0, and AdamW's first updates depend on the sign.
        assert all((weights[key] - reference[2][key]).abs().mean() < 1e-5 for key in weights)
        assert state["moments"].keys() == reference[1]["moments"].keys()


@pytest.mark.parametrize("stage", [0, 1])
def test_one_rank_resumes_from_what_two_have_saved(found: dict[int, Any], stage: int):
    """The same samples in every global step, the same losses except for rounding."""
    alone, together = found[1][stage][0], found[2][1][0][0][BREAK:]
    assert [values[2] for values in alone] == [values[2] for values in together]
    assert [values[0] for values in alone] == pytest.approx([values[0] for values in together], abs=1e-5)


@pytest.mark.parametrize("stage", [*STAGES, MUON])
def test_a_gradient_that_is_not_finite_skips_only_its_step(found: dict[int, Any], stage: int | str):
    seen, state, weights = found[2][stage][0]
    assert [values[3] for values in seen] == [float(step == BAD) for step in range(1, STEPS + 1)]
    assert all(tensor.isfinite().all() for tensor in (*weights.values(), *state["moments"].values()))


def test_muon_has_one_moment_per_matrix(found: dict[int, Any]):
    muon, adamw = (found[2][stage][0][1]["moments"] for stage in (MUON, 0))
    matrices = {name.removeprefix("momentum_buffer.") for name in muon if name.startswith("momentum_buffer.")}
    assert "decoder.blocks.0.attention.qkv.weight" in matrices and "decoder.head.weight" not in matrices
    assert len(adamw) - len(muon) == len(matrices)
    assert all(f"exp_avg.{name}" in adamw and f"exp_avg.{name}" not in muon for name in matrices)
