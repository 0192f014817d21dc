import pytest

from vivit_train.class_names import (
    check_heads,
    find_classes,
    look_alikes,
    mirrored_pair,
    shorten,
)
from vivit_train.errors import UserError


def test_classes_are_matched_by_name_never_by_index() -> None:
    assert find_classes(["b", "a"], ["a", "b", "c"], "the model") == [1, 0]
    assert find_classes(["Blowing_leaves"], ["archery", "blowing leaves"], "the model") == [1]


def test_heads_of_the_model_are_those_of_the_data_set() -> None:
    heads = {"noun": 3, "verb": 2}
    check_heads([2, 0, 1, 4, 3], heads, "kitchen")
    message = "rows 0 to 2 of the model are not the 3 classes of the head noun of kitchen, "
    with pytest.raises(UserError, match=message):
        check_heads([0, 1, 3, 2, 4], heads, "kitchen")


def test_names_that_differ_only_in_case_are_told_apart() -> None:
    assert find_classes(["A", "a"], ["a", "A"], "the model") == [1, 0]


def test_classes_that_do_not_match_are_named() -> None:
    with pytest.raises(UserError, match=r"1 of the data set's 2 classes.*: zebra\. Unmatched.*: b"):
        find_classes(["a", "zebra"], ["a", "b"], "the model")


def test_names_that_look_alike() -> None:
    names = ["Walk", "run", "walk", "run fast", "run_fast", "jump"]
    assert look_alikes(names) == ["'Walk', 'walk'", "'run fast', 'run_fast'"]


def test_long_lists_are_cut() -> None:
    assert shorten([]) == "none"
    assert shorten(["a", "b"]) == "a, b"
    assert shorten([str(i) for i in range(10)]) == "0, 1, 2, 3, 4, 5, 6, 7 and 2 more"


@pytest.mark.parametrize(
    ("names", "pair"),
    [
        (["still", "moving_left", "moving_right"], ("moving_left", "moving_right")),
        (["Turn Left", "Turn Right"], ("Turn Left", "Turn Right")),
        (["turnLeft", "turn right"], ("turnLeft", "turn right")),
        (["push leftwards", "push rightwards"], ("push leftwards", "push rightwards")),
        (
            ["from left to right", "from right to left"],
            ("from left to right", "from right to left"),
        ),
        (["clockwise", "anti-clockwise"], ("clockwise", "anti-clockwise")),
        (["spin_cw", "spin_ccw"], ("spin_cw", "spin_ccw")),
        (["turn left", "turn around"], None),
        (["up and down", "sideways", "bright", "leftovers", "rightly"], None),
        (["links", "rechts"], None),
    ],
)
def test_classes_that_a_mirror_makes_of_each_other(
    names: list[str], pair: tuple[str, str] | None
) -> None:
    assert mirrored_pair(names) == pair
