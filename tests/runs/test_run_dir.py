import csv
import json
import os
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from vivit_train.config import compose_config, to_plain
from vivit_train.errors import UserError
from vivit_train.runs.run_dir import MetricsCsv, versions, write_config, write_results


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "metrics.csv"


class TestMetricsCsv:
    def test_a_row_per_step_and_a_column_per_metric(self, path: Path) -> None:
        log = MetricsCsv(path)
        log.log_metrics({"train/loss": 2.5, "epoch": 0}, 0)
        log.log_metrics({"train/top1": 0.25, "epoch": 0}, 0)
        log.log_metrics({"train/loss": 1.5, "epoch": 0}, 1)
        assert not path.exists()
        log.save()
        assert path.read_text().splitlines() == [
            "epoch,step,train/loss,train/top1",
            "0,0,2.5,0.25",
            "0,1,1.5,",
        ]

    def test_rows_are_appended(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        log = MetricsCsv(path)
        log.log_metrics({"loss": 1.0}, 0)
        log.save()
        monkeypatch.setattr(log, "_rewrite", lambda: pytest.fail("all of it was written again"))
        for step in range(1, 4):
            log.log_metrics({"loss": 1.0 + step}, step)
            log.save()
            log.save()  # nothing new
        assert [row["loss"] for row in table(path)] == ["1.0", "2.0", "3.0", "4.0"]

    def test_columns_grow(self, path: Path) -> None:
        log = MetricsCsv(path)
        log.log_metrics({"loss": 1.0}, 0)
        log.save()
        log.log_metrics({"loss": 2.0, "val/top1": 0.5}, 1)
        log.save()
        log.log_metrics({"loss": 3.0}, 2)
        log.finalize("success")
        assert table(path) == [
            {"epoch": "", "step": "0", "loss": "1.0", "val/top1": ""},
            {"epoch": "", "step": "1", "loss": "2.0", "val/top1": "0.5"},
            {"epoch": "", "step": "2", "loss": "3.0", "val/top1": ""},
        ]

    def test_a_step_that_was_written_gets_another_row(self, path: Path) -> None:
        log = MetricsCsv(path)
        log.log_metrics({"loss": 1.0}, 7)
        log.save()
        log.log_metrics({"val/top1": 0.5}, 7)
        log.save()
        assert [(row["step"], row["loss"], row["val/top1"]) for row in table(path)] == [
            ("7", "1.0", ""),
            ("7", "", "0.5"),
        ]

    def test_resuming_drops_what_is_trained_again(self, path: Path) -> None:
        first = MetricsCsv(path)
        for step in range(6):
            first.log_metrics({"loss": float(step), "epoch": 0}, step)
        first.log_metrics({"val/top1": 0.5}, 5)
        first.save()
        resumed = MetricsCsv(path)
        resumed.resume(4)
        assert [row["step"] for row in table(path)] == ["0", "1", "2", "3"]
        resumed.log_metrics({"loss": 40.0, "epoch": 0}, 4)
        resumed.save()
        resumed.log_metrics({"new": 1.0}, 5)
        resumed.save()
        rows = table(path)
        assert [row["loss"] for row in rows] == ["0.0", "1.0", "2.0", "3.0", "40.0", ""]
        assert list(rows[0]) == ["epoch", "step", "loss", "val/top1", "new"]
        assert rows[3]["epoch"] == "0"

    def test_resuming_without_a_file(self, path: Path) -> None:
        log = MetricsCsv(path)
        log.resume(4, {"step": 3, "loss": 2.0})
        log.log_metrics({"loss": 1.0}, 4)
        log.save()
        assert [row["loss"] for row in table(path)] == ["2.0", "1.0"]

    def test_resuming_adds_the_row_of_the_checkpoints_own_step(self, path: Path) -> None:
        first = MetricsCsv(path)
        for step in range(3):
            first.log_metrics({"loss": step / 7, "epoch": 0}, step)
        first.save()
        whole = path.read_text()
        for rows in (2, 3):  # killed before the row of step 2 was written, and after
            path.write_text("".join(whole.splitlines(keepends=True)[: 1 + rows]))
            MetricsCsv(path).resume(2, {"step": 2, "epoch": 0, "loss": 2 / 7})
            assert path.read_text() == whole

    def test_a_line_that_was_cut_off_is_dropped(self, path: Path) -> None:
        first = MetricsCsv(path)
        for step in range(3):
            first.log_metrics({"loss": step / 7, "epoch": 0}, step)
        first.save()
        path.write_text(path.read_text()[:-5])
        MetricsCsv(path).resume(3)
        assert [row["step"] for row in table(path)] == ["0", "1"]

    def test_rows_that_are_lost_are_told(
        self, path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        first = MetricsCsv(path)
        for step in range(3):
            first.log_metrics({"loss": 1.0}, step)
        first.save()
        MetricsCsv(path).resume(3)
        assert capsys.readouterr().err == ""
        path.unlink()
        MetricsCsv(path).resume(3)
        assert capsys.readouterr().err == (
            f"warning: {path} has 0 of the 3 rows that there were when the checkpoint was written; "
            "the others are lost\n"
        )

    @pytest.mark.parametrize("content", [b"epoch,step\n0,\xff\n", b"epoch,step\n0,1,2\n"])
    def test_a_damaged_file_is_left_as_it_is(self, content: bytes, path: Path) -> None:
        path.parent.mkdir()
        path.write_bytes(content)
        with pytest.raises(UserError, match=f"{path} is damaged .*: restore it or move it away"):
            MetricsCsv(path).resume(1)
        assert path.read_bytes() == content

    def test_a_full_disk_is_told_with_the_file(self, path: Path) -> None:
        log = MetricsCsv(path)
        log.log_metrics({"loss": 1.0}, 0)
        log.save()
        path.unlink()
        path.symlink_to("/dev/full")
        log._header = lambda: log._columns  # of a disk that is full, and not empty
        log.log_metrics({"loss": 2.0}, 1)
        with pytest.raises(OSError, match="No space left") as caught:
            log.save()
        assert caught.value.filename == str(path)

    def test_a_new_run_in_an_old_folder_starts_afresh(self, path: Path) -> None:
        old = MetricsCsv(path)
        old.log_metrics({"gone": 1.0}, 0)
        old.save()
        new = MetricsCsv(path)
        new.log_metrics({"loss": 2.0}, 0)
        new.save()
        assert table(path) == [{"epoch": "", "step": "0", "loss": "2.0"}]

    def test_a_rewrite_that_fails_leaves_the_old_file(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        log = MetricsCsv(path)
        log.log_metrics({"loss": 1.0}, 0)
        log.save()
        before = path.read_text()
        log.log_metrics({"new": 1.0}, 1)

        def fail(*_: object) -> None:
            raise OSError("killed")

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", fail)
            with pytest.raises(OSError, match="killed"):
                log.save()
        assert path.read_text() == before
        log.save()
        assert len(table(path)) == 2

    def test_names(self, path: Path) -> None:
        assert (MetricsCsv(path).name, MetricsCsv(path).version) == ("csv", "run")


def test_the_configuration_comes_back(tmp_path: Path) -> None:
    plain = to_plain(compose_config(["model.image_size=[16,24]", "name='é: #1'", "run_dir=runs/a"]))
    write_config(tmp_path / "new" / "run", plain)
    assert os.listdir(tmp_path / "new" / "run") == ["config.yaml"]
    saved = OmegaConf.load(tmp_path / "new" / "run" / "config.yaml")
    assert OmegaConf.to_container(saved) == plain
    write_config(tmp_path / "new" / "run", {"seed": 1})
    assert (tmp_path / "new" / "run" / "config.yaml").read_text() == "seed: 1\n"


def test_results(tmp_path: Path) -> None:
    results = {"top1": 1 / 3, "undecodable": ["train/größe.mp4"], "views": [4, 3]}
    write_results(tmp_path / "run", results)
    text = (tmp_path / "run" / "results.json").read_text(encoding="utf-8")
    assert json.loads(text) == results
    assert "größe" in text
    assert text.endswith("}\n")
    assert os.listdir(tmp_path / "run") == ["results.json"]


def test_versions() -> None:
    found = versions()
    assert found["torch"] == torch.__version__
    assert {"vivit_train", "python", "torchvision", "lightning", "av"} < set(found)
    assert all(isinstance(version, str) and version for version in found.values())
