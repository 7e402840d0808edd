import json
from pathlib import Path

import pytest
from PIL import Image

from emage.errors import InputError
from emage.evaluation import Task, picture_path, read_tasks, write_report
from emage.metrics import METRICS
from emage.shapes import draw_many, train_scenes


def test_captions_come_from_every_format(tmp_path: Path):
    (tmp_path / "a.txt").write_text("a cat\n\na dog\n")
    (tmp_path / "a.jsonl").write_text('{"caption": "a cat"}\n{"caption": "a dog"}\n')
    (tmp_path / "a.tsv").write_text("caption\tx\na cat\t1\na dog\t2\n")
    (tmp_path / "a.json").write_text(json.dumps({"annotations": [{"caption": "a cat"}, {"caption": "a dog"}]}))
    for name in ("a.txt", "a.jsonl", "a.tsv", "a.json"):
        assert [task.caption for task in read_tasks(str(tmp_path / name), 10, 0)] == ["a cat", "a dog"]


def test_the_seed_draws_the_captions_and_a_task_has_a_seed_of_its_own(tmp_path: Path):
    (tmp_path / "a.txt").write_text("".join(f"caption {i}\n" for i in range(100)))
    drawn = read_tasks(str(tmp_path / "a.txt"), 10, 1)
    assert drawn == read_tasks(str(tmp_path / "a.txt"), 10, 1) != read_tasks(str(tmp_path / "a.txt"), 10, 2)
    assert [task.id for task in drawn] == sorted(task.id for task in drawn)
    assert len({task.seed(0) for task in drawn}) == 10 and drawn[0].seed(0) != drawn[0].seed(1)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("none.txt", None, "no such caption file"),
        ("a.txt", "\n\n", "no captions in it"),
        ("a.doc", "x", "captions come as"),
        ("a.csv", "text\nhello\n", "no column `caption` (it has text)"),
        ("a.json", "{", "unreadable caption file"),
        ("a.parquet", "x", "unreadable caption file"),
    ],
)
def test_bad_caption_files_are_one_line(tmp_path: Path, name: str, text: str | None, message: str):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as error:
        read_tasks(str(tmp_path / name), 10, 0)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_the_shapes_metric_and_the_report(tmp_path: Path):
    scenes = train_scenes(6, seed=0)
    images = [Image.fromarray(pixels) for pixels in draw_many(scenes, seed=0)]
    captions = [scene.caption for scene in scenes]
    right = dict(METRICS["shapes"].measure(images, captions))
    wrong = dict(METRICS["shapes"].measure(images, captions[1:] + captions[:1]))
    assert right == {"objects_right": 1.0, "relation_right": 1.0, "all_right": 1.0} and wrong["all_right"] == 0
    tasks = [Task(i, caption) for i, caption in enumerate(captions)]
    (tmp_path / "pictures").mkdir()
    for task, image in zip(tasks, images, strict=True):
        image.save(picture_path(tmp_path, task))
    write_report(tmp_path, tasks, [0.5] * 6, right, {"seed": 0}, captions_cut=2)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["figures"] == right and (report["captions"], report["captions_cut"]) == (6, 2)
    assert "6 captions, 2 of them longer than" in (tmp_path / "report.md").read_text()
    assert "| objects_right | 1.0000 |" in (tmp_path / "report.md").read_text()
    assert Image.open(tmp_path / "grid.png").height > 100
