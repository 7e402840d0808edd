"""The real images of the captions of an evaluation, found among the files of a folder by their names.

A caption names its image as COCO's caption file or the column `image` does. A file has that name, or it without folder,
or without folder and ending (the images may be kept in another format), or the same COCO id: 2014 and 2017 name an
image COCO_val2014_000000391895.jpg and 000000391895.jpg.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePosixPath

from emage.data.images.image_files import ImageFile
from emage.evaluation.caption_list import ListedCaption
from emage.utils.errors import InputError

_COCO_ID = re.compile(r"(?:.*_)?(\d{12})")
REMEDY = "or compare with all images of the folder (judge.reference_images=all)"


def select(files: Sequence[ImageFile], captions: Sequence[ListedCaption], place: str) -> list[ImageFile]:
    """Return the files of the captions' images, each once, in the order of `files`.

    Args:
        files: The images of a folder or .tar.
        captions: The captions.
        place: The folder or .tar, for messages.

    Raises:
        InputError: A caption names no image, or its image is not among the files, or is there twice.
    """
    if unnamed := sum(listed.image is None for listed in captions):
        raise InputError(
            f"judge.reference_images=captioned: {unnamed} of {len(captions)} captions name no image; give COCO's "
            f"caption json or a table with a column `image` of file names, {REMEDY}"
        )
    wanted = dict.fromkeys(str(listed.image) for listed in captions)
    by_name = [(name_of, _group(files, name_of)) for name_of in (_full_name, _file_name, _stem, _coco_id)]
    chosen: set[ImageFile] = set()
    missing: list[str] = []
    for name in wanted:
        found = next((group for name_of, groups in by_name if (group := groups.get(name_of(name)))), [])
        if len(found) > 1:
            names = " and ".join(file.name for file in found[:2])
            raise InputError(f"{place}: the image {name} is there {len(found)} times ({names}): keep one of them")
        missing += [] if found else [name]
        chosen.update(found)
    if missing:
        raise InputError(
            f"{place}: {len(missing)} of the {len(wanted)} images of the selected captions are not in it, the first is "
            f"{missing[0]}; add them, {REMEDY}"
        )
    return [file for file in files if file in chosen]


def _group(files: Iterable[ImageFile], name_of: Callable[[str], str | None]) -> dict[str | None, list[ImageFile]]:
    """Return the files by a part of their name; those that lack it are left out."""
    groups: dict[str | None, list[ImageFile]] = defaultdict(list)
    for file in files:
        if (name := name_of(file.name)) is not None:
            groups[name].append(file)
    return dict(groups)


def _full_name(name: str) -> str:
    return name


def _file_name(name: str) -> str:
    return PurePosixPath(name).name


def _stem(name: str) -> str:
    return PurePosixPath(name).stem


def _coco_id(name: str) -> str | None:
    """Return the 12 digits at the end of a name of COCO's; None if it has none."""
    found = _COCO_ID.fullmatch(_stem(name))
    return found[1] if found else None
