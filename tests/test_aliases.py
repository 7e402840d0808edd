"""Old paths of public names work for one release, and say where the name is now."""

import importlib
import sys

import pytest


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("emage.captions", "emage.data.ingest.caption_rules", "keep"),
        ("emage.masking", "emage.methods.masking", "num_kept"),
    ],
)
def test_an_old_path_works_and_names_the_new_one(old: str, new: str, name: str):
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=f"{old} is now {new}"):
        alias = importlib.import_module(old)
    assert getattr(alias, name) is getattr(importlib.import_module(new), name)
