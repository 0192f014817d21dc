"""Whatever the annotation files of a data set hold, reading them ends in records or in one line."""

import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vivit_train.build import build_data
from vivit_train.config import compose_config, to_plain
from vivit_train.data.datamodule import VideoDataModule
from vivit_train.errors import UserError

EPIC = (
    "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,"
    "start_frame,stop_frame,narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes\n"
    "P01_01_0,P01,P01_01,00:00:01.089,00:00:00.14,00:00:02.00,8,202,open door,open,1,door,1,"
    "\"['door']\",[1]\n"
)
# Data set -> split, annotation files, videos.
LAYOUTS: dict[str, tuple[str, dict[str, str], list[str]]] = {
    "kinetics400": (
        "train",
        {"annotations/train.csv": "label,youtube_id,time_start,time_end,split\nrun,AA,1,11,train\n"
         '"a, b",BB,2,12,train\n'},
        ["train/AA_000001_000011.mp4", "train/BB_000002_000012.mp4"],
    ),
    "ssv2": (
        "train",
        {"labels/labels.json": '{"Closing something": "0", "Opening something": "1"}',
         "labels/train.json": '[{"id": "1", "label": "x", "template": "Closing [something]"}, '
         '{"id": "2", "template": "Opening [something]"}]',
         "labels/test-answers.csv": "1;Closing something\n"},
        ["videos/1.webm", "videos/2.webm"],
    ),
    "moments_in_time": (
        "training",
        {"moments_categories.txt": "clapping,0\nrunning,1\n",
         "trainingSet.csv": "clapping/a.mp4,clapping,3,1\nrunning/b.mp4,running,3,1\n"},
        ["training/clapping/a.mp4", "training/running/b.mp4"],
    ),
    "epic_kitchens": (
        "train",
        {"EPIC_100_train.csv": EPIC,
         "EPIC_100_noun_classes.csv": "id,key\n0,tap\n1,door\n",
         "EPIC_100_verb_classes.csv": "id,key\n0,take\n1,open\n"},
        ["P01/videos/P01_01.MP4"],
    ),
    "hmdb51": (
        "train1",
        {"splits/run_test_split1.txt": "a.avi 1 \nb.avi 2 \n",
         "splits/walk_test_split1.txt": "c.avi 1 \nd.avi 0 \n"},
        ["run/a.avi", "walk/c.avi"],
    ),
    "ucf101": (
        "train1",
        {"ucfTrainTestlist/classInd.txt": "1 Archery\n2 Basketball\n",
         "ucfTrainTestlist/trainlist01.txt": "Archery/v_a.avi 1\nBasketball/v_b.avi 2\n"},
        ["UCF-101/Archery/v_a.avi", "UCF-101/Basketball/v_b.avi"],
    ),
    "diving48": (
        "train",
        {"Diving48_vocab.json": '[["Back", "15som", "NoTwis", "FREE"], ["Inward", "PIKE"]]',
         "Diving48_V2_train.json": '[{"vid_name": "-a_00001", "start_frame": 0, "end_frame": 9, '
         '"label": 1}, {"label": 0, "vid_name": "_b_00002"}]'},
        ["rgb/-a_00001.mp4", "rgb/_b_00002.mp4"],
    ),
    "csv": (
        "train.csv",
        {"train.csv": "path,label,start,end\na.mp4,0,0,1\na.mp4,1,0:01,0:02.5\n",
         "classes.txt": "0,run\n1,walk\n"},
        ["a.mp4"],
    ),
    "folder": (
        "train",
        {"videos.csv": "a.mp4,1,train\nb.mp4,2,val\n", "classInd.txt": "1 run\n2 walk\n"},
        ["a.mp4", "b.mp4"],
    ),
}  # fmt: skip
BYTES = [
    b'"', b",", b";", b"\n", b"\t", b" ", b"0", b"9" * 5000, b"-", b":", b"\xe9", b"\0", b"{", b"#",
    b"[" * 5000, b"null", b"1e999", b"NaN", b"\\ud800", b"\\u0000", b"\xef\xbb\xbf", b"x",
]  # fmt: skip
CHANGES = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 30), st.sampled_from([b"", *BYTES])),
    min_size=1, max_size=3,
)  # fmt: skip


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, VideoDataModule]:
    """Every data set, with empty files for videos."""
    found = {}
    for name, (_, files, videos) in LAYOUTS.items():
        root = tmp_path_factory.mktemp(name)
        for path in [*files, *videos]:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(files.get(path, ""), encoding="utf-8")
        config: dict[str, Any] = to_plain(compose_config([f"data={name}", f"data.root={root}"]))
        found[name] = build_data(config)
        assert len(found[name].read_split(LAYOUTS[name][0])[0]) > 0
    return found


@pytest.mark.parametrize(
    ("name", "file"), [(name, file) for name, (_, files, _) in LAYOUTS.items() for file in files]
)
@given(changes=CHANGES)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_damaged_annotations(
    layouts: dict[str, VideoDataModule], name: str, file: str, changes: list[tuple]
) -> None:
    split, files, _ = LAYOUTS[name]
    data = layouts[name]
    content = files[file].encode()
    for place, length, new in changes:
        start = round(place * len(content))
        content = content[:start] + new + content[start + length :]
    (data.root / file).write_bytes(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            records, names = data.read_split(split)
        records.fingerprint(names)
    except UserError as error:
        message = str(error)
        assert len(message) < 2_000, message[:500]
    finally:
        (data.root / file).write_text(files[file], encoding="utf-8")


def test_all_data_sets_are_there(layouts: dict[str, VideoDataModule]) -> None:
    configs = {path.stem for path in (Path(__file__).parents[2] / "configs/data").glob("*.yaml")}
    others = {"video", "demo", "webdataset", "kinetics600", "kinetics700"}
    assert set(LAYOUTS) == configs - others
