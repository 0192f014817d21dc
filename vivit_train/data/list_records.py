"""Records of list files: which number each label is, and where the videos lie."""

import os
import re
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from vivit_train.class_names import shorten
from vivit_train.data.class_files import (
    CLASS_FILES,
    Classes,
    as_numbers,
    number_names,
    numbers_among,
    read_classes,
)
from vivit_train.data.lists import COLUMNS, Listing, read_list
from vivit_train.data.records import Records, stem
from vivit_train.data.tables import cut, read_text
from vivit_train.errors import UserError
from vivit_train.video.container import is_video
from vivit_train.video.decoders.pictures import holds_pictures

# Between the labels of a video that has several.
SEPARATOR = ";"


def records_from_list(
    file: Path,
    roots: Sequence[Path],
    lists: Sequence[Path],
    tell: Callable[[str], None],
    multi_label: bool = False,
) -> tuple[Records, list[str]]:
    """Records of a list file of one split.

    Args:
        file: The list file.
        roots: Folders to try, in order, for the listed paths to be relative to.
        lists: The lists of all splits, whose numbers count alike.
        tell: Called with a line about how the list was understood.
        multi_label: Whether a video may have several labels, or none.

    Returns:
        The records and their class names in the order of the labels: sorted names or, where
        labels are numbers, as a class file beside the list or the names of the folders say.

    Raises:
        UserError: If a row is not as expected, or numbers cannot be turned into names.
    """
    listing = read_list(file, multi_label)
    splits = sorted(set(listing.columns.get("split", ())))
    if len(splits) > 1:
        raise UserError(
            f"{file} has rows of the splits {', '.join(splits)}, where a list of one split is due: "
            "name it videos.csv and set data=folder, which takes the rows of each split"
        )
    root, paths = _root_of(listing, roots)
    number = number_several if multi_label else number_labels
    labels, names = number(listing, lists)
    tell(f"{file}: {len(listing)} rows, {listing.understood}; {len(names)} classes")
    return Records(root, paths, labels, listing.segments(), multi_label), names


def _root_of(listing: Listing, roots: Sequence[Path]) -> tuple[Path, Sequence[str]]:
    """The first folder under which one of the first few videos exists, and their paths there."""
    paths = listing.columns["path"]
    for root in roots:
        found = paths_under(root, paths)
        if found is not None:
            check_first(listing, root)
            return root, found
    check_first(listing, roots[0])
    raise UserError(
        f"none of the first videos that {listing.file} lists exists, e.g. {cut(paths[0])!r}; "
        f"looked under {shorten([str(root) for root in roots])}. Set data.root to the folder that "
        "the listed paths are relative to"
    )


def paths_under(root: Path, paths: Sequence[str]) -> Sequence[str] | None:
    """How listed videos are called below a folder, going by the first few.

    Returns:
        The paths; without the suffixes of videos where the videos are folders of pictures, so
        that a list of files is that of their frames as well; ``None``: none of the few is there.
    """
    if any(os.path.exists(root / path) for path in paths[:20]):
        return paths
    if any(is_video(path) and holds_pictures(root / stem(path)) for path in paths[:20]):
        return [stem(path) for path in paths]
    return None


def check_first(listing: Listing, root: Path) -> None:
    """Refuses a first row that names no video: a header of unknown columns would be one.

    Raises:
        UserError: If its path is neither a file's nor has the suffix of a video.
    """
    path = listing.columns["path"][0]
    if not is_video(path) and not os.path.exists(root / path):
        raise UserError(
            f"{listing.place(0)}: {cut(path)!r} is no video. If the line names the columns, one "
            f"must be the path ({', '.join(COLUMNS['path'])}) and one the label "
            f"({', '.join(COLUMNS['label'])})"
        )


def number_labels(listing: Listing, lists: Sequence[Path]) -> tuple[list[int], list[str]]:
    """Class index of each row, and the class names.

    Args:
        listing: The rows.
        lists: The lists of all splits, whose numbers count alike.

    Raises:
        UserError: If there are numbers, or no labels, and nothing names the classes.
    """
    if "label" not in listing.columns:
        return _folders_as_labels(listing)
    labels = listing.columns["label"]
    several = next((row for row, label in enumerate(labels) if SEPARATOR in label), None)
    if several is not None:
        raise UserError(
            f"{listing.place(several)}: the label {cut(labels[several])!r} has a {SEPARATOR}. If "
            "it separates several labels of a video set data.multi_label=true; if not, rename the "
            "class"
        )
    numbers = as_numbers(labels, listing.place)
    if numbers is None:
        names = sorted(set(labels))
        index = {name: i for i, name in enumerate(names)}
        return [index[label] for label in labels], names
    if re.fullmatch(r".*_test_split[0-9]+", listing.file.stem) and set(numbers) <= {0, 1, 2}:
        raise UserError(
            f"{listing.file} is HMDB51's list of one class, where 1, 2 and 0 mean training, test "
            "and unused: data=hmdb51 reads these lists"
        )
    classes = _find_classes(listing.file)
    if classes:

        def others() -> list[int]:
            columns = [read_list(file).columns.get("label", []) for file in lists]
            return numbers_among(chain.from_iterable(columns))

        return number_names(numbers, classes, str(listing.file), others), classes.names
    names_of: dict[int, set[str]] = {}
    for number, folder in zip(numbers, _folders(listing)):
        names_of.setdefault(number, set()).add(folder)
    found = set().union(*names_of.values())
    if (
        "" in found
        or any(len(names) > 1 for names in names_of.values())
        or (len(found) < len(names_of))
    ):
        raise _without_names(listing)
    index_of = {number: i for i, number in enumerate(sorted(names_of))}
    return [index_of[n] for n in numbers], [names_of[number].pop() for number in index_of]


def number_several(listing: Listing, lists: Sequence[Path]) -> tuple[np.ndarray, list[str]]:
    """0 or 1 of each class for each row, and the class names, where videos have any number of them.

    The names are those of a class file beside the list, which then has all of them; without one
    all that the list has, sorted.

    Args:
        listing: The rows. Labels of a video are separated by ``;``; an empty one means none.
        lists: The lists of all splits, whose numbers count alike.

    Returns:
        int32 ``[N, K]``, and K names.

    Raises:
        UserError: If a row is not as expected, a video is listed twice, or there are numbers and
            nothing names the classes.
    """
    if "label" not in listing.columns:
        raise UserError(
            f"{listing.file} has no labels, and data.multi_label=true needs them: add a column "
            f"of labels, several of a video with a {SEPARATOR} between them: run{SEPARATOR}jump"
        )
    _check_once(listing)
    rows, labels = [], []
    for row, text in enumerate(listing.columns["label"]):
        found = split_labels(text)
        told = f"{listing.place(row)}: the labels {cut(text)!r}"
        if "" in found:
            raise UserError(f"{told} have an empty one: remove the {SEPARATOR} too many")
        if len(set(found)) < len(found):
            raise UserError(f"{told} name {max(found, key=found.count)!r} twice: name it once")
        labels += found
        rows += [row] * len(found)
    if not labels:
        raise UserError(f"{listing.file}: no video has a label, so there is nothing to learn")
    classes = _find_classes(listing.file)
    numbers = as_numbers(labels, lambda i: listing.place(rows[i]))
    names = classes.names if classes else sorted(set(labels))
    if numbers is None:
        index = {name: i for i, name in enumerate(names)}
        odd = next((i for i, label in enumerate(labels) if label not in index), None)
        if classes and odd is not None:
            raise UserError(
                f"{listing.place(rows[odd])}: {cut(labels[odd])!r} is not one of the {len(index)} "
                f"classes of {classes.file}: correct the label, or add the class there"
            )
        places = [index[label] for label in labels]
    elif classes is None:
        raise _without_names(listing)
    else:

        def others() -> list[int]:
            columns = (read_list(f, multi_label=True).columns.get("label", []) for f in lists)
            return numbers_among(chain.from_iterable(map(split_labels, chain(*columns))))

        places = number_names(numbers, classes, str(listing.file), others)
    table = np.zeros((len(listing), len(names)), dtype=np.int32)
    table[rows, places] = 1
    return table, names


def _without_names(listing: Listing) -> UserError:
    return UserError(
        f"{listing.file} labels videos by number and nothing names the classes: put a file "
        f"{CLASS_FILES[0]} beside it, a class name per line in the order of the numbers"
    )


def split_labels(text: str) -> list[str]:
    """The labels in a field of a list; none where it is empty."""
    return [label.strip() for label in text.split(SEPARATOR)] if text.strip() else []


def _check_once(listing: Listing) -> None:
    """Refuses a video in two rows of a split: each would say that it has not the other's labels."""
    columns = [texts for kind, texts in listing.columns.items() if kind != "label"]
    first: dict[tuple[str, ...], int] = {}
    for row, key in enumerate(zip(*columns)):
        if (other := first.setdefault(key, row)) != row:
            raise UserError(
                f"{listing.place(row)}: {cut(key[0])!r} is listed already in line "
                f"{listing.lines[other]}. Give a video one row with all its labels, such as "
                f"run{SEPARATOR}jump"
            )


def _folders(listing: Listing) -> list[str]:
    return [os.path.basename(os.path.dirname(path)) for path in listing.columns["path"]]


def _folders_as_labels(listing: Listing) -> tuple[list[int], list[str]]:
    """Class index of each row of a list without labels, such as UCF101's of a test."""
    classes = _find_classes(listing.file)
    if classes is None:
        raise UserError(
            f"{listing.place(0)}: expected `path label`, got {cut(listing.columns['path'][0])!r} "
            "without a label. Paths alone are read beside a class file, such as UCF101's "
            "classInd.txt, that names their folders"
        )
    index = {name: i for i, name in enumerate(classes.names)}
    folders = _folders(listing)
    odd = next((row for row, folder in enumerate(folders) if folder not in index), None)
    if odd is not None:
        raise UserError(
            f"{listing.place(odd)}: no label, and the folder {folders[odd]!r} is not one of the "
            f"{len(index)} classes of {classes.file}"
        )
    return [index[folder] for folder in folders], classes.names


def _find_classes(listing: Path) -> Classes | None:
    """The class file beside a list, or in the folder above."""
    for folder in (listing.parent, listing.parent.parent):
        for name in CLASS_FILES:
            if (folder / name).is_file():
                return read_classes(read_text(folder / name), str(folder / name))
    return None
