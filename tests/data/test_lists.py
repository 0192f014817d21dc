from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vivit_train.data.lists import COLUMNS, INSTRUCTIONS, read_list
from vivit_train.errors import UserError

ROWS = {"path": ["a 1.mp4", "c.mp4"], "label": ["b", "d"]}


def read(folder: Path, text: str) -> dict[str, list[str]]:
    path = folder / "train.csv"
    path.write_text(text, encoding="utf-8")
    return read_list(path).columns


@pytest.mark.parametrize(
    "text",
    [
        "path,label\na 1.mp4,b\nc.mp4,d\n",
        "a 1.mp4\tb\nc.mp4\td\n",
        "a 1.mp4;b\nc.mp4;d\n",
        "a 1.mp4 b\nc.mp4 d\n",
        "path label\na 1.mp4 b\nc.mp4 d\n",
        "\ufeffa 1.mp4, b\r\n\r\nc.mp4, d\r\n",
        '"a 1.mp4",b\nc.mp4,d\n',
        "label,path\nb,a 1.mp4\nd,c.mp4\n",
        ",video_path,duration,Class\n0,a 1.mp4,3.1,b\n1,c.mp4,2,d\n",
        "Path,Label,label id\na 1.mp4,b,0\nc.mp4,d,1\n",
        "label,label_name,file_name\n0,b,a 1.mp4\n1,d,c.mp4\n",
        "clip_name,clip_path,label\na,a 1.mp4,b\nc,c.mp4,d\n",
    ],
)
def test_lists_in_every_separator_and_order(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, text) == ROWS


@pytest.mark.parametrize("path", COLUMNS["path"])
@pytest.mark.parametrize("label", COLUMNS["label"])
def test_every_known_header(tmp_path: Path, path: str, label: str) -> None:
    assert read(tmp_path, f"{path},{label}\na 1.mp4,b\nc.mp4,d\n") == ROWS


def test_labels_of_several_words(tmp_path: Path) -> None:
    columns = read(tmp_path, "v1.mp4 walking\nv 2.mp4 arm wrestling\nv3.mp4  high jump\n")
    assert columns["path"] == ["v1.mp4", "v 2.mp4", "v3.mp4"]
    assert columns["label"] == ["walking", "arm wrestling", "high jump"]
    assert read(tmp_path, "folder/a b\n") == {"path": ["folder/a"], "label": ["b"]}


def test_splits(tmp_path: Path) -> None:
    columns = read(tmp_path, "split,label,path\ntrain,b,1.mp4\nval,c,2.mp4\n")
    assert columns == {"path": ["1.mp4", "2.mp4"], "label": ["b", "c"], "split": ["train", "val"]}
    assert read(tmp_path, "1.mp4,b,train\n2.mp4,c,Test\n")["split"] == ["train", "Test"]


def test_segments(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("path,start,end,label\na.mp4,0,5.5,x\na.mp4,0:01:05,1:10,y\n")
    assert read_list(tmp_path / "a.csv").segments() == [(0, 5.5), (65, 70)]
    (tmp_path / "a.csv").write_text("a.mp4,x\n")
    assert read_list(tmp_path / "a.csv").segments() is None


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ("5,5", "line 2: a segment must end after it starts, got 5 to 5 seconds"),
        ("7,1:05.5x", "line 2: '1:05.5x' is no time in seconds or hours:minutes:seconds"),
        ("-1,5", "line 2: '-1' is no time"),
        (",", "line 2: '' is no time"),
    ],
)
def test_segments_that_are_none(tmp_path: Path, times: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(f"path,start,end,label\na.mp4,{times},x\n")
    with pytest.raises(UserError, match=rf"a\.csv, {message}"):
        read_list(tmp_path / "a.csv").segments()


def test_what_was_understood(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(",file_name,fps,Label\n0,a.mp4,25,x\n")
    told = "columns path (file_name), label; ignored: one without a name, fps"
    assert read_list(path).understood == told
    path.write_text("a.mp4 x\n")
    assert read_list(path).understood == "path, label without a header"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; expected a line `path label` per video"),
        (",,\n,,\n", "is empty; expected a line `path label` per video"),
        # Rows of which one is not as the others.
        (
            "v1.mp4,Lifting up, then letting drop\nv2.mp4,Poking\n",
            "line 2: 2 fields, but line 1 has 3: v2.mp4, Poking",
        ),
        ("v1.mp4,Poking\nv2.mp4,a, b\n", "line 2: 3 fields, but line 1 has 2"),
        ("v1.mp4,a, b\nv2.mp4,c, d\n", "line 1: 3 fields, expected path and label"),
        ("v1.mp4,0,2\nv2.mp4,1\n", "line 2: 2 fields, but line 1 has 3"),
        ("v1.mp4,a\nv2.mp4 b\n", "line 2: 1 fields, but line 1 has 2"),
        ("v1.mp4 a\nv2.mp4,b\n", "line 2: 1 fields, but line 1 has 2"),
        ("path,label,split\n1.mp4,a,train\n2.mp4,b\n", "line 3: 2 fields, but the header has 3"),
        ("path,label\n1.mp4,a, b\n", "line 2: 3 fields, but the header has 2"),
        ("v1.mp4 0 2\n", "line 1: 2 numbers follow the path, '0 2'"),
        ("v1.mp4 120 3\n", "line 1: 2 numbers follow the path, '120 3'"),
        ("a.mp4 b.mp4 c\n", "line 1: it is unclear where the path ends and the label begins"),
        ("frames/v1 120 3\n", "line 1: it is unclear where the path ends"),
        ("v1.mp4,\n", "line 1: expected `path label`, the label is empty"),
        (",a\n", "line 1: expected `path label`, the path is empty"),
        ("path,label\nv1.mp4,a\n,b\n", "line 3: expected `path label`, the path is empty"),
        ('"v1".mp4\twalk\n', "line 1: quotes that are not as in a csv"),
        # Headers.
        ("path,who,when\n1.mp4,b,train\n", "line 1: the columns are path, who, when; none names "
         "the label: expected one of label_name"),
        ("url,label\nx,b\n", "the columns are url, label; none names the path"),
        ("path,label,label\n1.mp4,a,b\n", "the column label is there twice"),
        ("path,label,class\n1.mp4,a,x\n2.mp4,b,x\n", "both label and class may be the label"),
        ("path,label,start\n1.mp4,a,3\n", "a segment needs both start and end"),
        ("path,label\n", "has a header and no row"),
        ("youtube_id,time_start,time_end,split\nA,1,11,test\n", "these are Kinetics' annotations"),
    ],
)  # fmt: skip
def test_lists_that_are_not_understood(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=rf"train\.csv.*{message}"):
        read(tmp_path, text)


@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_columns_that_cannot_be_followed(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"line 1: .*: {name} cannot be followed"):
        read(tmp_path, f"path,label,{name}\n1.mp4,a,1\n")


@given(
    st.lists(
        st.lists(
            st.sampled_from(["a.mp4", "b c.mkv", "run", "1", "path", "label", "", '"x', "é", "\0"]),
            max_size=4,
        ).flatmap(lambda row: st.sampled_from(",\t ;").map(lambda d: d.join(row))),
        max_size=6,
    )
)
@settings(max_examples=400, deadline=None)
def test_any_rows_are_read_whole_or_refused(
    tmp_path_factory: pytest.TempPathFactory, rows: list[str]
) -> None:
    """Nothing is dropped: each line that is not empty is a row, or the header."""
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_text("\n".join(rows))
    try:
        listing = read_list(path)
    except UserError:
        return
    full = [i for i, row in enumerate(rows, start=1) if row.strip("\t ,;")]
    assert listing.lines in (full, full[1:])
    assert all(len(column) == len(listing) for column in listing.columns.values())
    assert all(listing.columns["path"])
