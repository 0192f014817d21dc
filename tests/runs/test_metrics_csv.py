import csv
import math
import os
from pathlib import Path

import pytest

from vivit_train.errors import UserError
from vivit_train.runs.metrics_csv import MetricsFile, read_metrics


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "metrics.csv"


class TestMetricsFile:
    def test_a_row_per_step_and_a_column_per_metric(self, path: Path) -> None:
        log = MetricsFile(path)
        log.add({"train/loss": 2.5, "epoch": 0}, 0)
        log.add({"train/top1": 0.25, "epoch": 0}, 0)
        log.add({"train/loss": 1.5, "epoch": 0}, 1)
        assert not path.exists()
        log.save()
        assert path.read_text().splitlines() == [
            "epoch,step,train/loss,train/top1",
            "0,0,2.5,0.25",
            "0,1,1.5,",
        ]

    def test_rows_are_appended(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        log = MetricsFile(path)
        log.add({"loss": 1.0}, 0)
        log.save()
        monkeypatch.setattr(log, "_rewrite", lambda: pytest.fail("all of it was written again"))
        for step in range(1, 4):
            log.add({"loss": 1.0 + step}, step)
            log.save()
            log.save()  # nothing new
        assert [row["loss"] for row in table(path)] == ["1.0", "2.0", "3.0", "4.0"]

    def test_columns_grow(self, path: Path) -> None:
        log = MetricsFile(path)
        log.add({"loss": 1.0}, 0)
        log.save()
        log.add({"loss": 2.0, "val/top1": 0.5}, 1)
        log.save()
        log.add({"loss": 3.0}, 2)
        log.save()
        assert table(path) == [
            {"epoch": "", "step": "0", "loss": "1.0", "val/top1": ""},
            {"epoch": "", "step": "1", "loss": "2.0", "val/top1": "0.5"},
            {"epoch": "", "step": "2", "loss": "3.0", "val/top1": ""},
        ]

    def test_a_step_that_was_written_gets_another_row(self, path: Path) -> None:
        log = MetricsFile(path)
        log.add({"loss": 1.0}, 7)
        log.save()
        log.add({"val/top1": 0.5}, 7)
        log.save()
        assert [(row["step"], row["loss"], row["val/top1"]) for row in table(path)] == [
            ("7", "1.0", ""),
            ("7", "", "0.5"),
        ]

    def test_resuming_drops_what_is_trained_again(self, path: Path) -> None:
        first = MetricsFile(path)
        for step in range(6):
            first.add({"loss": float(step), "epoch": 0}, step)
        first.add({"val/top1": 0.5}, 5)
        first.save()
        resumed = MetricsFile(path)
        resumed.resume(4)
        assert [row["step"] for row in table(path)] == ["0", "1", "2", "3"]
        resumed.add({"loss": 40.0, "epoch": 0}, 4)
        resumed.save()
        resumed.add({"new": 1.0}, 5)
        resumed.save()
        rows = table(path)
        assert [row["loss"] for row in rows] == ["0.0", "1.0", "2.0", "3.0", "40.0", ""]
        assert list(rows[0]) == ["epoch", "step", "loss", "val/top1", "new"]
        assert rows[3]["epoch"] == "0"

    def test_resuming_without_a_file(self, path: Path) -> None:
        log = MetricsFile(path)
        log.resume(4, {"step": 3, "loss": 2.0})
        log.add({"loss": 1.0}, 4)
        log.save()
        assert [row["loss"] for row in table(path)] == ["2.0", "1.0"]

    def test_resuming_adds_the_row_of_the_checkpoints_own_step(self, path: Path) -> None:
        first = MetricsFile(path)
        for step in range(3):
            first.add({"loss": step / 7, "epoch": 0}, step)
        first.save()
        whole = path.read_text()
        for rows in (2, 3):  # killed before the row of step 2 was written, and after
            path.write_text("".join(whole.splitlines(keepends=True)[: 1 + rows]))
            MetricsFile(path).resume(2, {"step": 2, "epoch": 0, "loss": 2 / 7})
            assert path.read_text() == whole

    def test_a_line_that_was_cut_off_is_dropped(self, path: Path) -> None:
        first = MetricsFile(path)
        for step in range(3):
            first.add({"loss": step / 7, "epoch": 0}, step)
        first.save()
        path.write_text(path.read_text()[:-5])
        MetricsFile(path).resume(3)
        assert [row["step"] for row in table(path)] == ["0", "1"]

    def test_rows_that_are_lost_are_told(
        self, path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        first = MetricsFile(path)
        for step in range(3):
            first.add({"loss": 1.0}, step)
        first.save()
        MetricsFile(path).resume(3)
        assert capsys.readouterr().err == ""
        path.unlink()
        MetricsFile(path).resume(3)
        assert capsys.readouterr().err == (
            f"warning: {path} has 0 of the 3 rows that there were when the checkpoint was written; "
            "the others are lost\n"
        )

    def test_a_full_disk_is_told_with_the_file(self, path: Path) -> None:
        log = MetricsFile(path)
        log.add({"loss": 1.0}, 0)
        log.save()
        path.unlink()
        path.symlink_to("/dev/full")
        log._header = lambda: log._columns  # of a disk that is full, and not empty
        log.add({"loss": 2.0}, 1)
        with pytest.raises(OSError, match="No space left") as caught:
            log.save()
        assert caught.value.filename == str(path)

    def test_a_new_run_in_an_old_folder_starts_afresh(self, path: Path) -> None:
        old = MetricsFile(path)
        old.add({"gone": 1.0}, 0)
        old.save()
        new = MetricsFile(path)
        new.add({"loss": 2.0}, 0)
        new.save()
        assert table(path) == [{"epoch": "", "step": "0", "loss": "2.0"}]

    def test_a_rewrite_that_fails_leaves_the_old_file(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        log = MetricsFile(path)
        log.add({"loss": 1.0}, 0)
        log.save()
        before = path.read_text()
        log.add({"new": 1.0}, 1)

        def fail(*_: object) -> None:
            raise OSError("killed")

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", fail)
            with pytest.raises(OSError, match="killed"):
                log.save()
        assert path.read_text() == before
        log.save()
        assert len(table(path)) == 2


class TestReading:
    def test_what_was_written_comes_back(self, path: Path) -> None:
        log = MetricsFile(path)
        log.add({"train/loss": 1 / 3, "epoch": 0}, 7)
        log.add({"val/loss": math.inf}, 7)
        log.add({"val/top1": 0.5, "epoch": 1}, 15)
        log.add({"lr": 1e-5}, 16)
        log.save()
        assert read_metrics(path) == [
            (0, 7, {"train/loss": 1 / 3, "val/loss": math.inf}),
            (1, 15, {"val/top1": 0.5}),
            (1, 16, {"lr": 1e-5}),
        ]

    def test_a_run_that_has_written_nothing_yet(self, path: Path) -> None:
        assert read_metrics(path) == []

    def test_a_row_that_is_being_written_does_not_count(self, tmp_path: Path) -> None:
        path = tmp_path / "metrics.csv"
        path.write_text("epoch,step,val/top1\n0,7,0.25\n0,15,0.")  # of 0.09, maybe
        assert read_metrics(path) == [(0, 7, {"val/top1": 0.25})]

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            (b"a,b\n1,2\n", "it has no column 'epoch'"),
            (b"epoch\n1\n", "it has no column 'step'"),
            (b"v=0\no=- 0 0 IN IP4 127.0.0.1\n", "it has no column 'epoch'"),
            (b"a,b\n", "it has no column 'epoch'"),
            (b"epoch,step\nx,1\n", "invalid literal for int.* 'x'"),
            (b"epoch,step,loss\n0,1,x\n", "could not convert string to float: 'x'"),
            (b"epoch,step,loss\n0,1\n", "a row has more or fewer values than there are columns"),
            (b"epoch,step\n0,1,2\n", "a row has more or fewer values than there are columns"),
            (b"epoch,step\n0,\xff\n", "can't decode byte 0xff"),
        ],
    )
    def test_another_file_is_refused_by_readers_and_by_a_resumed_run(
        self, text: bytes, reason: str, tmp_path: Path
    ) -> None:
        path = tmp_path / "metrics.csv"
        path.write_bytes(text)
        refused = rf"metrics.csv is damaged \(.*{reason}.*\): restore it or move it away"
        for read in (read_metrics, lambda path: MetricsFile(path).resume(1)):
            with pytest.raises(UserError, match=refused):
                read(path)
        assert path.read_bytes() == text


def test_a_row_that_is_there_in_part_when_a_checkpoint_is_written(tmp_path: Path) -> None:
    """A callback has logged of the step at hand; the rest of the row comes after the checkpoint."""
    file = MetricsFile(tmp_path / "metrics.csv")
    file.add({"epoch": 0, "train/loss": 2.0}, 0)
    file.save()
    assert file.position(None) == {"rows": 1, "next": None}
    file.add({"lr": 0.1}, 1)
    following = {"step": 1, "epoch": 0, "train/loss": 1.0}
    position = file.position(following)
    assert position == {"rows": 1, "next": {"step": 1, "epoch": 0, "lr": 0.1, "train/loss": 1.0}}
    file.add({"epoch": 0, "train/loss": 1.0}, 1)
    file.save()
    whole = read_metrics(file.path)
    again = MetricsFile(file.path)
    again.resume(position["rows"], position["next"])
    assert read_metrics(file.path) == whole
    # A validation's row stands by itself: it is written when the next step has none yet.
    assert file.position({"step": 2, "epoch": 0}) == {"rows": 2, "next": {"step": 2, "epoch": 0}}
