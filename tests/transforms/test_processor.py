import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vivit_train.errors import UserError
from vivit_train.transforms.processor import Processor

CLIPS = Path(__file__).parents[2].parent / "shared" / "clips"
ODD_SIZES = [(241, 427), (225, 301), (57, 300), (300, 57), (256, 340), (426, 240)]
CODES = {"nearest": 0, "bilinear": 2, "bicubic": 3}

# preprocessor_config.json of google/vivit-b-16x2-kinetics400 and of google/vivit-b-16x2.
HUB_KINETICS400 = {
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_processor_type": "VivitImageProcessor",
    "image_std": [0.5, 0.5, 0.5],
    "resample": 2,
    "rescale_factor": 0.00784313725490196,
    "size": {"shortest_edge": 224},
}
HUB_B16X2 = HUB_KINETICS400 | {
    "do_normalize": False,
    "do_zero_centering": True,
    "size": {"shortest_edge": 256},
}


def noise(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def clip_files():
    if not CLIPS.is_dir():
        return [pytest.param(None, marks=pytest.mark.skip(reason="no real clips at hand"))]
    files = sorted(path for path in CLIPS.iterdir() if path.suffix != ".md")
    return [pytest.param(path, id=path.name) for path in files]


def decode(path, num_frames=2):
    av = pytest.importorskip("av")
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for _, frame in _take(container, num_frames)]
    return torch.from_numpy(np.stack(frames))


def _take(container, num_frames):
    return zip(range(num_frames), container.decode(video=0))


def image_processor(**config):
    transformers = pytest.importorskip("transformers")
    return transformers.VivitImageProcessor(**config)


def by_image_processor(frames, **config):
    processed = image_processor(**config)(list(frames.numpy()), return_tensors="pt")
    return processed["pixel_values"].transpose(1, 2)  # [1, T, 3, h, w] -> [1, 3, T, h, w]


def assert_close_to_image_processor(frames, config, levels=1):
    """By at most so many grey levels, in at most 5 % of the values."""
    processor = Processor.from_huggingface(config)
    ours, theirs = processor(frames[None]), by_image_processor(frames, **config)
    assert ours.dtype == torch.float32
    assert ours.shape == theirs.shape
    scale = torch.tensor([scale for _, scale in processor.affine()])
    apart = (ours - theirs).abs() * scale.view(3, 1, 1, 1)
    assert apart.max() <= levels + 1e-3
    assert (apart > 1e-3).float().mean() <= 0.05


def by_pillow(frames, size, resample=2):
    """uint8 [T, H, W, 3] -> [T, *size, 3]."""
    images = [Image.fromarray(frame).resize(size[::-1], resample) for frame in frames.numpy()]
    return torch.from_numpy(np.stack(images))


@pytest.fixture
def set_threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


CONFIGS = {
    "library": {},
    "without_mean_std": {"do_normalize": False},
    "hub_kinetics400": HUB_KINETICS400,
    "hub_b16x2": HUB_B16X2,
    "imagenet": {
        "size": {"height": 120, "width": 100},
        "crop_size": {"height": 101, "width": 90},
        "offset": False,
        "rescale_factor": 1 / 255,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    },
}


class TestAgainstHuggingFace:
    @pytest.mark.parametrize("path", clip_files())
    @pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
    def test_real_clips(self, path, config):
        assert_close_to_image_processor(decode(path), config)

    # None shrinks much more in height than in width, where Pillow 13 takes the other order.
    @pytest.mark.parametrize("size", [(241, 427), (225, 301), (57, 300), (256, 340), (240, 320)])
    @pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
    def test_noise(self, size, config):
        assert_close_to_image_processor(noise(2, *size, 3), config)

    @pytest.mark.parametrize("size", [(241, 427), (225, 301), (57, 300)])
    @pytest.mark.parametrize("resample", [0, 3], ids=["nearest", "bicubic"])
    @pytest.mark.parametrize("resize_to", [{"shortest_edge": 230}, {"height": 225, "width": 260}])
    def test_other_filters(self, size, resample, resize_to):
        config = {"resample": resample, "size": resize_to}
        levels = 2 if resample else 255
        assert_close_to_image_processor(noise(1, *size, 3), config, levels)

    @pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
    def test_without_resize_nothing_differs(self, config):
        config, frames = config | {"do_resize": False}, noise(2, 240, 320, 3)
        ours = Processor.from_huggingface(config)(frames[None])
        theirs = by_image_processor(frames, **config)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)

    @pytest.mark.parametrize("size", ODD_SIZES)
    @pytest.mark.parametrize("do_normalize", [True, False])
    def test_video_processor(self, size, do_normalize):
        """It resizes by the same kernel: equal from the first step to the last."""
        transformers = pytest.importorskip("transformers")
        frames = noise(3, *size, 3)
        video_processor = transformers.VivitVideoProcessor(do_normalize=do_normalize)
        theirs = video_processor(frames.movedim(-1, 1), return_tensors="pt")["pixel_values"]
        ours = Processor.from_huggingface({"do_normalize": do_normalize})(frames[None])
        torch.testing.assert_close(ours, theirs.transpose(1, 2), rtol=0, atol=1e-6)

    @pytest.mark.parametrize("do_normalize", [True, False])
    def test_ours_to_theirs(self, do_normalize):
        config = Processor(do_normalize=do_normalize).to_huggingface()
        assert_close_to_image_processor(noise(2, 240, 426, 3), config)

    def test_one_frame_and_without_crop(self):
        assert_close_to_image_processor(noise(1, 240, 320, 3), {"do_center_crop": False})


class TestAgainstTheOriginal:
    @pytest.mark.parametrize("size", [*ODD_SIZES, (256, 256), (480, 640)])
    def test_pil(self, size):
        height, width = size
        frames = noise(2, height, width, 3)
        short, long = sorted(size)
        edges = {short: 256, long: int(256 * long / short)} if short != long else {short: 256}
        resized = by_pillow(frames, (edges[height], edges[width]))
        top, left = (resized.shape[1] - 224) // 2, (resized.shape[2] - 224) // 2
        pixels = resized[:, top : top + 224, left : left + 224].double()
        expected = ((pixels - 127.5) / 127.5).float().movedim(-1, 0)[None]
        apart = (Processor()(frames[None]) - expected).abs() * 127.5
        assert apart.max() <= 1 + 1e-3
        assert (apart > 1e-3).float().mean() <= 0.05

    def test_range_is_exact(self):
        """All 256 levels: correctly rounded, and black and white exactly -1 and 1."""
        levels = (
            torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16, 1).expand(-1, -1, -1, -1, 3)
        )
        ours = Processor(do_resize=False, crop_size=16)(levels)[0, 0, 0].flatten()
        expected = ((torch.arange(256).double() - 127.5) / 127.5).float()
        assert torch.equal(ours, expected)
        assert ours[0] == -1
        assert ours[-1] == 1

    @pytest.mark.parametrize(
        ("height", "width"), [(11, 18), (18, 11), (10, 10), (11, 11), (9, 8), (8, 8)]
    )
    def test_three_crops(self, height, width):
        frames = noise(2, 3, height, width, 3)
        raw = {"do_resize": False, "do_rescale": False, "offset": False}
        ours = Processor(crop_size=8, **raw)(frames, spatial_views=3)
        ceil_y, ceil_x = int(np.ceil((height - 8) / 2)), int(np.ceil((width - 8) / 2))
        assert ours.shape == (6, 3, 3, 8, 8)
        for clip in range(2):
            for view in range(3):
                y, x = ceil_y, ceil_x
                if height > width:
                    y = [0, ceil_y, height - 8][view]
                else:
                    x = [0, ceil_x, width - 8][view]
                expected = frames[clip, :, y : y + 8, x : x + 8].numpy().transpose(3, 0, 1, 2)
                np.testing.assert_array_equal(ours[3 * clip + view].numpy(), expected)


class TestResize:
    @pytest.mark.parametrize("shape", [(1, 1), (1, 5), (3, 3)])
    def test_number_of_threads_does_not_matter(self, set_threads, shape):
        processor, frames = Processor(), noise(*shape, 120, 213, 3)
        results = []
        for num_threads in (1, 2, 3):
            set_threads(num_threads)
            results.append(processor(frames))
        assert all(torch.equal(result, results[0]) for result in results)

    def test_clips_stay_apart(self):
        frames, processor = noise(2, 3, 40, 50, 3), Processor(size=32)
        resized = processor.resize(frames)
        for clip, expected in zip(resized, frames):
            assert torch.equal(clip, processor.resize(expected[None])[0])

    def test_stays_channels_last_in_memory(self):
        frames = noise(2, 2, 40, 50, 3)
        assert Processor(size=32).resize(frames).movedim(2, -1).is_contiguous()
        for processor in (Processor(size=40), Processor(do_resize=False)):
            assert processor.resize(frames).data_ptr() == frames.data_ptr()
        assert Processor(size=32).resize(frames, (40, 50)).data_ptr() == frames.data_ptr()

    @pytest.mark.gpu
    @pytest.mark.parametrize("size", ODD_SIZES)
    def test_gpu(self, size):
        processor, frames = Processor(), noise(1, 4, *size, 3)
        on_gpu, on_cpu = processor.resize(frames.cuda()).cpu(), processor.resize(frames)
        apart = (on_gpu.int() - on_cpu.int()).abs()
        assert (apart > 1).float().mean() <= 1e-4
        assert (apart > 0).float().mean() <= 0.05


class TestForward:
    @settings(max_examples=25, deadline=None)
    @given(
        data=st.data(),
        num_clips=st.integers(1, 2),
        num_frames=st.integers(1, 3),
        views=st.sampled_from([1, 3]),
    )
    def test_shapes(self, data, num_clips, num_frames, views):
        height, width, short = (data.draw(st.integers(20, 70)) for _ in range(3))
        crop = data.draw(st.tuples(st.integers(1, short), st.integers(1, short)))
        processor = Processor(size=short, crop_size=crop)
        frames = noise(num_clips, num_frames, height, width, 3)
        ours = processor(frames, spatial_views=views)
        assert ours.shape == (num_clips * views, 3, num_frames, *crop)
        assert ours.dtype == torch.float32
        assert ours.abs().max() <= 1
        assert min(processor.resized_size(height, width)) == short

    def test_clips_do_not_depend_on_each_other_and_input_is_kept(self):
        frames = noise(2, 2, 40, 50, 3)
        before = frames.clone()
        processor = Processor(size=32, crop_size=28)
        together = processor(frames)
        assert torch.equal(together, torch.cat([processor(clip[None]) for clip in frames]))
        assert torch.equal(frames, before)

    def test_float_pixels_are_not_changed_in_place(self):
        images = torch.full((1, 2, 3, 4, 4), 255.0)
        assert Processor().to_float(images).eq(1).all()
        assert images.eq(255).all()

    def test_memory_layout_does_not_matter(self):
        frames = noise(1, 2, 40, 50, 3)
        planar = frames.movedim(-1, 2).contiguous().movedim(2, -1)
        processor = Processor(size=32, crop_size=28)
        assert torch.equal(processor(frames), processor(planar))

    def test_without_crop_frames_keep_their_size(self):
        processor = Processor(size=32, do_center_crop=False)
        assert processor(noise(1, 1, 40, 60, 3)).shape == (1, 3, 1, 32, 48)
        assert processor.output_size is None
        assert Processor(size=(32, 30), do_center_crop=False).output_size == (32, 30)

    def test_holds_no_state_and_a_cast_changes_nothing(self):
        processor, frames = Processor(size=32, crop_size=28), noise(1, 1, 40, 50, 3)
        before = processor(frames)
        assert not processor.state_dict()
        assert not [*processor.parameters(), *processor.buffers()]
        assert torch.equal(processor.to(torch.bfloat16)(frames), before)

    def test_export(self):
        processor, frames = Processor(size=32, crop_size=28), noise(1, 2, 40, 50, 3)
        exported = torch.export.export(processor, (frames,)).module()
        for batch in (frames, noise(1, 2, 40, 50, 3, seed=1)):
            assert torch.equal(exported(batch), processor(batch))

    @pytest.mark.filterwarnings("ignore:.*deprecated")
    @pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
    @pytest.mark.parametrize(
        "compiled",
        [
            lambda processor, _: torch.compile(processor, backend="eager", fullgraph=True),
            lambda processor, frames: torch.jit.trace(processor, (frames,)),
        ],
        ids=["compile", "jit"],
    )
    def test_compiled(self, compiled):
        processor, frames = Processor(size=32, crop_size=28), noise(1, 2, 40, 50, 3)
        graph = compiled(processor, frames + 1)
        assert torch.equal(graph(frames), processor(frames))

    @pytest.mark.gpu
    def test_gpu(self):
        processor, frames = Processor(), noise(1, 4, 240, 426, 3)
        one_level = 1 / 127.5 + 1e-6
        on_gpu = processor(frames.cuda()).cpu()
        torch.testing.assert_close(on_gpu, processor(frames), rtol=0, atol=one_level)
        white = torch.full((1, 1, 256, 256, 3), 255, dtype=torch.uint8, device="cuda")
        assert processor(white).eq(1).all()


class TestSettings:
    @pytest.mark.parametrize(
        "arguments",
        [
            {},
            {"size": [32, 40], "crop_size": [28, 30], "resample": 3},
            {"do_normalize": True, "image_mean": 0.45, "image_std": [0.2, 0.3, 0.4]},
            {"do_resize": False, "do_center_crop": False, "do_rescale": False, "offset": False},
        ],
    )
    def test_round_trips(self, arguments):
        processor = Processor(**arguments)
        plain = json.loads(json.dumps(processor.settings()))
        assert Processor(**plain).settings() == processor.settings()
        assert processor.differences(plain) == []
        huggingface = json.loads(json.dumps(processor.to_huggingface()))
        assert Processor.from_huggingface(huggingface).settings() == processor.settings()
        library = image_processor(**huggingface)
        assert Processor.from_huggingface(library.to_dict()).settings() == processor.settings()

    @pytest.mark.parametrize(("crop", "short"), [(224, 256), ((224, 320), 256), (112, 128)])
    def test_size_follows_the_crop(self, crop, short):
        assert Processor(crop_size=crop).size == short

    def test_differences(self):
        assert Processor().differences(Processor(size=224, crop_size=200).settings()) == [
            "size: 256 here, 224 there",
            "crop_size: (224, 224) here, (200, 200) there",
        ]
        assert Processor().differences(Processor.from_huggingface({}).settings()) == [
            "pixel range: [-1, 1] here, [-3, 1] there (by do_normalize)"
        ]
        assert Processor().differences(Processor(do_resize=False).settings()) == [
            "size: 256 here, off there",
            "resample: bilinear here, off there",
        ]
        imagenet = Processor(do_normalize=True, image_mean=(0.4, 0.5, 0.6))
        assert imagenet.differences(Processor.from_huggingface({}).settings()) == [
            "pixel range: [-2.8, 1.2] [-3, 1] [-3.2, 0.8] here, [-3, 1] there (by image_mean)"
        ]

    def test_what_has_no_effect_is_no_difference(self):
        assert Processor().differences(Processor(image_mean=0.1, image_std=0.2).settings()) == []
        half = Processor(rescale_factor=1 / 255, offset=False, do_normalize=True)
        assert Processor().differences(half.settings()) == []

    def test_from_huggingface(self, tmp_path):
        assert Processor.from_huggingface({}).value_range == [(-3, 1)] * 3
        assert Processor.from_huggingface(HUB_B16X2).differences(Processor().settings()) == []
        image_processor(size={"shortest_edge": 300}).save_pretrained(tmp_path)
        for source in (tmp_path, str(tmp_path), tmp_path / "preprocessor_config.json"):
            assert Processor.from_huggingface(source).size == 300
        nulls = {"size": None, "crop_size": None, "resample": None, "image_mean": None}
        assert Processor.from_huggingface(nulls).size == 256

    def test_repr_says_what_takes_effect(self):
        assert repr(Processor()) == (
            "Processor(size=256, resample=bilinear, crop_size=(224, 224), range=[-1, 1])"
        )


class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"size": 0}, "size must be in whole pixels, 1 or more, not 0"),
            ({"size": 25.6}, r"size must be a number of pixels or \(height, width\), not 25.6"),
            ({"size": True}, "size must be in whole pixels"),
            ({"size": "256"}, "size must be a number of pixels"),
            ({"crop_size": (224,)}, r"crop_size must be a number of pixels or \(height, width\)"),
            ({"crop_size": (224, -1)}, "crop_size must be in whole pixels, 1 or more, not -1"),
            ({"resample": "lanczos"}, r'"bilinear" \(2\), "bicubic" \(3\), not \'lanczos\''),
            ({"resample": 1}, r'"bicubic" \(3\), not 1$'),
            ({"rescale_factor": 0}, "rescale_factor must be a positive number, not 0"),
            ({"rescale_factor": float("nan")}, "rescale_factor must be a positive number"),
            ({"do_rescale": False}, "set offset=False as well, or do_rescale=True"),
            ({"image_mean": (0.5, 0.5)}, "image_mean must be one number or three"),
            ({"image_std": (0.5, 0.5, 0)}, "image_std must be positive"),
        ],
    )
    def test_arguments(self, arguments, message):
        with pytest.raises(UserError, match=message):
            Processor(**arguments)

    @pytest.mark.parametrize(
        ("frames", "message"),
        [
            (
                torch.zeros(1, 2, 30, 40, 3),
                r"pixels must be uint8 0\.\.255 in .* not torch.float32",
            ),
            (noise(2, 30, 40, 3), r"must be \[N, T, H, W, 3\], not \[2, 30, 40, 3\] \(rank 4\)"),
            (noise(1, 2, 3, 30, 40), r"channels last, not \[1, 2, 3, 30, 40\]: move .*movedim"),
            (noise(1, 2, 30, 40, 4), r"channels last, not \[1, 2, 30, 40, 4\]$"),
            (noise(1, 0, 30, 40, 3), "at least one pixel"),
        ],
    )
    def test_frames(self, frames, message):
        with pytest.raises(UserError, match=message):
            Processor()(frames)

    def test_crop_larger_than_the_frame(self):
        with pytest.raises(UserError, match=r"224x224 .* of 200x266 .*size=200\): raise size or"):
            Processor(size=200)(noise(1, 1, 240, 320, 3))
        with pytest.raises(UserError, match=r"224x224 .* of 100x320: set do_resize=True or"):
            Processor(do_resize=False)(noise(1, 1, 100, 320, 3), spatial_views=3)

    def test_spatial_views(self):
        with pytest.raises(UserError, match="spatial_views must be 1 or 3, not 2"):
            Processor()(noise(1, 1, 240, 320, 3), spatial_views=2)
        with pytest.raises(UserError, match="set do_center_crop=True"):
            Processor(do_center_crop=False)(noise(1, 1, 240, 320, 3), spatial_views=3)

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            ({"image_processor_type": "VideoMAEImageProcessor"}, "for VideoMAEImageProcessor"),
            ({"size": {"longest_edge": 256}}, "size must have the keys .*shortest_edge"),
            ({"crop_size": {"shortest_edge": 224}}, "crop_size must have the keys"),
            ({"resample": 1}, "resample must be one of"),
        ],
    )
    def test_from_huggingface(self, config, message):
        with pytest.raises(UserError, match=message):
            Processor.from_huggingface(config)

    def test_from_files(self, tmp_path):
        with pytest.raises(UserError, match=r"no image processor configuration at .*config\.json"):
            Processor.from_huggingface(tmp_path)
        file = tmp_path / "preprocessor_config.json"
        file.write_text("{")
        with pytest.raises(UserError, match="is not readable as JSON"):
            Processor.from_huggingface(tmp_path)
        file.write_text("[]")
        with pytest.raises(UserError, match="must hold a JSON object, not a list"):
            Processor.from_huggingface(file)
