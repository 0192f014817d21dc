"""A folder of pictures to one that is read faster."""

import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from vivit_train.video.decode import VideoReader
from vivit_train.video.decoders.pictures import list_pictures
from vivit_train.video.write import scaled_size


def shrink_pictures(source: str | Path, target: Path, short_edge: int) -> int:
    """Copy a folder of pictures into one of smaller pictures, of the same names and formats.

    Args:
        source: A folder that `VideoReader` opens.
        target: The folder to write. It must not be there.
        short_edge: Pixels. Pictures that are no larger are copied as they are; others are written
            by Pillow, as JPEG with quality 95.

    Returns:
        The number of pictures.

    Raises:
        DecodeError: If one does not decode.
        OSError: If the target cannot be written.
    """
    target.mkdir(parents=True)
    names = list_pictures(source)
    with VideoReader(source) as reader:
        for index, frame in reader.stream(np.arange(reader.num_frames)):
            height, width = frame.shape[:2]
            if min(height, width) <= short_edge:
                shutil.copy2(Path(source, names[index]), target / names[index])
                continue
            height, width = scaled_size(height, width, short_edge)
            small = Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC)
            small.save(target / names[index], quality=95)
    return len(names)
