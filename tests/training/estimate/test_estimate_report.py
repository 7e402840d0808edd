"""The lines that `dry_run=true` prints: batches, memory, days."""

from planned_runs import Tokens, paper

from emage.training.estimate import estimate_report
from emage.training.estimate.estimate_report import describe, rows_per_rank
from emage.training.estimate.parameters_and_flops import build_network, run_flops


def test_rows_are_divided_evenly():
    assert rows_per_rank(10, 4) == [2, 3, 2, 3]
    assert rows_per_rank(1024, 64) == [16] * 64


def test_the_lines_of_the_papers_run():
    lines = dict(_fields(describe(paper(run={"num_workers": 64}), Tokens(), num_rows=280_000_000)))
    assert lines["workers"] == "64 GPUs, ZeRO stage 1, float32"
    assert lines["batch"] == "1,024 images per step: 16 per GPU, in 1 x 16 (accumulation x micro-batch)"
    assert lines["data"] == "512,000,000 training samples from 280,000,000 rows: 1.83 epochs"
    assert lines["V100 32 GB"].startswith("fits")
    assert "lower optim.micro_batch_size to" in lines["V100 16 GB"]
    assert (
        "64 V100s, assuming mfu=0.5 of the 12.6 TFLOP/s" in lines["time"]
        and "80% of the data sheet's 15.7" in lines["time"]
    )


def test_days_by_hand():
    config = paper(run={"num_workers": 2}, optim={"steps": 1000})
    run = run_flops(config, build_network(config, Tokens()))
    days = run / (2 * 0.4 * 15.7e12) / 86_400
    assert dict(_fields(describe(config, Tokens())))["time"].startswith(f"{days:.3g} days on 2 V100s")


def test_ranks_with_unequal_rows_and_a_micro_batch_larger_than_both():
    config = paper(run={"num_workers": 3, "use_gpu": False}, optim={"batch_size": 10, "micro_batch_size": 16})
    lines = dict(_fields(describe(config, Tokens())))
    assert lines["workers"].startswith("3 CPU workers")
    assert lines["batch"].startswith("10 images per step: 3 or 4 per CPU worker, in 1 x 4 ")
    assert "at micro-batch 4" in lines["memory, estimated"]
    assert not any("V100" in name for name in lines) and lines["time"].startswith("not estimated")


def test_micro_batches_of_a_rank_are_equally_large():
    # 20 rows per GPU, at most 16 per micro-batch: 10 twice
    config = paper(run={"num_workers": 2}, optim={"batch_size": 40, "micro_batch_size": 16})
    assert "20 per GPU, in 2 x 10 " in dict(_fields(describe(config, Tokens())))["batch"]


def test_other_precisions_are_planned_for_gpus_that_have_them():
    text = describe(paper(run={"precision": "bfloat16"}), Tokens())
    assert "A100 40 GB" in text and "V100" not in text


def _fields(text: str) -> list[tuple[str, str]]:
    return [(line[:22].strip(), line[22:]) for line in text.splitlines()]


def test_time_counts_recomputed_blocks():
    once, again = (
        estimate_report._work_lines(paper(run={"recompute": flag}), build_network(paper(), Tokens())) for flag in (0, 1)
    )
    days = [float(lines["time"].split(" days")[0]) for lines in (once, again)]
    assert once["work"] == again["work"] and 1.15 < days[1] / days[0] < 1.34
