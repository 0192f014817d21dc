import argparse
import csv
import errno
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.faults import vivit_on
from vivit_train import build, load
from vivit_train.__main__ import main
from vivit_train.commands import evaluate
from vivit_train.data.datamodule import VideoDataModule
from vivit_train.data.demo_clips import CLASS_NAMES
from vivit_train.errors import UserError
from vivit_train.export.huggingface import write as write_huggingface
from vivit_train.video.sampling import Sampling
from vivit_train.video.write import write_video

SCORES = ("top1", "top5", "mean_class_accuracy")


def run(checkpoint: object, *overrides: str, output: Path | None = None) -> None:
    arguments = argparse.Namespace(
        checkpoint=str(checkpoint), overrides=list(overrides), output=output
    )
    assert evaluate.run(arguments) == 0


@pytest.fixture
def score(finished_run: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Evaluates, and reads results.json."""

    def run_and_read(*overrides: str, checkpoint: object = finished_run) -> dict[str, Any]:
        run(checkpoint, "data.num_workers=0", *overrides, output=tmp_path / "out")
        return json.loads((tmp_path / "out" / "results.json").read_text())

    return run_and_read


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[VideoDataModule]:
    """The DataModules that the command builds."""
    found: list[VideoDataModule] = []
    original = build.build_data
    monkeypatch.setattr(build, "build_data", lambda *a: found.append(original(*a)) or found[-1])
    return found


def by_hand(checkpoint: Path, videos: list[tuple[Path, str]], views: tuple[int, int], **own: Any):
    """Scores video by video, as `vivit predict` would name them."""
    classifier = load(checkpoint)
    for name, value in own.items():
        setattr(classifier, name, value)
    logits = torch.stack([classifier.classify(path, views) for path, _ in videos])
    labels = torch.tensor([classifier.class_names.index(name) for _, name in videos])
    right = logits.argsort(dim=1, descending=True) == labels[:, None]
    per_class = [right[labels == k, 0].float().mean() for k in labels.unique()]
    return {
        "top1": float(right[:, 0].float().mean()),
        "top5": float(right[:, :5].any(dim=1).float().mean()),
        "mean_class_accuracy": float(sum(per_class) / len(per_class)),
    }


def validation_clips(demo_root: Path) -> list[tuple[Path, str]]:
    return [(path, path.parent.name) for path in sorted((demo_root / "val").rglob("*.mp4"))]


def test_classes_that_a_checkpoint_names_are_not_imported(
    finished_run: Path, score, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attack: callbacks and loggers of a stranger's checkpoint, with their code beside it."""
    (tmp_path / "my_attack.py").write_text("raise SystemExit('the code of a stranger has run')")
    monkeypatch.syspath_prepend(tmp_path)
    content = torch.load(finished_run / "checkpoints" / "best.ckpt", weights_only=True)
    config = content["hyper_parameters"]["config"]
    for group in ("callbacks", "logger"):
        config[group]["extra"] = {"x": {"_target_": "my_attack.Part"}}
    run = shutil.copytree(finished_run, tmp_path / "run")
    for place in (run / "checkpoints").iterdir():
        place.unlink()
    torch.save(content, run / "checkpoints" / "best.ckpt")
    assert score(checkpoint=run)["num_videos"] == 16


def test_a_part_of_the_split(finished_run: Path, score, tmp_path: Path) -> None:
    """One video of each class; its score does not compare with that of the whole."""
    with pytest.warns(UserWarning, match="of the 16 videos of the split 'val' 8 are scored"):
        results = score("trainer.limit_test_batches=4")
    assert (results["num_videos"], results["num_videos_scored"]) == (16, 8)
    whole = json.loads((finished_run / "results.json").read_text())
    assert results["split_fingerprint"] != whole["split_fingerprint"]
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        assert sorted(row["class"] for row in csv.DictReader(file)) == sorted(CLASS_NAMES)


def test_nothing_to_score(score) -> None:
    with pytest.raises(UserError, match="limit_test_batches=0 leaves no video to score: add"):
        score("trainer.limit_test_batches=0")


def test_a_run_scores_exactly_as_when_it_was_tested(finished_run: Path, score) -> None:
    before = json.loads((finished_run / "results.json").read_text())
    after = score()
    assert after.pop("checkpoint") == str(finished_run / "checkpoints" / "best.ckpt")
    del before["checkpoint"]
    assert after == before


def test_a_run_of_another_version_scores_the_same(
    finished_run: Path, tmp_path: Path, score, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its configuration lacks what was added since, and has a key that is gone."""
    path = finished_run / "checkpoints" / "best.ckpt"
    old = torch.load(path, weights_only=True)
    config = old["hyper_parameters"]["config"]
    for group, name in (
        ("optim", "layer_decay"), ("callbacks", "ema_decay"), ("callbacks", "non_finite"),
        ("augment", "mix_min_videos"), ("model", "token_drop"), ("data", "val_views"),
    ):  # fmt: skip
        del config[group][name]
    del old["hyper_parameters"]["model"]["token_drop"]
    config["augment"]["blur"] = 0.5
    torch.save(old, tmp_path / "old.ckpt")
    results = score(checkpoint=tmp_path / "old.ckpt")
    before = json.loads((finished_run / "results.json").read_text())
    assert results | {"checkpoint": before["checkpoint"]} == before
    assert "without meaning in this one: augment.blur=0.5" in capsys.readouterr().err
    frames = torch.randint(0, 256, (4, 20, 30, 3), dtype=torch.uint8)
    assert torch.equal(load(tmp_path / "old.ckpt")(frames), load(path)(frames))


def test_a_strangers_checkpoint_imports_and_reads_nothing(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its configuration names a module that lies in the working directory, and a secret."""
    (tmp_path / "evil.py").write_text("import os; os.mkdir('imported')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("SECRET", "password")
    content = torch.load(finished_run / "checkpoints" / "best.ckpt", weights_only=True)
    data = content["hyper_parameters"]["config"]["data"]
    for key, value, message in (
        ("_target_", "evil.Thing", r"class evil\.Thing, outside of vivit-train, .* name it yourse"),
        ("_target_", "vivit_train.data.folder.os.system", "is not the class of a data set|cannot"),
        ("root", "${oc.env:SECRET}", r"data\.root=\$\{oc\.env:SECRET\} would have to be evaluated"),
    ):
        before, data[key] = data[key], value
        torch.save(content, tmp_path / "best.ckpt")
        data[key] = before
        with pytest.raises(UserError, match=message) as caught:
            run(tmp_path / "best.ckpt", output=tmp_path / "out")
        assert "password" not in str(caught.value)
    assert not (tmp_path / "imported").exists()


def test_other_views(finished_run: Path, demo_root: Path, score) -> None:
    clips = validation_clips(demo_root)
    for views in ((1, 1), (3, 3)):
        results = score(f"data.eval_views=[{views[0]},{views[1]}]")
        assert results["views"] == list(views)
        expected = by_hand(finished_run / "checkpoints" / "best.ckpt", clips, views)
        assert {name: results[name] for name in SCORES} == pytest.approx(expected)


def test_the_last_checkpoint_too(finished_run: Path, demo_root: Path, score) -> None:
    last = finished_run / "checkpoints" / "last.ckpt"
    results = score(checkpoint=last)
    assert results["checkpoint"] == str(last)
    expected = by_hand(last, validation_clips(demo_root), (2, 1))
    assert {name: results[name] for name in SCORES} == pytest.approx(expected)


def numbered(root: Path, clips: list[tuple[Path, str]], names: list[str]) -> None:
    """A data set that labels the clips by number, in the order of ``names``."""
    rows = [f"{path},{names.index(name)}" for path, name in clips]
    (root / "val.csv").write_text("\n".join(rows))
    (root / "classes.txt").write_text("\n".join(names))


def test_another_data_set_is_matched_by_name(
    finished_run: Path, demo_root: Path, tmp_path: Path, score
) -> None:
    before = json.loads((finished_run / "results.json").read_text())
    numbered(tmp_path, validation_clips(demo_root), sorted(CLASS_NAMES, reverse=True))
    results = score("data=folder", f"data.root={tmp_path}", "data.eval_views=[2,1]")
    assert results["data"] == "folder"
    assert {name: results[name] for name in SCORES} == {name: before[name] for name in SCORES}


def test_frames_are_taken_as_in_training(
    finished_run: Path, demo_root: Path, tmp_path: Path, score, built
) -> None:
    """The demo's stride of 1, not the 2 that configs/data has for other videos."""
    numbered(tmp_path, validation_clips(demo_root), list(CLASS_NAMES))
    words = ["data=folder", f"data.root={tmp_path}", "data.eval_views=[1,1]"]
    score(*words)
    score(*words, "data.frame_stride=3", "data.clip_frames=6")
    sampled = [(d.sampling.clip_frames, d.sampling.frame_stride) for d in built]
    assert sampled == [(4, 1), (6, 3)]
    assert built[0].processor.settings() == load(
        finished_run / "checkpoints" / "best.ckpt"
    ).processor.settings()  # fmt: skip


def test_videos_of_another_rate_are_named(tmp_path: Path, score, built, capsys) -> None:
    for name in CLASS_NAMES[:2]:
        (tmp_path / "val" / name).mkdir(parents=True)
        frames = np.zeros((12, 32, 32, 3), np.uint8)
        write_video(tmp_path / "val" / name / "a.mp4", frames, fps=75)
    numbered(tmp_path, [(p, p.parent.name) for p in tmp_path.rglob("*.mp4")], list(CLASS_NAMES))
    words = ("data=folder", f"data.root={tmp_path}", "data.eval_views=[1,1]")
    score(*words)
    err = capsys.readouterr().err
    assert "warning: 2 of 2 test videos have another frame rate than the training videos" in err
    remedy = next(w for w in err.split() if w.startswith("data.frame_rate="))
    score(*words, remedy)
    assert "another frame rate" not in capsys.readouterr().err
    assert f"data.frame_rate={built[1].sampling.frame_rate:g}" == remedy


def test_an_exported_folder_takes_frames_as_the_run_does(
    finished_run: Path, demo_root: Path, tmp_path: Path, score, built, capsys
) -> None:
    """A stride of 3 and its views, though the data set's are others and Hugging Face has no key."""
    classifier, clips = load(finished_run), validation_clips(demo_root)
    classifier.sampling, classifier.eval_views = Sampling(4, frame_stride=3), (2, 1)
    folder = tmp_path / "exported"
    folder.mkdir()
    write_huggingface(classifier, folder)
    numbered(tmp_path, clips, list(CLASS_NAMES))
    words = ["data=folder", f"data.root={tmp_path}"]
    results = score(*words, checkpoint=folder)
    assert (built[0].sampling.frame_stride, built[0].eval_views) == (3, (2, 1))
    assert results["views"] == [2, 1]
    by_the_run = by_hand(finished_run, clips, (2, 1), sampling=Sampling(4, frame_stride=3))
    assert {name: results[name] for name in SCORES} == pytest.approx(by_the_run)
    logits = load(folder).classify(clips[0][0])
    torch.testing.assert_close(logits, classifier.classify(clips[0][0]))
    assert "does not say how far apart" not in capsys.readouterr().err

    config = json.loads((folder / "config.json").read_text())
    assert config.pop("vivit_train")["sampling"]["frame_stride"] == 3
    (folder / "config.json").write_text(json.dumps(config))
    score(*words, "data.eval_views=[1,1]", checkpoint=folder)
    assert built[1].sampling.frame_stride == 2
    assert "data.frame_stride=2 of this configuration is used" in capsys.readouterr().err


def test_logits_that_are_not_finite_are_no_score(finished_run: Path, tmp_path: Path, score) -> None:
    """Finite weights whose products are not."""
    content = torch.load(finished_run / "checkpoints" / "best.ckpt", weights_only=True)
    content["state_dict"]["model.head.weight"] *= 0
    content["state_dict"]["model.head.weight"] += 3e38
    torch.save(content, tmp_path / "best.ckpt")
    message = r"logits of 16 of 16 videos are NaN or infinite, so there is no score: \S*/0"
    with pytest.raises(UserError, match=message):
        score("data.eval_views=[1,1]", checkpoint=tmp_path / "best.ckpt")
    assert not (tmp_path / "out" / "results.json").exists()


def test_scores_that_cannot_be_written_are_shown(
    score, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def fail(folder: Path, results: dict[str, Any]) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(folder / "results.json"))

    monkeypatch.setattr("vivit_train.runs.scores.write_results", fail)
    with pytest.raises(OSError, match="Read-only"):
        score("data.eval_views=[1,1]")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("results ")]
    assert json.loads(line.removeprefix("results "))["num_videos"] == 16


def test_the_processor_is_the_checkpoints_unless_asked(score, built) -> None:
    score("data.eval_views=[1,1]")
    score("data.eval_views=[1,1]", "processor.size=20")
    score("data.eval_views=[1,1]", "processor=huggingface", "processor.size=18")
    assert [d.processor.size for d in built] == [18, 20, 18]
    assert [d.processor.do_normalize for d in built] == [False, False, True]


def test_a_class_that_the_model_does_not_know(demo_root: Path, tmp_path: Path, score) -> None:
    known = validation_clips(demo_root)
    clips = [(path, "juggling" if name == CLASS_NAMES[0] else name) for path, name in known]
    numbered(tmp_path, clips, ["juggling", *CLASS_NAMES[1:]])
    with pytest.raises(UserError) as caught:
        score("data=folder", f"data.root={tmp_path}")
    assert "of the model: juggling. Unmatched there: " + CLASS_NAMES[0] in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_some_of_the_classes(finished_run: Path, demo_root: Path, tmp_path: Path, score) -> None:
    """A data set with two of the classes: scores are over those, of eight that are predicted."""
    names = [CLASS_NAMES[5], CLASS_NAMES[2]]
    clips = [clip for clip in validation_clips(demo_root) if clip[1] in names]
    numbered(tmp_path, clips, names)
    results = score("data=folder", f"data.root={tmp_path}", "data.eval_views=[1,1]")
    expected = by_hand(finished_run / "checkpoints" / "best.ckpt", clips, (1, 1))
    assert {name: results[name] for name in SCORES} == pytest.approx(expected)
    assert results["num_videos"] == 4


@pytest.fixture(scope="module")
def always_class_3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder of a model whose scores are known beforehand."""
    import transformers

    config = transformers.VivitConfig(
        image_size=16, num_frames=6, tubelet_size=[2, 8, 8], hidden_size=16, num_hidden_layers=1,
        num_attention_heads=2, intermediate_size=32, id2label=dict(enumerate(CLASS_NAMES)),
        label2id={name: i for i, name in enumerate(CLASS_NAMES)},
    )  # fmt: skip
    model = transformers.VivitForVideoClassification(config)
    torch.nn.init.zeros_(model.classifier.weight)
    model.classifier.bias.data = torch.nn.functional.one_hot(torch.tensor(3), 8).float()
    folder = tmp_path_factory.mktemp("huggingface")
    model.save_pretrained(folder)
    return folder


def test_a_foreign_checkpoint(always_class_3: Path, small: tuple[str, ...], score, built) -> None:
    words = [word for word in small if not word.startswith(("model.", "data.clip_frames"))]
    results = score(*words, checkpoint=always_class_3)
    assert results["top1"] == results["mean_class_accuracy"] == 1 / 8
    assert (results["num_videos"], results["views"]) == (16, [2, 1])
    # The model's own, not those of the configuration's model.
    assert built[0].processor.crop_size == (16, 16)
    assert built[0].sampling.clip_frames == 6


def test_what_cannot_be_decoded_is_listed_and_wrong(
    always_class_3: Path, demo_root: Path, tmp_path: Path, score, capsys: pytest.CaptureFixture
) -> None:
    clips = validation_clips(demo_root)
    (tmp_path / "bad.mp4").write_bytes(b"this is no video")
    clips += [(Path("bad.mp4"), CLASS_NAMES[3]), (Path("gone.mp4"), CLASS_NAMES[3])]
    numbered(tmp_path, clips, list(CLASS_NAMES))
    results = score(
        "data=folder", f"data.root={tmp_path}", "data.eval_views=[1,3]",
        "trainer.accelerator=cpu", checkpoint=always_class_3,
    )  # fmt: skip
    assert results["top1"] == 2 / 18
    assert results["mean_class_accuracy"] == pytest.approx(1 / 8 * 2 / 4)
    assert results["undecodable"] == ["bad.mp4", "gone.mp4"]
    assert (results["num_videos"], results["num_videos_scored"]) == (18, 18)
    assert results["views"] == [1, 3]
    out = capsys.readouterr().out.splitlines()
    assert out[-3] == "undecodable, counted as wrong: bad.mp4, gone.mp4"


class TestWhereResultsGo:
    def test_into_the_run(self, finished_run: Path, capsys: pytest.CaptureFixture) -> None:
        before = (finished_run / "results.json").read_text()
        run(finished_run, "data.num_workers=0", "data.eval_views=[1,1]")
        *_, scores, report, path = capsys.readouterr().out.splitlines()
        folder = Path(path).parent
        assert folder.parent == finished_run / "evaluations"
        assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", folder.name)
        results = json.loads(Path(path).read_text())
        assert report == f"report: {folder / 'report.html'}"
        assert scores.startswith("results ")
        shown = json.loads(scores.removeprefix("results "))
        assert shown == {name: results[name] for name in (*SCORES, "macro_f1", "num_videos")}
        names = sorted(p.name for p in folder.iterdir())
        assert names == [
            "classes.csv", "confusion.csv", "predictions.csv", "report.html", "results.json"
        ]  # fmt: skip
        assert (finished_run / "results.json").read_text() == before

    def test_by_default(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        run_dir = tmp_path / "run"
        (run_dir / "checkpoints").mkdir(parents=True)
        checkpoint = run_dir / "checkpoints" / "best.ckpt"
        assert evaluate.default_output(checkpoint).parent == Path("runs/evaluations")
        (run_dir / "config.yaml").touch()
        assert evaluate.default_output(checkpoint).parent == run_dir / "evaluations"
        assert evaluate.default_output(Path("owner/name")).parent == Path("runs/evaluations")
        # Two that start in the same second.
        with evaluate.output_folder(None, checkpoint) as first:
            (first / "results.json").touch()
        monkeypatch.setattr(evaluate, "default_output", lambda _: first)
        with evaluate.output_folder(None, checkpoint) as second:
            assert second == first.with_name(f"{first.name}_2")

    def test_a_runs_own_results_are_not_written_over(self, tmp_path: Path) -> None:
        (tmp_path / "config.yaml").touch()
        with pytest.raises(UserError, match=f"--output={tmp_path} is the folder of a run"):  # noqa: SIM117
            with evaluate.output_folder(tmp_path, tmp_path / "checkpoints" / "best.ckpt"):
                pass

    def test_a_run_that_cannot_be_written_to(self) -> None:
        with pytest.raises(UserError, match="^--output=/proc/evaluations/x cannot be written to: "):  # noqa: SIM117
            with evaluate.output_folder(Path("/proc/evaluations/x"), Path("last.ckpt")):
                pass


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["RUN", "data.eval_view=[1,1]"], "error: there is no key 'data.eval_view'.*eval_views"),
        (
            ["RUN", "model.image_size=32", "run_dir=x", "data.eval_views=[1,1]", "logger=wandb"],
            "error: vivit evaluate does not use model.image_size=32, run_dir=x, logger=wandb: ",
        ),
        (["RUN", "data.label_key=txt"], "error: there is no key 'data.label_key'"),
        (["RUN", "data.eval_views=[1,2]"], r"error: data.eval_views=\[1,2\]: expected a list"),
        (["RUN", "data=folder", "data.root=/nowhere"], "error: data.root=/nowhere is not a folder"),
        (["RUN", "experiment=vivit_b_k400"], "error: experiment=vivit_b_k400 makes a new"),
        (["/nowhere/best.ckpt"], "error: /nowhere/best.ckpt does not exist"),
    ],
)
def test_mistakes(finished_run: Path, words: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as end:
        main(["evaluate", *(str(finished_run) if word == "RUN" else word for word in words)])
    assert re.match(message, str(end.value.code)), end.value.code


def test_any_number_of_processes_gives_the_same_scores(
    finished_run: Path, demo_root: Path, tmp_path: Path, command
) -> None:
    """A prime number of videos, two of them broken; every split of the work over processes."""
    root = tmp_path / "videos"
    source = demo_root / "val"
    names = sorted(path.name for path in source.iterdir())
    for name in names:
        (root / "val" / name).mkdir(parents=True)
        for video in sorted((source / name).iterdir())[: 2 if name < names[3] else 1]:
            shutil.copy(video, root / "val" / name)
    for name in names[:2]:
        (root / "val" / name / "broken.mp4").write_bytes(b"not a video")
    num_videos = len([path for path in (root / "val").rglob("*") if path.is_file()])
    assert num_videos == 13
    shutil.copytree(root / "val", root / "train")

    found = []
    for devices, batch_size, workers in ((1, 4, 0), (2, 3, 1), (3, 2, 2)):
        output = tmp_path / f"of_{devices}"
        words = [
            "evaluate", str(finished_run), "data=folder", f"data.root={root}",
            "data.eval_views=[2,3]", f"data.batch_size={batch_size}",
            f"data.num_workers={workers}", "--output", str(output),
        ]  # fmt: skip
        vivit_on(devices, words, tmp_path / "log", command)
        results = json.loads((output / "results.json").read_text())
        assert results.pop("devices") == devices
        found.append(results)
    assert found[0]["num_videos"] == found[0]["num_videos_scored"] == 13
    assert [Path(path).name for path in found[0]["undecodable"]] == ["broken.mp4"] * 2
    assert found[0] == found[1] == found[2]
