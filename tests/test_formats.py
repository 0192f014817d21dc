"""Each data set in the layout and annotation syntax that it is distributed in: one command trains
on it, one evaluates. Videos are generated; beside a checkout that has real clips, also those."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import REPOSITORY, SMALL
from train import train
from vivit_train.__main__ import main
from vivit_train.config import compose_config
from vivit_train.video.container import is_video
from vivit_train.video.decode import VideoReader
from vivit_train.video.write import write_video

CLIPS = REPOSITORY.parent / "shared" / "clips"
REAL = {
    ".mp4": ["arm_wrestling.mp4", "laughing.mp4", "training_dog.mp4"],
    ".webm": ["vp9.webm"],
}
# What SMALL says of the demo's data set alone, others do not have.
MODEL = [word for word in SMALL if not word.startswith(("data.", "augment", "trainer.max_epochs"))]
RUN = [*MODEL, "augment=none", "trainer.max_epochs=1", "data.batch_size=2", "data.clip_frames=4",
       "data.num_workers=1", "data.eval_views=[2,3]", "processor.crop_size=16"]  # fmt: skip


class Videos:
    """Puts videos where they are asked for: generated ones and real ones in turn."""

    def __init__(self, use_real: bool) -> None:
        self.use_real = use_real
        self.count = 0

    def put(self, path: Path, seconds: float = 1.0, fps: int = 10) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.count += 1
        if self.use_real:
            real = REAL[path.suffix.lower()]
            shutil.copy(CLIPS / real[self.count % len(real)], path)
            return
        rng = np.random.default_rng(self.count)
        frames = rng.integers(0, 256, (round(seconds * fps), 1, 1, 3), dtype=np.uint8)
        frames = np.broadcast_to(frames, (len(frames), 24, 32, 3))
        codec = "libvpx-vp9" if path.suffix == ".webm" else "libx264"
        # Suffixes in capitals, as EPIC has them, name no container to the encoder.
        write_video(path.with_suffix(path.suffix.lower()), frames, fps, codec)
        path.with_suffix(path.suffix.lower()).rename(path)


def kinetics(root: Path, videos: Videos) -> dict[str, int]:
    header = "label,youtube_id,time_start,time_end,split,is_cc\n"
    for split, ids in (("train", "abcd"), ("val", "efg")):
        rows = []
        for i, letter in enumerate(ids):
            label = ("arm wrestling", '"making a cake, slowly"')[i % 2]
            rows.append(f"{label},-{letter}_QUuC4vJs,{84 + i},{94 + i},{split},0\n")
            videos.put(root / split / f"-{letter}_QUuC4vJs_{84 + i:06d}_{94 + i:06d}.mp4")
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"{split}.csv").write_text(header + "".join(rows))
    return {"num_videos": 3, "num_classes": 2}


def ssv2(root: Path, videos: Videos) -> dict[str, int]:
    templates = [
        "Pushing [something] from left to right",
        "Letting [something] roll up a slanted surface, so it rolls back down",
    ]
    labels = {text.replace("[", "").replace("]", ""): str(i) for i, text in enumerate(templates)}
    (root / "labels").mkdir(parents=True)
    (root / "labels" / "labels.json").write_text(json.dumps(labels))
    for split, ids in (("train", [78687, 42326, 100904]), ("validation", [74225, 116154])):
        rows = [
            {"id": str(number), "label": "pushing a cup from left to right",
             "template": templates[i % 2], "placeholders": ["a cup"]}
            for i, number in enumerate(ids)
        ]  # fmt: skip
        (root / "labels" / f"{split}.json").write_text(json.dumps(rows))
        for number in ids:
            videos.put(root / "20bn-something-something-v2" / f"{number}.webm")
    return {"num_videos": 2, "num_classes": 2}


def moments(root: Path, videos: Videos) -> dict[str, int]:
    root.mkdir(parents=True, exist_ok=True)
    (root / "moments_categories.txt").write_text("adult+female+singing,1\nclapping,0\n")
    for split, names in (("training", "abc"), ("validation", "de")):
        rows = []
        for i, name in enumerate(names):
            label = ("clapping", "adult+female+singing")[i % 2]
            rows.append(f"{label}/yt-{name}_0-0-1-6_11.mp4,{label},4,0\n")
            videos.put(root / split / label / f"yt-{name}_0-0-1-6_11.mp4")
        (root / f"{split}Set.csv").write_text("".join(rows))
    return {"num_videos": 2, "num_classes": 2}


def epic(root: Path, videos: Videos) -> dict[str, int]:
    header = (
        "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,"
        "start_frame,stop_frame,narration,verb,verb_class,noun,noun_class,all_nouns,"
        "all_noun_classes\n"
    )
    row = (
        "{video}_{i},P01,{video},00:00:01.089,00:00:0{start}.14,00:00:0{stop}.37,8,202,open door,"
        "open,{verb},door,{noun},\"['door']\",[{noun}]\n"
    )
    annotations = root / "epic-kitchens-100-annotations"
    annotations.mkdir(parents=True)
    for split, video in (("train", "P01_01"), ("validation", "P01_11")):
        rows = [
            row.format(video=video, i=i, start=i, stop=i + 1, verb=i % 2, noun=i) for i in range(3)
        ]
        (annotations / f"EPIC_100_{split}.csv").write_text(header + "".join(rows))
        videos.put(root / "EPIC-KITCHENS" / "P01" / "videos" / f"{video}.MP4", seconds=60)
    (annotations / "EPIC_100_verb_classes.csv").write_text(
        "id,key,category,instances\n0,take,retrieve,['take']\n1,put,leave,['put']\n"
    )
    nouns = "".join(f"{i},{noun},x,['{noun}']\n" for i, noun in enumerate(("tap", "pan", "lid")))
    (annotations / "EPIC_100_noun_classes.csv").write_text("id,key,category,instances\n" + nouns)
    return {"num_videos": 3, "num_classes": 5}


def hmdb51(root: Path, videos: Videos) -> dict[str, int]:
    for label in ("brush_hair", "cartwheel"):
        marks = ((1, "a.avi"), (1, "b.avi"), (2, "c.avi"), (0, "d.avi"))
        for _, name in marks:
            videos.put(root / label / name)
        folder = root / "testTrainMulti_7030_splits"
        folder.mkdir(exist_ok=True)
        text = "".join(f"{name} {mark} \n" for mark, name in marks)
        (folder / f"{label}_test_split1.txt").write_text(text)
    return {"num_videos": 2, "num_classes": 2}


def ucf101(root: Path, videos: Videos) -> dict[str, int]:
    lists = root / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 ApplyEyeMakeup\r\n2 HandstandPushups\r\n")
    rows = []
    for number, label in enumerate(("ApplyEyeMakeup", "HandstandPushups"), start=1):
        for group in (1, 8, 9):
            # Of this class the files are spelt otherwise than the folder.
            video = f"{label}/v_{label.replace('st', 'St')}_g{group:02d}_c01.avi"
            videos.put(root / "UCF-101" / video)
            rows.append((video, number, group))
    test = [f"{video}\r\n" for video, _, group in rows if group == 1]
    train = [f"{video} {number}\r\n" for video, number, group in rows if group != 1]
    (lists / "testlist01.txt").write_text("".join(test))
    (lists / "trainlist01.txt").write_text("".join(train))
    return {"num_videos": 2, "num_classes": 2}


def diving48(root: Path, videos: Videos) -> dict[str, int]:
    vocabulary = [["Back", "15som", "05Twis", "FREE"], ["Inward", "Dive", "NoTwis", "PIKE"]]
    (root / "Diving48_vocab.json").write_text(json.dumps(vocabulary))
    for split, number in (("train", 4), ("test", 3)):
        entries = []
        for i in range(number):
            name = f"-{split}PyGHE_{i:05d}"
            videos.put(root / "rgb" / f"{name}.mp4")
            entries.append({"vid_name": name, "start_frame": 0, "end_frame": 10, "label": i % 2})
        (root / f"Diving48_V2_{split}.json").write_text(json.dumps(entries))
    return {"num_videos": 3, "num_classes": 2}


def folder(root: Path, videos: Videos) -> dict[str, int]:
    for split, number in (("train", 2), ("val", 1)):
        for label in ("waving", "jumping"):
            for i in range(number):
                videos.put(root / split / label / f"clip {i}.mp4")
    return {"num_videos": 2, "num_classes": 2}


def lists(root: Path, videos: Videos) -> dict[str, int]:
    for split, number in (("train", 4), ("val", 3)):
        videos.put(root / "clips" / f"{split}.mp4", seconds=number)
        rows = [
            f"clips/{split}.mp4,{('waving', 'jumping')[i % 2]},{i},0:0{i + 1}\n"
            for i in range(number)
        ]
        (root / f"{split}.csv").write_text("file_name,label,start,end\n" + "".join(rows))
    return {"num_videos": 3, "num_classes": 2}


TREES: dict[str, Callable[[Path, Videos], dict[str, int]]] = {
    "kinetics400": kinetics,
    "kinetics600": kinetics,
    "kinetics700": kinetics,
    "ssv2": ssv2,
    "moments_in_time": moments,
    "hmdb51": hmdb51,
    "ucf101": ucf101,
    "diving48": diving48,
    "epic_kitchens": epic,
    "folder": folder,
    "csv": lists,
}


def predicted(folder: Path) -> list[list[str]]:
    """Rows of predictions.csv without the name of the video."""
    with (folder / "predictions.csv").open(newline="") as file:
        return [row[1:] for row in csv.reader(file)]


def as_pictures(root: Path, copy: Path) -> None:
    """A copy of a data set with a folder of the frames, as PNG, in place of each video."""
    shutil.copytree(root, copy)
    for path in [p for p in copy.rglob("*") if is_video(p.name)]:
        folder = path.with_suffix("")
        folder.mkdir()
        with VideoReader(path) as video:
            for index, frame in video.stream(np.arange(video.num_frames)):
                Image.fromarray(frame).save(folder / f"img_{index + 1:05d}.png", compress_level=1)
        path.unlink()


@pytest.mark.parametrize(
    ("name", "use_real"), [(name, False) for name in TREES] + [("kinetics400", True),
    ("ssv2", True), ("epic_kitchens", True)]
)  # fmt: skip
def test_one_command_trains_and_one_evaluates(name: str, use_real: bool, tmp_path: Path) -> None:
    if use_real and not CLIPS.is_dir():
        pytest.skip(f"{CLIPS} is not there: real clips are not part of a checkout")
    root = tmp_path / "data"
    root.mkdir()
    expected = TREES[name](root, Videos(use_real))
    words = [f"data={name}", f"data.root={root}", f"run_dir={tmp_path / 'run'}", *RUN]
    run = train(compose_config(words))
    trained = json.loads((run / "results.json").read_text())
    assert {key: trained[key] for key in expected} == expected
    assert trained["num_videos_scored"] == trained["num_videos"]
    assert trained["undecodable"] == []

    with pytest.raises(SystemExit, match="0"):
        main(["evaluate", str(run), "--output", str(tmp_path / "again")])
    evaluated = json.loads((tmp_path / "again" / "results.json").read_text())
    scores = [key for key in trained if "top" in key or "accuracy" in key]
    assert {key: evaluated[key] for key in scores} == {key: trained[key] for key in scores}
    if not use_real:
        as_pictures(root, tmp_path / "pictures")
        words = [f"data.root={tmp_path / 'pictures'}", "data.picture_rate=10"]
        with pytest.raises(SystemExit, match="0"):
            main(["evaluate", str(run), *words, "--output", str(tmp_path / "of_pictures")])
        of_pictures = json.loads((tmp_path / "of_pictures" / "results.json").read_text())
        assert of_pictures["undecodable"] == []
        assert {key: of_pictures[key] for key in scores} == {key: trained[key] for key in scores}
        # The probabilities to the last digit.
        assert predicted(tmp_path / "of_pictures") == predicted(tmp_path / "again")
    if name == "epic_kitchens":
        assert {"verb_top1", "noun_top1", "action_top1"} <= set(scores)
