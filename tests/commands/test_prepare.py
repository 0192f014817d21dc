import argparse
import json
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from tests.data.torture import noise
from vivit_train.__main__ import main
from vivit_train.build import build_data
from vivit_train.commands import prepare
from vivit_train.commands.videos import STOPPED
from vivit_train.config import compose_config, to_plain
from vivit_train.data.manifest import FILE_NAME, Manifest
from vivit_train.errors import UserError
from vivit_train.video.decode import VideoReader
from vivit_train.video.guard import CAN_GUARD
from vivit_train.video.write import write_video

pytestmark = [
    pytest.mark.skipif(not CAN_GUARD, reason="needs fork"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of one training video and one to validate on, of 96x128 pixels."""
    root = tmp_path / "data"
    for i, name in enumerate(["train/a/1", "train/b/2", "val/a/3", "val/b/4"]):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_video(root / f"{name}.mp4", noise(16 + i, 96, 128))
    return root


def run(root: Path, output: Path, *overrides: str, **options: Any) -> int:
    defaults = {"short_edge": 72, "keyframe_interval": 8, "crf": 30, "timeout": 60.0, "workers": 2}
    overrides = (*(overrides or ("data=folder",)), f"data.root={root}")
    arguments = {"overrides": list(overrides), "output": output, **defaults, **options}
    return prepare.run(argparse.Namespace(**arguments))


def splits(root: Path, *overrides: str) -> dict[str, Any]:
    """The fingerprint of each split, as training would find it."""
    data = build_data(to_plain(compose_config([*overrides, f"data.root={root}"])))
    data.setup()
    return {role: records.fingerprint(data.class_names) for role, records in data.records.items()}


def test_a_data_set(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "copy"
    assert run(root, output) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "4 ok"
    assert lines[1].endswith(" MB after")
    assert lines[2:] == ["4 videos, 4 of them and 0 annotations copied now", str(output)]
    assert splits(output, "data=folder") == splits(root, "data=folder")
    with VideoReader(output / "val" / "b" / "4.mp4") as video:
        assert video.read([18]).shape == (1, 72, 96, 3)
    assert run(root, output) == 0
    assert "4 videos, 0 of them" in capsys.readouterr().out


def test_broken_videos_are_listed(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "copy"
    (root / "val" / "b" / "5.mp4").write_text("no video")
    (root / "unused" / "a").mkdir(parents=True)
    (root / "unused" / "a" / "6.mp4").write_text("of a split that is not used")
    assert run(root, output) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("unreadable  val/b/5.mp4: Invalid data")
    assert "1 are copied unchanged, or missing as they were" in lines
    assert "1 videos that no split lists were left out" in lines
    assert splits(output, "data=folder") == splits(root, "data=folder")
    assert run(root, output) == 1


def test_links_out_of_the_root_are_named_and_not_copied(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, outside = tmp_path / "copy", tmp_path / "home"
    (outside / ".aws").mkdir(parents=True)
    (outside / "secret.txt").write_text("secret")
    (outside / ".aws" / "credentials.csv").write_text("secret")
    write_video(outside / "private.mp4", noise(16, 96, 128))
    (root / "extra").symlink_to(outside)
    (root / "notes.txt").symlink_to(outside / "secret.txt")
    (root / "train" / "a" / "k.mp4").symlink_to(outside / "secret.txt")
    (root / "train" / "a" / "l.mp4").symlink_to(outside / "private.mp4")
    (root / "train" / "c").symlink_to(outside)
    # Within the root a link is as good as what it names, and the root itself may be one.
    (root / "labels.txt").write_text("a")
    (root / "same.txt").symlink_to("labels.txt")
    (root / "val" / "a" / "m.mp4").symlink_to("3.mp4")
    (tmp_path / "data_link").symlink_to(root)
    assert run(tmp_path / "data_link", output) == 1
    told = capsys.readouterr().out
    for name in ("train/a/k.mp4", "train/a/l.mp4", "train/c/private.mp4"):
        assert f"outside     {name}: a link to {outside}" in told
        assert (output / name).read_bytes() == b""
    for name in ("extra", "notes.txt", "train/c"):
        assert f"outside     {name}: a link out of data.root" in told
    assert "what lies outside of data.root was not copied: put it there, or set data.root" in told
    assert "as they were" not in told
    for path in output.rglob("*"):
        assert not path.is_symlink()
        assert not path.is_file() or b"secret" not in path.read_bytes() or path.name == FILE_NAME
    assert (output / "same.txt").read_text() == "a"
    with VideoReader(output / "val" / "a" / "m.mp4") as video:
        assert video.num_frames == 18
    assert not (output / "extra").exists()
    assert run(tmp_path / "data_link", output) == 1  # and again


def test_a_copy_of_a_copy(root: Path, tmp_path: Path) -> None:
    """What the first copy says of itself is none of its annotations."""
    first, second = tmp_path / "first", tmp_path / "second"
    assert run(root, first) == 0
    assert run(first, second, crf=35) == 0
    assert json.loads((second / FILE_NAME).read_text().splitlines()[0])["settings"]["crf"] == 35
    assert run(first, second, crf=35) == 0


def test_webm_keeps_its_name(tmp_path: Path) -> None:
    """So that lists with suffixes find it; the content is what decodes fast."""
    root, output = tmp_path / "data", tmp_path / "copy"
    (root / "videos").mkdir(parents=True)
    for i in range(2):
        fast = {"deadline": "realtime", "cpu-used": "8"}
        write_video(root / "videos" / f"{i}.webm", noise(8), codec="libvpx-vp9", options=fast)
    (root / "labels.json").write_text('{"Moving": "0", "Resting": "1"}')
    rows = [{"id": "0", "template": "Moving"}, {"id": "1", "template": "Resting"}]
    for split in ("train", "validation"):
        (root / f"{split}.json").write_text(json.dumps(rows))
    assert run(root, output, "data=ssv2") == 0
    assert splits(output, "data=ssv2") == splits(root, "data=ssv2")
    (root / "train.csv").write_text("videos/0.webm,a\nvideos/1.webm,b\n")
    (root / "val.csv").write_text("videos/0.webm,a\n")
    assert run(root, output, "data=csv") == 0
    assert splits(output, "data=csv") == splits(root, "data=csv")
    with VideoReader(output / "videos" / "1.webm") as video:
        assert video.num_frames == 8


def test_ctrl_c_keeps_what_is_done(
    root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = tmp_path / "copy"
    add = Manifest.add

    def interrupted(self: Manifest, copy: Any) -> None:
        add(self, copy)
        raise KeyboardInterrupt

    monkeypatch.setattr(Manifest, "add", interrupted)
    assert run(root, output) == STOPPED
    assert "stopped: 1 of 4 videos are done; the same command continues" in capsys.readouterr().err
    monkeypatch.setattr(Manifest, "add", add)
    assert run(root, output) == 0
    assert "4 videos, 3 of them" in capsys.readouterr().out


def test_two_at_a_time(root: Path, tmp_path: Path) -> None:
    output = tmp_path / "copy"
    output.mkdir()
    with (
        FileLock(output / ".lock"),
        pytest.raises(UserError, match="another vivit prepare is writing to"),
    ):
        run(root, output)


def test_an_output_that_cannot_be_made(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written .*: correct that, or name another"):
        run(root, tmp_path / "file" / "copy")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout": 0}, "--timeout must be above 0 seconds, got 0"),
        ({"workers": 0}, "--workers must be 1 or more, got 0"),
        ({"short_edge": 321}, "--short-edge must be even, as the edges of H.264 are, got 321"),
        ({"keyframe_interval": 0}, "--keyframe-interval must be 1 frame or more, got 0"),
        ({"crf": 52}, "--crf must be from 0 .lossless. to 51, got 52"),
        ({"short_edge": 40}, "--short-edge 40 is below the 55 pixels that .*: name 56 or more"),
    ],
)
def test_options_out_of_range(
    root: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        run(root, tmp_path / "copy", **options)
    assert not (tmp_path / "copy" / FILE_NAME).exists()


@pytest.mark.parametrize(
    ("processor", "needed"),
    [("processor.size=[128,170]", 128), ("processor.do_resize=false", 48)],
)
def test_what_the_processor_needs(root: Path, tmp_path: Path, processor: str, needed: int) -> None:
    with pytest.raises(UserError, match=f"--short-edge 40 is below the {needed} pixels"):
        run(root, tmp_path / "copy", "data=folder", processor, short_edge=40)


def test_other_settings_in_the_same_folder(root: Path, tmp_path: Path) -> None:
    assert run(root, tmp_path / "copy") == 0
    with pytest.raises(UserError, match="was prepared with crf=30; asked for is crf=20"):
        run(root, tmp_path / "copy", crf=20)


def test_an_output_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["prepare", "data=folder"])
    assert "--output" in capsys.readouterr().err
