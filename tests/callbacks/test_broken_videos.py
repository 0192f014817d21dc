import warnings
from types import SimpleNamespace

import pytest
import torch

from vivit_train.callbacks.broken_videos import BrokenVideos
from vivit_train.data.dataset import Sample, collate
from vivit_train.errors import UserError
from vivit_train.video.decode import DecodeError


class TestBrokenVideos:
    def start(self, callback: BrokenVideos, *paths: str, batch: int = 0) -> None:
        errors = [DecodeError(path, "moov atom not found") for path in paths]
        sample = Sample(torch.zeros(1), label=0, index=0, broken=errors)
        others = [Sample(torch.zeros(1), label=0, index=i) for i in range(1, 4)]
        trainer = SimpleNamespace(num_training_batches=10)  # of 4 clips
        callback.on_train_batch_start(trainer, None, collate([sample, *others]), batch)

    def test_each_is_named_once(self) -> None:
        callback = BrokenVideos(0.5)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            self.start(callback, "a.mp4", "b.mp4")
            self.start(callback, "a.mp4")
            callback.on_train_epoch_start(None, None)
            self.start(callback, "b.mp4", "c.mp4")
        text = "replaced by another video, cannot decode {}.mp4: moov atom not found"
        assert [str(w.message) for w in said] == [text.format(name) for name in "abc"]

    def test_a_run_with_too_many_stops(self) -> None:
        callback = BrokenVideos(0.1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for batch, name in enumerate("abcd"):
                self.start(callback, f"{name}.mp4", batch=batch)
            with pytest.raises(UserError) as caught:
                self.start(callback, "e.mp4", batch=4)
        assert str(caught.value) == (
            "5 of this epoch's 40 samples could not be decoded, more than "
            "data.max_bad_fraction=0.1, e.g. a.mp4. Repair or remove the files, or raise "
            "data.max_bad_fraction"
        )

    def test_the_fraction_is_of_an_epoch(self) -> None:
        callback = BrokenVideos(0.1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for _ in range(3):
                callback.on_train_epoch_start(None, None)
                self.start(callback, "a.mp4", "b.mp4", "c.mp4", "d.mp4")
        assert callback.count == 4

    def test_the_record_is_the_same_on_all_processes_and_in_checkpoints(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The first epoch in which any process gave a video up counts."""
        data = SimpleNamespace(given_up={"a.mp4": (2, "hung"), "b.mp4": (0, "hung")})
        trainer = SimpleNamespace(world_size=2, datamodule=data)
        theirs = {"a.mp4": (1, "died"), "c.mp4": (3, "died")}

        def gather(everybodys: list, ours: dict) -> None:
            everybodys[:] = [ours, theirs]

        monkeypatch.setattr("vivit_train.callbacks.broken_videos.dist.all_gather_object", gather)
        checkpoint: dict = {}
        BrokenVideos(0.1).on_save_checkpoint(trainer, None, checkpoint)
        agreed = {"a.mp4": (1, "died"), "b.mp4": (0, "hung"), "c.mp4": (3, "died")}
        assert data.given_up == agreed
        data.given_up = {"a.mp4": (0, "earlier")}
        BrokenVideos(0.1).on_load_checkpoint(trainer, None, checkpoint)
        assert data.given_up == agreed | {"a.mp4": (0, "earlier")}

    def test_evaluation_names_what_it_counts_as_wrong(self) -> None:
        callback = BrokenVideos(0.1)
        sample = Sample(torch.zeros(1), 0, 0, broken=[DecodeError("a.mp4", "empty")])
        with pytest.warns(UserWarning, match=r"^counted as wrong, cannot decode a.mp4: empty$"):
            callback.on_validation_batch_start(None, None, collate([sample]), 0)
        callback.on_test_batch_start(None, None, collate([sample]), 0)  # named already

    def test_none_is_allowed(self) -> None:
        callback = BrokenVideos(0)
        self.start(callback)
        with pytest.warns(UserWarning, match="a.mp4"), pytest.raises(UserError, match="1 of"):
            self.start(callback, "a.mp4")
