import csv
import json
import os
import signal
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.timeline.conftest import CLASSES, MOTIONS, Blinkered, Seer, write_film
from vivit_train.video.decode import VideoReader
from vivit_train.video.write import write_video

# The classifier of these tests knows still pictures.
STEPS = ("--window", "400ms", "--every", "0.1s", "--still", "0")


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", ["film.mp4", "film.mkv", "uneven.mp4"])
def test_motions_are_found_when_they_are(
    timeline, films: dict[str, Path], tmp_path: Path, name: str
) -> None:
    place = tmp_path / "out.csv"
    code, out, _ = timeline(films[name], *STEPS, "--timeline", place)
    rows = read_csv(place)
    assert (code, out) == (0, f"4 rows, until 4.00 s: {place}\n")
    assert [row["class"] for row in rows] == [motion for _, motion in MOTIONS]
    for row, (end, _) in zip(rows, MOTIONS):
        assert float(row["end"]) == pytest.approx(end, abs=0.15)
    starts, ends = ([float(row[key]) for row in rows] for key in ("start", "end"))
    assert starts == [0, *ends[:-1]]


def test_text_json_and_files_say_the_same(timeline, films: dict[str, Path], tmp_path: Path) -> None:
    film = films["film.mp4"]
    _, text, err = timeline(film, *STEPS)
    assert err == ""
    _, out, _ = timeline(film, *STEPS, "--json")
    for suffix in ("json", "srt"):
        assert timeline(film, *STEPS, "--timeline", tmp_path / f"a.{suffix}")[0] == 0
    rows = json.loads(out)
    assert json.loads((tmp_path / "a.json").read_text()) == rows
    lines, blocks = text.splitlines(), (tmp_path / "a.srt").read_text().split("\n\n")[:-1]
    assert len(lines) == len(blocks) == len(rows) == 4
    for line, block, row in zip(lines, blocks, rows):
        assert line.endswith(f"{row['probability']:.4f}  {row['class']}")
        assert block.split("\n")[2] == f"{row['class']} {row['probability']:.0%}"


@pytest.mark.parametrize(
    ("name", "every"),
    [("film.mp4", "0.1"), ("film.mkv", "0.1"), ("uneven.mp4", "0.1"), ("film.mp4", "0.4")],
)
def test_still_pictures_have_no_class(
    timeline, films: dict[str, Path], tmp_path: Path, name: str, every: str
) -> None:
    """By default, of a classifier that would give them one."""
    words = (films[name], "--window", "400ms", "--every", every, "--timeline", tmp_path / "a.csv")
    code, out, err = timeline(*words, classifier=Blinkered())
    assert (code, out[:7]) == (0, "2 rows,")
    before, _, after = err.partition("stands still for ")
    assert before == "the picture "
    assert float(after.split()[0]) == pytest.approx(2, abs=0.09)
    assert after.endswith(" s, which have no class (--still 0 gives them one)\n")
    rows = read_csv(tmp_path / "a.csv")
    assert [row["class"] for row in rows] == ["right", "left"]
    times = [float(row[key]) for row in rows for key in ("start", "end")]
    assert times == pytest.approx([0, 1, 2.04, 3], abs=0.09)


def test_still_pictures_are_in_no_file(timeline, films: dict[str, Path], tmp_path: Path) -> None:
    """Unless they are asked for."""
    words = (films["film.mp4"], *STEPS[:4])
    _, out, _ = timeline(*words, "--json", "--still", "0", classifier=Blinkered())
    assert sum(row["end"] - row["start"] for row in json.loads(out)) == pytest.approx(4)
    for suffix in ("json", "srt"):
        timeline(*words, "--timeline", tmp_path / f"a.{suffix}", classifier=Blinkered())
    rows = json.loads((tmp_path / "a.json").read_text())
    assert [row["class"] for row in rows] == ["right", "left"]
    assert (tmp_path / "a.srt").read_text().count("-->") == 2


def test_nothing_but_a_still_picture(timeline, tmp_path: Path) -> None:
    write_video(tmp_path / "film.mp4", np.full((40, 32, 64, 3), 99, np.uint8), fps=20)
    place = tmp_path / "out.csv"
    code, out, err = timeline(
        tmp_path / "film.mp4", "--window", "400ms", "--timeline", place, classifier=Blinkered()
    )
    assert (code, out, read_csv(place)) == (0, "", [])
    assert err.startswith("the picture stands still for 2.00 s, which have no class")


def test_an_interruption_in_a_still_picture(timeline, films, tmp_path: Path) -> None:
    """What is known of it is said, and the row before it is kept."""
    seer = Blinkered()
    seer.before = stop(3, KeyboardInterrupt())
    place = tmp_path / "out.csv"
    code, out, err = timeline(films["film.mp4"], *STEPS[:4], "--timeline", place, classifier=seer)
    assert code == 130
    assert out.startswith("1 rows, until 1.0")
    assert "the picture stands still for 1.0" in err
    assert [row["class"] for row in read_csv(place)] == ["right"]


def test_threshold_and_smoothing(timeline, films: dict[str, Path]) -> None:
    film = films["film.mp4"]
    rows = {
        words: json.loads(timeline(film, *STEPS, "--json", *words)[1])
        for words in ((), ("--threshold", "0.9"), ("--smooth", "41"))
    }
    assert all(row["probability"] >= 0.9 for row in rows["--threshold", "0.9"])
    gaps = [
        b["start"] - a["end"] for a, b in zip(*[rows["--threshold", "0.9"][i:] for i in (0, 1)])
    ]
    assert max(gaps) > 0.05
    assert len(rows["--smooth", "41"]) < len(rows[()])


def stop(at: int, error: BaseException):
    def before(call: int) -> None:
        if call == at:
            raise error

    return before


@pytest.mark.parametrize("suffix", ["csv", "json", "srt"])
def test_an_interruption_keeps_the_rows(
    timeline, films: dict[str, Path], tmp_path: Path, suffix: str
) -> None:
    """At the third batch of 8 windows: 16 of them end at 1.9 s."""
    place = tmp_path / f"out.{suffix}"
    seer = Seer(before=stop(3, KeyboardInterrupt()))
    code, out, err = timeline(
        films["film.mp4"], *STEPS, "--timeline", place, "--video", tmp_path / "o.mp4",
        classifier=seer,
    )  # fmt: skip
    assert code == 130
    assert "interrupted" in err
    assert out == f"2 rows, until 1.90 s: {place}\n"
    text = place.read_text()
    if suffix == "json":
        assert [row["class"] for row in json.loads(text)] == ["right", "still"]
    elif suffix == "csv":
        assert [row["class"] for row in read_csv(place)] == ["right", "still"]
    else:
        assert text.count("-->") == 2
        assert text.endswith("%\n\n")
    assert not (tmp_path / "o.mp4").exists()


def test_ctrl_c_keeps_the_rows(
    timeline, films: dict[str, Path], tmp_path: Path, children: Callable[[], set[BaseProcess]]
) -> None:
    """The signal itself, which a terminal sends to the decoding process as well."""

    def send(call: int) -> None:
        if call == 3:
            for process in children():
                os.kill(process.pid, signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    place = tmp_path / "out.csv"
    words = ("--timeline", place, *STEPS)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may ignore it
    try:
        code, out, err = timeline(films["film.mp4"], *words, classifier=Seer(before=send))
    finally:
        signal.signal(signal.SIGINT, before)
    assert (code, out) == (130, f"2 rows, until 1.90 s: {place}\n")
    assert "interrupted" in err
    assert [row["class"] for row in read_csv(place)] == ["right", "still"]
    assert not children()


def test_a_damaged_film_keeps_the_rows(
    timeline, films: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = VideoReader.stream

    def broken(reader: VideoReader, *words: Any):
        from vivit_train.video.decode import DecodeError

        for index, frame in stream(reader, *words):
            if index > 60:
                raise DecodeError(reader.path, "frame 61 is damaged")
            yield index, frame

    monkeypatch.setattr(VideoReader, "stream", broken)
    code, _, err = timeline(films["film.mp4"], *STEPS, "--timeline", tmp_path / "out.csv")
    assert code == 1
    assert err == f"error: {films['film.mp4']}: frame 61 is damaged\n"
    assert [row["class"] for row in read_csv(tmp_path / "out.csv")] == ["right", "still"]


def test_no_video(timeline, tmp_path: Path) -> None:
    (tmp_path / "no.mp4").write_bytes(b"this is no video")
    code, out, err = timeline(tmp_path / "no.mp4", *STEPS, "--timeline", tmp_path / "out.csv")
    assert (code, out) == (1, "")
    assert err.startswith(f"error: {tmp_path / 'no.mp4'}: ")
    assert not (tmp_path / "out.csv").exists()


def test_the_film_with_labels(timeline, films: dict[str, Path], tmp_path: Path) -> None:
    target = tmp_path / "labelled.mp4"
    code, out, err = timeline(films["film.mp4"], *STEPS, "--video", target)
    assert (code, err) == (0, "")
    assert out.endswith(f"film: {target}\n")
    with VideoReader(target) as video:
        assert video.num_frames == 100


def test_names_do_no_harm_on_the_terminal(timeline, films: dict[str, Path]) -> None:
    names = ["\x1b[2J</script>", "=cmd\nforged", "\u05e9\u05dc\u05d5\u05dd\u202e \U0001f3c3"]
    _, out, _ = timeline(films["film.mp4"], *STEPS, classifier=Seer(names))
    assert len(out.splitlines()) == 4
    assert not {"\x1b", "\u202e"} & set(out)
    assert "\u05e9\u05dc\u05d5\u05dd" in out


def test_other_seconds_than_in_training_are_said(timeline, films: dict[str, Path]) -> None:
    _, _, err = timeline(films["film.mp4"], "--window", "1s", "--still", "0")
    assert err == (
        "warning: a clip of the training covered 0.4 s, a window covers 1 s: motion looks faster "
        "than in training; --window 0.4s shows it as it was\n"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--window", "2x"), "--window 2x: expected a time"),
        (("--window", "2s", "--every", "0"), "--every 0: expected a time"),
        (("--every", "1s"), "--every is for a timeline: give --window as well"),
        (("--threshold", "0"), "--threshold is for a timeline: give --window as well"),
        (("--window", "2s", "--top-k", "3"), "--top-k is not for a timeline: leave out --top-k"),
        (("--window", "2s", "--views", "1x1"), "--views is not for a timeline"),
        (("--window", "2s", "--csv", "a.csv"), "--csv is not for a timeline"),
        (("--window", "2s", "--threshold", "1.5"), "--threshold must be from 0 to 1, got 1.5"),
        (("--window", "2s", "--threshold", "nan"), "--threshold must be from 0 to 1, got nan"),
        (("--window", "2s", "--smooth", "0"), "--smooth must be 1 or more, got 0"),
        (("--window", "2s", "--still", "-1"), "--still -1: expected a time of 1 ms or more, or 0"),
        (("--window", "2s", "--still", "0.1ms"), "expected a time of 1 ms or more, or 0, e.g. 2s"),
        (("--still", "0"), "--still is for a timeline: give --window as well"),
        (("--window", "2s", "other.mp4"), "--window takes one video file, not several"),
        (("--window", "2s", "--timeline", "a.txt"), "a name ends in .csv or .json or .srt"),
        (("--window", "2s", "--timeline", "no/a.csv"), "there is no folder no"),
        (("--window", "2s", "--video", "a.gif"), "whose name ends in .mp4 or .mkv or .mov"),
        (("--window", "2s", "--video", "FILM"), "is the film itself: give another name"),
    ],
)
def test_what_cannot_be_is_said(
    timeline, films: dict[str, Path], words: tuple[str, ...], message: str
) -> None:
    film = str(films["film.mp4"])
    code, out, _ = timeline(film, *(film if word == "FILM" else word for word in words))
    assert str(code).startswith("error: ")
    assert message.removeprefix("a name ") in str(code)
    assert out == ""


class Whole(Seer):
    """One that `predict` without a timeline asks."""

    def predictions(self, *_: Any):
        return iter(())


def test_a_long_file_gets_one_hint(timeline, films: dict[str, Path], tmp_path: Path) -> None:
    for name in ("long.mp4", "longer.mkv"):
        write_video(tmp_path / name, np.zeros((40, 16, 16, 3), np.uint8), fps=1)
    code, _, err = timeline(
        films["film.mp4"], tmp_path / "long.mp4", tmp_path / "longer.mkv", tmp_path / "no.mp4",
        classifier=Whole(CLASSES),
    )  # fmt: skip
    assert code == 0
    assert err == (
        f"hint: {tmp_path / 'long.mp4'} lasts 40 s and is named as a whole; `--window 2s` gives a "
        "timeline of what it shows when\n"
    )
    assert timeline(films["film.mp4"], classifier=Whole(CLASSES))[2] == ""


def test_a_film_shorter_than_a_window(timeline, tmp_path: Path) -> None:
    film = write_film(tmp_path / "short.mp4", list(range(0, 400, 40)))
    _, out, _ = timeline(film, "--window", "500ms", "--json")
    (row,) = json.loads(out)
    assert (row["start"], row["end"], row["class"]) == (0, 0.4, "right")
