import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from vivit_train.errors import UserError
from vivit_train.transforms.augment import Augment
from vivit_train.transforms.processor import Processor

OFF = {
    "scale_jitter": None,
    "random_crop": False,
    "horizontal_flip": 0.0,
    "color_jitter": 0.0,
    "grayscale": 0.0,
}


def noise(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def position(height, width):
    """A frame whose red is the row and whose green is the column: [1, height, width, 3]."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([rows, columns, torch.zeros_like(rows)], dim=-1)[None].to(torch.uint8)


@pytest.fixture
def processor():
    return Processor(size=32, crop_size=28)


@pytest.fixture
def raw():
    """Pixels as they are, 0..255, so that results can be read."""
    return Processor(size=32, crop_size=28, do_rescale=False, offset=False)


class TestOff:
    @pytest.mark.parametrize(
        ("height", "width"), [(40, 50), (50, 40), (32, 45), (32, 32), (20, 31)]
    )
    def test_equals_the_processor(self, processor, height, width):
        frames = noise(2, 3, height, width, 3)
        ours = Augment(processor, **OFF).clips(list(frames), [0, 1])
        assert torch.equal(ours, processor(frames))

    @pytest.mark.parametrize(
        "arguments",
        [
            {"size": (28, 40), "crop_size": (28, 36)},
            {"size": (28, 36), "do_center_crop": False},
            {"do_resize": False, "crop_size": 28},
            {"size": 32, "crop_size": 28, "do_normalize": True, "resample": "bicubic"},
        ],
    )
    def test_equals_other_processors(self, arguments):
        processor, frames = Processor(**arguments), noise(1, 2, 40, 50, 3)
        assert torch.equal(Augment(processor, **OFF).clips(list(frames), [3]), processor(frames))


class TestSeeds:
    def test_result_is_a_function_of_clip_and_seed(self, processor):
        augment, clip = Augment(processor), noise(2, 40, 50, 3)
        before = clip.clone()
        assert torch.equal(augment.clips([clip], [7]), augment.clips([clip], [7]))
        assert torch.equal(augment.clips([clip], [7]), Augment(processor).clips([clip], [7]))
        assert torch.equal(clip, before)
        assert len({augment.clips([clip], [seed]).sum().item() for seed in range(8)}) == 8

    def test_global_generators_do_not_matter(self, processor):
        augment, clip = Augment(processor), noise(2, 40, 50, 3)
        torch.manual_seed(0)
        np.random.seed(0)
        expected, state = augment.clips([clip], [7]), torch.get_rng_state()
        torch.manual_seed(1)
        np.random.seed(1)
        assert torch.equal(augment.clips([clip], [7]), expected)
        torch.manual_seed(0)
        assert torch.equal(torch.get_rng_state(), state)

    def test_the_rest_of_the_batch_does_not_matter(self, processor):
        augment = Augment(processor)
        clips = [
            noise(2, *size, 3, seed=i) for i, size in enumerate([(40, 50), (61, 33), (32, 32)])
        ]
        batch = augment.clips(clips, [5, 0, 9])
        assert batch.shape == (3, 3, 2, 28, 28)
        assert torch.equal(augment.clips(clips[::-1], [9, 0, 5]), batch.flip(0))
        for clip, seed, expected in zip(clips, [5, 0, 9], batch):
            assert torch.equal(augment.clips([clip], [seed])[0], expected)

    @pytest.mark.parametrize("seed", range(6))
    def test_switching_one_off_leaves_the_others(self, raw, seed):
        clip = noise(1, 40, 50, 3)
        still_there = {"scale_jitter": (0.9, 1.33), "random_crop": True}
        geometry = Augment(raw, **OFF | still_there).clips([clip], [seed])
        flipped = Augment(raw, **OFF | still_there | {"horizontal_flip": 1}).clips([clip], [seed])
        assert torch.equal(flipped, geometry.flip(-1))
        gray = Augment(raw, **OFF | still_there | {"grayscale": 1}).clips([clip], [seed])
        weights = torch.tensor([0.2989, 0.587, 0.114]).reshape(3, 1, 1, 1)
        torch.testing.assert_close(gray[0], (geometry[0] * weights).sum(0).expand(3, -1, -1, -1))
        # Flip and colour are the same whether the frame is also stretched and cropped or not.
        color = {"color_jitter": 0.8, "horizontal_flip": 0.5, "saturation": 0, "contrast": 0}
        uniform = torch.full((1, 40, 50, 3), 128, dtype=torch.uint8)
        moved = Augment(raw, **OFF | still_there | color).clips([uniform], [seed])
        assert torch.equal(moved, Augment(raw, **OFF | color).clips([uniform], [seed]))

    def test_published_draws(self, processor):
        """A seed keeps its meaning: a change here changes every training run."""
        corner = position(40, 50)[:, :32, :32].contiguous()
        augment = Augment(
            Processor(size=32, crop_size=28, do_rescale=False, offset=False),
            **OFF | {"random_crop": True},
        )
        corners = [augment.clips([corner], [seed])[0, :2, 0, 0, 0].tolist() for seed in range(4)]
        draws = [np.random.Generator(np.random.PCG64(seed)).random(11) for seed in range(4)]
        assert corners == [[int(d[2] * 5), int(d[3] * 5)] for d in draws]


class TestGeometry:
    def test_flips_as_often_as_asked(self, raw):
        clip = position(32, 32)
        augment = Augment(raw, **OFF | {"horizontal_flip": 0.3})
        flips = [
            bool((result := augment.clips([clip], [seed])[0, 1, 0, 0])[0] > result[-1])
            for seed in range(400)
        ]
        assert 0.3 - 0.1 < np.mean(flips) < 0.3 + 0.1

    def test_crops_reach_every_place(self, raw):
        clip = position(32, 35)
        augment = Augment(raw, **OFF | {"random_crop": True})
        corners = {
            tuple(augment.clips([clip], [s])[0, :2, 0, 0, 0].int().tolist()) for s in range(400)
        }
        assert corners == {(top, left) for top in range(5) for left in range(8)}

    def test_scale_jitter_stretches_height_and_width_apart(self):
        """Rows and columns of a gradient lie 1/factor apart; factors span the range."""
        processor = Processor(size=64, crop_size=40, do_rescale=False, offset=False)
        augment = Augment(processor, **OFF | {"scale_jitter": (0.8, 1.25)})
        clip = (position(64, 64).int() * 3).to(torch.uint8)
        factors = []
        for seed in range(60):
            red, green, _ = augment.clips([clip], [seed])[0, :, 0]
            rows = (red[-1, 0] - red[0, 0]) / (39 * 3)
            columns = (green[0, -1] - green[0, 0]) / (39 * 3)
            factors.append((1 / rows.item(), 1 / columns.item()))
        factors = np.array(factors)
        assert 0.77 < factors.min() < 0.86
        assert 1.19 < factors.max() < 1.29
        assert abs(np.corrcoef(factors.T)[0, 1]) < 0.4

    @pytest.mark.parametrize(("resample", "levels"), [(2, 1), (3, 2)])
    def test_stretches_as_pillow(self, resample, levels):
        raw = {"do_rescale": False, "offset": False}
        processor = Processor(size=32, crop_size=28, resample=resample, **raw)
        clip = noise(2, 40, 50, 3)
        augment = Augment(processor, **OFF | {"scale_jitter": (1.2, 1.2)})
        images = [Image.fromarray(frame).resize((48, 38), resample) for frame in clip.numpy()]
        expected = np.stack(images)[:, 5:33, 10:38]  # 32x40 pixels times 1.2, centre crop
        result = augment.clips([clip], [0])[0].movedim(0, -1)
        np.testing.assert_allclose(result.numpy(), expected, rtol=0, atol=levels)

    def test_jitter_never_goes_below_the_crop(self, processor):
        augment = Augment(processor, scale_jitter=(0.1, 0.2))
        assert augment.clips([noise(1, 40, 50, 3)], [0]).shape == (1, 3, 1, 28, 28)

    def test_crop_of_another_shape(self):
        processor = Processor(size=40, crop_size=(28, 36))
        assert Augment(processor).clips([noise(2, 40, 50, 3)], [0]).shape == (1, 3, 2, 28, 36)


class TestColor:
    @pytest.mark.parametrize("seed", range(8))
    def test_frames_of_a_clip_are_treated_alike(self, processor, seed):
        clip = noise(1, 40, 50, 3).expand(4, -1, -1, -1)
        augmented = Augment(processor, color_jitter=1).clips([clip], [seed])
        assert torch.equal(augmented, augmented[:, :, :1].expand_as(augmented))

    @pytest.mark.parametrize("arguments", [{}, {"do_normalize": True}, {"rescale_factor": 0.01}])
    def test_stays_in_range(self, arguments):
        processor = Processor(size=32, crop_size=28, **arguments)
        augment = Augment(processor, color_jitter=1, grayscale=0.3, brightness=0.5, hue=0.5)
        extremes = noise(2, 40, 50, 3) // 128 * 255
        batch = augment.clips([extremes, noise(2, 40, 50, 3)] * 20, range(40))
        low, high = processor.value_range[0]
        assert batch.min() >= low - 1e-6
        assert batch.max() <= high + 1e-6
        assert batch.isfinite().all()

    def test_brightness_is_added(self, raw):
        augment = Augment(
            raw, **OFF | {"color_jitter": 1}, brightness=0.1, saturation=0, contrast=0, hue=0
        )
        clip = noise(1, 32, 32, 3) // 2 + 60
        for seed in range(20):
            change = augment.clips([clip], [seed]) - raw(clip[None])
            assert change.max() - change.min() < 1e-3
            assert change.abs().max() <= 25.5

    @pytest.mark.parametrize("name", ["brightness", "saturation", "contrast", "hue"])
    def test_each_change_has_an_effect(self, raw, name):
        nothing = {"brightness": 0, "saturation": 0, "contrast": 0, "hue": 0}
        clip = noise(1, 32, 32, 3)
        unchanged = Augment(raw, **OFF | nothing | {"color_jitter": 1}).clips([clip], [0])
        torch.testing.assert_close(unchanged, raw(clip[None]))
        changed = Augment(raw, **OFF | nothing | {"color_jitter": 1, name: 0.4}).clips([clip], [0])
        assert (changed - unchanged).abs().mean() > 1

    def test_as_often_as_asked(self, raw):
        clip = noise(1, 32, 32, 3)
        augment = Augment(raw, **OFF | {"color_jitter": 0.8, "grayscale": 0.1})
        results = augment.clips([clip] * 300, range(300))
        gray = (results[:, 0] == results[:, 2]).flatten(1).all(1)
        untouched = (results == raw(clip[None])).flatten(1).all(1)
        assert 0.04 < gray.float().mean() < 0.17
        assert 0.11 < untouched.float().mean() < 0.26  # 0.2 * 0.9


class TestRandAugment:
    ON = OFF | {"rand_augment_layers": 2, "rand_augment_magnitude": 15}

    def test_distorts_the_cropped_clip(self, raw):
        augment, clip = Augment(raw, **self.ON), noise(3, 40, 50, 3)
        images = raw(clip[None])[0].movedim(1, 0).to(torch.uint8)  # [3, T, h, w] -> [T, 3, h, w]
        for seed in range(12):
            result = augment.clips([clip], [seed])[0]
            expected = augment.rand_augment(images, seed).movedim(0, 1)
            assert torch.equal(result, expected.float())

    def test_only_the_first_of_it_and_colour_runs(self, raw):
        clip = noise(2, 40, 50, 3)
        both = Augment(raw, **self.ON | {"color_jitter": 1, "grayscale": 1})
        alone = Augment(raw, **self.ON)
        assert all(torch.equal(both.clips([clip], [s]), alone.clips([clip], [s])) for s in range(8))

    def test_leaves_the_other_draws(self, raw):
        uniform = torch.full((1, 40, 50, 3), 100, dtype=torch.uint8)
        uniform[:, :, :25] = 200
        geometry = {"scale_jitter": (0.9, 1.33), "random_crop": True, "horizontal_flip": 0.5}
        plain = Augment(raw, **OFF | geometry)
        distorted = Augment(raw, **self.ON | geometry | {"rand_augment_magnitude": 0})
        edges = [
            [(augment.clips([uniform], [s])[0, 0, 0, 14].diff() != 0).nonzero() for s in range(6)]
            for augment in (plain, distorted)
        ]
        for before, after in zip(*edges):
            assert not len(after) or torch.equal(after[:1], before[:1])


class TestResizedCrop:
    def test_is_torchvisions_with_the_processors_resize(self, raw):
        """The part of the frame that torchvision draws, within a grey level of Pillow's resize."""
        augment = Augment(raw, **OFF | {"random_resized_crop": (0.2, 0.6)})
        clip = noise(2, 60, 80, 3)
        for seed in range(10):
            result = augment.clips([clip], [seed])
            assert result.shape == (1, 3, 2, 28, 28)
            assert torch.equal(result, augment.clips([clip], [seed]))
        box = {"top": 5, "left": 7, "height": 40, "width": 30}
        augment.resized_crop.make_params = lambda inputs: box
        images = [Image.fromarray(f[5:45, 7:37]).resize((28, 28), 2) for f in clip.numpy()]
        expected = np.stack(images)
        result = augment.clips([clip], [0])[0].movedim(0, -1)
        np.testing.assert_allclose(result.numpy(), expected, rtol=0, atol=1)

    def test_area_and_ratio_are_in_range(self):
        """Of a gradient, rows and columns tell the size of the part."""
        processor = Processor(size=64, crop_size=32, do_rescale=False, offset=False)
        augment = Augment(processor, **OFF | {"random_resized_crop": (0.25, 0.5)})
        clip = position(200, 250)
        for seed in range(40):
            red, green, _ = augment.clips([clip], [seed])[0, :, 0]
            height = float(red[-1, 0] - red[0, 0]) * 32 / 31
            width = float(green[0, -1] - green[0, 0]) * 32 / 31
            assert 0.23 < height * width / (200 * 250) < 0.53
            assert 0.7 < width / height < 1.42

    def test_replaces_scale_jitter_and_crop(self, raw):
        part = {"random_resized_crop": (0.2, 0.6), "horizontal_flip": 0.5}
        clip = noise(1, 60, 80, 3)
        alone = Augment(raw, **OFF | part)
        both = Augment(raw, **OFF | part | {"scale_jitter": (0.9, 1.3), "random_crop": True})
        assert all(torch.equal(alone.clips([clip], [s]), both.clips([clip], [s])) for s in range(5))


class TestErasing:
    def test_one_grey_box_in_all_frames(self, processor):
        augment = Augment(processor, **OFF | {"random_erasing": 1.0})
        clip = noise(3, 40, 50, 3) // 2  # darker than the grey
        areas = []
        for seed in range(60):
            changed = augment.clips([clip], [seed]) != processor(clip[None])
            rows, columns = changed[0, 0, 0].any(1).nonzero(), changed[0, 0, 0].any(0).nonzero()
            height, width = int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1
            assert changed.sum() == 9 * height * width  # a whole box, three frames and channels
            assert augment.clips([clip], [seed])[changed].abs().max() < 0.005
            areas.append(height * width / 28**2)
        assert 0.015 < min(areas) < 0.08
        assert 0.25 < max(areas) < 0.36

    def test_as_often_as_asked_and_beside_colour(self, raw):
        clip = noise(1, 32, 32, 3) // 2
        plain = Augment(raw, **OFF | {"color_jitter": 0.5})
        erasing = Augment(raw, **OFF | {"color_jitter": 0.5, "random_erasing": 0.25})
        pairs = [(plain.clips([clip], [s]), erasing.clips([clip], [s])) for s in range(300)]
        assert 0.18 < np.mean([not torch.equal(a, b) for a, b in pairs]) < 0.32
        a, b = next((a, b) for a, b in pairs if not torch.equal(a, b))
        assert set(b[a != b].unique().tolist()) <= {127.0, 127.5}

    def test_box_is_torchvisions(self, raw):
        augment = Augment(raw, **OFF | {"random_erasing": 0.5, "random_erasing_scale": (0.1, 0.2)})
        assert isinstance(augment.erase, v2.RandomErasing)
        assert (augment.erase.p, augment.erase.scale) == (0.5, (0.1, 0.2))


@pytest.mark.gpu
@pytest.mark.parametrize("operations", ["paper", "torchvision"])
def test_a_gpu_draws_what_a_cpu_does(raw, operations):
    """Frames of the processor's size, as the resize differs; rounding may differ as well."""
    augment = Augment(
        raw, random_erasing=0.5, rand_augment_layers=2, rand_augment_operations=operations,
        scale_jitter=None,
    )  # fmt: skip
    clips = [noise(2, 32, 40, 3, seed=i) for i in range(20)]
    on_cpu = augment.clips(clips, range(20))
    on_gpu = augment.clips([clip.cuda() for clip in clips], range(20))
    assert on_gpu.is_cuda
    assert ((on_gpu.cpu() - on_cpu).abs() <= 2).float().mean() > 0.98


class TestNewDrawsKeepTheOld:
    def test_a_seed_keeps_its_meaning(self, raw):
        """With what came later switched on, what was there draws as before."""
        clip = position(40, 50)
        old = {"random_crop": True, "horizontal_flip": 0.5, "scale_jitter": (0.9, 1.33)}
        plain, erasing = (
            Augment(raw, **OFF | old | extra) for extra in ({}, {"random_erasing": 0.5})
        )
        for seed in range(10):
            a, b = plain.clips([clip], [seed]), erasing.clips([clip], [seed])
            kept = (b != 127).any(dim=1, keepdim=True).expand_as(a)
            assert torch.equal(a[kept], b[kept])


class TestFlips:
    def test_tells_what_forward_does(self, raw):
        clip, augment = position(32, 32), Augment(raw, **OFF | {"horizontal_flip": 0.4})
        seeds = range(40)
        rows = augment.clips([clip] * 40, seeds)[:, 1, 0, 0]
        flips = augment.flips(seeds)
        assert [bool(row[0] > row[-1]) for row in rows] == flips
        assert 0 < sum(flips) < 40


class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"scale_jitter": (1.2, 0.9)}, "0 < smallest <= largest, or None, not"),
            ({"scale_jitter": (0, 1)}, "scale_jitter must be"),
            ({"scale_jitter": (1,)}, "scale_jitter must be"),
            ({"horizontal_flip": 1.5}, "horizontal_flip must be between 0 and 1, not 1.5"),
            ({"color_jitter": -0.1}, "color_jitter must be between 0 and 1, not -0.1"),
            ({"grayscale": 2}, "grayscale must be between 0 and 1"),
            ({"brightness": 32}, "brightness must be between 0 and 1, not 32"),
            ({"hue": 0.6}, "hue must be between 0 and 0.5, not 0.6"),
            ({"mixup": -0.1}, r"mixup must be 0 \(off\) or more, e\.g\. 0\.3, not -0\.1"),
            ({"cutmix": -1}, r"cutmix must be 0 \(off\) or more, e\.g\. 1\.0, not -1"),
            ({"random_erasing": 1.1}, "random_erasing must be between 0 and 1, not 1.1"),
            ({"random_erasing_scale": (0.1, 2)}, "random_erasing_scale must be .* <= 1, not"),
            ({"random_resized_crop": (0, 1)}, "random_resized_crop must be .* 1, or None, not"),
            ({"random_resized_crop": (0.5, 1.5)}, "random_resized_crop must be"),
            ({"random_resized_crop_ratio": (2, 1)}, "random_resized_crop_ratio must be"),
            ({"rand_augment_layers": -2}, "rand_augment_layers must be"),
            ({"mix_min_videos": -1}, "mix_min_videos must be 0 or more, not -1"),
            ({"repeats": 0}, r"repeats must be a whole number, 1 \(off\) or more, not 0"),
            ({"repeats": 1.5}, "repeats must be"),
            (
                {"flip_labels": [["a", "b"]], "horizontal_flip": 0.0},
                "horizontal_flip=0 flips none: set horizontal_flip=0.5, or flip_labels=null",
            ),
        ],
    )
    def test_arguments(self, processor, arguments, message):
        with pytest.raises(UserError, match=message):
            Augment(processor, **arguments)

    def test_processor_without_one_size(self):
        with pytest.raises(UserError, match="set do_center_crop=True"):
            Augment(Processor(do_center_crop=False))

    @pytest.mark.parametrize(
        ("clips", "seeds", "message"),
        [
            ([noise(2, 40, 50, 3)], [1, 2], "1 clips, 2 seeds"),
            ([noise(2, 40, 50, 3)], [-1], "seeds must be 0 or more, not -1"),
            ([], [], "one number of frames"),
            ([noise(2, 40, 50, 3), noise(3, 40, 50, 3)], [1, 2], r"one number .* not \[2, 3\]"),
            ([torch.zeros(2, 40, 50, 3)], [1], r"uint8 0\.\.255 in \[T, H, W, 3\]"),
            ([noise(2, 3, 40, 50)], [1], r"channels last, not \[2, 3, 40, 50\]: move"),
            ([noise(1, 2, 40, 50, 3)], [1], r"must be \[T, H, W, 3\], not .* \(rank 5\)"),
        ],
    )
    def test_batches(self, processor, clips, seeds, message):
        with pytest.raises(UserError, match=message):
            Augment(processor).clips(clips, seeds)

    def test_frames_smaller_than_the_crop(self):
        augment = Augment(Processor(size=24, crop_size=28))
        with pytest.raises(UserError, match=r"28x28 .* does not fit into frames of 24x30"):
            augment.clips([noise(1, 40, 50, 3)], [0])


class TestWholeBatches:
    """`Augment.forward`: what it does to labels and between clips."""

    NAMES = ("a", "b", "c")

    @pytest.fixture
    def frames(self):
        return [noise(4, 24, 40, 3), noise(4, 30, 20, 3)]

    def see(self, augment, frames, key=(0, 0, 0), names=NAMES, heads=None, labels=(0, 1)):
        rules = augment.rules(names, heads or {}, num_videos=100)
        labels, seeds = torch.tensor(labels), range(100, 100 + len(frames))
        return augment(frames, labels, seeds, rules, key)

    def test_alone_nothing_happens_to_labels(self, frames, processor):
        augment = Augment(processor)
        seen = self.see(augment, frames)
        assert torch.equal(seen.clips, augment.clips(frames, [100, 101]))
        assert (seen.labels.tolist(), seen.shares, seen.seeds) == ([0, 1], None, [100, 101])

    def test_mixup_by_seed_step_and_rank(self, frames, processor):
        """Clips and labels are mixed alike, with a share that a resumed run draws again."""
        augment = Augment(processor, mixup=1.0)
        first, plain = self.see(augment, frames), augment.clips(frames, [100, 101])
        share = float(first.shares[0, 0])
        assert 0 < share < 1
        torch.testing.assert_close(first.shares[0], torch.tensor([share, 1 - share, 0]))
        torch.testing.assert_close(first.shares[1], torch.tensor([1 - share, share, 0]))
        torch.testing.assert_close(first.clips, share * plain + (1 - share) * plain.flip(0))
        assert first.labels.tolist() == [0, 1]
        assert torch.equal(first.clips, self.see(augment, frames).clips)
        others = [
            self.see(augment, frames, key).shares for key in ((1, 0, 0), (0, 1, 0), (0, 0, 1))
        ]
        assert len({share, *(float(shares[0, 0]) for shares in others)}) == 4

    def test_cutmix_by_seed_step_and_rank(self, frames, processor):
        augment = Augment(processor, cutmix=1.0)
        plain = augment.clips(frames, [100, 101])
        batches = [self.see(augment, frames, (0, step, 0)) for step in range(8)]
        assert torch.equal(batches[0].clips, self.see(augment, frames).clips)
        assert len({float(batch.shares[0, 0]) for batch in batches}) > 4
        for batch in batches:
            taken = (batch.clips == plain.flip(0)) & (batch.clips != plain)
            assert ((batch.clips == plain) | taken).all()
            share = float(batch.shares[0, 1])  # of the pixels: a few are alike in both
            assert taken[:, 0, 0].float().mean() == pytest.approx(share, abs=0.02)
            assert batch.shares.sum(dim=1).tolist() == pytest.approx([1, 1])
        keys = [(seed, 0, 0) for seed in range(8)] + [(0, step, 1) for step in range(8)]
        assert len({float(self.see(augment, frames, key).shares[0, 0]) for key in keys}) > 6

    def test_mixup_and_cutmix_take_turns(self, frames, processor):
        """Each batch one of them, by even chance, drawing what it would draw alone."""

        def shares(step, **alphas):
            return self.see(Augment(processor, **OFF | alphas), frames, (0, step, 0)).shares

        is_mixup = []
        for step in range(40):
            both = shares(step, mixup=1.0, cutmix=1.0)
            is_mixup.append(torch.equal(both, shares(step, mixup=1.0)))
            assert is_mixup[-1] != torch.equal(both, shares(step, cutmix=1.0))
        assert 10 < sum(is_mixup) < 30

    def test_mixing_is_of_all_heads(self, frames, processor):
        augment, heads = Augment(processor, mixup=1.0), {"noun": 3, "verb": 2}
        labels = ((2, 0), (0, 1))
        seen = self.see(augment, frames, names=tuple("abcde"), heads=heads, labels=labels)
        one_hot = torch.tensor([[0.0, 0, 1, 1, 0], [1, 0, 0, 0, 1]])
        share = float(seen.shares[0, 2])
        torch.testing.assert_close(seen.shares, share * one_hot + (1 - share) * one_hot.flip(0))

    def test_a_small_set_is_not_mixed(self, processor):
        augment = Augment(processor, mixup=1.0, mix_min_videos=50)
        assert augment.rules(self.NAMES, {}, 50).mixes
        assert not augment.rules(self.NAMES, {}, 49).mixes
        assert not Augment(processor).rules(self.NAMES, {}, 49).mixes

    def test_repeats_make_several_clips_of_one_decode(self, frames, processor):
        augment = Augment(processor, repeats=2)
        seen = self.see(augment, frames)
        assert seen.labels.tolist() == [0, 0, 1, 1]
        # The first of each is the clip that it would be without; the others have their own draws.
        assert seen.seeds[::2] == [100, 101]
        assert len(set(seen.seeds)) == 4
        assert torch.equal(seen.clips[::2], augment.clips(frames, [100, 101]))
        assert not torch.equal(seen.clips[0], seen.clips[1])
        assert torch.equal(seen.clips, self.see(augment, frames).clips)

    def test_flips_swap_labels(self, processor):
        """Labels of flipped clips change, those of the others and of other classes do not."""
        augment = Augment(processor, flip_labels=[["a", "b"]])
        frames = torch.zeros(2, 24, 32, 3, dtype=torch.uint8)
        frames[:, :, :16] = 255  # bright on the left
        before = torch.arange(30) % 3
        seen = self.see(augment, [frames] * 30, labels=before.tolist())
        flipped = seen.clips[..., -1].mean(dim=(1, 2, 3)) > seen.clips[..., 0].mean(dim=(1, 2, 3))
        assert 5 < flipped.sum() < 25
        swapped = torch.tensor([1, 0, 2])[before]
        assert torch.equal(seen.labels, torch.where(flipped, swapped, before))

    def test_flips_swap_labels_of_a_head_and_before_mixing(self, frames, processor):
        pairs = {"horizontal_flip": 1.0, "flip_labels": [["b1", "b2"]]}
        several = {"names": ("a1", "a2", "b1", "b2"), "heads": {"a": 2, "b": 2}}
        labels = ((0, 0), (1, 1))
        seen = self.see(Augment(processor, **pairs), frames, **several, labels=labels)
        assert seen.labels.tolist() == [[0, 1], [1, 0]]
        augment = Augment(processor, **pairs, mixup=1e-9)  # a share of 0 or 1
        seen = self.see(augment, frames, **several, labels=labels)
        assert sorted(seen.shares.tolist()) == [[0, 1, 1, 0], [1, 0, 0, 1]]
