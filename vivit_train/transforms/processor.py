"""The image processor: decoded frames to what the model sees, on whatever device the frames are."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vivit_train.errors import UserError
from vivit_train.io.foreign import is_of
from vivit_train.transforms.frames import check_frames
from vivit_train.transforms.huggingface import read_settings, size_to_dict
from vivit_train.transforms.resize import resize
from vivit_train.transforms.settings import (
    RESAMPLE,
    format_range,
    per_channel,
    pixel_pair,
    pixels,
    resample_name,
    switch,
)

# The settings that decide a pixel's value, not which pixels are kept -> the switch that they need.
_VALUE_SETTINGS = {
    "do_rescale": None,
    "rescale_factor": "do_rescale",
    "offset": None,
    "do_normalize": None,
    "image_mean": "do_normalize",
    "image_std": "do_normalize",
}


class Processor(nn.Module):
    """Resize, crop and scale frames: the same steps in training, evaluation, prediction and export.

    The arguments are those of Hugging Face's ``VivitImageProcessor``. The defaults are what the
    models of Scenic were trained with: shortest edge 256, centre crop 224, pixels in [-1, 1] and
    no mean/std. The library's own defaults normalise a second time, to [-3, 1]:
    ``Processor.from_huggingface({})``.

    Resize and crop work on uint8. Pixels are those of ``VivitImageProcessor``, i.e. Pillow's, but
    for one grey level in at most 5 % of the values: ``transforms.resize`` has the exceptions.

    The module holds neither parameters nor buffers: casting the model to bfloat16 cannot coarsen
    the pixels.

    Args:
        do_resize: Whether to resize.
        size: Shortest edge in pixels (the aspect ratio is kept) or (height, width). None is 8/7 of
            the crop's shorter edge: 256 for 224.
        resample: "nearest", "bilinear" or "bicubic", or PIL's code for it (0, 2, 3).
        do_center_crop: Whether to crop. Without it frames keep the size that the resize gave.
        crop_size: Edge of a square in pixels, or (height, width).
        do_rescale: Whether to multiply pixels (0..255) by ``rescale_factor``.
        rescale_factor: The factor.
        offset: Whether to subtract 1 after rescaling.
        do_normalize: Whether to subtract ``image_mean`` and divide by ``image_std`` after that.
        image_mean: Mean for each channel, or one for all.
        image_std: Standard deviation for each channel, or one for all.

    Raises:
        UserError: A value that no frame could be processed with.
    """

    def __init__(
        self,
        *,
        do_resize: bool = True,
        size: int | Sequence[int] | None = None,
        resample: str | int = "bilinear",
        do_center_crop: bool = True,
        crop_size: int | Sequence[int] = 224,
        do_rescale: bool = True,
        rescale_factor: float = 1 / 127.5,
        offset: bool = True,
        do_normalize: bool = False,
        image_mean: float | Sequence[float] = (0.5, 0.5, 0.5),
        image_std: float | Sequence[float] = (0.5, 0.5, 0.5),
    ) -> None:
        super().__init__()
        self.do_resize = switch("do_resize", do_resize)
        self.do_center_crop = switch("do_center_crop", do_center_crop)
        self.crop_size = pixel_pair("crop_size", crop_size)
        if size is None:
            size = round(min(self.crop_size) * 8 / 7)
        self.size = pixels("size", size) if isinstance(size, int) else pixel_pair("size", size)
        self.resample = resample_name(resample)
        self.do_rescale = switch("do_rescale", do_rescale)
        self.offset = switch("offset", offset)
        self.do_normalize = switch("do_normalize", do_normalize)
        self.image_mean = per_channel("image_mean", image_mean)
        self.image_std = per_channel("image_std", image_std)

        if not is_of(rescale_factor, float) or rescale_factor <= 0:
            raise UserError(f"rescale_factor must be a positive number, not {rescale_factor!r:.80}")
        self.rescale_factor = float(rescale_factor)
        if min(self.image_std) <= 0:
            raise UserError(f"image_std must be positive, not {list(self.image_std)}")
        if offset and not do_rescale:
            raise UserError(
                "offset=True subtracts 1 from rescaled pixels, but do_rescale is False: "
                "set offset=False as well, or do_rescale=True"
            )

    @property
    def output_size(self) -> tuple[int, int] | None:
        """Height and width of what ``forward`` returns; None where they depend on the frames."""
        if self.do_center_crop:
            return self.crop_size
        return self.size if self.do_resize and isinstance(self.size, tuple) else None

    @property
    def value_range(self) -> list[tuple[float, float]]:
        """What black (0) and white (255) become, for each channel: ``[(-1, 1)] * 3`` by default."""
        return [(-shift / scale, (255 - shift) / scale) for shift, scale in self.affine()]

    def forward(self, frames: Tensor, spatial_views: int = 1) -> Tensor:
        """Process clips of one size.

        Args:
            frames: uint8 [N, T, H, W, 3], RGB.
            spatial_views: 1 for the centre crop, or 3 for crops along the longer side of the
                resized frame (left, centre, right, or top, middle, bottom).

        Returns:
            float32 [N * spatial_views, 3, T, h, w], the spatial views of a clip side by side, with
            values in ``value_range``; its order in memory is not specified.

        Raises:
            UserError: Frames of another type or shape, or smaller than the crop once resized.
        """
        check_frames(frames, "[N, T, H, W, 3]")
        if spatial_views != 1 and not self.do_center_crop:
            raise UserError(f"spatial_views={spatial_views} are crops: set do_center_crop=True")
        size = self.resized_size(*frames.shape[2:4])
        corners = self.corners(*size, spatial_views) if self.do_center_crop else [(0, 0)]
        return self.to_float(self.crop(self.resize(frames, size), corners))

    def resized_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width, in pixels, to which frames of this height and width are resized."""
        if not self.do_resize:
            return height, width
        if isinstance(self.size, tuple):
            return self.size
        # The order of operations is Hugging Face's and torchvision's: it decides the last pixel.
        if height <= width:
            return self.size, int(self.size * width / height)
        return int(self.size * height / width), self.size

    def resize(self, frames: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Resize all images of all clips; ``transforms.resize`` says how close it is to Pillow.

        Args:
            frames: uint8 [N, T, H, W, 3].
            size: (height, width) in pixels; None is ``resized_size`` of the frames.

        Returns:
            uint8 [N, T, 3, H', W'], in memory still channels last, as decoders deliver frames. A
            view of ``frames`` where they have the size already.

        Raises:
            UserError: Frames of another type or shape.
        """
        check_frames(frames, "[N, T, H, W, 3]")
        size = size or self.resized_size(*frames.shape[2:4])
        images = frames.movedim(-1, 2)  # [N, T, H, W, 3] -> [N, T, 3, H, W]
        if size == frames.shape[2:4]:
            return images
        return resize(images.flatten(0, 1), size, self.resample).unflatten(0, frames.shape[:2])

    def corners(self, height: int, width: int, spatial_views: int = 1) -> list[tuple[int, int]]:
        """Place the crop of each view in resized frames.

        One view is the centre crop with Hugging Face's rounding (down), three are Scenic's
        ``three_spatial_crops``, whose centre rounds up.

        Args:
            height: Of the resized frames, in pixels.
            width: The same.
            spatial_views: 1 or 3.

        Returns:
            (top, left) of each view, in pixels.

        Raises:
            UserError: Another number of views, or the crop is larger than the frames.
        """
        free_height, free_width = self.free_pixels(height, width)
        if spatial_views == 1:
            return [(free_height // 2, free_width // 2)]
        if spatial_views == 3:
            top, left = (free_height + 1) // 2, (free_width + 1) // 2
            if width >= height:
                return [(top, 0), (top, left), (top, free_width)]
            return [(0, left), (top, left), (free_height, left)]
        raise UserError(f"spatial_views must be 1 or 3, not {spatial_views}")

    def free_pixels(self, height: int, width: int) -> tuple[int, int]:
        """How far a crop of ``output_size`` can move in a resized frame, down and to the right.

        Raises:
            UserError: The crop is larger than the frame.
        """
        crop_height, crop_width = self.output_size or (height, width)
        if crop_height > height or crop_width > width:
            resized = f" (after resizing to size={self.size})" if self.do_resize else ""
            mend = "raise size" if self.do_resize else "set do_resize=True"
            raise UserError(
                f"a crop of {crop_height}x{crop_width} (height x width) does not fit into frames "
                f"of {height}x{width}{resized}: {mend} or lower crop_size "
                "(Hugging Face would pad with black)"
            )
        return height - crop_height, width - crop_width

    def crop(self, images: Tensor, corners: Sequence[tuple[int, int]]) -> Tensor:
        """Cut ``output_size`` out of every image, once for each corner.

        Args:
            images: uint8 [N, T, 3, H', W'].
            corners: (top, left) of each view, in pixels, inside ``free_pixels``.

        Returns:
            uint8 [N * views, T, 3, h, w], the views of a clip side by side; one view is not copied.
        """
        height, width = self.output_size or images.shape[-2:]
        views = [images[..., top : top + height, left : left + width] for top, left in corners]
        if len(views) == 1:
            return views[0]
        # Stacked channels last, as they lie in memory: V x [N, T, h, w, 3] -> [N * V, T, h, w, 3].
        stacked = torch.stack([view.movedim(2, -1) for view in views], dim=1).flatten(0, 1)
        return stacked.movedim(-1, 2)  # [N * V, T, 3, h, w]

    def to_float(self, images: Tensor) -> Tensor:
        """Scale pixels and bring them into the model's order.

        Args:
            images: uint8, or float32 with values 0..255, [N, T, 3, h, w].

        Returns:
            float32 [N, 3, T, h, w], never ``images`` itself; its order in memory is not specified.
        """
        affine = self.affine()
        alike = len(set(affine)) == 1
        # One map for all channels needs no order in memory: the copy stays channels last, and the
        # model's, which cuts tubelets out, is the only one to move pixels.
        order = torch.preserve_format if alike else torch.contiguous_format
        video = images.transpose(1, 2)  # [N, T, 3, h, w] -> [N, 3, T, h, w]
        video = video.to(torch.float32, copy=True, memory_format=order)
        # Rescale, offset and mean/std are one affine map. Subtracting first is exact for integers,
        # so 0 and 255 become exactly -1 and 1. Scalars rather than tensors of three channels: they
        # need no buffer and no copy to the device.
        for part, (shift, scale) in zip([video] if alike else video.unbind(1), affine):
            part.sub_(shift).div_(scale)
        return video

    def settings(self) -> dict[str, Any]:
        """Return plain values, fit for JSON and checkpoints, that rebuild this: ``**settings``."""
        values = {name: getattr(self, name) for name in inspect.signature(Processor).parameters}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
        }

    def differences(self, other: dict[str, Any]) -> list[str]:
        """Say what another processor would do differently to the same frames.

        Only what takes effect counts: a mean that is not applied is no difference, nor are two
        ways to write the same scaling.

        Args:
            other: The other processor's ``settings()``.

        Returns:
            One line for each difference, like "size: 256 here, 224 there"; empty if there is none.
        """
        there = Processor(**other)
        here_geometry, there_geometry = self._geometry(), there._geometry()
        lines = [
            f"{name}: {here} here, {there_geometry[name]} there"
            for name, here in here_geometry.items()
            if here != there_geometry[name]
        ]
        if not np.allclose(self.value_range, there.value_range, rtol=0, atol=1e-6):
            mine, theirs = self.settings(), there.settings()
            causes = [
                name
                for name, switch in _VALUE_SETTINGS.items()
                if mine[name] != theirs[name] and (not switch or (mine[switch] and theirs[switch]))
            ]
            lines.append(
                f"pixel range: {format_range(self.value_range)} here, "
                f"{format_range(there.value_range)} there (by {', '.join(causes)})"
            )
        return lines

    @classmethod
    def from_config(cls, settings: dict[str, Any]) -> "Processor":
        """The processor of a configuration, where ``None`` means the default."""
        return cls(**{name: value for name, value in settings.items() if value is not None})

    @classmethod
    def from_huggingface(cls, source: dict[str, Any] | str | Path) -> "Processor":
        """Read the configuration of a ``VivitImageProcessor``.

        Keys that it lacks take that class's defaults, among them ``do_normalize=True``. Keys that
        today's library ignores, like ``do_zero_centering``, are ignored.

        Args:
            source: The configuration, or the path of a preprocessor_config.json or of its folder.

        Raises:
            UserError: No such file, another class's configuration, or a value that has no
                counterpart here.
        """
        return cls(**read_settings(source, cls().settings()))

    def to_huggingface(self) -> dict[str, Any]:
        """Return the body of a preprocessor_config.json that makes VivitImageProcessor do this."""
        return {
            "image_processor_type": "VivitImageProcessor",
            **self.settings(),
            "size": size_to_dict(self.size),
            "resample": RESAMPLE[self.resample],
            "crop_size": size_to_dict(self.crop_size),
        }

    def extra_repr(self) -> str:
        """Say what takes effect."""
        geometry = [f"{name}={value}" for name, value in self._geometry().items()]
        return ", ".join([*geometry, f"range={format_range(self.value_range)}"])

    def affine(self) -> list[tuple[float, float]]:
        """For each channel (shift, scale) of ``(pixel - shift) / scale``."""
        factor = self.rescale_factor if self.do_rescale else 1.0
        mean = self.image_mean if self.do_normalize else (0.0,) * 3
        std = self.image_std if self.do_normalize else (1.0,) * 3
        return [((self.offset + m) / factor, s / factor) for m, s in zip(mean, std)]

    def _geometry(self) -> dict[str, Any]:
        """The steps that choose pixels; "off" where a step is not taken."""
        return {
            "size": self.size if self.do_resize else "off",
            "resample": self.resample if self.do_resize else "off",
            "crop_size": self.crop_size if self.do_center_crop else "off",
        }
