"""Lightning is silenced by message: what helps nobody, and nothing else."""

import logging
import warnings

import pytest
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn

from vivit_train.io.quiet import _says_something, hush_lightning, lightnings_loggers


@pytest.fixture(autouse=True)
def _loud_again():
    with warnings.catch_warnings():
        yield
    for logger in lightnings_loggers():
        logger.removeFilter(_says_something)


def test_talk_is_left_out_and_news_come_through(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("lightning.pytorch").addHandler(caplog.handler)  # it may not propagate
    hush_lightning()
    hush_lightning()  # again, as by a second run of the process
    for line in (
        "GPU available: True (cuda), used: True",
        "💡 Tip: For seamless cloud logging and experiment tracking, try",
        "`Trainer.fit` stopped: `max_epochs=3` reached.",
        "`Trainer.fit` stopped: No training batches.",
        "Time limit reached. Elapsed time is 0:00:09. Signaling Trainer to stop.",
    ):
        rank_zero_info(line)
    logging.getLogger("lightning.pytorch").removeHandler(caplog.handler)
    assert list(dict.fromkeys(caplog.messages)) == [
        "`Trainer.fit` stopped: No training batches.",
        "Time limit reached. Elapsed time is 0:00:09. Signaling Trainer to stop.",
    ]


def test_false_alarms_are_left_out_and_true_ones_come_through() -> None:
    told = "Trying to infer the `batch_size` from an ambiguous collection"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        hush_lightning()
        rank_zero_warn("The 'train_dataloader' does not have many workers which may be slow")
        rank_zero_warn(
            "The number of training batches (7) is smaller than the logging interval "
            "Trainer(log_every_n_steps=50). Set a lower value for log_every_n_steps"
        )
        rank_zero_warn(told)
    assert [str(warning.message) for warning in caught] == [told]
