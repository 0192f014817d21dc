from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold

from vivit_train.data.groups import NAMES_OF_RECORDINGS, folds, hold_out, keys_of, shared_recordings
from vivit_train.errors import UserError

names = st.lists(st.text("abc012", min_size=1, max_size=5), unique=True, min_size=1, max_size=40)
fractions = st.floats(0.01, 0.99)


def rounded(fraction: float, number: int) -> int:
    return min(max(1, int(fraction * number + 0.5)), number - 1)


@given(names, fractions, st.data())
def test_exactly_a_fraction_of_each_class_is_held_out(paths, fraction, data) -> None:
    labels = data.draw(st.lists(st.integers(0, 3), min_size=len(paths), max_size=len(paths)))
    held = hold_out(paths, labels, fraction)
    assert held <= set(paths)
    for label, number in Counter(labels).items():
        assert sum(k == label and path in held for path, k in zip(paths, labels)) == rounded(
            fraction, number
        )


@given(names, fractions, st.integers(0, 40))
def test_a_new_video_moves_at_most_the_one_at_the_border(paths, fraction, place) -> None:
    """Adding some videos moves at most as many, all in one direction, and of no other class."""
    others = [f"x{path}" for path in paths]
    labels = [0] * len(paths) + [1] * len(others)
    place = min(place, len(paths))
    before = hold_out(paths[:place] + others, labels[len(paths) - place :], fraction)
    after = hold_out(paths + others, labels, fraction)
    assert before & set(others) == after & set(others)
    left, came = before - after, (after - before) & set(paths[:place])
    assert not left or not came
    assert len(left | came) <= len(paths) - place
    assert hold_out(others[::-1] + paths[::-1], labels[::-1], fraction) == after


@given(
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 2)), min_size=1, max_size=60), fractions
)
def test_no_group_is_on_both_sides_and_no_side_is_empty(rows, fraction) -> None:
    keys, labels = [f"{key} of {label}" for key, label in rows], [label for _, label in rows]
    held = hold_out(keys, labels, fraction)
    for label in set(labels):
        groups = Counter(key for key, k in zip(keys, labels) if k == label)
        ours = groups.keys() & held
        assert (0 < len(ours) < len(groups)) if len(groups) > 1 else not ours
        # None of the others would bring the class nearer, but for the last one to train on.
        missing = rounded(fraction, groups.total()) - sum(groups[key] for key in ours)
        for key in groups.keys() - ours if len(groups) - len(ours) > 1 else ():
            assert abs(missing - groups[key]) >= abs(missing)


def test_groups_that_fit_come_before_larger_ones() -> None:
    sizes = {"seven": 7, "other": 7, "a": 2, "b": 2, "c": 2}
    keys = [key for key, size in sizes.items() for _ in range(size)]
    held = hold_out(keys, [0] * len(keys), 0.2)
    assert sum(sizes[key] for key in held) == 4


def test_a_group_of_several_classes_is_on_one_side() -> None:
    keys = [f"film {i // 6}" for i in range(120)]
    labels = [i % 3 for i in range(120)]
    held = hold_out(keys, labels, 0.2)
    assert len(held) == 4
    assert hold_out(["one film"] * 9, [0, 1, 2] * 3, 0.2) == set()


def test_keys_are_what_the_first_group_finds() -> None:
    paths = ["a/v_a_g01_c02.avi", "a/v_a_g01_c03.avi", "b/v_b_g02_c01.avi"]
    assert keys_of(paths, r"(v_.*_g\d+)_") == ["v_a_g01", "v_a_g01", "v_b_g02"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (r"(film\d+", r"data.group='\(film.*' is no regular expression: missing \)"),
        ("sourc", "'sourc' is neither a column of the list nor a regular expression with a group"),
        (r"film(\d*)_", r"finds no group in 2 of 3 paths: a/film_1.mp4, a/x.mp4. It must match"),
    ],
)
def test_a_group_that_is_none(pattern: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        keys_of(["a/film1_1.mp4", "a/film_1.mp4", "a/x.mp4"], pattern)


def ucf(first: int, count: int, clips: int = 6) -> list[str]:
    return [
        f"{k}/v_{k}_g{g:02}_c{c:02}.avi"
        for k in ("Archery", "Biking")
        for g in range(first, first + count)
        for c in range(clips)
    ]


SPLITS = {
    "ucf101": (ucf(1, 4), ucf(1, 2, 1), r"v_Archery_g01_c", 4),
    "numbers": ([f"a/film{f}_{i:04}.mp4" for f in range(4) for i in range(5)],
                ["a/film3_0009.mp4", "a/film7_0001.mp4"], "film3_", 2),
    "times": ([f"a/yt{v}_{s}_{s + 9}.mp4" for v in "abc" for s in range(5)],
              ["a/ytb_100_109.mp4"], "ytb", 1),
    "folders": ([f"film {f}/{i}.mp4" for f in "abc" for i in range(5)], ["film c/9.mp4"],
                "film c", 1),
}  # fmt: skip


@pytest.mark.parametrize(("train", "others", "first", "number"), SPLITS.values(), ids=SPLITS)
def test_names_tell_recordings_on_both_sides(train, others, first, number) -> None:
    labels = [0 if path < "B" or path[0] != "B" else 1 for path in train]
    found = shared_recordings((train, labels), others)
    assert found is not None
    pattern, shared, evaluated = found
    assert shared[0] == first
    assert evaluated == number
    # What it recommends keeps them apart.
    keys = dict(zip([*train, *others], keys_of([*train, *others], pattern)))
    held = hold_out(list(keys.values()), [*labels, *(0 for _ in others)], 0.2)
    sides = [{keys[path] for path in keys if (keys[path] in held) == side} for side in (0, 1)]
    assert not sides[0] & sides[1]


@pytest.mark.parametrize(
    ("train", "others"),
    [
        (ucf(1, 4), ucf(5, 2)),  # split by recording
        ([f"a/rising_{i:03}.mp4" for i in range(20)], ["a/rising_100.mp4"]),
        ([f"a/{i:06}.mp4" for i in range(20)], ["a/000100.mp4"]),
        ([f"a/{i}x.mp4" for i in range(20)], ["a/77x.mp4"]),
        ([f"a/x{i}_{i}.mp4" for i in range(20)], ["a/x3_77.mp4"]),  # a recording for each clip
        ([f"a/{k}_{i}.mp4" for k in ("IMG", "VID") for i in range(20)], ["a/VID_77.mp4"]),
    ],
)
def test_names_that_tell_no_shared_recordings(train, others) -> None:
    labels = [0 if path[0] == "a" else 1 for path in train]
    assert shared_recordings((train, labels), others) is None


def test_what_is_recommended_can_be_typed() -> None:
    for pattern in NAMES_OF_RECORDINGS:
        assert not set("'{}$,") & set(pattern.removesuffix("$"))


@given(names, st.integers(2, 6), st.data())
def test_folds_are_equal_parts_of_each_class(paths, num_folds, data) -> None:
    labels = data.draw(st.lists(st.integers(0, 3), min_size=len(paths), max_size=len(paths)))
    several = {k for k, number in Counter(labels).items() if number > 1}
    if sum(k in several for k in labels) < num_folds:
        with pytest.raises(UserError, match=f"data.num_folds={num_folds} needs as many videos"):
            folds(paths, labels, num_folds)
        return
    found = folds(paths, labels, num_folds)
    assert found.keys() == set(paths)  # each is in one fold
    for label in several:
        sizes = Counter(found[path] for path, k in zip(paths, labels) if k == label)
        counts = [sizes[fold] for fold in range(num_folds)]
        assert max(counts) - min(counts) <= 1
    assert {found[path] for path, k in zip(paths, labels) if k not in several} <= {-1}
    assert folds(paths[::-1], labels[::-1], num_folds) == found


def test_folds_of_whole_groups_are_as_even_as_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 8, 60)
    keys = [f"film{i}" for i, size in enumerate(sizes) for _ in range(size)]
    labels = [i % 3 for i, size in enumerate(sizes) for _ in range(size)]
    ours = folds(keys, labels, 5)
    theirs = {}
    split = StratifiedGroupKFold(5).split(np.zeros(len(keys)), labels, keys)
    for fold, (_, held) in enumerate(split):
        theirs |= {keys[row]: fold for row in held}
    spread = []
    for found in (ours, theirs):
        counts = np.zeros((5, 3))
        for key, label in zip(keys, labels):
            counts[found[key], label] += 1
        spread.append(counts.std(axis=0).sum())
    assert spread[0] <= spread[1]
