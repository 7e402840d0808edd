"""The experiments that each table and figure needs, at either scale, and the text that is printed before it starts."""

from pathlib import Path

import pytest

from emage.config import EvaluateConfig, ReproduceConfig, TrainConfig, parse
from emage.methods import METHODS
from emage.reproduce import experiments, paper_numbers, recipes, requirements, studies
from emage.reproduce.experiments import WORK
from emage.utils import manifest

STUDIES = ("table2", "table3", "table4", "table5", "table6", "figure3", "figure4", "figure5")


def config(tmp_path: Path, *arguments: str) -> ReproduceConfig:
    return parse(ReproduceConfig, [*arguments, f"output={tmp_path}"])


def names(config: ReproduceConfig) -> list[str]:
    return [experiment.name for experiment in studies.experiments_of(studies.requested(config))]


def test_every_preset_is_a_study(tmp_path: Path):
    for name in STUDIES:
        (study,) = studies.requested(config(tmp_path, name))
        assert study.name == name and study.title
    assert [study.name for study in studies.requested(config(tmp_path, "all"))] == list(STUDIES)


def test_methods_compares_all_six_in_both_orders(tmp_path: Path):
    (study,) = studies.requested(config(tmp_path, "methods", "seeds=2"))
    found = studies.experiments_of([study])
    trainings = {one.name: one.config for one in found if isinstance(one.config, TrainConfig)}
    assert {one.method for one in trainings.values()} == set(METHODS)
    assert {name for name in trainings if "seed0" in name} == {
        *(f"models/{method}-seed0" for method in METHODS),
        "models/iterative1-seed0-halton",
        "models/parallel_autoregressive-seed0-cosine_groups",
        "models/parallel_autoregressive-seed0-half",
    }
    assert trainings["models/parallel_autoregressive-seed1-cosine_groups"].objective.group_schedule == "cosine"
    assert trainings["models/iterative1-seed1-halton"].objective.mask_order == "halton"
    assert trainings["models/parallel_autoregressive-seed1-half"].optim.steps == 500
    assert {one.sampling.order for one in trainings.values()} == {"confidence"}  # the paper's
    orders = {row.key: [one.config.sampling for one in row.evaluations] for row in study.rows}
    assert orders["iterative3"] == [{}, {}] and orders["iterative3/halton"] == [{"order": "halton"}] * 2
    assert orders["parallel_autoregressive/steps=4"] == [{"steps": 4}] * 2
    assert orders["iterative3/halton/steps=32"] == [{"steps": 32, "order": "halton"}] * 2
    assert [len(one) for one in orders.values()] == [2] * 18
    grid = next(one for one in found if one.name == "methods_grid")
    assert list(grid.config.checkpoints) == list(studies.METHOD_LABELS.values())


def test_table_3_trains_five_methods_for_equally_many_steps_on_the_same_data(tmp_path: Path):
    found = studies.experiments_of(studies.requested(config(tmp_path, "table3", "seeds=2", "small.cpus=1")))
    trainings = [experiment.config for experiment in found if isinstance(experiment.config, TrainConfig)]
    assert len(trainings) == 10 and {one.method for one in trainings} == set(paper_numbers.TABLE3)
    assert {one.optim.steps for one in trainings} == {1_000} and {one.run.seed for one in trainings} == {0, 1}
    assert {one.data.path for one in trainings} == {str(tmp_path / "world" / WORK / "tokens")}
    warm = {one.method for one in trainings if one.objective.warm_start}
    assert warm == {"iterative2", "iterative3"} and {one.run.cpus_per_worker for one in trainings} == {1}
    (evaluation,) = [experiment for experiment in found if experiment.name == "evaluations/iterative3-seed1"]
    assert isinstance(evaluation.config, EvaluateConfig) and evaluation.config.metrics == ("shapes", "frechet")
    assert evaluation.config.checkpoint == str(tmp_path / "models/iterative3-seed1" / WORK / "model")
    assert evaluation.config.limit == 500 and evaluation.config.candidates == 1


def test_seeds_run_one_after_the_other_and_timings_are_last(tmp_path: Path):
    order = names(config(tmp_path, "table3", "seeds=2"))
    assert order[0] == "world"
    assert max(i for i, name in enumerate(order) if "seed0" in name and "latency" not in name) < min(
        i for i, name in enumerate(order) if "seed1" in name
    )
    assert all(name.startswith("latency/") for name in order[-6:]) and "uncached" in order[-1]


def test_studies_share_experiments(tmp_path: Path):
    alone = {name: set(names(config(tmp_path, name))) for name in STUDIES}
    together = names(config(tmp_path, "all"))
    assert len(together) == len(set(together)) and set(together) == set.union(*alone.values())
    assert alone["table4"] < alone["table3"] and alone["figure5"] - alone["table3"] == {"strips/iterative3-seed0"}
    assert {name for name in alone["figure3"] if name.startswith("models/")} < alone["table3"]
    # 16 decoding steps and the cosine schedule are a model's defaults.
    steps = {name for name in alone["table6"] if name.startswith("evaluations/iterative3-seed0")}
    assert steps == {f"evaluations/iterative3-seed0{end}" for end in ("", "-steps4", "-steps8", "-steps32")}
    assert {name for name in alone["figure4"] - alone["table3"] if "seed0" in name} == {
        *(f"{kind}/iterative{i}-seed0-cosine" for kind in ("models", "evaluations") for i in (1, 2, 3)),
        "evaluations/iterative3-seed0-linear",
    }


def test_equal_experiments_of_different_commands_have_one_fingerprint(tmp_path: Path):
    def prints(*arguments: str) -> dict[str, str]:
        found = studies.experiments_of(studies.requested(config(tmp_path, *arguments)))
        return {experiment.name: experiments.fingerprint(experiment, tmp_path) for experiment in found}

    table, everything, changed = prints("table3", "small.cpus=1"), prints("all"), prints("table3", "steps=9")
    assert all(everything[name] == value for name, value in table.items())
    assert {name for name in table if changed[name] == table[name]} == {"world"}
    larger = prints("table3", "small.pictures=7000")  # all experiments depend on the data set
    assert not any(larger[name] == table[name] for name in table)


def test_experiments_of_scale_paper(tmp_path: Path):
    given = ["scale=paper", "paper.data=t", "paper.captions=c.json", "paper.reference=r", "paper.num_workers=8"]
    found = {
        experiment.name: experiment.config
        for experiment in studies.experiments_of(studies.requested(config(tmp_path, "all", *given)))
    }
    base, best = found["models/iterative3-seed0"], found["models/iterative3-seed0-500k"]
    assert (base.optim.steps, best.optim.steps) == (250_000, 500_000) and base.optim.batch_size == 1_024
    assert base.objective.warm_start == 0 and base.run.num_workers == 8 and base.run.use_gpu
    assert found["models/autoregressive-seed0-bert"].model.text == "bert_base"
    assert found["models/iterative2-seed0-cosine"].objective.mask_schedule == "cosine"
    evaluation = found["evaluations/iterative3-seed0-500k-steps8"]
    assert (evaluation.candidates, evaluation.rank, evaluation.limit, evaluation.captions) == (
        16,
        "clip",
        30_000,
        "c.json",
    )
    assert (
        evaluation.metrics == ("fid", "clip_score")
        and evaluation.sampling == {"steps": 8}
        and evaluation.judge.reference == "r"
    )
    assert "world" not in found and len([name for name in found if name.startswith("models/")]) == 12


def test_everything_that_is_missing_is_reported_at_once(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("EMAGE_CACHE", str(tmp_path / "cache"))
    wanted = config(tmp_path, "all", "scale=paper", "paper.bert_weights=nowhere")
    lacking = " ".join(requirements.missing(wanted, studies.experiments_of(studies.requested(wanted))))
    for word in ("data=", "captions=", "reference=", "inception=", "bert_weights=nowhere (no such file)"):
        assert f"paper.{word}" in lacking
    assert "table2.pictures=" in lacking and "table2.weights.NAME=" in lacking
    small = config(tmp_path, "all")
    assert requirements.missing(small, studies.experiments_of(studies.requested(small))) == []


def test_the_estimate_at_the_papers_scale(tmp_path: Path):
    wanted = config(tmp_path, "table3", "scale=paper")
    text = requirements.describe(wanted, studies.experiments_of(studies.requested(wanted)), tmp_path)
    assert "16: 0 done, 16 to run (5 models, 5 evaluations, 6 latency)" in text
    assert "5 x 250,000 steps of 1,024 images" in text and "2,400,000 generated by models" in text
    assert "days for one process (trainings on 64 V100s" in text


def test_the_small_estimate_uses_finished_trainings(tmp_path: Path):
    wanted = config(tmp_path, "table3", "seeds=1", "steps=10")
    order = studies.experiments_of(studies.requested(wanted))
    rate = 1e9
    first = next(experiment for experiment in order if experiment.name.startswith("models/iterative1"))
    network = requirements.network_of(first.config, requirements.tokenizer_of(wanted))
    seconds = requirements.START_S + requirements.parameters_and_flops.run_flops(first.config, network) / rate
    record = {"fingerprint": experiments.fingerprint(first, tmp_path), "figures": {}, "seconds": seconds}
    (tmp_path / first.name).mkdir(parents=True)
    manifest.write_json(tmp_path / first.name / experiments.RESULT, record)
    text = requirements.describe(wanted, order, tmp_path)
    assert "17: 1 done, 16 to run (1 world, 4 models, 5 evaluations, 6 latency)" in text
    assert "at the speed of 1 finished trainings" in text and "4 x 10 steps of 32 images" in text
    assert requirements._finished_rate(first, tmp_path, requirements.tokenizer_of(wanted)) == pytest.approx(rate)


def test_the_rate_is_measured_if_nothing_is_finished(tmp_path: Path):
    wanted = config(tmp_path, "figure3", "seeds=1", "small.batch_size=2")
    order = studies.experiments_of(studies.requested(wanted))
    assert "at the speed of a few steps run now" in requirements.describe(wanted, order, tmp_path)


def test_durations():
    assert [requirements.format_duration(s) for s in (30, 3599, 7200, 3 * 86_400)] == [
        "1 min",
        "60 min",
        "2.0 h",
        "3.0 days",
    ]


# As they are since the small trainings take Muon. Names of classes and functions may change; if one of these
# values changes, every user's finished experiments run again, and CHANGELOG.md must state it.
FINGERPRINTS = {
    "small": {
        "world": "e6793603e369738f1a4858fd7ca22f6eb1d391779dd7b0b93d3b3e33c334a5ac",
        "models/iterative3-seed0": "66ee19d7b3e8530e2212ffa630cbf17e294a81582d982b2c9111816d4a056365",
        "evaluations/iterative3-seed0": "607140dd6f9d791c8f357ed7555d716519227dcdceff0e423e787cb0efb5da0f",
        "tokenizers": "5d3dcf29d49b3376e648af06b5a15bf59c4544dd3eddf5ca62088a2ea231bdcd",
        "strips/iterative3-seed0": "a0b4242f8fc92044b731fe4c55ac68df96c7da24878463c24143aa57d22ac2f6",
        "latency/iterative3-seed0": "7bc9b5f6c56381350a863346cb0e46374b6d7ce3758cade4f3c51ee8b618c5b0",
        "latency/autoregressive-seed0-uncached": "617cb67304961dc5065099a6a86571db9bbb48b5df443700ee13d1727a685ec5",
    },
    "paper": {
        "models/iterative3-seed0": "ee9012d9d6fc1473168143505a2b189e2ebdc6435c1c440f9a2c7e370af12895",
        "evaluations/iterative3-seed0-500k": "e74d582e7f123e0bbd065b60841f02d6d2082dc0edd7a3874d8e9c9a8444b48b",
        "tokenizers": "03c2b70be0633cd6bd5e0d419e4956bc38bb01504c2ab5d96992d79a3061c680",
        "strips/iterative3-seed0-500k": "298a9985c9b0cbf6b503ee5a02b95d5f8d95ed950a23a14e33ccbd2845f1969a",
        "latency/iterative3-seed0-500k": "3fbf6fa3e02e29fd1eb8b47dd91eda237a050247c9c4c465630faced7f604521",
    },
}


def test_a_newer_setting_with_the_value_of_before_does_not_count(tmp_path: Path, monkeypatch):
    def prints() -> dict[str, str]:
        found = studies.experiments_of(studies.requested(config(tmp_path, "table3", "scale=paper")))
        return {one.name: experiments.fingerprint(one, tmp_path) for one in found}

    with_rule, name = prints(), "models/iterative3-seed0"
    monkeypatch.setattr(experiments, "ADDED_LATER", {})
    assert prints()[name] != with_rule[name]
    monkeypatch.setattr(experiments, "ADDED_LATER", {"optimizer": "muon"})
    assert prints()[name] != with_rule[name]


@pytest.mark.parametrize("scale", FINGERPRINTS)
def test_fingerprints_are_those_of_results_on_disk(scale: str, tmp_path: Path):
    found = studies.experiments_of(studies.requested(config(tmp_path, "all", f"scale={scale}")))
    fingerprints = {experiment.name: experiments.fingerprint(experiment, tmp_path) for experiment in found}
    assert {name: fingerprints[name] for name in FINGERPRINTS[scale]} == FINGERPRINTS[scale]


def test_every_program_has_a_pinned_name(tmp_path: Path):
    wanted = [study for what in ("all", "methods") for study in studies.requested(config(tmp_path, what))]
    found = studies.experiments_of(wanted)
    assert {experiment.program for experiment in found} == set(recipes.PROGRAM_NAMES.values())
