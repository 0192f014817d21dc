from pathlib import Path

from tests.launch.test_sharding import train_two
from vivit_train.data.folder import Folder
from vivit_train.data.records import Records


def sees_one_less() -> None:
    """In the process: a training video is not there."""
    read = Folder.read_split

    def lacking(self: Folder, split: str) -> tuple[Records, list[str]]:
        records, names = read(self, split)
        return (records.subset(range(1, len(records))) if split == "train" else records), names

    Folder.read_split = lacking  # type: ignore[method-assign]


def test_processes_that_see_other_videos_are_named(small: tuple[str, ...], tmp_path: Path) -> None:
    run = train_two([*small, "callbacks.ema_decay=null"], tmp_path / "run", 1, sees_one_less, "ddp")
    told = run.with_suffix(".log0").read_text()
    assert "1 of 2 processes have other videos than the first one: process 1 (train: 1 gone" in told
    assert "Traceback" not in told
    assert not (run / "config.yaml").exists()
