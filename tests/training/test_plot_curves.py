"""Learning curves: the plotted values are those of steps.jsonl, downsampled; errors of the command line."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emage.training import plot_curves
from emage.training.step_log import StepLog
from emage.utils.errors import InputError


def train(folder: Path, losses, method: str | None = "iterative3", **more: float) -> Path:
    """Write a run's folder; every step has the same values `more`."""
    folder.mkdir(parents=True)
    log = StepLog(folder / "steps.jsonl", 0)
    for step, loss in enumerate(losses, 1):
        log.append(step, {"loss": loss, "lr": 1e-4, "grad_norm": 1.0, "accuracy_masked": 0.5} | more)
    log.close()
    if method:
        settings = {"program": "train", "settings": {"method": method}}
        (folder / "run.json").write_text(json.dumps(settings))
    return folder


def figure(*folders: Path, title: str | None = None):
    return plot_curves._figure(
        [plot_curves.load(folder, plot_curves._name(folder, folders)) for folder in folders], title
    )


def titles(plotted) -> list[str]:
    return [axes.get_title(loc="left").split()[0] for axes in plotted.axes]


# --- Numbers ---------------------------------------------------------------------------------------------------------


def test_downsampling_takes_means_over_windows():
    step, value = np.arange(1.0, 8.0), np.array([1.0, 3, 5, np.nan, 7, 9, 11])
    downsampled = plot_curves.downsample(step, value, 3)  # six numbers, two per window
    np.testing.assert_array_equal(downsampled.step, [1.5, 4, 6.5])
    np.testing.assert_array_equal(downsampled.value, [2, 6, 10])


def test_a_short_curve_stays_as_it_is():
    downsampled = plot_curves.downsample(np.array([1.0, 2, 3]), np.array([4.0, np.nan, 6]), 2)
    np.testing.assert_array_equal(downsampled.step, [1, 3])
    np.testing.assert_array_equal(downsampled.value, [4, 6])
    assert len(plot_curves.downsample(np.array([1.0]), np.array([np.nan]), 2).step) == 0


@pytest.mark.parametrize("n", [2_000, 2_001, 3_999, 4_001, 100_003])
def test_downsampling_keeps_every_number_and_the_number_of_points(n: int):
    downsampled = plot_curves.downsample(np.arange(n, dtype=float), np.ones(n), 2_000)
    assert len(downsampled.step) == 2_000 and (downsampled.value == 1).all()
    assert (
        (np.diff(downsampled.step) > 0).all()
        and downsampled.step[0] < n / 2_000
        and downsampled.step[-1] > n - 1 - n / 2_000
    )


def test_moving_means():
    np.testing.assert_allclose(plot_curves.moving_mean(np.array([9.0, 3, 3, 6, 0, 0]), 1), [9, 5, 4, 3, 2, 0])
    np.testing.assert_allclose(plot_curves.moving_mean(np.array([9.0, 3, 3, 6, 0, 0]), 2), [9, 5, 4.2, 2.4, 2.25, 2])
    np.testing.assert_array_equal(plot_curves.moving_mean(np.array([1.0, 4, 2]), 0), [1, 4, 2])


# --- The image -----------------------------------------------------------------------------------------------------


def test_a_run_has_its_method_and_steps_in_the_title(tmp_path: Path):
    plotted = figure(train(tmp_path / "mine", [4.0, 3.0, 2.0]))
    assert plotted.get_suptitle() == "mine: iterative3, 3 steps" and not plotted.legends
    assert titles(plotted) == ["loss", "token", "gradient", "learning"]  # no context gain: it was not logged
    pale, _ = plotted.axes[0].get_lines()
    np.testing.assert_array_equal(pale.get_xydata(), [[1, 4], [2, 3], [3, 2]])


def test_several_runs_have_a_legend(tmp_path: Path):
    first = train(tmp_path / r"_a$\b$", [4.0, 3.0], context_gain=0.25)
    second = train(tmp_path / "b", [5.0, 4.0, 3.5], method=None)
    plotted = figure(first, second)
    plotted.draw_without_rendering()  # dollar signs must not start a formula, which would be invalid here
    (legend,) = plotted.legends
    assert [text.get_text() for text in legend.get_texts()] == [r"iterative3: _a$\b$", "run: b"]
    assert [line.get_color() for line in legend.get_lines()] == ["#0072B2", "#D55E00"]
    assert titles(plotted) == ["loss", "token", "context", "gradient", "learning"]
    (gain,) = {line.get_color() for line in plotted.axes[2].get_lines()}
    assert gain == "#0072B2"  # only the first run has it
    assert plotted.axes[0].get_xlim()[1] >= 3


def test_runs_of_the_same_name_are_named_by_their_paths(tmp_path: Path):
    folders = [train(tmp_path / name / "run", [1.0]) for name in "ab"]
    assert [plot_curves._name(folder, folders)[-6:] for folder in folders] == ["/a/run", "/b/run"]
    assert len(plot_curves._name(Path("x" * 100), folders)) == 44


def test_a_spike_does_not_flatten_the_curve(tmp_path: Path):
    losses = [2.0 + 0.1 * math.sin(step) for step in range(1_000)]
    losses[500] = 1_000.0
    low, high = figure(train(tmp_path / "a", losses)).axes[0].get_ylim()
    assert low < 1.95 and 2.05 < high < 120  # the mean over 11 steps that has the spike in it is 92.7


@pytest.mark.parametrize(("value", "limits"), [(0.1, (0.095, 0.105)), (0.0, (-1, 1)), (-2.0, (-2.1, -1.9))])
def test_a_constant_is_a_straight_line(value: float, limits: tuple[float, float], tmp_path: Path):
    panel = figure(train(tmp_path / "a", [value] * 5_000)).axes[0]  # means of equal numbers differ in the last bits
    assert panel.get_ylim() == pytest.approx(limits)


def test_steps_without_a_loss_are_left_out(tmp_path: Path):
    pale, _ = figure(train(tmp_path / "a", [4.0, math.nan, math.inf, 2.0])).axes[0].get_lines()
    np.testing.assert_array_equal(pale.get_xydata(), [[1, 4], [4, 2]])


def test_a_run_of_one_step_or_without_any_loss(tmp_path: Path):
    assert titles(figure(train(tmp_path / "a", [4.0])))[0] == "loss"
    assert titles(figure(train(tmp_path / "b", [math.nan]))) == ["token", "gradient", "learning"]


def test_a_log_without_any_metric_to_plot(tmp_path: Path):
    (tmp_path / "steps.jsonl").write_text('{"step": 1, "loss": null}\n')
    with pytest.raises(InputError, match="none of the metrics that are plotted"):
        plot_curves.plot([tmp_path], tmp_path / "curves.png")


# --- The command -----------------------------------------------------------------------------------------------------


def error_of(capsys: pytest.CaptureFixture, *argv: object) -> str:
    with pytest.raises(SystemExit) as exit:
        plot_curves.main([str(word) for word in argv])
    assert exit.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ") and printed.count("\n") == 1
    return printed.removeprefix("error: ").strip()


@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
def test_an_image_of_two_runs(ending: str, tmp_path: Path, capsys: pytest.CaptureFixture):
    runs = [train(tmp_path / "lr=1e-3", [4.0, 3.0]), train(tmp_path / "b", [4.5, 3.5])]
    output = tmp_path / f"curves.{ending}"
    plot_curves.main([*map(str, runs), f"output={output}", "title=Figure 3: the loss, in nats"])
    assert capsys.readouterr().out.startswith(f"{output}: the curves of ")
    with Image.open(output) as image:
        colours = np.asarray(image.convert("RGB")).reshape(-1, 3).astype(int)
    for colour in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)):
        assert (np.abs(colours - colour).max(axis=1) < 24).sum() > 100  # JPEG and WebP are not exact
    assert sorted(file.name for file in tmp_path.iterdir()) == ["b", output.name, "lr=1e-3"]


@pytest.mark.parametrize(("ending", "start"), [("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_vector_images(ending: str, start: bytes, tmp_path: Path):
    plot_curves.plot([train(tmp_path / "a", [4.0, 3.0])], tmp_path / f"curves.{ending}")
    assert (tmp_path / f"curves.{ending}").read_bytes().startswith(start)


def test_a_title_is_plain_text(tmp_path: Path):
    one, other = train(tmp_path / "a", [1.0]), train(tmp_path / "b", [1.0])
    assert figure(one, title="$5: a\nb").get_suptitle() == "$5: a b"
    assert figure(one, other, title="$5").legends[0].get_title().get_text() == "$5"


def test_panels_legend_and_title_do_not_overlap(tmp_path: Path):
    runs = [train(tmp_path / f"a run with a rather long name {number}", [2.0, 1.0]) for number in range(9)]
    plotted = figure(*runs, title="Figure 3")
    plotted.draw_without_rendering()
    boxes = [axes.get_tightbbox() for axes in plotted.axes] + [plotted.legends[0].get_window_extent()]
    for i, box in enumerate(boxes):
        assert plotted.bbox.x0 <= box.x0 and box.x1 <= plotted.bbox.x1 and box.y0 >= 0 and box.y1 <= plotted.bbox.y1
        assert not any(box.overlaps(other) for other in boxes[:i])


def test_errors_of_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture):
    run, output = train(tmp_path / "a", [4.0]), f"output={tmp_path}/curves.png"
    assert error_of(capsys) == "no run: name the output folder of a training, or several"
    assert error_of(capsys, tmp_path / "none", output) == (
        f"{tmp_path}/none: no steps.jsonl in it; name the output folder of a training"
    )
    assert error_of(capsys, run, "output=curves.txt").startswith("output=curves.txt: end it in .png, ")
    assert error_of(capsys, run, f"output={tmp_path}/none/curves.png").endswith(
        "cannot be written (No such file or directory)"
    )
    assert "unknown key 'outptu'; did you mean output?" in error_of(capsys, run, "outptu=x.png")
    (run / "steps.jsonl").write_text('{"step": 1, "lo')
    assert "steps.jsonl has no step yet" in error_of(capsys, run, output)
    assert not (tmp_path / "curves.png").exists()


def test_help(capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as exit:
        plot_curves.main(["--help"])
    assert exit.value.code == 0 and "output=curves.png" in capsys.readouterr().out
