"""Training transforms on the device: what the model sees of a batch, and with which labels."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

import torch
import torchvision.transforms.v2.functional as F
from torch import Tensor, nn
from torchvision.transforms import v2

from vivit_train.errors import UserError
from vivit_train.io.compilers import missing_for_triton
from vivit_train.seeds import derive_seed
from vivit_train.transforms.colors import Colors, recolor
from vivit_train.transforms.frames import check_frames
from vivit_train.transforms.labels import LabelRules, mirror_labels, mirrored_classes, to_shares
from vivit_train.transforms.mixup import mix
from vivit_train.transforms.plan import MID_GRAY, NO_BOX, Draws, Plan, draw
from vivit_train.transforms.processor import Processor
from vivit_train.transforms.rand_augment import RandAugment, torch_draws
from vivit_train.transforms.shrink import Resize


class Augmented(NamedTuple):
    """What the model sees of a batch in training.

    Attributes:
        clips: float32 ``[B * repeats, 3, T, h, w]``, in ``processor.value_range``; those of a video
            side by side.
        labels: As for `mirror_labels`, of B * repeats clips: what each shows.
        shares: Float ``[B * repeats, K]``, the parts of the classes in each mixed clip, the heads'
            side by side; multi-label the mixed 0 and 1; ``None`` where none is mixed.
        seeds: Of each clip, by which it was drawn.
    """

    clips: Tensor
    labels: Tensor
    shares: Tensor | None
    seeds: list[int]


class Augment(nn.Module):
    """Augment a batch, every frame of a clip alike, and bring it into the model's order and range.

    The defaults are Scenic's for Kinetics (ViViT, Table 7; DMVR ``scale_jitter_augm`` and
    ``color_default_augm``): shortest edge to ``processor.size`` times independent factors for
    height and width, random crop, flip, then brightness, saturation, contrast and hue in this
    order, then grayscale. What a clip gets depends on its seed alone. With everything off the
    result is the processor's.

    Differences from Scenic: the two resizes are one, antialiased. Brightness adds as there;
    saturation, contrast and hue are torchvision's, which blend with the grey image and the grey
    mean of each frame (TensorFlow scales HSV's saturation, and contrasts about the mean of each
    channel) and clip after every step rather than at the end.

    Two pairs exclude each other, as in Scenic: RandAugment replaces colour jitter and
    grayscale, the random resized crop replaces scale jitter and random crop.

    Args:
        processor: Gives size, crop and scaling. Its output must be of one size.
        scale_jitter: Range of the factors by which height and width are stretched, or None.
        random_crop: Whether to crop anywhere rather than in the centre.
        random_resized_crop: Range of the area that is cropped and then resized, as fractions of
            the frame's, e.g. (0.08, 1), or None. It is torchvision's.
        random_resized_crop_ratio: Range of that area's width / height.
        horizontal_flip: Probability of a flip. Set 0 where left and right matter.
        flip_labels: The classes that a flip turns into each other: pairs of names, a mapping, or
            the path of a YAML file with either. None: a flip changes no class. Classes that are
            not named stay.
        color_jitter: Probability of the four colour changes together.
        brightness: Largest change added to pixels, as a fraction of white.
        contrast: Largest change of the contrast factor from 1.
        saturation: Largest change of the saturation factor from 1.
        hue: Largest rotation of the hue, in turns, up to 0.5.
        grayscale: Probability of dropping colour (three equal channels remain).
        rand_augment_layers: Operations of RandAugment in a row; 0: off.
        rand_augment_magnitude: Their strength: see `RandAugment`.
        rand_augment_operations: ``paper`` or ``torchvision``.
        random_erasing: Probability of a box of mid-grey in all frames. It is torchvision's.
        random_erasing_scale: Range of the box's area, as fractions of the frame's.
        mixup: Alpha of the Beta distribution from which a batch's share is drawn; 0: off. It mixes
            the clips of a batch and their labels, after all else.
        cutmix: Alpha of the Beta distribution from which the area of a batch's box is drawn; 0:
            off. Done where mixup is; with both, each batch takes one, at even chances.
        mix_min_videos: Training sets of fewer videos are not mixed, neither by mixup nor cutmix.
        repeats: Clips made of each decoded video, with draws of their own.

    Raises:
        UserError: A value outside its range, or a processor whose output sizes vary.
    """

    def __init__(
        self,
        processor: Processor,
        *,
        scale_jitter: Sequence[float] | None = (0.9, 1.33),
        random_crop: bool = True,
        random_resized_crop: Sequence[float] | None = None,
        random_resized_crop_ratio: Sequence[float] = (3 / 4, 4 / 3),
        horizontal_flip: float = 0.5,
        flip_labels: str | dict[str, str] | Sequence[Sequence[str]] | None = None,
        color_jitter: float = 0.8,
        brightness: float = 32 / 255,
        contrast: float = 0.4,
        saturation: float = 0.4,
        hue: float = 0.2,
        grayscale: float = 0.1,
        rand_augment_layers: int = 0,
        rand_augment_magnitude: float = 10,
        rand_augment_operations: str = "paper",
        random_erasing: float = 0.0,
        random_erasing_scale: Sequence[float] = (0.02, 0.33),
        mixup: float = 0.0,
        cutmix: float = 0.0,
        mix_min_videos: int = 0,
        repeats: int = 1,
    ) -> None:
        super().__init__()
        if processor.output_size is None:
            raise UserError(
                "clips of one batch need one size: set do_center_crop=True, "
                "or size=(height, width), in the processor"
            )
        if scale_jitter is not None:
            _check_range("scale_jitter", scale_jitter, ", or None")
        if random_resized_crop is not None:
            _check_range("random_resized_crop", random_resized_crop, " <= 1, or None", limit=1)
        _check_range("random_resized_crop_ratio", random_resized_crop_ratio)
        _check_range("random_erasing_scale", random_erasing_scale, " <= 1", limit=1)
        upper_limits = {
            "horizontal_flip": (horizontal_flip, 1),
            "color_jitter": (color_jitter, 1),
            "brightness": (brightness, 1),
            "contrast": (contrast, 1),
            "saturation": (saturation, 1),
            "hue": (hue, 0.5),
            "grayscale": (grayscale, 1),
            "random_erasing": (random_erasing, 1),
        }
        for name, (value, limit) in upper_limits.items():
            if not 0 <= value <= limit:
                raise UserError(f"{name} must be between 0 and {limit}, not {value}")
        for name, alpha, example in (("mixup", mixup, 0.3), ("cutmix", cutmix, 1.0)):
            if alpha < 0:
                raise UserError(f"{name} must be 0 (off) or more, e.g. {example}, not {alpha}")
        if mix_min_videos < 0:
            raise UserError(f"mix_min_videos must be 0 or more, not {mix_min_videos}")
        if repeats < 1 or repeats != int(repeats):
            raise UserError(f"repeats must be a whole number, 1 (off) or more, not {repeats}")
        if flip_labels is not None and not horizontal_flip:
            raise UserError(
                "flip_labels says what a flipped clip shows, but horizontal_flip=0 flips none: "
                "set horizontal_flip=0.5, or flip_labels=null"
            )

        self.processor = processor
        self.output_size = processor.output_size
        self.scale_jitter = None if scale_jitter is None else tuple(scale_jitter)
        self.random_crop = random_crop
        self.resized_crop = None
        if random_resized_crop is not None:
            self.resized_crop = v2.RandomResizedCrop(
                processor.output_size, tuple(random_resized_crop), tuple(random_resized_crop_ratio)
            )
        self.horizontal_flip = horizontal_flip
        self.flip_labels = flip_labels
        self.color_jitter = color_jitter
        self.brightness = brightness
        self.contrast = contrast
        self.saturation = saturation
        self.hue = hue
        self.grayscale = grayscale
        self.rand_augment = None
        if rand_augment_layers:
            self.rand_augment = RandAugment(
                rand_augment_layers, rand_augment_magnitude, rand_augment_operations
            )
        self.erase = None
        if random_erasing:
            self.erase = v2.RandomErasing(
                random_erasing, tuple(random_erasing_scale), value=MID_GRAY
            )
        self.mixup = mixup
        self.cutmix = cutmix
        self.mix_min_videos = mix_min_videos
        self.repeats = int(repeats)

    def rules(
        self,
        class_names: Sequence[str],
        heads: Mapping[str, int],
        num_videos: int,
        multi_label: bool = False,
    ) -> LabelRules:
        """What becomes of the labels of a training set.

        Args:
            class_names: All classes, head after head.
            heads: Name and number of classes of each head; empty: one head.
            num_videos: Videos of the set.
            multi_label: Whether a video has any number of the classes.

        Raises:
            UserError: If ``flip_labels`` cannot be read, or names what is no class.
        """
        mirrors = None
        if self.flip_labels is not None:
            classes = mirrored_classes(self.flip_labels, class_names, heads)
            mirrors = [torch.tensor(of_head) for of_head in classes]
        mixes = (self.mixup > 0 or self.cutmix > 0) and num_videos >= self.mix_min_videos
        return LabelRules(list(heads.values()) or [len(class_names)], mirrors, mixes, multi_label)

    def forward(
        self,
        frames: Sequence[Tensor],
        labels: Tensor,
        seeds: Sequence[int],
        rules: LabelRules,
        key: tuple[int, int, int],
        shrunk: Sequence[bool] = (),
    ) -> Augmented:
        """All that this does to a batch: a function of its arguments alone.

        Args:
            frames: Of B videos, as for `clips`.
            labels: As for `mirror_labels`.
            seeds: As for `clips`; with ``repeats`` those of a video's other clips follow from it.
            rules: See `rules`.
            key: (seed of the run, step, process), by which mixing is drawn.
            shrunk: As for `clips`.

        Raises:
            UserError: As `clips` does.
        """
        times = range(self.repeats)
        frames = [clip for clip in frames for _ in times]
        shrunk = [done for done in shrunk for _ in times]
        seeds = [derive_seed(seed, "repeat", i) if i else seed for seed in seeds for i in times]
        if self.repeats > 1:
            labels = labels.repeat_interleave(self.repeats, dim=0)
        clips = self.clips(frames, seeds, shrunk)  # [B, 3, T, h, w]
        if rules.mirrors is not None:
            labels = mirror_labels(labels, self.flips(seeds), rules.mirrors, rules.multi_label)
        shares = None
        if rules.mixes:
            shares = to_shares(labels, rules.heads, clips.dtype, rules.multi_label)
            clips, shares = mix(clips, shares, self.mixup, self.cutmix, *key)
        return Augmented(clips, labels, shares, seeds)

    def clips(
        self, frames: Sequence[Tensor], seeds: Sequence[int], shrunk: Sequence[bool] = ()
    ) -> Tensor:
        """Augment clips, each by itself.

        Args:
            frames: B clips, each uint8 [T, H, W, 3]; H and W may differ between clips.
            seeds: One for each clip, 0 or more.
            shrunk: Which clips have had the ``resize`` of their seed already; default: none.

        Returns:
            float32 [B, 3, T, h, w] with values in ``processor.value_range``.

        Raises:
            UserError: No clips, clips of another type or shape, of different lengths, smaller than
                the crop once resized, or another number of seeds than of clips.
        """
        if len(frames) != len(seeds):
            raise UserError(f"every clip needs its seed: {len(frames)} clips, {len(seeds)} seeds")
        for clip in frames:
            check_frames(clip, "[T, H, W, 3]")
        lengths = sorted({len(clip) for clip in frames})
        if len(lengths) != 1:
            raise UserError(f"a batch needs clips with one number of frames, not {lengths}")
        plans = [
            self._plan(clip.shape[1], clip.shape[2], seed, done)
            for clip, seed, done in zip(frames, seeds, shrunk or [False] * len(frames))
        ]
        if frames[0].is_cuda and can_compile_kernels(frames[0].device):
            from vivit_train.transforms import fused

            return fused.apply(frames, plans, self.processor, self.rand_augment)
        images = [self._augment(clip, plan) for clip, plan in zip(frames, plans)]
        # Put together before they are floats: bytes are a quarter to copy.
        return self.processor.to_float(torch.cat(images))

    def resize(self, height: int, width: int, seed: int) -> Resize:
        """What is cut out of frames of this height and width, and to what size it is resized."""
        if self.resized_crop is None:
            return Resize(0, 0, height, width, self._target_size(height, width, draw(seed)))
        # The box is torchvision's; of the frame it looks at nothing but the size.
        with torch_draws(derive_seed(seed, "random_resized_crop")):
            box = self.resized_crop.make_params([torch.empty(3, height, width, device="meta")])
        return Resize(**box, size=self.output_size)

    def flips(self, seeds: Sequence[int]) -> list[bool]:
        """Whether the clip of each seed is flipped."""
        return [draw(seed).flip < self.horizontal_flip for seed in seeds]

    def _plan(self, height: int, width: int, seed: int, shrunk: bool) -> Plan:
        """What becomes of a clip of this height and width."""
        draws = draw(seed)
        resize = None if shrunk else self.resize(height, width, seed)
        size = (height, width) if resize is None else resize.size
        corner = (0, 0) if self.resized_crop is not None else self._corner(*size, draws)
        return Plan(
            resize=resize,
            corner=corner,
            flip=draws.flip < self.horizontal_flip,
            colors=self._colors(draws),
            erased=self._erased(seed),
            seed=seed,
        )

    def _augment(self, clip: Tensor, plan: Plan) -> Tensor:
        """uint8 [T, H, W, 3] -> uint8, or where colours change float32 0..255, [1, T, 3, h, w]."""
        size = (clip.shape[1], clip.shape[2])
        if plan.resize is not None:
            top, left, height, width, size = plan.resize
            clip = clip[:, top : top + height, left : left + width]
        images = self.processor.resize(clip[None], size)  # uint8 [1, T, 3, H', W']
        images = self.processor.crop(images, [plan.corner])  # [1, T, 3, h, w]
        if plan.flip:
            images = F.horizontal_flip(images)
        if self.rand_augment is not None:
            images = self.rand_augment(images[0], plan.seed)[None]
        images = recolor(images, plan.colors)
        if plan.erased != NO_BOX:
            images = F.erase(images, *plan.erased, v=torch.tensor(MID_GRAY))
        return images

    def _target_size(self, height: int, width: int, draws: Draws) -> tuple[int, int]:
        """Combine the processor's resize and the jitter: one resize costs less and blurs less."""
        base = self.processor.resized_size(height, width)
        if self.scale_jitter is None:
            return base
        low, high = self.scale_jitter
        self.processor.free_pixels(*base)  # too small without jitter: an error, whatever the draw
        scales = (draws.height_scale, draws.width_scale)
        height, width = (
            max(int(edge * (low + (high - low) * draw)), smallest)
            for edge, draw, smallest in zip(base, scales, self.output_size)
        )
        return height, width

    def _corner(self, height: int, width: int, draws: Draws) -> tuple[int, int]:
        """Top and left, in pixels, of the crop in resized frames of this height and width."""
        free_height, free_width = self.processor.free_pixels(height, width)
        if not self.random_crop:
            return self.processor.corners(height, width)[0]
        return int(draws.top * (free_height + 1)), int(draws.left * (free_width + 1))

    def _colors(self, draws: Draws) -> Colors:
        def change(largest: float, draw: float) -> float:
            return largest * (2 * draw - 1)

        if self.rand_augment is not None:
            return Colors(False, 0.0, 1.0, 1.0, 0.0, False)
        return Colors(
            jitter=draws.color_jitter < self.color_jitter,
            brightness=change(self.brightness, draws.brightness),
            saturation=1 + change(self.saturation, draws.saturation),
            contrast=1 + change(self.contrast, draws.contrast),
            hue=change(self.hue, draws.hue),
            gray=draws.grayscale < self.grayscale,
        )

    def _erased(self, seed: int) -> tuple[int, int, int, int]:
        """The box is torchvision's; of the frame it looks at nothing but the size."""
        if self.erase is None:
            return NO_BOX
        with torch_draws(derive_seed(seed, "random_erasing")):
            if torch.rand(1) >= self.erase.p:
                return NO_BOX
            box = self.erase.make_params([torch.empty(3, *self.output_size, device="meta")])
        return NO_BOX if box["v"] is None else (box["i"], box["j"], box["h"], box["w"])


@cache
def can_compile_kernels(device: torch.device) -> bool:
    """Whether Triton can write kernels for this GPU, with the compilers that are there."""
    return missing_for_triton(torch.cuda.get_device_capability(device)) is None


def _check_range(
    name: str, value: Sequence[float], rest: str = "", limit: float = float("inf")
) -> None:
    if not (len(value) == 2 and 0 < value[0] <= value[1] <= limit):
        raise UserError(
            f"{name} must be (smallest, largest) with 0 < smallest <= largest{rest}, not {value}"
        )
