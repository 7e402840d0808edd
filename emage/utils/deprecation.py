"""Old names of attributes, kept for one release with a DeprecationWarning."""

import warnings
from operator import attrgetter
from typing import Any


def renamed_attribute(old: str, new: str) -> Any:
    """Return a property that reads and sets attribute `new` under its old name, with a DeprecationWarning.

    Args:
        old: The old name. The property must be assigned to it in the class: `old = renamed_attribute("old", "new")`.
        new: The name of an attribute, property or method of the same class, or with a dot of one of its attributes.
    """

    def warn() -> None:
        warnings.warn(f".{old} is now .{new}", DeprecationWarning, stacklevel=3)

    def read(self: Any) -> Any:
        warn()
        return attrgetter(new)(self)

    def write(self: Any, value: Any) -> None:
        warn()
        setattr(self, new, value)

    return property(read, None if "." in new else write, doc=f"Deprecated: now `{new}`.")
