"""Shows the first training batch in TensorBoard or Weights & Biases, as the model sees it."""

from typing import cast

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from vivit_train.data.batch import ClipBatch
from vivit_train.module import VivitModule
from vivit_train.runs.pictures import (
    describe_labels,
    log_picture,
    picture_of,
    takes_pictures,
    to_pixels,
)

MOST_CLIPS = 8


class FirstBatch(Callback):
    """Logs a picture of the first batch after the start: augmented, and with its classes."""

    is_logged = False

    @rank_zero_only
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: ClipBatch, batch_idx: int
    ) -> None:
        """Logs it, once."""
        if self.is_logged or not takes_pictures(trainer.loggers):
            return
        self.is_logged = True
        data = cast(VivitModule, pl_module).data
        pixels = to_pixels(batch.clips[:MOST_CLIPS], data.processor)
        labels = [describe_labels(batch, row, data) for row in range(len(pixels))]
        picture = picture_of(pixels, labels)
        log_picture(trainer.loggers, "pictures/first_batch", picture, trainer.global_step)
