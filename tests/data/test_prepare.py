import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.torture import evil_decoder, noise, write_sound
from vivit_train.data import prepare as prepare_module
from vivit_train.data.manifest import FILE_NAME, Copy, Manifest, cannot_write
from vivit_train.data.prepare import (
    PARTIAL,
    check_folders,
    copy_annotations,
    jobs_of,
    jobs_to_do,
    prepare,
    unlisted_videos,
)
from vivit_train.data.records import Records, size_and_mtime
from vivit_train.data.shards import ShardRecords, Stat
from vivit_train.data.verdicts import FILE_NAME as VERDICTS_NAME
from vivit_train.errors import UserError
from vivit_train.video.decode import VideoReader
from vivit_train.video.guard import CAN_GUARD
from vivit_train.video.write import Encoding, write_video

pytestmark = [
    pytest.mark.skipif(not CAN_GUARD, reason="needs fork"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]
ENCODING = Encoding(short_edge=32, keyframe_interval=8, crf=30)
SETTINGS = {"root": "/data", **ENCODING._asdict()}


def records(root, *paths):
    return Records(root, paths, [0] * len(paths))


def jobs_in(root, output, *paths):
    return jobs_of([records(root, *paths)], root, output)


def copies_of(jobs, output, timeout=60.0, num_workers=2):
    return {copy.video: copy for copy in prepare(jobs, output, ENCODING, num_workers, timeout)}


@pytest.fixture
def folders(tmp_path):
    root, output = tmp_path / "data", tmp_path / "copy"
    (root / "a").mkdir(parents=True)
    for i in range(3):
        write_video(root / "a" / f"{i}.mp4", noise(8 + i))
    return root, output


def write_broken(folder):
    """Videos of each kind; their verdicts."""
    write_video(folder / "good.mp4", noise(8))
    write_video(folder / "whole.mkv", noise(96))
    content = (folder / "whole.mkv").read_bytes()
    (folder / "truncated.mkv").write_bytes(content[: len(content) // 2])
    write_video(folder / "1x1.mp4", noise(4, 1, 1))
    write_sound(folder / "sound.mp4")
    (folder / "text.mp4").write_text("not a video")
    for name in ("hangs.mp4", "crashes.mp4"):
        shutil.copy(folder / "good.mp4", folder / name)
    (folder / "dangling.mp4").symlink_to("nowhere.mp4")
    (folder / "folder.mp4").mkdir()
    os.mkfifo(folder / "pipe.mp4")
    return {
        "good.mp4": "ok",
        "whole.mkv": "ok",
        "truncated.mkv": "truncated",
        "1x1.mp4": "failed",
        "sound.mp4": "unreadable",
        "text.mp4": "unreadable",
        "hangs.mp4": "timeout",
        "crashes.mp4": "crashed",
        "dangling.mp4": "missing",
        "folder.mp4": "unreadable",
        "pipe.mp4": "unreadable",
    }


def test_broken_videos_lie_in_the_copy_as_they_were(tmp_path, monkeypatch):
    """What decodes has an exact copy; what does not passes for no more than it did."""
    root, output = tmp_path / "data", tmp_path / "copy"
    root.mkdir()
    wanted = write_broken(root) | {"listed only.mp4": "missing"}
    evil_decoder(monkeypatch)
    copies = copies_of(jobs_in(root, output, *wanted), output, timeout=2)
    assert {name: copy.verdict for name, copy in copies.items()} == wanted
    assert sorted(os.listdir(output)) == sorted(os.listdir(root))
    for name, copy in copies.items():
        if copy.verdict == "ok":
            with VideoReader(root / name) as a, VideoReader(output / name) as b:
                assert a.num_frames == b.num_frames == copy.frames
        elif (root / name).is_file():
            assert (root / name).read_bytes() == (output / name).read_bytes()
            assert size_and_mtime(root / name) == size_and_mtime(output / name)
        elif name != "listed only.mp4":
            assert (output / name).read_bytes() == b""


def test_folders_of_pictures_become_folders_of_smaller_ones(tmp_path):
    root, output = tmp_path / "data", tmp_path / "copy"
    for name, size in (("large", (96, 64)), ("small", (32, 24)), ("hole", (32, 24))):
        (root / name).mkdir(parents=True)
        for number in (1, 2, 3):
            suffix = "jpg" if name == "large" else "png"
            Image.new("RGB", size, (90, 60, 30)).save(root / name / f"img_{number}.{suffix}")
    (root / "hole/img_2.png").unlink()
    jobs = jobs_in(root, output, "large", "small", "hole")
    found = copies_of(jobs, output)
    verdicts = {name: (copy.verdict, copy.frames) for name, copy in found.items()}
    assert verdicts == {"large": ("ok", 3), "small": ("ok", 3), "hole": ("unreadable", 0)}
    assert "img_2.png is missing" in found["hole"].reason
    with VideoReader(output / "large") as video:
        frames = video.read([0, 1, 2])
    assert frames.shape == (3, 32, 48, 3)
    assert abs(frames.reshape(-1, 3) - np.array([90, 60, 30])).max() <= 3
    for name in ("small", "hole"):
        pictures = sorted((root / name).iterdir())
        assert [p.name for p in sorted((output / name).iterdir())] == [p.name for p in pictures]
        for picture in pictures:
            assert (output / name / picture.name).read_bytes() == picture.read_bytes()
    assert jobs_to_do(jobs, found) == []
    (root / "large/img_3.jpg").unlink()
    assert copies_of(jobs_to_do(jobs_in(root, output, "large"), found), output)["large"].frames == 2
    assert not (output / "large/img_3.jpg").exists()


def test_only_what_is_missing_or_changed_is_done(folders):
    root, output = folders
    names = [f"a/{i}.mp4" for i in range(3)]
    copies = copies_of(jobs_in(root, output, *names), output)
    assert jobs_to_do(jobs_in(root, output, *names), copies) == []
    write_video(root / "a" / "0.mp4", noise(20))
    (output / "a" / "1.mp4").write_bytes(b"x")
    write_video(root / "a" / "new.mp4", noise(5))
    jobs = jobs_in(root, output, *names, "a/new.mp4")
    assert [job.video for job in jobs_to_do(jobs, copies)] == ["a/0.mp4", "a/1.mp4", "a/new.mp4"]
    again = copies_of(jobs_to_do(jobs, copies), output)
    assert again["a/0.mp4"].frames == 20
    assert jobs_to_do(jobs, copies | again) == []


@pytest.mark.parametrize(
    ("verdict", "is_tried"),
    [("unreadable", False), ("truncated", False), ("timeout", True), ("failed", True)],
)
def test_broken_videos_are_tried_again_where_it_may_help(folders, verdict, is_tried):
    root, output = folders
    (job,) = jobs_in(root, output, "a/0.mp4")
    shutil.copytree(root, output)
    copy = Copy(job.video, verdict, "", 0, job.size, job.mtime, job.size)
    assert jobs_to_do([job], {job.video: copy}) == ([job] if is_tried else [])


def test_segments_of_one_video_are_one_job(folders):
    root, output = folders
    rows = Records(root, ["a/0.mp4"] * 3, [0, 1, 2], [(0, 1), (1, 2), (2, 3)])
    assert [job.video for job in jobs_of([rows, rows], root, output)] == ["a/0.mp4"]


def test_a_root_below_that_of_the_data_set(folders):
    root, output = folders
    (job,) = jobs_of([records(root / "a", "0.mp4")], root, output)
    assert (job.video, job.target) == ("a/0.mp4", output / "a" / "0.mp4")


@pytest.mark.parametrize("path", ["../elsewhere.mp4", "{root}/a/0.mp4"])
def test_paths_that_a_copy_would_not_have(folders, path):
    root, output = folders
    with pytest.raises(UserError, match="no path within .*: list paths relative to data.root"):
        jobs_in(root, output, path.format(root=root))


def test_a_root_of_links_alone_is_refused_before_anything_is_copied(folders):
    root, output = folders
    links = root.parent / "links"
    links.mkdir()
    (links / "a").symlink_to(root / "a")
    with pytest.raises(UserError, match="every video of .*links is a link out of it, as a/0.mp4"):
        jobs_in(links, output, "a/0.mp4", "a/1.mp4")


def test_what_a_killed_process_left_goes(folders):
    root, output = folders
    (output / PARTIAL).mkdir(parents=True)
    (output / PARTIAL / "1234.mp4").write_bytes(b"half")
    copies = copies_of(jobs_in(root, output, "a/0.mp4"), output)
    assert copies["a/0.mp4"].verdict == "ok"
    assert os.listdir(output) == ["a"]


def test_a_full_disk_ends_all_and_leaves_nothing_half_written(folders, monkeypatch):
    root, output = folders

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(prepare_module, "reencode_video", full)
    with pytest.raises(UserError, match="No space left on device.: free some space .* continues"):
        copies_of(jobs_in(root, output, "a/0.mp4", "a/1.mp4"), output)
    assert os.listdir(output) == []


def test_other_errors_of_the_output():
    error = OSError(errno.EROFS, "Read-only file system")
    assert str(cannot_write(Path("/copy"), error)) == (
        "/copy cannot be written (Read-only file system): correct that, or name another --output"
    )


def test_systems_that_cannot_fork(folders, monkeypatch):
    root, output = folders
    monkeypatch.setattr(prepare_module, "CAN_GUARD", False)
    with pytest.raises(UserError, match="vivit prepare needs processes .*: run it on Linux"):
        copies_of(jobs_in(root, output, "a/0.mp4"), output)


@pytest.mark.parametrize("output", ["data", "data/copy", ".", "link/copy"])
def test_folders_that_would_mix(tmp_path, output):
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to("data")
    (tmp_path / "loop").symlink_to("loop")
    check_folders(tmp_path / "data", tmp_path / "loop")  # fails later, where it is written to
    with pytest.raises(UserError, match="must lie beside each other, not one in the other"):
        check_folders(tmp_path / "data", tmp_path / output)


def test_an_output_that_holds_something_else(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "copy").mkdir()
    check_folders(tmp_path / "data", tmp_path / "copy")
    check_folders(tmp_path / "data", tmp_path / "new")
    (tmp_path / "copy" / "thesis.txt").write_text("")
    with pytest.raises(UserError, match="holds thesis.txt and is no prepared data set"):
        check_folders(tmp_path / "data", tmp_path / "copy")
    (tmp_path / "copy" / FILE_NAME).write_text("")
    check_folders(tmp_path / "data", tmp_path / "copy")
    with pytest.raises(UserError, match="is no folder"):
        check_folders(tmp_path / "data", tmp_path / "copy" / "thesis.txt")


def test_annotations_are_copied_and_nothing_else(tmp_path):
    root, output = tmp_path / "data", tmp_path / "copy"
    kept = ["train.csv", "labels/labels.json", "annotations/a.txt"]
    left = ["a.mp4", "a.tar", "rgb_frames/a.txt", ".git/b.txt", VERDICTS_NAME, "x/.hidden.csv"]
    for name in [*kept, *left]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / "linked").symlink_to(root / "labels")
    (root / "x" / "loop").symlink_to(root)
    output.mkdir()
    assert copy_annotations(root, output) == (3, [])
    found = {p.relative_to(output).as_posix() for p in output.rglob("*") if p.is_file()}
    assert found == set(kept)
    assert copy_annotations(root, output) == (0, [])
    (root / "train.csv").write_text("changed")
    assert copy_annotations(root, output) == (1, [])
    assert (output / "train.csv").read_text() == "changed"
    assert sorted(os.listdir(output)) == ["annotations", "labels", "train.csv"]


def test_videos_that_no_split_lists_are_counted(folders):
    root, output = folders
    assert unlisted_videos(root, jobs_in(root, output, "a/0.mp4")) == 2


def test_the_manifest_is_read_again(tmp_path):
    path = tmp_path / "copy" / FILE_NAME
    first = Manifest(path, SETTINGS)
    for name in ("a.mp4", "\udcff.mp4"):
        first.add(Copy(name, "ok", frames=3, size=5, mtime=7, copy_size=2))
    first.add(Copy("a.mp4", "unreadable", "no video stream"))
    first.close()
    with path.open("a") as file:
        file.write('{"video": "cut o')
    second = Manifest(path, SETTINGS)
    assert second.copies == first.copies
    second.add(Copy("b.mp4", "ok"))
    second.close()
    lines = [line for line in path.read_text().splitlines() if line != '{"video": "cut o']
    assert json.loads(lines[0]) == {"settings": SETTINGS}
    assert json.loads(lines[-1])["video"] == "b.mp4"


def test_other_settings_are_refused(tmp_path):
    path = tmp_path / "copy" / FILE_NAME
    Manifest(path, SETTINGS).close()
    with pytest.raises(UserError, match=r"prepared with crf=30; asked for is crf=20\. One copy"):
        Manifest(path, SETTINGS | {"crf": 20})
    with pytest.raises(UserError, match="prepared with root=/data; asked for is root=/other"):
        Manifest(path, SETTINGS | {"root": "/other"})


def test_videos_in_shards_are_prepared_before_they_are_packed(tmp_path):
    members = [("a.tar", "0.mp4", 512, 100)]
    rows = ShardRecords(tmp_path, str(tmp_path), {"a.tar": Stat(2048, "1")}, members, [0])
    with pytest.raises(UserError, match="in shards cannot be prepared: prepare the files, then"):
        jobs_of([rows], tmp_path, tmp_path / "copy")
