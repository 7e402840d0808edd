"""Presets, command lines, help and YAML of the settings."""

from dataclasses import replace
from typing import get_args

import pytest

from emage import config
from emage.config import (
    PRESETS,
    CheckpointConfig,
    EvaluateConfig,
    IngestConfig,
    ObjectiveConfig,
    SamplingConfig,
    TrainConfig,
    from_yaml,
    parse,
    preset,
    to_yaml,
)
from emage.evaluation import scoring
from emage.evaluation.metrics import METRICS
from emage.methods import METHODS
from emage.utils.errors import InputError

NEEDED = ["data.path=tokens", "run.output=out"]


def test_the_defaults_are_the_papers_run():
    config = parse(TrainConfig, ["paper", *NEEDED])
    optim, model = config.optim, config.model
    assert (optim.lr, optim.batch_size, optim.clip_norm, optim.beta1, optim.beta2) == (4.5e-4, 1024, 4.0, 0.9, 0.96)
    assert (optim.weight_decay, optim.warmup, optim.steps) == (4.5e-2, 0.02, 500_000)
    assert (model.depth, model.width, model.text) == (12, 768, "clip_l14")
    assert (config.sampling.steps, config.sampling.schedule, config.sampling.order) == (16, "cosine", "confidence")
    assert config.objective.mask_schedule == "linear" and config.objective.warm_start == 0
    assert config == parse(TrainConfig, NEEDED)
    assert parse(TrainConfig, ["paper_250k", *NEEDED]).optim.steps == 250_000
    table_5 = parse(TrainConfig, ["paper_bert", *NEEDED])
    assert (table_5.model.text, table_5.method, table_5.optim.steps) == ("bert_base", "iterative1", 250_000)


def test_values_win_over_the_preset_and_are_typed():
    config = parse(
        TrainConfig, ["tiny", *NEEDED, "optim.lr=1e-4", "run.prompts=[a cat, a dog]", "model.text_frozen=true"]
    )
    assert config.optim.lr == 1e-4 and config.run.prompts == ("a cat", "a dog") and config.model.text_frozen is True
    assert config.optim.steps == PRESETS["tiny"]["TrainConfig"]["optim"]["steps"]
    assert parse(EvaluateConfig, ["tiny", "checkpoint=a", "captions=b", "output=c", "sampling.steps=8"]).sampling == {
        "steps": 8
    }


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["dmo"], "unknown preset 'dmo'; did you mean demo?"),
        (["laion400m"], "unknown preset 'laion400m'"),  # an ingest preset
        (["tiny", "optim.lrr=1"], "unknown key 'optim.lrr'; did you mean optim.lr?"),
        (["tiny", "optim.lr=fast"], "optim.lr=fast: must be a number above 0"),
        (["method=iterative4"], "method=iterative4: must be one of fully_nar,"),
        (["tiny"], "data.path is required"),
        (["tiny", "run.prompts=[a"], "run.prompts=[a is not a YAML value"),
        (["tiny", "extra", "a=b"], "'extra' is not key=value"),
    ],
)
def test_bad_command_lines_are_one_clear_line(argv: list[str], message: str):
    with pytest.raises(InputError) as error:
        parse(TrainConfig, argv)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("select.block_hosts=hosts.txt", "select.block_hosts: this is a list; write it as [hosts.txt]"),
        ("source.where=similarity>=0.3", "source.where: this is a list; write it as [similarity>=0.3]"),
        ("select.block_hosts=", "select.block_hosts=: must be a list"),
    ],
)
def test_a_list_without_its_brackets(argument: str, message: str):
    with pytest.raises(InputError) as error:
        parse(IngestConfig, ["source.table=t", "output=o", argument])
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("init=${nope}", "init: Interpolation key 'nope' not found"),
        ("optim={steps: -5}", "optim.steps=-5: must be a whole number of at least 1 (steps)"),  # not the preset's
        ("optim.lr=1e31", "optim.lr=1e+31: must be a number above 0 and at most 1e+30"),
        ("optim.clip_norm=1e-7", "optim.clip_norm=1e-07: must be a number from 1e-06 to 1e+30"),
    ],
)
def test_bad_values_name_their_key(argument: str, message: str):
    with pytest.raises(InputError) as error:
        parse(TrainConfig, ["tiny", *NEEDED, argument])
    assert str(error.value) == message


def test_a_command_line_may_refer_to_a_variable_and_to_another_key(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MY_TABLE", "/data/urls.csv")
    settings = parse(
        IngestConfig, ["source.table=${oc.env:MY_TABLE}", "output=o/${source.dataset}", "source.dataset=cc"]
    )
    assert (settings.source.table, settings.output) == ("/data/urls.csv", "o/cc")


def test_a_file_may_not(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MY_TABLE", "/data/urls.csv")
    for text in ("method: ${oc.env:MY_TABLE}", "model: {mlp: '${method}'}", "${oc.env:MY_TABLE}: 1"):
        with pytest.raises(
            InputError, match=r"^not a CheckpointConfig: .*references in files are not resolved"
        ) as error:
            from_yaml(CheckpointConfig, text)
        assert "/data" not in str(error.value)


def test_help_names_every_preset_and_key(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        parse(IngestConfig, ["--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    for word in ("laion400m", "cc12m", "cc3m", "yfcc100m", "allow_private_hosts=false", "rows_per_file=65536"):
        assert word in text


@pytest.mark.parametrize(
    ("argv", "start"),
    [
        (["--help", "optim.lr"], "optim.lr\n"),
        (["tiny", "--help", "optim.lr=5", "init=a"], "optim.lr\n"),
        (["--help", "tiny", "optim.lr=5"], "Token table -> checkpoint"),
        (["tiny", "optim.lr=5", "-h"], "Token table -> checkpoint"),
    ],
)
def test_help_within_a_command_line(argv: list[str], start: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        parse(TrainConfig, argv)
    assert stop.value.code == 0 and capsys.readouterr().out.startswith(start)


def test_yaml_round_trip():
    config = parse(TrainConfig, ["demo", *NEEDED])
    assert from_yaml(TrainConfig, to_yaml(config)) == config
    with pytest.raises(InputError, match="not a CheckpointConfig"):
        from_yaml(CheckpointConfig, "colour: red")


def test_yaml_is_checked_as_a_command_line_is():
    with pytest.raises(InputError, match=r"not a CheckpointConfig: sampling\.top_p=2\.0: must be a number from"):
        from_yaml(CheckpointConfig, "sampling: {top_p: 2.0}")
    text = to_yaml(parse(TrainConfig, ["demo", *NEEDED]))
    with pytest.raises(InputError, match=r"not a TrainConfig: optim\.batch_size=1 leaves"):
        from_yaml(TrainConfig, text.replace(" batch_size: 32", " batch_size: 1").replace("workers: 1", "workers: 2"))


def test_the_metrics_of_the_settings_are_those_of_evaluation():
    assert set(get_args(config.Metric)) == {*scoring.NETWORK_METRICS, *METRICS}
    assert set(get_args(config.SetMetric)) == set(scoring.SET_METRIC_NETWORKS)
    assert set(get_args(config.Method)) == set(METHODS)


def test_a_trained_model_generates_in_the_groups_that_it_learned():
    settings = preset(TrainConfig, "demo", method="parallel_autoregressive", data={"path": "x"}, run={"output": "y"})
    assert settings.checkpoint_config(512, (8, 8)).sampling.schedule == "cubic"
    squares = replace(settings, objective=replace(settings.objective, group_schedule="square"))
    assert squares.checkpoint_config(512, (8, 8)).sampling.schedule == "square"
    of_the_paper = replace(settings, method="iterative3")
    assert of_the_paper.checkpoint_config(512, (8, 8)).sampling.schedule == "cosine"


def test_two_schedules_of_parallel_autoregressive_are_an_error():
    settings = TrainConfig(method="parallel_autoregressive", sampling=SamplingConfig(schedule="linear"))
    (problem,) = settings.problems()
    assert problem.startswith("sampling.schedule=linear: ") and "objective.group_schedule (it is cubic)" in problem
    assert not list(replace(settings, objective=ObjectiveConfig(group_schedule="linear")).problems())
    assert not list(replace(settings, method="iterative3").problems())


@pytest.mark.parametrize("text", ["no", "on", "true", "007", "1e3", ".inf", "2_000"])
def test_a_text_stays_as_it_was_typed(text: str):
    """In YAML these are no texts."""
    values = {"table": "t", "dataset": text, "md5": text, "names": f"[a, {text}]"}
    config = parse(IngestConfig, ["output=o", *(f"source.{key}={value}" for key, value in values.items())])
    assert (config.source.dataset, config.source.md5, config.source.names) == (text, text, ("a", text))


@pytest.mark.parametrize("text", ["[a, null]", "[7, null]", "[7, {a: b}]", "7", "no"])
def test_a_list_of_texts_holds_only_texts(text: str):
    with pytest.raises(InputError, match=r"^source\.names.*: .* list"):
        parse(IngestConfig, ["source.table=t", "output=o", f"source.names={text}"])
