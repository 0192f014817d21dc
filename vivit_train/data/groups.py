"""Videos that stay together when a data set is split: which they are, and which are held out."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from vivit_train.class_names import shorten
from vivit_train.errors import UserError
from vivit_train.seeds import derive_seed

# Where a file's name may tell the recording that a clip was cut from, as values of data.group.
NAMES_OF_RECORDINGS = (
    r"([^/]*[^/\d])\d+\.\w+$",  # all but the last number: v_Archery_g01_c02.avi, film1_0003.mp4
    r"([^/]+)_\d+_\d+\.\w+$",  # all but the last two: a start and an end
    r"([^/]+)/[^/]+$",  # the folder
)
# Names that tell recordings have at least so many for each class, and clips for each recording.
LEAST_RECORDINGS, LEAST_CLIPS = 3, 2


def keys_of(paths: Sequence[str], pattern: str) -> list[str]:
    """What the first group of a regular expression finds in each path.

    Raises:
        UserError: If the expression is none, or finds nothing in some of the paths.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UserError(f"data.group={pattern!r} is no regular expression: {error}") from None
    if not expression.groups:
        raise UserError(
            f"data.group={pattern!r} is neither a column of the list nor a regular expression "
            r"with a group in parentheses, such as '(.*_g\d+)_'"
        )
    keys = [found[1] if (found := expression.search(path)) else None for path in paths]
    strangers = [path for path, key in zip(paths, keys) if not key]
    if strangers:
        raise UserError(
            f"data.group={pattern!r} finds no group in {len(strangers)} of {len(paths)} paths: "
            f"{shorten(strangers, 3)}. It must match every path, relative to data.root"
        )
    return [key for key in keys if key]


def hold_out(keys: Sequence[str], labels: Sequence[int], fraction: float) -> set[str]:
    """The groups to hold out for validation.

    Of each class ``fraction`` of its rows is held out, rounded, and at least one row and one group
    on each side where the class has two. Groups come in the order of a hash of their key. First
    those are taken that fit, then those that bring the classes nearer to their numbers, then one
    for each class that has none yet.

    So where each row is a group, exactly the first of each class's order are held out. A new row
    moves at most one other of its class, the one at the border, and none of another class.

    Args:
        keys: The group of each row.
        labels: The class of each row.
        fraction: Of the rows, between 0 and 1.

    Returns:
        Keys. A class of one group is not held out.
    """
    groups: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for key, label in zip(keys, labels):
        groups[key][label] += 1
    rows = Counter(labels)
    # Rows still to hold out, and groups left for training, of each class.
    missing = {k: min(max(1, int(fraction * n + 0.5)), n - 1) for k, n in rows.items()}
    left = Counter(label for group in groups.values() for label in group)
    held: set[str] = set()
    without = set(rows)

    def fits(group: Counter[int]) -> bool:
        return all(n <= missing[k] for k, n in group.items())

    def gains(group: Counter[int]) -> bool:
        return sum(abs(missing[k]) - abs(missing[k] - n) for k, n in group.items()) > 0

    def lacks(group: Counter[int]) -> bool:
        return not without.isdisjoint(group)

    by_place = sorted(groups, key=lambda key: derive_seed("split", key))
    by_size = sorted(by_place, key=lambda key: groups[key].total())
    for order, wants in ((by_place, fits), (by_size, gains), (by_size, lacks)):
        for key in order:
            group = groups[key]
            if key not in held and wants(group) and all(left[k] > 1 for k in group):
                held.add(key)
                without -= group.keys()
                left.subtract(group.keys())
                for k, n in group.items():
                    missing[k] -= n
    return held


def folds(keys: Sequence[str], labels: Sequence[int], num_folds: int) -> dict[str, int]:
    """The groups in parts of which each is held out in turn: cross-validation.

    The largest groups come first, those of a size in the order of a hash of their key. Each goes
    to the fold that has the fewest rows of its classes. So where each row is a group, the folds
    differ by at most one row of each class. Neither the order of rows nor their place matters.

    Args:
        keys: The group of each row.
        labels: The class of each row.
        num_folds: How many.

    Returns:
        Key -> number of its fold, from 0 on; -1 of a group that is the only one of a class, and is
        never held out.

    Raises:
        UserError: If there are fewer groups than folds.
    """
    groups: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for key, label in zip(keys, labels):
        groups[key][label] += 1
    per_class = Counter(label for group in groups.values() for label in group)
    found = {key: -1 for key, group in groups.items() if min(per_class[k] for k in group) == 1}
    others = sorted(groups.keys() - found.keys(), key=lambda key: derive_seed("split", key))
    if len(others) < num_folds:
        raise UserError(
            f"data.num_folds={num_folds} needs as many videos or groups of classes that have "
            f"several, and there are {len(others)}: lower it"
        )
    counts: list[Counter[int]] = [Counter() for _ in range(num_folds)]
    for key in sorted(others, key=lambda key: -groups[key].total()):
        group = groups[key]

        def load(fold: int, group: Counter[int] = group) -> tuple[int, int]:
            of_its_classes = sum(n * counts[fold][k] for k, n in group.items())
            return of_its_classes, counts[fold].total()

        found[key] = min(range(num_folds), key=load)
        counts[found[key]] += group
    return found


def shared_recordings(
    train: tuple[Sequence[str], Sequence[int]], others: Iterable[str]
) -> tuple[str, list[str], int] | None:
    """Recordings whose clips are both trained and evaluated on, as far as file names show it.

    Names tell recordings where they are fewer than the clips, and several of each class.

    Args:
        train: The paths and the classes of the training videos.
        others: Paths of videos that the model is evaluated on.

    Returns:
        The ``data.group`` that keeps them apart, the recordings on both sides, and the number of
        all recordings that are evaluated on; ``None`` where nothing is shared.
    """
    paths, labels = train
    others = list(others)
    for pattern in NAMES_OF_RECORDINGS:
        expression = re.compile(pattern)
        found = [expression.search(path) for path in paths]
        recordings = {(label, hit[1]) for label, hit in zip(labels, found) if hit}
        hits = sum(hit is not None for hit in found)
        if len(recordings) < LEAST_RECORDINGS * len(set(labels)) or (
            hits < max(LEAST_CLIPS * len(recordings), 0.9 * len(paths))
        ):
            continue
        evaluated = {hit[1] for path in others if (hit := expression.search(path))}
        shared = evaluated & {key for _, key in recordings}
        return (pattern, sorted(shared), len(evaluated)) if shared else None
    return None
