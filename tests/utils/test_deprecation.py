"""Old names of attributes."""

import pytest

from emage.utils.deprecation import renamed_attribute


class Renamed:
    new = 1
    old = renamed_attribute("old", "new")


def test_an_old_name_reads_and_sets_the_new_one_and_warns():
    thing = Renamed()
    with pytest.warns(DeprecationWarning, match=r"\.old is now \.new"):
        thing.old = 2
    with pytest.warns(DeprecationWarning, match=r"\.old is now \.new"):
        assert thing.old == thing.new == 2
