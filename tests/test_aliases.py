"""Old paths of public names work for one release, with a warning that names the new path."""

import importlib
import sys

import pytest


@pytest.mark.parametrize(
    ("old", "new", "old_name", "name"),
    [
        ("emage.captions", "emage.data.ingest.captions.caption_rules", "keep", "drop_reason"),
        ("emage.masking", "emage.methods.masking", "num_kept", "num_kept"),
    ],
)
def test_an_old_path_works_and_names_the_new_one(old: str, new: str, old_name: str, name: str):
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=f"{old} is now {new}"):
        alias = importlib.import_module(old)
    assert getattr(alias, old_name) is getattr(importlib.import_module(new), name)
