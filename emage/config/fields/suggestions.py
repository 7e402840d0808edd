"""The nearest known name or key of a mistyped one, for messages. Only a name that few typing errors explain is near."""

from collections.abc import Sequence

_MAX_SHOWN = 3  # names in one suggestion


def nearest(word: str, words: Sequence[str]) -> str:
    """Return "; did you mean ...?" for a mistyped name, whatever its case, or "" if no name is near."""
    return _question(_near(word, words)[:1])


def nearest_key(key: str, keys: Sequence[str]) -> str:
    """Return "; did you mean ...?" for a dotted key that is mistyped, or is in another section or none, or ""."""

    def last_part(dotted: str) -> str:
        return dotted.rpartition(".")[2]

    in_other_sections = [known for known in keys if last_part(known).lower() == last_part(key).lower()]
    near_last_part = _near(last_part(key), [last_part(known) for known in keys])[:1]
    return _question(
        _near(key, keys)[:1]
        or in_other_sections[:_MAX_SHOWN]
        or [known for known in keys if last_part(known) in near_last_part][:_MAX_SHOWN]
    )


def _near(word: str, words: Sequence[str]) -> list[str]:
    """Return the names within one typing error per three letters, at most three, the nearest first."""
    from rapidfuzz.distance import OSA  # only a mistake needs it

    limit = min(3, len(word) // 3)
    distances = {name: OSA.distance(word.lower(), name.lower()) for name in words}
    return sorted((name for name, distance in distances.items() if distance <= limit), key=lambda name: distances[name])


def _question(names: Sequence[str]) -> str:
    return f"; did you mean {' or '.join(names)}?" if names else ""
