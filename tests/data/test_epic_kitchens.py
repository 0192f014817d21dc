"""Two long videos whose frames tell their number in red; segments of them are the samples."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.conftest import SMALL
from tests.data.tiny import PROCESSOR, TINY, touch
from train import train
from vivit_train.__main__ import main
from vivit_train.config import compose_config
from vivit_train.data.epic_kitchens import EpicKitchens, read_classes, read_segments, seconds
from vivit_train.errors import UserError
from vivit_train.transforms.augment import Augment
from vivit_train.video.write import write_video

COLUMNS = (
    "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,"
    "start_frame,stop_frame,narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes"
)
NOUNS = "id,key,category,instances\n0,tap,appliances,\"['tap', 'tap:water']\"\n" + "".join(
    f"{i},{name},other,['{name}']\n"
    for i, name in enumerate(["spoon", "plate", "board:chopping", "pan", "lid"], start=1)
)
# Not in the order of the ids.
VERBS = "id,key,category,instances\n1,put,leave,\"['put', 'place']\"\n0,take,retrieve,['take']\n"
NAMES = [
    "noun: tap", "noun: spoon", "noun: plate", "noun: board:chopping", "noun: pan", "noun: lid",
    "verb: take", "verb: put",
]  # fmt: skip
FPS = 10
MISSING = "1 of the 3 videos of validation are not on disk and are counted as wrong"


def row(video: str, start: float, end: float, noun: int, verb: int) -> str:
    times = [f"00:{int(t // 60):02}:{t % 60:05.2f}" for t in (start, end)]
    return (
        f"{video}_0,{video[:3]},{video},00:00:01.089,{times[0]},{times[1]},8,202,open door,open,"
        f"{verb},door,{noun},\"['door', 'a']\",\"[{noun}, 1]\""
    )


ROWS = [
    row("P01_01", 0.14, 2.0, 3, 0), row("P01_01", 1.5, 3.0, 5, 1),
    row("P02_102", 2.0, 4.0, 0, 1), row("P01_01", 3.0, 3.9, 3, 0),
]  # fmt: skip


def annotate(root: Path, folder: str = ".", split: str = "train", rows: list[str] = ROWS) -> None:
    (root / folder).mkdir(parents=True, exist_ok=True)
    (root / folder / f"EPIC_100_{split}.csv").write_text("\n".join([COLUMNS, *rows]))
    (root / folder / "EPIC_100_noun_classes.csv").write_text(NOUNS)
    (root / folder / "EPIC_100_verb_classes.csv").write_text(VERBS)


def build(root: Path, **kwargs: Any) -> EpicKitchens:
    arguments = {
        "val_split": "validation", "test_split": "validation", "eval_views": [1, 1],
        "clip_frames": 4,
    }  # fmt: skip
    return EpicKitchens(root=root, name="epic_kitchens", **TINY | arguments | kwargs)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole small data set; video P02_102 of validation is missing."""
    root = tmp_path_factory.mktemp("epic")
    for video in ("P01_01", "P02_102", "P03_03"):
        frames = np.zeros((40, 24, 32, 3), np.uint8)
        frames[..., 0] = (20 + 5 * np.arange(40))[:, None, None]
        path = root / video[:3] / "videos" / f"{video}.mp4"
        path.parent.mkdir(parents=True)
        options = {"crf": "2", "g": "8"}
        write_video(path, frames, fps=FPS, options=options)
        path.rename(path.with_suffix(".MP4"))
    annotate(root, "epic-kitchens-100-annotations")
    rows = [row("P03_03", 1, 2, 4, 1), row("P03_03", 2, 3, 0, 0), row("P09_01", 0, 1, 1, 0)]
    annotate(root, "epic-kitchens-100-annotations", "validation", rows)
    return root


def shown(frames: torch.Tensor) -> list[int]:
    red = frames[..., 0].float().mean(dim=(-1, -2))
    return ((red - 20) / 5).round().int().flatten().tolist()


@pytest.mark.parametrize("form", ["P01/clips/{}.MP4", "{}.mp4", "rgb_frames/{}/frame_01.jpg"])
def test_clips_that_were_cut_out(
    tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each is the segment itself, found by its narration_id."""
    rows = [row("P01_01", i, i + 1, i, 1).replace("P01_01_0,", f"P01_01_{i},") for i in range(3)]
    annotate(tmp_path, rows=rows)
    touch(tmp_path, *(form.format(f"P01_01_{i}") for i in (0, 2)))
    with pytest.warns(UserWarning, match="1 of the 3 videos of train are not on disk"):
        records, _ = build(tmp_path).read_split("train")
    assert "the videos of train are clips, named by their narration_id" in capsys.readouterr().err
    assert [Path(records.relative_path(i).split("/frame")[0]).stem for i in range(2)] == [
        "P01_01_0", "P01_01_2",
    ]  # fmt: skip
    assert records.labels.tolist() == [[0, 7], [2, 7]]
    assert records.segment(0) is None


@pytest.mark.parametrize("annotations", [".", "annotations", "epic-kitchens-100-annotations"])
@pytest.mark.parametrize(
    "form", ["{}/videos/{}.MP4", "EPIC-KITCHENS/{}/videos/{}.MP4", "videos/train/{}/{}.mp4"]
)
def test_layouts(tmp_path: Path, annotations: str, form: str) -> None:
    annotate(tmp_path, annotations)
    paths = {name: form.format(name[:3], name) for name in ("P01_01", "P02_102")}
    touch(tmp_path, *paths.values(), "P01/rgb_frames/P01_01/x.mp4")
    data = build(tmp_path)
    records, names = data.read_split("train")
    assert names == NAMES
    assert data.heads == {"noun": 6, "verb": 2}
    videos = [row.split(",")[2] for row in ROWS]
    assert [records.relative_path(i) for i in range(4)] == [paths[name] for name in videos]
    assert records.labels.tolist() == [[3, 6], [5, 7], [0, 7], [3, 6]]
    segments = [(0.14, 2.0), (1.5, 3.0), (2.0, 4.0), (3.0, 3.9)]
    assert [records.segment(i) for i in range(4)] == segments
    assert records.name(0) == f"{paths['P01_01']}#t=0.14,2"


def test_only_the_segment_is_shown(root: Path) -> None:
    data = build(root, num_workers=1)
    with pytest.warns(UserWarning, match=MISSING):
        data.setup()
    bounds = [(2, 19), (15, 29), (20, 39), (30, 38)]  # frames 0.14 s <= i / 10 < 2.0 s, ...
    indices = []
    for batch in data.train_dataloader():
        for clip, index in zip(batch.frames, batch.indices.tolist()):
            indices.append(index)
            first, last = bounds[index]
            frames = shown(clip)
            assert first <= frames[0]
            assert frames[-1] <= last
            assert frames == list(range(frames[0], frames[0] + 4))
    assert sorted(indices) == [0, 1, 2, 3]


def test_evaluation_spreads_its_views_over_the_segment(root: Path) -> None:
    data = build(root, eval_views=[2, 1], batch_size=6)
    with pytest.warns(UserWarning, match=MISSING):
        data.setup("test")
    (batch,) = data.test_dataloader()
    assert shown(batch.frames[0]) == [10, 11, 12, 13, 16, 17, 18, 19]
    assert batch.decoded.tolist() == [True, True, False]
    assert batch.labels.tolist() == [[4, 1], [0, 0], [1, 0]]  # within each head


def test_missing_training_videos_are_left_out(tmp_path: Path) -> None:
    annotate(tmp_path)
    touch(tmp_path, "P02/videos/P02_102.MP4")
    with pytest.warns(UserWarning, match="3 of the 4 videos of train .* left out"):
        records, names = build(tmp_path).read_split("train")
    assert records.labels.tolist() == [[0, 7]]
    assert names == NAMES


def test_labels_count_within_each_head(root: Path) -> None:
    data = build(root)
    with pytest.warns(UserWarning, match=MISSING):
        data.setup()
    batch = next(iter(data.train_dataloader()))
    assert batch.labels.dtype == torch.int64
    of_all = [data.records["train"].labels[row].tolist() for row in batch.indices]
    assert batch.labels.tolist() == [[noun, verb - 6] for noun, verb in of_all]
    assert torch.equal(data.augmented(batch, step=0).labels, batch.labels)


def test_mixup_mixes_both_heads(root: Path) -> None:
    data = build(root, augment=Augment(PROCESSOR, mixup=1.0))
    with pytest.warns(UserWarning, match=MISSING):
        data.setup()
    batch = next(iter(data.train_dataloader()))
    shares = data.augmented(batch, step=0).shares
    one_hot = F.one_hot(batch.labels + torch.tensor([0, 6]), 8).sum(dim=1).float()
    torch.testing.assert_close(shares.split([6, 2], dim=1)[0].sum(dim=1), torch.ones(2))
    torch.testing.assert_close(shares.split([6, 2], dim=1)[1].sum(dim=1), torch.ones(2))
    place = tuple((one_hot != one_hot.flip(0)).nonzero()[0].tolist())
    share = float(shares[place] if one_hot[place] else 1 - shares[place])
    torch.testing.assert_close(shares, share * one_hot + (1 - share) * one_hot.flip(0))


def test_a_model_with_its_nouns_in_another_order(root: Path) -> None:
    names = [*reversed(NAMES[:6]), *NAMES[6:]]
    data = build(root, class_names=names)
    with pytest.warns(UserWarning, match=MISSING):
        data.setup()
    assert data.records["train"].labels.tolist() == [[2, 6], [0, 7], [5, 7], [2, 6]]
    ours = build(root)
    with pytest.warns(UserWarning, match=MISSING):
        ours.setup()
    prints = [d.records["test"].fingerprint(d.class_names) for d in (data, ours)]
    assert prints[0] == prints[1]


def test_a_model_with_its_verbs_first(root: Path) -> None:
    data = build(root, class_names=[*NAMES[6:], *NAMES[:6]])
    with pytest.raises(UserError, match=r"rows 0 to 5 of the model are not the 6 classes of the h"):
        data.setup()


def test_no_annotations(tmp_path: Path) -> None:
    touch(tmp_path, "P01/videos/P01_01.MP4")
    with pytest.raises(UserError, match=r"holds no EPIC_100_noun_classes\.csv: clone epic-kitch"):
        build(tmp_path).read_split("train")
    annotate(tmp_path)
    with pytest.raises(UserError, match=r"holds no EPIC_100_val\.csv: .* train and validation"):
        build(tmp_path).read_split("val")


def test_no_videos(tmp_path: Path) -> None:
    annotate(tmp_path)
    with pytest.raises(UserError, match=r"none of the 4 videos that the split 'train' lists"):
        build(tmp_path).read_split("train")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("P01_01_1,P01,P01_01", r"line 6: 3 fields, but the header has 15"),
        (ROWS[0].replace("00:00:00.14", "eight"), r"line 6: expected .* in P01_01_0,P01,P01_01,"),
        (row("P01_01", 2, 1, 0, 0), r"line 6: a segment must .* from 00:00:02.00 to 00:00:01.00"),
        (row("P01_01", 1, 1, 0, 0), r"line 6: a segment must .* end after it starts"),
        (row("P01_01", 1, 2, 6, 0), r"line 6: noun_class 6 is not one of the 6 of EPIC_100_noun_"),
        (row("P01_01", 1, 2, 0, 2), r"line 6: verb_class 2 is not one of the 2 of EPIC_100_verb_"),
        (row("P01_01", 1, 2, -1, 0), r"line 6: noun_class -1 is not one of"),
    ],
)
def test_damaged_rows(tmp_path: Path, line: str, message: str) -> None:
    annotate(tmp_path, rows=[*ROWS, line])
    with pytest.raises(UserError, match=r"EPIC_100_train\.csv, " + message):
        read_segments(tmp_path / "EPIC_100_train.csv", {"noun": 6, "verb": 2})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,name\n0,tap\n", r"line 2: expected the columns id and key, got 0,tap"),
        ("id,key\nzero,tap\n", r"line 2: expected the columns id and key, got zero,tap"),
        ("id,key\n0,tap\n2,pan\n", r"expected each index from 0 on once, got 0, 2"),
        ("id,key\n0,tap\n1,pan\n1,pot\n", r"expected each index from 0 on once, got 0, 1, 1"),
        ("id,key\n", r"expected each index from 0 on once, got none"),
    ],
)
def test_damaged_classes(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "classes.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_classes(tmp_path / "classes.csv")


def test_seconds() -> None:
    assert seconds("00:00:00.14") == 0.14
    assert seconds("01:02:03.50") == 3723.5
    assert seconds("00:00:54") == 54


@pytest.fixture(scope="module")
def run(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run on both heads, with mixup."""
    run_dir = tmp_path_factory.mktemp("runs") / "epic"
    words = [word for word in SMALL if "per_class" not in word]
    words += ["data=epic_kitchens", f"data.root={root}", f"run_dir={run_dir}", "augment.mixup=0.3"]
    words += ["data.batch_size=2", "data.eval_views=[2,1]", "callbacks.monitor=val/verb_top1"]
    with pytest.warns(UserWarning, match=MISSING):
        return train(compose_config(words))


def test_a_run(run: Path, root: Path) -> None:
    results = json.loads((run / "results.json").read_text())
    scores = [f"{head}_top1" for head in ("noun", "verb", "action")]
    scores += [f"{head}_top5" for head in ("noun", "action")]
    assert "verb_top5" not in results  # of two verbs both are among five
    assert all(0 <= results[name] <= 1 for name in (*scores, "mean_class_accuracy"))
    assert (results["top1"], results["top5"]) == (results["action_top1"], results["action_top5"])
    assert results["top1"] <= min(results["noun_top1"], results["verb_top1"])
    assert results["undecodable"] == ["P09/videos/P09_01.MP4#t=0,1"]
    assert (results["num_videos"], results["num_classes"]) == (3, 8)
    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["hyper_parameters"]["heads"] == {"noun": 6, "verb": 2}
    assert content["hyper_parameters"]["class_names"] == NAMES
    assert content["state_dict"]["model.head.weight"].shape[0] == 8
    assert "val/noun_top5" in (run / "metrics.csv").read_text().splitlines()[0]


def test_evaluating_it_gives_its_scores_again(run: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as end, pytest.warns(UserWarning, match=MISSING):
        main(["evaluate", str(run), "--output", str(tmp_path)])
    assert not end.value.code
    again = json.loads((tmp_path / "results.json").read_text())
    first = json.loads((run / "results.json").read_text())
    for name in ("noun_top1", "verb_top1", "action_top5", "split_fingerprint", "undecodable"):
        assert again[name] == first[name]


def test_predicting_with_it(run: Path, root: Path, capsys: pytest.CaptureFixture) -> None:
    video = root / "P01/videos/P01_01.MP4"
    with pytest.raises(SystemExit):
        main(["predict", str(run), str(video), "--json", "--top-k", "20"])
    (report,) = json.loads(capsys.readouterr().out)
    assert list(report) == ["video", "actions", "nouns", "verbs"]
    assert [len(report[kind]) for kind in ("actions", "nouns", "verbs")] == [12, 6, 2]
    chance = {
        kind: {row["class"]: row["probability"] for row in report[kind]}
        for kind in ("actions", "nouns", "verbs")
    }
    assert set(chance["nouns"]) == set(NAMES[:6])
    for noun, p in chance["nouns"].items():
        for verb, q in chance["verbs"].items():
            assert chance["actions"][f"{noun}, {verb}"] == pytest.approx(p * q, abs=2e-6)
    with pytest.raises(SystemExit):
        main(["predict", str(run), str(video), "--top-k", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(video)
    assert [line.strip() for line in lines[1::2]] == ["actions", "nouns", "verbs"]
    best = report["nouns"][0]
    assert lines[4] == f"  {best['probability']:.4f}  {best['class']}"
