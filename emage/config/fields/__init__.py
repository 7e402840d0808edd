"""Descriptions of settings, as part of their dataclass fields, and the check of a config against them.

    steps: int = setting(16, "Decoding steps per image.", unit="steps", minimum=1, source="paper, Sec. 4.6")

A config is a frozen dataclass whose fields are made by `setting` (a value) or `group` (a config inside a config).
`--help`, docs/configuration.md and every message about a bad value are made from these descriptions. A rule across
fields is a method `problems(self, prefix)` of the class, which yields one message per broken rule.
"""

from emage.config.fields.checks import check, check_arguments, problems
from emage.config.fields.declaration import (
    MAX_INTEGER,
    MAX_SEED,
    Leaf,
    Section,
    Setting,
    first_paragraph,
    group,
    leaves,
    sections,
    setting,
)
from emage.config.fields.home_folder import expand_home
from emage.config.fields.suggestions import nearest, nearest_key
from emage.config.fields.wording import choices, describe_allowed, describe_rejection, format_bound, shown_value

__all__ = [
    "MAX_INTEGER",
    "MAX_SEED",
    "Leaf",
    "Section",
    "Setting",
    "check",
    "check_arguments",
    "choices",
    "describe_allowed",
    "describe_rejection",
    "expand_home",
    "first_paragraph",
    "format_bound",
    "group",
    "leaves",
    "nearest",
    "nearest_key",
    "problems",
    "sections",
    "setting",
    "shown_value",
]
