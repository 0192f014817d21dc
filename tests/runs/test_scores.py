import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from vivit_train.data.records import Records
from vivit_train.metrics import MultiHeadAccuracy, VideoAccuracy, joint_labels
from vivit_train.runs.scores import (
    class_table,
    no_better_than_guessing,
    split_heads,
    wilson_interval,
    write_report,
)


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def data(labels: list[Any], names: list[str], heads: dict[str, int] | None = None) -> Any:
    paths = [f"{i}.mp4" for i in range(len(labels))]
    records = {"test": Records(Path("/data"), paths, labels)}
    return SimpleNamespace(
        records=records,
        class_names=names,
        heads=heads or {},
        multi_label=False,
        splits={"test": "held"},
        tests_on_validation=False,
    )


def scored(guesses: list[int | None], labels: list[int], num_classes: int) -> VideoAccuracy:
    """Videos in two batches, the second with a padding row; None: not decoded."""
    accuracy = VideoAccuracy(num_classes, len(labels))
    logits = torch.zeros(len(labels), num_classes)
    for row, guess in enumerate(guesses):
        logits[row, guess or 0] = 1.0
    decoded = torch.tensor([guess is not None for guess in guesses])
    rows, truth = torch.arange(len(labels)), torch.tensor(labels)
    accuracy.update(logits[:2], truth[:2], rows[:2], decoded[:2])
    padded = [torch.cat([x[2:], x[:1]]) for x in (logits, truth, rows, decoded)]
    padded[2][-1] = -1
    accuracy.update(*padded)
    return accuracy


def test_tables(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    labels, guesses = [0, 0, 1, 1, 1, 0], [0, 1, 2, 2, 1, None]
    accuracy = scored(guesses, labels, 3)
    write_report(tmp_path, accuracy, data(labels, ["run", "walk, slowly", "sit"]))
    assert read(tmp_path / "classes.csv") == [
        {"class": "run", "videos": "3", "correct": "1", "top1": str(1 / 3), "predicted": "1",
         "f1": "0.5", "taken_for": "walk, slowly (1)"},
        {"class": "walk, slowly", "videos": "3", "correct": "1", "top1": str(1 / 3),
         "predicted": "2", "f1": "0.4", "taken_for": "sit (2)"},
        {"class": "sit", "videos": "0", "correct": "0", "top1": "", "predicted": "2",
         "f1": "0.0", "taken_for": ""},
    ]  # fmt: skip
    rows = read(tmp_path / "predictions.csv")
    assert [row["predicted"] for row in rows] == [
        "run", "walk, slowly", "sit", "sit", "walk, slowly", "",
    ]  # fmt: skip
    assert [row["correct"] for row in rows] == ["1", "0", "0", "0", "1", "0"]
    assert rows[5] == {
        "video": "5.mp4", "class": "run", "predicted": "", "correct": "0", "probability": "",
        "true_probability": "", "top5": "",
    }  # fmt: skip
    sure, unsure = np.exp(1) / (np.exp(1) + 2), 1 / (np.exp(1) + 2)
    assert rows[1]["probability"] == f"{sure:.4f}"
    assert rows[1]["true_probability"] == f"{unsure:.4f}"
    expected = f"walk, slowly {sure:.4f} | run {unsure:.4f} | sit {unsure:.4f}"
    assert rows[1]["top5"] == expected
    assert read(tmp_path / "confusion.csv") == [
        {"class": "run", "run": "1", "walk, slowly": "1", "sit": "0", "(not decoded)": "1"},
        {"class": "walk, slowly", "run": "0", "walk, slowly": "1", "sit": "2",
         "(not decoded)": "0"},
        {"class": "sit", "run": "0", "walk, slowly": "0", "sit": "0", "(not decoded)": "0"},
    ]  # fmt: skip
    # The tables add up to the score.
    assert sum(int(row["correct"]) for row in rows) / 6 == accuracy.compute()["top1"]
    expected = "weakest classes: run 0.33, walk, slowly 0.33 (classes.csv)\n"
    assert capsys.readouterr().out == expected


def test_always_the_same_class(tmp_path: Path) -> None:
    expected = (
        r"^top-1 0\.500 is no better than guessing: on 10 videos its 95 % interval is 0\.237 to "
        r"0\.763, and always naming the most frequent class gives 0\.500\. The model has not .* "
        r"`vivit doctor` .* Every video was taken for 'b'$"
    )
    with pytest.warns(UserWarning, match=expected):
        write_report(tmp_path, scored([1] * 10, [0, 1] * 5, 2), data([0, 1] * 5, ["a", "b"]))


@pytest.mark.parametrize(
    ("right", "labels", "said"),
    [
        (30, [0, 1] * 25, "top-1 0.600 may be no better than guessing"),  # from 0.46
        (36, [0, 1] * 25, None),  # from 0.58
        # Always naming class 0 gives 0.7.
        (36, [0] * 35 + [1] * 15, "top-1 0.720 may be no better than guessing"),
        (3, [0, 1] * 25, "top-1 0.060 is no better than guessing"),
        (2, [0, 0], None),  # nothing to tell apart
        (4, [0, 1, 0, 1], None),
        (3, [0, 1, 0], "top-1 1.000 may be no better than guessing: on 3 videos"),
    ],
)
def test_a_score_that_guessing_gives_as_well_is_said(
    right: int, labels: list[int], said: str | None
) -> None:
    truth = np.array(labels)[:, None]
    guesses = np.where(np.arange(len(labels))[:, None] < right, truth, 1 - truth)
    found = no_better_than_guessing(truth, guesses)
    assert found is None if said is None else (found or "").startswith(said)


def test_the_interval_is_wilsons() -> None:
    """Against the table of Newcombe (1998), method 3."""
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)


def test_a_class_without_mistakes_is_not_weak(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    labels = [0, 1] * 20
    write_report(tmp_path, scored(labels, labels, 2), data(labels, ["a", "b"]))
    assert "weakest" not in capsys.readouterr().out
    write_report(tmp_path, scored([0, 0, *labels[2:]], labels, 2), data(labels, ["a", "b"]))
    assert "weakest classes: b 0.95 (classes.csv)" in capsys.readouterr().out


def test_a_test_on_the_validation_split_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    videos = data([0, 1], ["a", "b"])
    write_report(tmp_path, scored([0, 1], [0, 1], 2), videos)
    assert "validation" not in capsys.readouterr().out
    videos.tests_on_validation = True
    write_report(tmp_path, scored([0, 1], [0, 1], 2), videos)
    assert "tested on the validation split, held: where best.ckpt" in capsys.readouterr().out


def test_a_video_left_out_by_a_limit_is_no_mistake(tmp_path: Path) -> None:
    accuracy = VideoAccuracy(2, 3)
    accuracy.update(torch.eye(2), torch.tensor([0, 1]), torch.tensor([0, 2]), torch.ones(2) > 0)
    write_report(tmp_path, accuracy, data([0, 0, 1], ["a", "b"]))
    assert [row["video"] for row in read(tmp_path / "predictions.csv")] == ["0.mp4", "2.mp4"]
    assert [row["videos"] for row in read(tmp_path / "classes.csv")] == ["1", "1"]


def test_several_heads(tmp_path: Path) -> None:
    heads = {"noun": 3, "verb": 2}
    names = ["noun: tap", "noun: pan", "noun: lid", "verb: take", "verb: put"]
    accuracy = MultiHeadAccuracy(heads, 2)
    logits = torch.tensor([[0.0, 5, 0, 0, 5], [5, 0, 0, 5, 0]])  # pan + put, tap + take
    within = torch.tensor([[1, 1], [2, 0]])  # pan + put, lid + take
    accuracy.update(logits, within, torch.arange(2), torch.ones(2) > 0)
    write_report(tmp_path, accuracy, data([[1, 4], [2, 3]], names, heads))
    rows = read(tmp_path / "predictions.csv")
    assert [row["predicted"] for row in rows] == [
        "noun: pan; verb: put", "noun: tap; verb: take",
    ]  # fmt: skip
    assert [row["correct"] for row in rows] == ["1", "0"]
    assert rows[0]["top5"].startswith(f"noun: pan; verb: put {rows[0]['probability']} | noun: ")
    assert not (tmp_path / "confusion.csv").exists()
    table = {row["class"]: row for row in read(tmp_path / "classes.csv")}
    assert table["noun: lid"]["taken_for"] == "noun: tap (1)"
    assert [table[f"verb: {verb}"]["top1"] for verb in ("take", "put")] == ["1.0", "1.0"]


def test_heads_are_taken_apart_as_they_were_joined() -> None:
    heads, rng = {"a": 7, "b": 3, "c": 5}, np.random.default_rng(0)
    within = np.stack([rng.integers(0, size, 40) for size in heads.values()], axis=1)
    joint = joint_labels(torch.from_numpy(within), heads).numpy()
    assert (split_heads(joint, heads) == within + np.array([0, 7, 10])).all()
    assert (split_heads(np.array([-1]), heads) == -1).all()


def test_columns_of_a_class_never_asked_for() -> None:
    (row,) = class_table(np.empty((0, 1), int), np.empty((0, 1), int), ["a"])
    assert row["top1"] == ""
