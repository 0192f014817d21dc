import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vivit_train.errors import UserError
from vivit_train.video.decode import DecodeError, VideoReader, why_no_file
from vivit_train.video.decoders.pictures import holds_pictures, list_pictures
from vivit_train.video.sampling import Sampling
from vivit_train.video.watch import watched
from vivit_train.video.write import write_video

FRAMES = np.random.default_rng(0).integers(0, 256, (9, 24, 32, 3), np.uint8)


def fill(folder: Path, name: str = "img_{:05d}.png", first: int = 1) -> Path:
    folder.mkdir(parents=True)
    for number, frame in enumerate(FRAMES, start=first):
        Image.fromarray(frame).save(folder / name.format(number))
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "img_{:05d}.png",
        "frame_{:010d}.PNG",
        "{:06d}.bmp",
        "{}.png",
        "v1.5-{}.png",
        "frame{:03d}.bmp",
    ],
)
@pytest.mark.parametrize("first", [0, 1])
def test_the_pixels_of_the_pictures(tmp_path: Path, name: str, first: int) -> None:
    """By number and not by name: 10 comes after 9."""
    folder = fill(tmp_path / "video", name, first)
    (folder / "flow_x_00001.jpg").touch()
    (folder / "notes.txt").touch()
    with VideoReader(folder) as video:
        assert (video.num_frames, video.fps, video.promised) == (9, 0, 0)
        assert np.array_equal(video.read([7, 0, 7]), FRAMES[[7, 0, 7]])
        assert [index for index, _ in video.stream(np.arange(9))] == list(range(9))
        looks: list[np.ndarray] = []
        assert [index for index, _ in video.stream(np.array([2, 4]), None, looks.append)] == [2, 4]
        assert np.array_equal(looks, FRAMES[:5, ..., 1])
        assert list(video.decode_all()) == list(range(1, 10))


def test_the_frames_of_a_video_as_pictures(tmp_path: Path) -> None:
    """PNG: the same pixels, times, segments and clips as of the video. JPEG: nearly so."""
    smooth = np.linspace(0, 200, 9 * 24 * 32).reshape(9, 24, 32, 1) + np.arange(3) * 20
    write_video(tmp_path / "video.mp4", smooth.astype(np.uint8), fps=10)
    with VideoReader(tmp_path / "video.mp4") as video:
        frames, shown_at = video.read(np.arange(9)), video.shown_at
    for suffix, most in (("png", 0), ("jpg", 6)):
        folder = tmp_path / suffix
        folder.mkdir()
        for number, frame in enumerate(frames):
            Image.fromarray(frame).save(folder / f"{number}.{suffix}", quality=95)
        for segment in (None, (0.2, 0.55), (0.25, 0.26), (0.6, 5)):
            with (
                VideoReader(tmp_path / "video.mp4", segment=segment) as video,
                VideoReader(folder, "auto", segment, picture_rate=10) as pictures,
            ):
                assert pictures.num_frames == video.num_frames
                assert pictures.fps == video.fps
                assert np.allclose(pictures.shown_at, video.shown_at, atol=1e-6)
                indices = Sampling(4, clip_seconds=0.3).spread(video, 3)
                assert np.array_equal(indices, Sampling(4, clip_seconds=0.3).spread(pictures, 3))
                there = pictures.read(indices.ravel()).astype(int)
                assert abs(there - video.read(indices.ravel())).max() <= most
        with VideoReader(folder, picture_rate=10) as pictures:
            assert np.allclose(pictures.shown_at, shown_at, atol=1e-6)


def test_pictures_are_upright_and_rgb(tmp_path: Path) -> None:
    (tmp_path / "video").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.fromarray(FRAMES[0]).save(tmp_path / "video/1.png", exif=exif)
    with VideoReader(tmp_path / "video") as video:
        assert np.array_equal(video.read([0])[0], np.rot90(FRAMES[0], -1))
    Image.fromarray(FRAMES[0, :, :, 0]).save(tmp_path / "video/1.png")  # grey
    with VideoReader(tmp_path / "video") as video:
        assert np.array_equal(video.read([0])[0], np.repeat(FRAMES[0, :, :, :1], 3, axis=2))


@pytest.mark.parametrize(
    ("gone", "first", "message"),
    [
        ([4], 1, "img_00004.png is missing: of the numbers 1 to 9 1 is not there"),
        ([3, 7], 0, "img_00003.png is missing: of the numbers 0 to 8 2 are not there"),
        ([1, 2], 1, "img_00001.png is missing: of the numbers 1 to 9 2 are not there"),
    ],
)
def test_holes_are_named(tmp_path: Path, gone: list[int], first: int, message: str) -> None:
    folder = fill(tmp_path / "video", first=first)
    for number in gone:
        (folder / f"img_{number:05d}.png").unlink()
    with pytest.raises(DecodeError, match=f"video: {message}"):
        VideoReader(folder)


def test_series_that_are_none(tmp_path: Path) -> None:
    folder = fill(tmp_path / "video")
    (folder / "img_1.png").touch()
    with pytest.raises(ValueError, match="img_00001.png and img_1.png have the same number"):
        list_pictures(folder)
    (folder / "img_1.png").rename(folder / "mask_1.png")
    with pytest.raises(ValueError, match=r"several series, img_\*.png and mask_\*.png: a folder"):
        list_pictures(folder)
    for path in folder.iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="no numbered pictures, such as img_00001.jpg"):
        list_pictures(folder)


def test_pictures_that_do_not_decode(tmp_path: Path) -> None:
    folder = fill(tmp_path / "video")
    pixels = (folder / "img_00003.png").read_bytes()
    Image.fromarray(FRAMES[0, :10]).save(folder / "img_00002.png")
    (folder / "img_00003.png").write_bytes(pixels[:200])
    (folder / "img_00004.png").write_text("no picture")
    Image.fromarray(np.zeros((24, 32), np.uint16)).save(folder / "img_00005.png")
    with VideoReader(folder) as video:
        with pytest.raises(DecodeError, match="img_00002.png differs in size from those before"):
            list(video.decode_all())
        for index, message in (
            (2, "img_00003.png does not decode"),
            (3, "img_00004.png does not decode: it is damaged"),
            (4, "img_00005.png does not decode: more than 8 bits per colour"),
            (9, "there is no frame 9, only 9"),
        ):
            with pytest.raises(DecodeError, match=message):
                video.read([index])
        with pytest.raises(DecodeError, match="the frames differ in size"):
            video.read([0, 1])


def test_time_needs_a_rate(tmp_path: Path) -> None:
    folder = fill(tmp_path / "video")
    message = "is a folder of pictures, which do not tell .* give it with data.picture_rate"
    with pytest.raises(UserError, match=message):
        VideoReader(folder, segment=(0, 1))
    with VideoReader(folder) as video, pytest.raises(UserError, match=message):
        Sampling(4, frame_rate=5).spread(video, 1)
    with pytest.raises(DecodeError, match="no frame from 2.00 s on, where a segment should begin"):
        VideoReader(folder, segment=(2, 3), picture_rate=9)


def test_which_folders_are_videos(tmp_path: Path) -> None:
    """Not one of videos with a picture of each, nor one of such folders with a cover."""
    folder = fill(tmp_path / "class/video")
    assert holds_pictures(folder)
    assert why_no_file(folder) is None
    shutil.copy(folder / "img_00001.png", tmp_path / "class/cover1.png")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/thumb1.jpg").touch()
    (tmp_path / "other/a.mp4").touch()
    for other in ("class", "other", "absent"):
        assert not holds_pictures(tmp_path / other)
    assert why_no_file(tmp_path / "class") == "no file but a folder"


def test_a_watcher_hears_of_each_picture(tmp_path: Path) -> None:
    heard: list[object] = []
    folder = fill(tmp_path / "video")
    with watched(heard.append), VideoReader(folder) as video:
        list(video.decode_all())
    assert heard == [(str(folder), None), *[None] * 9]
