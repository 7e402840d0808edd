"""`~` in path settings."""

import importlib
import re
from pathlib import Path
from typing import Any

import pytest

from emage.commands import COMMANDS
from emage.config import IngestConfig, MLflowConfig, TrainConfig, parse, preset
from emage.config.fields import Leaf, leaves
from emage.data.ingest import url_table
from emage.on_ray import tracking
from emage.tokenizers import weights_cache

# Texts that are no paths; `more` and `sampling` hold settings. A new text setting belongs here or has is_path=True.
NO_PATHS = re.compile(
    r"(.*\.)?(dataset|format|names|url|image|caption|where|md5|node_resource|user_agent_token|tokenizer|tokenizers"
    r"|experiment|title|host|device|origins|safety|prompts|model_names|language|register_as|what|more|sampling)|table2\.output"
)


def _text_leaves() -> dict[str, Leaf]:
    found = {}
    for command in COMMANDS.values():
        module, _, name = command.settings.partition(":")
        program = getattr(importlib.import_module(module), name)
        found |= {key: leaf for key, leaf in leaves(program).items() if "str" in str(leaf.type)}
    return found


def test_every_text_setting_is_a_path_or_known_to_be_none() -> None:
    found = _text_leaves()
    assert len(found) > 40
    wrong = [key for key, leaf in found.items() if leaf.setting.is_path == bool(NO_PATHS.fullmatch(key))]
    assert wrong == []


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_the_home_folder_is_expanded_on_a_command_line_and_in_python(home: Path) -> None:
    argv = ["tiny", "data.path=~/tokens", "run.output=~/runs/~a", "init='~'", "run.prompts=[~ is a tilde]"]
    config = parse(TrainConfig, argv)
    assert (config.data.path, config.run.output) == (f"{home}/tokens", f"{home}/runs/~a")
    assert config.init == str(home) and config.run.prompts == ("~ is a tilde",)
    assert preset(TrainConfig, "tiny", data={"path": "~/t"}, run={"output": "~/o"}).run.output == f"{home}/o"
    assert preset(TrainConfig, "tiny", data={"path": "s3://a/~b"}, run={"output": "./~"}).data.path == "s3://a/~b"


def test_lists_of_paths_and_further_tables(home: Path) -> None:
    values: dict[str, Any] = {"block_urls": ("~/a.txt", "b.txt")}
    config = preset(IngestConfig, "tiny", source={"table": "~/t.csv"}, output="~/o", select=values)
    assert config.select.block_urls == (f"{home}/a.txt", "b.txt")
    more = parse(IngestConfig, ["tiny", "source.table=t.csv", "output=o", "more.cc12m.table=~/cc12m.tsv"])
    assert url_table.list_tables(more)[1].table == f"{home}/cc12m.tsv"


def test_the_tracking_database_and_the_cache(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking.resolve_uri(MLflowConfig(uri="sqlite:///~/mlflow.db")) == f"sqlite:///{home}/mlflow.db"
    monkeypatch.setenv("EMAGE_CACHE", "~/weights")
    assert weights_cache.cache_folder() == home / "weights" / "tokenizers"
