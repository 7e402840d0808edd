"""What each table and figure is made of, at either scale, and what is told before it starts."""

from pathlib import Path

import pytest

from emage.config import EvaluateConfig, ReproduceConfig, TrainConfig, parse
from emage.reproduce import experiments, requirements, studies
from emage.reproduce.experiments import WORK

STUDIES = ("table2", "table3", "table4", "table5", "table6", "figure3", "figure4", "figure5")


def config(tmp_path: Path, *arguments: str) -> ReproduceConfig:
    return parse(ReproduceConfig, [*arguments, f"output={tmp_path}"])


def names(config: ReproduceConfig) -> list[str]:
    return [cell.name for cell in studies.cells(studies.of(config))]


def test_every_preset_is_a_study(tmp_path: Path):
    for name in STUDIES:
        (study,) = studies.of(config(tmp_path, name))
        assert study.name == name and study.title
    assert [study.name for study in studies.of(config(tmp_path, "all"))] == list(STUDIES)


def test_table_3_trains_five_methods_as_long_on_the_same_data(tmp_path: Path):
    found = studies.cells(studies.of(config(tmp_path, "table3", "seeds=2", "small.cpus=1")))
    trainings = [cell.config for cell in found if isinstance(cell.config, TrainConfig)]
    assert len(trainings) == 10 and {one.method for one in trainings} == set(studies.NAMES)
    assert {one.optim.steps for one in trainings} == {1_500} and {one.run.seed for one in trainings} == {0, 1}
    assert {one.data.path for one in trainings} == {str(tmp_path / "world" / WORK / "tokens")}
    warm = {one.method for one in trainings if one.objective.warm_start}
    assert warm == {"iterative2", "iterative3"} and {one.run.cpus_per_worker for one in trainings} == {1}
    (rated,) = [cell for cell in found if cell.name == "evaluations/iterative3-seed1"]
    assert isinstance(rated.config, EvaluateConfig) and rated.config.metrics == ("shapes", "frechet")
    assert rated.config.checkpoint == str(tmp_path / "models/iterative3-seed1" / WORK / "model")
    assert rated.config.limit == 500 and rated.config.candidates == 1


def test_one_seed_is_whole_before_the_next_begins_and_timings_are_last(tmp_path: Path):
    order = names(config(tmp_path, "table3", "seeds=2"))
    assert order[0] == "world"
    assert max(i for i, name in enumerate(order) if "seed0" in name and "latency" not in name) < min(
        i for i, name in enumerate(order) if "seed1" in name
    )
    assert all(name.startswith("latency/") for name in order[-6:]) and "uncached" in order[-1]


def test_studies_share_what_they_need(tmp_path: Path):
    alone = {name: set(names(config(tmp_path, name))) for name in STUDIES}
    together = names(config(tmp_path, "all"))
    assert len(together) == len(set(together)) and set(together) == set.union(*alone.values())
    assert alone["table4"] < alone["table3"] and alone["figure5"] - alone["table3"] == {"strips/iterative3-seed0"}
    assert {name for name in alone["figure3"] if name.startswith("models/")} < alone["table3"]
    # 16 iterations and the cosine are what a model has anyway.
    steps = {name for name in alone["table6"] if name.startswith("evaluations/iterative3-seed0")}
    assert steps == {f"evaluations/iterative3-seed0{end}" for end in ("", "-steps4", "-steps8", "-steps32")}
    assert {name for name in alone["figure4"] - alone["table3"] if "seed0" in name} == {
        *(f"{kind}/iterative{i}-seed0-cosine" for kind in ("models", "evaluations") for i in (1, 2, 3)),
        "evaluations/iterative3-seed0-linear",
    }


def test_equal_cells_of_different_commands_have_one_fingerprint(tmp_path: Path):
    def prints(*arguments: str) -> dict[str, str]:
        found = studies.cells(studies.of(config(tmp_path, *arguments)))
        return {cell.name: experiments.fingerprint(cell, tmp_path) for cell in found}

    table, everything, changed = prints("table3", "small.cpus=1"), prints("all"), prints("table3", "steps=9")
    assert all(everything[name] == value for name, value in table.items())
    assert {name for name in table if changed[name] == table[name]} == {"world"}
    larger = prints("table3", "small.pictures=7000")  # another world makes all anew
    assert not any(larger[name] == table[name] for name in table)


def test_the_paper_at_its_own_scale(tmp_path: Path):
    given = ["scale=paper", "paper.data=t", "paper.captions=c.json", "paper.reference=r", "paper.num_workers=8"]
    found = {cell.name: cell.config for cell in studies.cells(studies.of(config(tmp_path, "all", *given)))}
    base, best = found["models/iterative3-seed0"], found["models/iterative3-seed0-500k"]
    assert (base.optim.steps, best.optim.steps) == (250_000, 500_000) and base.optim.batch_size == 1_024
    assert base.objective.warm_start == 0 and base.run.num_workers == 8 and base.run.use_gpu
    assert found["models/autoregressive-seed0-bert"].model.text == "bert_base"
    assert found["models/iterative2-seed0-cosine"].objective.mask_schedule == "cosine"
    rated = found["evaluations/iterative3-seed0-500k-steps8"]
    assert (rated.candidates, rated.rank, rated.limit, rated.captions) == (16, "clip", 30_000, "c.json")
    assert rated.metrics == ("fid", "clip_score") and rated.sampling == {"steps": 8} and rated.judge.reference == "r"
    assert "world" not in found and len([name for name in found if name.startswith("models/")]) == 12


def test_what_is_missing_is_told_at_once(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("EMAGE_CACHE", str(tmp_path / "cache"))
    wanted = config(tmp_path, "all", "scale=paper", "paper.bert_weights=nowhere")
    lacking = " ".join(requirements.missing(wanted, studies.cells(studies.of(wanted))))
    for word in ("data=", "captions=", "reference=", "inception=", "bert_weights=nowhere (no such file)"):
        assert f"paper.{word}" in lacking
    assert "table2.pictures=" in lacking and "table2.weights.NAME=" in lacking
    small = config(tmp_path, "all")
    assert requirements.missing(small, studies.cells(studies.of(small))) == []


def test_the_papers_plan(tmp_path: Path):
    wanted = config(tmp_path, "table3", "scale=paper")
    told = requirements.describe(wanted, studies.cells(studies.of(wanted)), tmp_path)
    assert "16: 0 done, 16 to do (5 models, 5 evaluations, 6 latency)" in told
    assert "5 x 250,000 steps of 1,024 images" in told and "2,400,000 drawn by models" in told
    assert "days for one process (trainings on 64 V100s" in told


def test_the_small_plan_goes_by_finished_trainings(tmp_path: Path):
    wanted = config(tmp_path, "table3", "seeds=1", "steps=10")
    order = studies.cells(studies.of(wanted))
    rate = 1e9
    first = next(cell for cell in order if cell.name.startswith("models/iterative1"))
    network = requirements._network(first.config.method, first.config.model, requirements._tokens(wanted))
    seconds = requirements.START_S + requirements.parameters_and_flops.run_flops(first.config, network) / rate
    record = {"fingerprint": experiments.fingerprint(first, tmp_path), "figures": {}, "seconds": seconds}
    (tmp_path / first.name).mkdir(parents=True)
    requirements.experiments.manifest.write_json(tmp_path / first.name / experiments.RESULT, record)
    told = requirements.describe(wanted, order, tmp_path)
    assert "17: 1 done, 16 to do (1 world, 4 models, 5 evaluations, 6 latency)" in told
    assert "by 1 finished trainings" in told and "4 x 10 steps of 32 images" in told
    assert requirements._past_rate(first, tmp_path, requirements._tokens(wanted)) == pytest.approx(rate)


def test_a_rate_is_measured_where_nothing_is_finished(tmp_path: Path):
    wanted = config(tmp_path, "figure3", "seeds=1", "small.batch_size=2")
    order = studies.cells(studies.of(wanted))
    assert "by a few steps taken now" in requirements.describe(wanted, order, tmp_path)


def test_durations():
    assert [requirements.duration(s) for s in (30, 3599, 7200, 3 * 86_400)] == ["1 min", "60 min", "2.0 h", "3.0 days"]
