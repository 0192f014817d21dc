"""Loading classifiers, and naming what videos show."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.data.torture import evil_decoder
from vivit_train import load
from vivit_train.classifier import NonFiniteLogits
from vivit_train.data.demo_clips import CLASS_NAMES
from vivit_train.errors import UserError
from vivit_train.model.weights import read_weights
from vivit_train.video import container
from vivit_train.video.decode import DecodeError, VideoReader
from vivit_train.video.guard import CAN_GUARD
from vivit_train.video.sampling import spread_windows
from vivit_train.video.write import write_video


def noise(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


@pytest.fixture(scope="module")
def best(finished_run: Path) -> Path:
    return finished_run / "checkpoints" / "best.ckpt"


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    write_video(path, noise(20, 40, 70, 3).numpy())
    return path


@pytest.fixture(scope="module")
def huggingface(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import transformers

    torch.manual_seed(0)
    names = {0: "zumba", 1: "archery", 2: "abseiling"}
    config = transformers.VivitConfig(
        image_size=[16, 24], num_frames=4, tubelet_size=[2, 8, 8], hidden_size=16,
        num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, id2label=names,
        label2id={name: i for i, name in names.items()}, initializer_range=0.5,
    )  # fmt: skip
    processor = transformers.VivitImageProcessor(
        size={"shortest_edge": 20}, crop_size={"height": 16, "width": 24}
    )
    folder = tmp_path_factory.mktemp("huggingface")
    transformers.VivitForVideoClassification(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


class TestOurs:
    def test_frames_in_logits_out(self, best: Path) -> None:
        classifier = load(best)
        frames = noise(2, 4, 40, 50, 3)
        logits = classifier(frames)
        assert logits.shape == (2, 8)
        assert logits.dtype == torch.float32
        for i in range(2):
            one = classifier(frames[i])
            assert one.shape == (1, 8)
            torch.testing.assert_close(one[0], logits[i], rtol=1e-5, atol=1e-6)
        assert not torch.allclose(logits[0], logits[1])
        by_hand = classifier.model(classifier.processor(frames))
        assert torch.equal(by_hand, logits)

    def test_it_is_what_was_trained(self, best: Path) -> None:
        classifier = load(str(best))
        content = torch.load(best, weights_only=True)
        state = classifier.model.state_dict()
        assert all(torch.equal(content["state_dict"][f"model.{k}"], v) for k, v in state.items())
        assert classifier.class_names == list(CLASS_NAMES)
        assert classifier.config == content["hyper_parameters"]["config"]
        assert (classifier.sampling.clip_frames, classifier.sampling.frame_stride) == (4, 1)
        assert classifier.eval_views == (2, 1)
        assert classifier.processor.crop_size == (16, 16)
        assert not any(module.training for module in classifier.modules())  # dropout is off

    def test_frames_as_people_hold_them(self, best: Path) -> None:
        classifier, frames = load(best), noise(4, 40, 50, 3)
        logits, array = classifier(frames), frames.numpy()
        frozen = array.copy()
        frozen.flags.writeable = False
        for same in (array, array[None], list(array), list(frames), array[:, :, ::-1][:, :, ::-1]):
            assert torch.equal(classifier(same), logits)
        assert torch.equal(classifier(frozen), logits)
        for other in ([array[0], array[1, :9]], ["a"], None, [None], {}, "clip.mp4"):
            with pytest.raises(UserError, match="frames must be|pixels must be"):
                classifier(other)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_models_of_another_type(self, best: Path, video: Path, dtype: torch.dtype) -> None:
        classifier, frames = load(best), noise(4, 40, 50, 3)
        expected, of_video = classifier(frames), classifier.classify(video)
        classifier.to(dtype)
        assert classifier(frames).dtype == dtype
        torch.testing.assert_close(classifier(frames).float(), expected, rtol=0.05, atol=0.02)
        torch.testing.assert_close(classifier.classify(video), of_video, rtol=0.05, atol=0.02)

    def test_a_run(self, best: Path) -> None:
        """As every command takes one."""
        frames = noise(4, 40, 50, 3)
        assert torch.equal(load(best.parent.parent)(frames), load(best)(frames))

    def test_a_flipped_bit(self, best: Path, tmp_path: Path) -> None:
        """`torch.load` reads what results, and a NaN is named as a class."""
        content = bytearray(best.read_bytes())
        content[len(content) // 2] ^= 1
        (tmp_path / "x.ckpt").write_bytes(content)
        torch.load(tmp_path / "x.ckpt", weights_only=True)
        message = r"x\.ckpt is damaged \(the checksum of its part .* does not match\): copy or"
        for use in (load, read_weights):  # as predict, evaluate, export and model.pretrained do
            with pytest.raises(UserError, match=message):
                use(tmp_path / "x.ckpt")

    def test_weights_that_are_not_finite(self, best: Path, tmp_path: Path) -> None:
        content = torch.load(best, weights_only=True)
        content["state_dict"]["model.head.weight"][3, 2] = torch.inf
        torch.save(content, tmp_path / "x.ckpt")
        with pytest.raises(UserError, match=r"head\.weight holds NaN or infinite values"):
            load(tmp_path / "x.ckpt")

    def test_logits_that_are_not_finite(self, best: Path, video: Path) -> None:
        classifier = load(best)
        classifier.model.head.bias.data[1] = torch.nan
        with pytest.raises(NonFiniteLogits, match=r"clip\.mp4: the logits are NaN or infinite"):
            classifier.classify(video)

    @pytest.mark.parametrize("name", ["x.ckpt", "x.safetensors", "x.bin", "x.npz", "checkpoint_1"])
    def test_a_pipe(self, tmp_path: Path, name: str) -> None:
        """Opening it would wait for ever."""
        os.mkfifo(tmp_path / name)
        with pytest.raises(UserError, match="is not a regular file but a pipe"):
            load(tmp_path / name)

    def test_home(self, best: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(best.parent))
        assert load("~/best.ckpt").class_names == list(CLASS_NAMES)

    def test_more_frames(self, best: Path) -> None:
        classifier = load(best, num_frames=8)
        assert classifier.sampling.clip_frames == 8
        assert classifier.model.grid == (4, 2, 2)
        ours, native = classifier.model.encoder.pos_embed[0], load(best).model.encoder.pos_embed[0]
        assert torch.equal(ours[0], native[0])  # the class token's
        # Ends of time stay, and it is linear between them: 2 -> 4 tokens.
        time = native[1:].unflatten(0, (2, 4))
        middle = ours[1:].unflatten(0, (4, 4))
        assert middle.min() >= time.min() - 1e-6
        torch.testing.assert_close(middle.mean(dim=0), time.mean(dim=0), rtol=1e-4, atol=1e-5)
        assert classifier(noise(8, 40, 50, 3)).shape == (1, 8)

    def test_another_size(self, best: Path) -> None:
        """The processor makes clips of the size that the model then has."""
        classifier = load(best, image_size=[24, 32])
        assert classifier.model.grid == (2, 3, 4)
        frames = noise(4, 60, 90, 3)
        assert classifier.processor(frames[None]).shape[-2:] == (24, 32)
        assert classifier(frames).shape == (1, 8)
        bigger = load(best, image_size=32).processor
        assert (bigger.crop_size, bigger.size) == ((32, 32), 36)  # 18 for 16 before
        assert load(best).processor.size == 18

    def test_other_arguments(self, best: Path) -> None:
        eager = load(best, attention_implementation="eager").model.config
        assert eager["attention_implementation"] == "eager"
        with pytest.raises(UserError, match=r"model\.hidden_size=32, but the file's is 16"):
            load(best, hidden_size=32)
        with pytest.raises(UserError, match=r"head\.weight .*8.*16.* should be .*5.*16"):
            load(best, num_classes=5)

    def test_an_argument_that_does_not_exist(self, best: Path) -> None:
        message = (
            "load.. takes arguments of ViViT, and clip_frames, frames is not one. They are num_"
        )
        with pytest.raises(UserError, match=message):
            load(best, frames=8, clip_frames=8)

    def test_no_such_file(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"nowhere\.ckpt does not exist: give a checkpoint"):
            load(tmp_path / "nowhere.ckpt")


class TestClassify:
    @pytest.mark.parametrize("views", [None, (1, 1), (3, 1), (2, 3)])
    def test_views_are_averaged(
        self, best: Path, video: Path, views: tuple[int, int] | None
    ) -> None:
        classifier = load(best)
        temporal, spatial = views or (2, 1)
        with VideoReader(video) as reader:
            windows = spread_windows(20, 4, 1, temporal)
            clips = [torch.from_numpy(reader.read(window)) for window in windows]
        views_of = [classifier.processor(clip[None], spatial) for clip in clips]
        with torch.no_grad():
            logits = torch.cat([classifier.model(view[None]) for view in torch.cat(views_of)])
        assert len(logits) == temporal * spatial
        ours = classifier.classify(video, views)
        assert ours.shape == (8,)
        torch.testing.assert_close(ours, logits.mean(dim=0), rtol=1e-5, atol=1e-6)

    def test_more_frames_are_read(
        self, best: Path, video: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[np.ndarray] = []
        read = VideoReader.read
        monkeypatch.setattr(VideoReader, "read", lambda s, i, *a: asked.append(i) or read(s, i, *a))
        load(best, num_frames=8).classify(video, (1, 1), timeout=None)
        assert len(asked[0]) == 8

    def test_a_broken_video(self, best: Path, tmp_path: Path) -> None:
        (tmp_path / "bad.mp4").write_bytes(b"no video")
        with pytest.raises(DecodeError, match=r"bad\.mp4: Invalid data"):
            load(best).classify(tmp_path / "bad.mp4")

    @pytest.mark.skipif(not CAN_GUARD, reason="needs fork")
    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    def test_a_video_that_hangs_or_takes_too_much(
        self, best: Path, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        evil_decoder(monkeypatch)
        classifier = load(best)
        plain = classifier.classify(video, (1, 1), timeout=None)
        assert torch.equal(classifier.classify(video, (1, 1)), plain)
        for name in ("hangs.mp4", "crashes.mp4"):
            (tmp_path / name).write_bytes(video.read_bytes())
        with pytest.raises(DecodeError, match=r"hangs\.mp4: no answer within 0.5 s"):
            classifier.classify(tmp_path / "hangs.mp4", timeout=0.5)
        with pytest.raises(DecodeError, match=r"crashes\.mp4: .*died \(SIGSEGV\)"):
            classifier.classify(tmp_path / "crashes.mp4")
        monkeypatch.setattr(container, "MAX_FRAME_PIXELS", 100)
        with pytest.raises(DecodeError, match="at most 100 pixels"):
            classifier.classify(video)


class TestPredict:
    def test_one_video_in_every_form(self, best: Path, video: Path) -> None:
        """A file, and all of its frames, whatever their number."""
        classifier = load(best)
        probabilities = classifier.classify(video).softmax(dim=0)
        order = probabilities.argsort(descending=True).tolist()
        expected = [(CLASS_NAMES[i], pytest.approx(float(probabilities[i]))) for i in order]
        with VideoReader(video) as reader:
            frames = reader.read(range(reader.num_frames))
        for same in (str(video), video, frames, torch.from_numpy(frames)):
            prediction = classifier.predict(same)
            assert prediction.classes == expected[:5]
            assert prediction.video == (str(video) if isinstance(same, str | Path) else None)
        assert classifier.predict(video, top_k=None).classes == expected
        assert classifier.predict(video, top_k=1).classes == expected[:1]

    def test_views(self, best: Path, video: Path) -> None:
        classifier = load(best)
        expected = classifier.classify(video, (3, 3)).softmax(dim=0).max()
        prediction = classifier.predict(video, views=(3, 3))
        assert prediction.probability == pytest.approx(float(expected))

    def test_several_in_their_order(self, best: Path, video: Path, tmp_path: Path) -> None:
        """One that fails costs none of the others."""
        for number in range(5):
            write_video(tmp_path / f"{number}.mp4", noise(30 - number, 40, 70, 3).numpy() // 2)
        (tmp_path / "3.mp4").write_bytes(b"no video")
        classifier = load(best)
        of_folder = classifier.predict(tmp_path)
        assert [p.video for p in of_folder] == [str(tmp_path / f"{i}.mp4") for i in range(5)]
        assert of_folder[3].error.startswith("Invalid data")
        for place in (0, 1, 2, 4):
            assert of_folder[place] == classifier.predict(tmp_path / f"{place}.mp4")
        clips = noise(2, 9, 40, 70, 3)
        mixed = classifier.predict([video, clips, tmp_path])
        assert mixed[3:] == of_folder
        assert mixed[0] == classifier.predict(video)
        assert mixed[1:3] == classifier.predict(clips) == [classifier.predict(c) for c in clips]
        assert classifier.predict([]) == []
        assert classifier.predict([video]) == [classifier.predict(video)]

    def test_a_single_video_that_fails(self, best: Path, tmp_path: Path) -> None:
        classifier = load(best)
        with pytest.raises(DecodeError, match=r"gone\.mp4: no such file"):
            classifier.predict(tmp_path / "gone.mp4")
        classifier.model.head.bias.data[1] = torch.nan
        with pytest.raises(NonFiniteLogits, match="the frames: the logits are NaN"):
            classifier.predict(noise(4, 40, 50, 3))
        (prediction,) = classifier.predict([noise(4, 40, 50, 3)])
        assert prediction.error.startswith("the logits are NaN or infinite")

    def test_without_gradients_in_evaluation_mode(self, best: Path) -> None:
        """In the middle of a training as well, which then goes on."""
        classifier, frames = load(best), noise(9, 40, 50, 3)
        expected = classifier.predict(frames)
        classifier.train()
        assert classifier.predict(frames) == expected
        assert all(module.training for module in classifier.modules())
        assert torch.is_grad_enabled()
        assert not classifier.classify(frames).requires_grad

    @pytest.mark.parametrize("top_k", [0, -1])
    def test_no_class(self, best: Path, top_k: int) -> None:
        with pytest.raises(UserError, match=f"top_k must be 1 or more, or None .*, got {top_k}"):
            load(best).predict("clip.mp4", top_k=top_k)


class TestHuggingFace:
    def test_from_frames_to_logits_as_in_the_library(self, huggingface: Path) -> None:
        import transformers

        frames = noise(4, 20, 50, 3)  # to be cropped only: the resizes round otherwise
        processor = transformers.VivitImageProcessor.from_pretrained(huggingface)
        model = transformers.VivitForVideoClassification.from_pretrained(huggingface).eval()
        with torch.no_grad():
            theirs = model(**processor(list(frames.numpy()), return_tensors="pt")).logits
        classifier = load(huggingface)
        ours = classifier(frames)
        assert theirs.std() > 0.01
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        assert classifier.class_names == ["zumba", "archery", "abseiling"]
        assert classifier.processor.do_normalize
        assert classifier.processor.size == 20
        assert classifier.config is None
        assert classifier.sampling.clip_frames == 4
        assert classifier.eval_views == (4, 3)

    def test_a_file_in_it(self, huggingface: Path) -> None:
        assert load(huggingface / "model.safetensors").class_names == load(huggingface).class_names

    def test_without_a_processor(self, huggingface: Path, tmp_path: Path) -> None:
        for name in ("config.json", "model.safetensors"):
            (tmp_path / name).write_bytes((huggingface / name).read_bytes())
        processor = load(tmp_path).processor
        assert processor.crop_size == (16, 24)
        assert not processor.do_normalize

    def test_without_names(self, huggingface: Path, tmp_path: Path) -> None:
        (tmp_path / "model.safetensors").write_bytes(
            (huggingface / "model.safetensors").read_bytes()
        )
        config = json.loads((huggingface / "config.json").read_text())
        config["id2label"] = {str(i): f"LABEL_{i}" for i in range(3)}
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert load(tmp_path).class_names == ["class 0", "class 1", "class 2"]

    def test_without_a_head(self, tmp_path: Path) -> None:
        import transformers

        config = transformers.VivitConfig(
            image_size=16, num_frames=4, tubelet_size=[2, 8, 8], hidden_size=16,
            num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        )  # fmt: skip
        transformers.VivitModel(config).save_pretrained(tmp_path)
        with pytest.raises(UserError, match="has no head: it gives features, not classes"):
            load(tmp_path)


def test_lightning_and_hydra_are_not_needed(finished_run: Path, video: Path, command) -> None:
    """Neither to import, nor to load a run and use it."""
    code = """
import sys
from vivit_train import load
classifier = load(sys.argv[1])
classifier.predict(sys.argv[2])
needless = {"lightning", "pytorch_lightning", "hydra", "omegaconf", "wandb", "torchmetrics"}
print(sorted(needless & sys.modules.keys()))
"""
    done = command("-c", code, str(finished_run), str(video))
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr
