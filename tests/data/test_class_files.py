from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vivit_train.data.class_files import Classes, as_numbers, number_names, read_classes
from vivit_train.errors import UserError

NAMES = ["abseiling", "air drumming"]


def nothing() -> list[int]:
    return []


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("abseiling\nair drumming\n", None),
        ("abseiling\nair drumming\n\n\n", None),
        ("id,name\n0,abseiling\n1,air drumming\n", 0),
        ("1,air drumming\n0,abseiling\n", 0),
        ("0 abseiling\n1 air drumming\n", 0),
        ("1 abseiling\n2 air drumming\n", 1),
        ("2 air drumming\n1 abseiling\n", 1),
        ("abseiling,0\nair drumming,1\n", 0),
        ("name\tindex\nabseiling\t0\nair drumming\t1\n", 0),
        ('0,"abseiling"\n1, air drumming\n', 0),
    ],
)
def test_every_form_of_class_file(text: str, first: int | None) -> None:
    assert read_classes(text, "classes.txt") == Classes(NAMES, first, "classes.txt")


def test_names_that_begin_with_numbers_or_hold_commas() -> None:
    for names in (["100 m sprint", "400 m sprint", "long jump"], ["Lifting, then dropping", "b"]):
        assert read_classes("\n".join(names), "c").names == names
    assert read_classes('0,"a, ""b"""\n1,c', "c").names == ['a, "b"', "c"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; expected a class name per line"),
        ("\n \n", "is empty; expected a class name per line"),
        ("abseiling\n\nair drumming\n", "line 2 is empty, and it is unclear if it counts"),
        ("\nabseiling\nair drumming\n", "line 1 is empty"),
        ("name\nabseiling\n", "line 1: 'name' reads like a header"),
        ("foo,bar\n0,a\n1,b\n", "line 1: 'foo,bar' has no number beside the name"),
        ("id,name\n0,a\nb\n", "line 3: 'b' has no number"),
        ("1 a\nb\n3 c\n", "line 2: 'b' has no number"),
        ("0,a\n2,b\n", "expected each number from 0 or 1 on once, got 0, 2"),
        ("0,a\n0,b\n", "expected each number from 0 or 1 on once, got 0, 0"),
        ("5,a\n6,b\n", "expected each number from 0 or 1 on once, got 5, 6"),
        ("a\nb\na\n", "has the class 'a' twice"),
        ("a\tb\nc\td\n", "expected a name per line, or a number and a name: got 'a\\\\tb'"),
        ("id,name\na\n", "expected a name per line, or a number and a name"),
    ],
)
def test_class_files_that_are_none(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_classes(text, "classes.txt")


def test_labels_are_numbers_or_names() -> None:
    assert as_numbers(["1", "0", "002"], str) == [1, 0, 2]
    assert as_numbers(["run", "²", "100 m"], str) is None


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["0", "run"], r"line 1: the label 'run' is a name, but '0' \(line 0\) is a number"),
        (["0", "²"], r"line 1: the label '²' is a name, but '0' \(line 0\) is a number"),
        (["0", "-1"], "line 1: the label '-1' is neither a name nor the number of a class"),
        (["3.2", "4.5"], "line 0: the label '3.2' is neither a name nor the number of a class"),
        (["0", "1" * 6000], r"line 1: the label '1{120}\.\.\.' is neither"),
    ],
)
def test_labels_that_are_neither(labels: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        as_numbers(labels, lambda i: f"line {i}")


def test_numbers_from_0_or_from_1() -> None:
    lines, numbered = Classes(["a", "b", "c"], None, "f"), Classes(["a", "b", "c"], 1, "f")
    assert number_names([0, 2], lines, "l", nothing) == [0, 2]
    assert number_names([1, 3], lines, "l", nothing) == [0, 2]  # no class 3 if the first is 0
    assert number_names([1, 2], lines, "l", lambda: [0]) == [1, 2]  # as another split shows
    assert number_names([1, 2], lines, "l", lambda: [3]) == [0, 1]
    assert number_names([1, 2], numbered, "l", nothing) == [0, 1]
    with pytest.raises(UserError, match=r"l: labels begin at 1, and f does not say .*, `1,a`"):
        number_names([1, 2], lines, "l", nothing)
    with pytest.raises(UserError, match="l has label 0 but f names only 3 classes, 1 to 3"):
        number_names([0, 2], numbered, "l", nothing)
    with pytest.raises(UserError, match="l has label 3 but f names only 3 classes, 0 to 2"):
        number_names([0, 3], lines, "l", nothing)


@given(
    st.sampled_from(["0,run 1,jump", "1\trun 2\tjump", "run,0 jump,1", "id,name 0,run 1,jump"]),
    st.integers(0, 3),
    st.lists(st.sampled_from(["run", "sit", "0", "1", "2", ",", "\t", " ", "id", "name", '"', ""])),
)
@settings(max_examples=500, deadline=None)
def test_no_line_changes_what_the_others_mean(base: str, place: int, pieces: list[str]) -> None:
    lines = base.split(" ")
    before = read_classes("\n".join(lines), "c")
    lines.insert(place, "".join(pieces))
    with suppress(UserError):
        after = read_classes("\n".join(lines), "c")
        found = dict(enumerate(after.names, start=after.first or 0))
        expected = dict(enumerate(before.names, start=before.first or 0))
        assert found | expected == found
