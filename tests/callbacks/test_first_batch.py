import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vivit_train.callbacks.first_batch import FirstBatch
from vivit_train.runs.loggers import MetricsCsv
from vivit_train.runs.pictures import PANEL_WIDTH
from vivit_train.transforms.processor import Processor

PROCESSOR = Processor(size=16, crop_size=16, do_normalize=True)
DATA = SimpleNamespace(
    processor=PROCESSOR, class_names=["a", "=b</script>"], heads={}, multi_label=False
)


def batch_of(frames: torch.Tensor) -> Any:
    labels = torch.arange(len(frames)) % 2
    return SimpleNamespace(clips=PROCESSOR(frames), labels=labels, shares=None)


def test_tensorboard_has_the_first_batch_and_no_other(tmp_path: Path) -> None:
    """Pixels are those before the processor scaled them; 8 of the 10 clips are shown."""
    trainer: Any = SimpleNamespace(
        loggers=[TensorBoardLogger(tmp_path, "tensorboard", "")], global_step=5
    )
    frames = torch.randint(0, 256, (10, 4, 16, 16, 3), dtype=torch.uint8)
    callback, module = FirstBatch(), SimpleNamespace(data=DATA)
    for number, seen in enumerate((frames, 255 - frames)):
        callback.on_train_batch_start(trainer, module, batch_of(seen), number)
    events = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"images": 0}).Reload()
    (event,) = events.Images("pictures/first_batch")
    picture = np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))
    assert event.step == 5
    assert picture.shape == (8 * 16, 4 * 16 + PANEL_WIDTH, 3)
    rows = picture[:, : 4 * 16].reshape(8, 16, 4, 16, 3).swapaxes(1, 2)  # [B, T, 16, 16, 3]
    assert np.array_equal(rows, frames[:8])
    assert picture[:, 4 * 16 :].max() == 255


def test_nothing_is_drawn_for_the_csv_alone(tmp_path: Path) -> None:
    trainer: Any = SimpleNamespace(loggers=[MetricsCsv(tmp_path / "metrics.csv")], global_step=0)
    callback = FirstBatch()
    callback.on_train_batch_start(trainer, None, None, 0)
    assert not callback.is_logged
