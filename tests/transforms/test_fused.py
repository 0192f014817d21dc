"""The CUDA kernels against what they replace; on a CPU in Triton's interpreter."""

import importlib.util
import os
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from vivit_train.transforms import augment as augment_module
from vivit_train.transforms.augment import Augment
from vivit_train.transforms.processor import Processor
from vivit_train.transforms.settings import RESAMPLE

triton = pytest.importorskip("triton")

# Two levels: both resizes round twice.
LEVEL = 1 / 127.5


@pytest.fixture(scope="module")
def fused() -> ModuleType:
    """A copy of the module whose kernels run on the CPU, in NumPy."""
    spec = importlib.util.find_spec("vivit_train.transforms.fused")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    os.environ["TRITON_INTERPRET"] = "1"
    try:
        spec.loader.exec_module(module)
    finally:
        del os.environ["TRITON_INTERPRET"]
    return module


@pytest.fixture
def fused_augment(fused):
    """`Augment.clips` on a CPU as it is on a GPU."""

    def clips(augment: Augment, frames, seeds, shrunk=()):
        plans = [
            augment._plan(f.shape[1], f.shape[2], s, d)
            for f, s, d in zip(frames, seeds, shrunk or [False] * len(frames))
        ]
        return fused.apply(frames, plans, augment.processor, augment.rand_augment)

    return clips


def smooth(frames: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    """uint8 ``[T, H, W, 3]``: large patches of colour with a little noise."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.random((frames, 3, 4, 5)))
    images = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    images = images + 0.05 * torch.from_numpy(rng.standard_normal(images.shape))
    return (255 * images.clamp(0, 1)).to(torch.uint8).movedim(1, -1).contiguous()


SIZES = [(40, 52), (64, 48), (30, 30), (28, 40)]


@pytest.mark.parametrize("resample", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(30, 33), (56, 70), (37, 29)])
def test_taps_are_interpolates(fused, resample, size):
    """The weights of each output pixel, read off the resize of unit impulses."""
    for length, target in zip((40, 52), size):
        impulses = torch.eye(length)[None, None]  # a column for each input pixel
        mode = "nearest-exact" if resample == "nearest" else resample
        antialias = {} if resample == "nearest" else {"antialias": True}
        expected = torch.nn.functional.interpolate(
            impulses, (target, length), mode=mode, **antialias
        )[0, 0]  # [target, length]
        starts, weights = fused.taps(length, target, resample)
        ours = np.zeros((target, length), np.float32)
        for i, (start, row) in enumerate(zip(starts, weights)):
            for j, weight in enumerate(row):
                if weight:
                    ours[i, start + j] += weight
        # Interpolate's places are float32: about 4e-6 of a pixel off at 70.
        np.testing.assert_allclose(ours, expected.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("resample", ["bilinear", "bicubic"])
def test_plain_crops_are_pillows(fused_augment, resample):
    processor = Processor(size=32, crop_size=28, resample=resample)
    augment = Augment(
        processor, scale_jitter=None, random_crop=False, horizontal_flip=0, color_jitter=0,
        grayscale=0,
    )  # fmt: skip
    frames = [smooth(2, *size, seed=i) for i, size in enumerate(SIZES)]
    result = fused_augment(augment, frames, range(4))
    for clip, ours in zip(frames, result):
        height, width = processor.resized_size(*clip.shape[1:3])
        resized = [
            np.asarray(Image.fromarray(f.numpy()).resize((width, height), RESAMPLE[resample]))
            for f in clip
        ]
        images = torch.from_numpy(np.stack(resized)).movedim(-1, 1)
        images = processor.crop(images[None], processor.corners(height, width))
        apart = (ours - processor.to_float(images)[0]).abs()
        # What `transforms.resize` promises. Where 40 pixels become 45, one in 18 sums is a half,
        # which rounds up or down by the last bit of the weights.
        assert apart.max() <= LEVEL + 1e-5
        assert (apart > 1e-5).float().mean() < 0.05


def test_a_nearest_resize_takes_the_same_pixels(fused_augment):
    processor = Processor(size=32, crop_size=28, resample="nearest")
    augment = Augment(processor, scale_jitter=None, horizontal_flip=0.5, color_jitter=0)
    frames = [smooth(2, *size, seed=i) for i, size in enumerate(SIZES)]
    result = fused_augment(augment, frames, range(4))
    assert torch.equal(result, augment.clips(frames, range(4)))


SETTINGS = {
    "defaults": {},
    "always": {"color_jitter": 1.0, "grayscale": 0.0},
    "no hue": {"color_jitter": 1.0, "hue": 0.0},
    "grey": {"color_jitter": 1.0, "grayscale": 1.0},
    "erased": {"random_erasing": 1.0},
    "resized crop": {"scale_jitter": None, "random_crop": False, "random_resized_crop": (0.2, 1)},
    "RandAugment": {"rand_augment_layers": 2, "random_erasing": 0.5},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_does_what_the_operators_do(fused_augment, name):
    normalised = {"do_normalize": True, "image_std": (0.5, 0.25, 0.3)}
    augment = Augment(Processor(size=32, crop_size=28, **normalised), **SETTINGS[name])
    frames = [smooth(2, *size, seed=i) for i, size in enumerate(SIZES)]
    expected = augment.clips(frames, range(10, 14))
    result = fused_augment(augment, frames, range(10, 14))
    assert result.shape == expected.shape
    assert result.dtype == torch.float32
    apart = (result - expected).abs() / (4 * LEVEL)  # in levels: the least std is a quarter
    # RandAugment and hue magnify a level of the resize.
    assert apart.median() < 0.3
    assert (apart <= 3).float().mean() > 0.97


def test_colours_alone_are_torchvisions(fused_augment):
    """Frames of the crop's size, so that no resize rounds."""
    augment = Augment(
        Processor(size=28, crop_size=28), scale_jitter=None, color_jitter=1.0, grayscale=0.3
    )
    frames = [smooth(2, 28, 28, seed=i) for i in range(8)]
    expected = augment.clips(frames, range(8))
    apart = (fused_augment(augment, frames, range(8)) - expected).abs()
    assert apart.max() < 2e-3
    assert apart.mean() < 1e-5


def test_shrunk_clips_are_not_resized_again(fused_augment):
    augment = Augment(Processor(size=32, crop_size=28), color_jitter=0)
    large = smooth(2, 90, 100)
    top, left, height, width, size = augment.resize(90, 100, seed=3)
    box = large[:, top : top + height, left : left + width]
    shrunk = augment.processor.resize(box[None], size)[0].movedim(1, -1).contiguous()
    result = fused_augment(augment, [shrunk], [3], [True])
    assert (result - augment.clips([large], [3])).abs().max() <= LEVEL + 1e-5


def test_cpu_tensors_take_the_operators(monkeypatch):
    """The kernels are for CUDA alone."""
    monkeypatch.setattr(augment_module, "can_compile_kernels", lambda: pytest.fail("kernels"))
    Augment(Processor(size=32, crop_size=28)).clips([smooth(1, 40, 40)], [0])


class Operators(TorchDispatchMode):
    """Counts the operators that the host issues."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


class NoKernel:
    """In place of a kernel: it does nothing, and counts as one operator."""

    def __init__(self, operators: Operators) -> None:
        self.operators = operators

    def __getitem__(self, grid):
        def launch(*_) -> None:
            self.operators.count += 1

        return launch


def test_a_tenth_of_the_operators_is_issued(fused, fused_augment, monkeypatch):
    augment, seeds = Augment(Processor(size=32, crop_size=28)), range(16)
    frames = [smooth(2, 40, 52, seed=i) for i in range(16)]
    with Operators() as before:
        augment.clips(frames, seeds)
    with Operators() as after:
        for name in ("_resize_kernel", "_color_kernel"):
            monkeypatch.setattr(fused, name, NoKernel(after))
        fused_augment(augment, frames, seeds)
    assert after.count <= before.count / 10


@pytest.mark.parametrize("name", ["_resize_kernel", "_color_kernel"])
def test_the_kernels_compile_for_a_gpu(name):
    """For an H100, without one: Triton brings NVIDIA's assembler."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from vivit_train.transforms import fused

    types = {
        "places": "*i64", "starts": "*i32", "weights": "*fp32", "factors": "*fp32",
        "scaling": "*fp32", "images": "*u8", "grays": "*fp32", "clips": "*fp32",
        "BLOCK": "constexpr", "BLOCKS": "constexpr",
    }  # fmt: skip
    kernel = getattr(fused, name)
    signature = {argument: types.get(argument, "i32") for argument in kernel.arg_names}
    values = {"BLOCK": fused.BLOCK, "BLOCKS": 64}
    constants = {argument: values[argument] for argument in signature if argument in values}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    assert triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]
