from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vivit_train.data.tables import read_rows, read_table, read_text, seconds, to_text
from vivit_train.errors import UserError


def test_text_of_any_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("\ufeffé\r\nb\rc\n".encode())
    assert read_text(path) == "é\nb\nc\n"
    with pytest.raises(UserError, match=r"nothing\.csv cannot be read: No such file"):
        read_text(tmp_path / "nothing.csv")


@pytest.mark.parametrize(
    ("encoding", "place"),
    [
        ("cp1252", "byte 0xe9 at 19, line 2"),
        ("utf-16", "byte 0xff at 0, line 1"),
        ("utf-16-le", "byte 0x00 at 1, line 1"),
        ("gb18030", "byte 0xa8 at 19, line 2"),
    ],
)
def test_other_encodings_are_refused(encoding: str, place: str) -> None:
    content = "v.mp4,run\nv.mp4,café\n".encode(encoding)
    with pytest.raises(
        UserError, match=rf"a\.csv is not text in UTF-8 \({place}\): save it as UTF"
    ):
        to_text(content, "a.csv")


def test_rows_have_their_lines() -> None:
    text = 'a , "b, c",d\n\n,,\n"x ""y""",\u2028,z\n'
    found = [(1, ["a", "b, c", "d"]), (4, ['x "y"', "", "z"])]
    assert list(read_rows(text, "a.csv")) == found
    assert list(read_rows("a, b\tc", "a.csv", "\t")) == [(1, ["a, b", "c"])]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('a,b\n"c,d\ne,f\n', "line 2: quotes that are not as in a csv"),
        ('a,b\n"c,d\ne",f\n', "line 2: a quote opens and is not closed in this line"),
        ('"a".mp4,b\n', "line 1: quotes that are not as in a csv .*Put quotes around the whole"),
        (f"a,b\n{'x' * 200_000},c\n", "line 2: too long"),
    ],
)
def test_quotes_never_join_lines(text: str, message: str) -> None:
    with pytest.raises(UserError, match=rf"a\.csv, {message}"):
        list(read_rows(text, "a.csv"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; expected a first line"),
        ("a,b,a\n", "the column a is there twice"),
        ("a,b\n1,2\n3\n", r"line 3: 1 fields, but the header has 2 \(a, b\): got 3\. A field"),
        ("a,b\n1,2,3\n", "line 2: 3 fields, but the header has 2"),
    ],
)
def test_a_table_has_a_field_for_each_column(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text("x,y\n1,2\n")
    assert list(read_table(path)) == [(2, {"x": "1", "y": "2"})]
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        list(read_table(path))


def test_seconds() -> None:
    times = {"62.5": 62.5, "0": 0, "1:02.5": 62.5, "00:01:02.50": 62.5, "10:00:00": 36000}
    assert {text: seconds(text) for text in times} == times


@pytest.mark.parametrize(
    "text",
    ["", "-1", "nan", "inf", "1e3", "1:2:3:4", "1,5", "²", "1 2", "9" * 6000, "12:3x"],
)
def test_times_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="is no time in seconds or hours:minutes:seconds"):
        seconds(text)


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_rows_or_one_line(content: bytes) -> None:
    with suppress(UserError):
        list(read_rows(to_text(content, "a.csv"), "a.csv"))
