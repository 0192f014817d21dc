"""Film strips: a few frames of a video side by side, as a small picture within the page."""

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from vivit_train.data.records import Records
from vivit_train.video.decode import DecodeError, VideoReader
from vivit_train.video.guard import CAN_GUARD
from vivit_train.video.pool import guarded_map

FRAMES, HEIGHT_PX, MOST_WIDTH_PX = 6, 72, 160
QUALITY = 70
SECONDS = 20.0  # that decoding one video may take


def strips_of(records: Records, names: Sequence[str]) -> dict[str, str]:
    """Film strips of some videos.

    Args:
        records: Rows of the split.
        names: Of its videos, as predictions.csv has them.

    Returns:
        name -> data URI of a JPEG. Videos that cannot be decoded are left out.
    """
    wanted = set(names)
    rows = {n: i for i in range(len(records)) if (n := records.name(i)) in wanted}

    def strip(name: str) -> str:
        path, segment = records.source(rows[name])
        span = records.span(rows[name])
        try:
            data = None if span is None else span.read(path)
            rate = records.picture_rate
            with VideoReader(path, segment=segment, data=data, picture_rate=rate) as video:
                indices = np.linspace(0, video.num_frames - 1, FRAMES).round().astype(int)
                return data_uri(video.read(indices))
        except (DecodeError, OSError):
            return ""

    if not CAN_GUARD:
        return {}
    found = guarded_map(strip, [name for name in names if name in rows], 1, SECONDS)
    return {name: uri for name, uri in found if isinstance(uri, str) and uri}


def data_uri(frames: np.ndarray) -> str:
    """Frames uint8 ``[T, H, W, 3]`` side by side as one JPEG."""
    height, width = frames.shape[1:3]
    size = (max(1, min(MOST_WIDTH_PX, round(width * HEIGHT_PX / height))), HEIGHT_PX)
    strip = Image.new("RGB", (size[0] * len(frames), HEIGHT_PX))
    for place, frame in enumerate(frames):
        strip.paste(Image.fromarray(frame).resize(size), (place * size[0], 0))
    file = io.BytesIO()
    strip.save(file, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
