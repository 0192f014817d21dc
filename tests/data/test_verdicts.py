import json
from pathlib import Path

import pytest

from vivit_train.data.records import Records
from vivit_train.data.verdicts import FILE_NAME, Verdict, VerdictFile, Verdicts, read_verdicts
from vivit_train.errors import UserError


def write_verdicts(root: Path, *verdicts: Verdict) -> None:
    lines = "".join(json.dumps(vars(verdict)) + "\n" for verdict in verdicts)
    (root / FILE_NAME).write_text(lines)


def test_a_file_that_was_cut_off_is_taken_up(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    file = VerdictFile(path)
    file.add(Verdict("a\udcff.mp4", "ok"))
    file.add(Verdict("b.mp4", "ok"))
    file.close()
    path.write_bytes(path.read_bytes()[:-9] + b"\xff")
    file = VerdictFile(path)
    assert list(file.verdicts) == ["a\udcff.mp4"]
    file.add(Verdict("c.mp4", "missing", "no such file"))
    file.add(Verdict("a\udcff.mp4", "unreadable"))
    file.close()
    verdicts = read_verdicts(path)
    assert {name: v.verdict for name, v in verdicts.items()} == {
        "a\udcff.mp4": "unreadable",
        "c.mp4": "missing",
    }
    with path.open("a") as lines:
        lines.write('{"video": "d.mp4", "verdict": "ok", "of_a_later_version": 1}\n[1]\nnull\n')
    assert list(read_verdicts(path)) == ["a\udcff.mp4", "c.mp4", "d.mp4"]


def test_verdicts_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be written to .* --output, .*data.verdicts=FILE"):
        VerdictFile(tmp_path / "no folder" / "file.jsonl")


def test_stale_verdicts_do_not_count(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.mp4").write_bytes(b"x")
    status = (tmp_path / "a.mp4").stat()
    same = {"size": status.st_size, "mtime": status.st_mtime_ns}
    write_verdicts(
        tmp_path,
        Verdict("a.mp4", "unreadable", **same),
        Verdict("b.mp4", "unreadable", size=5, mtime=same["mtime"]),
        Verdict("c.mp4", "missing"),
    )
    records = Records(tmp_path, ["a.mp4", "b.mp4", "c.mp4", "d.mp4"], [0] * 4)
    verdicts = Verdicts("auto", tmp_path, "auto")
    assert list(verdicts.find(records)) == [0, 2]
    assert verdicts.counts(records, 1) == {"missing": 1, "unreadable": 1, "unchecked": 2}
    assert list(verdicts.find(records, lambda v: v.verdict == "missing")) == [2]
    assert list(Verdicts("auto", tmp_path, "decord").find(records)) == []
    assert Verdicts(None, tmp_path, "auto").counts(records, 1) is None
    (tmp_path / "c.mp4").write_bytes(b"x")
    assert list(verdicts.find(records)) == [0]


def test_half_of_a_truncated_video_is_enough() -> None:
    assert Verdict("a", "truncated", frames=15, promised=30).usable()
    assert not Verdict("a", "truncated", frames=14, promised=30).usable()


def test_a_verdict_file_that_is_not_there(tmp_path: Path) -> None:
    assert Verdicts("auto", tmp_path, "auto").path is None
    with pytest.raises(UserError, match=r"data.verdicts=nowhere is not a file: expected auto"):
        Verdicts("nowhere", tmp_path, "auto")


def test_a_link_in_the_place_of_the_verdicts_is_not_followed(tmp_path: Path) -> None:
    """`vivit check` would add a line to any file of the user's."""
    victim, root = tmp_path / ".bashrc", tmp_path / "from strangers"
    victim.write_text("alias ll='ls -l'\n")
    root.mkdir()
    (root / FILE_NAME).symlink_to(victim)
    with pytest.raises(UserError, match=r"is a link to .*bashrc: .* nothing is written to it"):
        VerdictFile(root / FILE_NAME)
    assert victim.read_text() == "alias ll='ls -l'\n"


@pytest.mark.parametrize(
    "values",
    [
        {"video": 1}, {"video": ["a"]}, {"verdict": "great"}, {"verdict": None}, {"frames": "x"},
        {"promised": [1]}, {"size": 1.5}, {"quick": "yes"}, {"decoder": {}}, {"mtime": []},
    ],
)  # fmt: skip
def test_verdicts_of_other_types_do_not_count(values: dict, tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    lines = [vars(Verdict("a.mp4", "ok")) | values, vars(Verdict("b.mp4", "ok"))]
    path.write_text("[" * 10**5 + "\n" + "".join(json.dumps(line) + "\n" for line in lines))
    assert list(read_verdicts(path)) == ["b.mp4"]
