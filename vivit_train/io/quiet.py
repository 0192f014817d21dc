"""Keeps off the screen what Lightning says that helps nobody; all else comes through."""

import logging
import warnings

# How messages of Lightning begin that are advertisements, or repeat what the user has set. Not here
# is what says that a run ends early, or that there is nothing to train on.
TALK = (
    "GPU available:",
    "TPU available:",
    "HPU available:",
    "💡 Tip:",
    "LOCAL_RANK:",
    "You are using a CUDA device",
    "Using 16bit Automatic Mixed Precision",
    "Using bfloat16 Automatic Mixed Precision",
    "Initializing distributed:",
    "-----",  # a box with the number of processes
    "`Trainer.fit` stopped: `max_",
    "`Trainer(",
    "`weights_only` was not set",
    "Loading `train_dataloader`",
    "Restoring states from the checkpoint",
    "Restored all states from the checkpoint",
    "Loaded model weights from the checkpoint",
    "Seed set to",
    "SLURM auto-requeueing enabled",  # of its own handlers, which are not used
)
# Its warnings that are false alarms here.
FALSE_ALARMS = (
    ".*LeafSpec.*",  # Lightning 2.6 on newer torch
    ".*`isinstance\\(treespec.*",
    ".*does not have many workers.*",  # `Throughput` warns where the run waits for them
    ".*sync_dist=True.*",  # the scores are summed over processes by themselves
    ".*callbacks used to create the checkpoint need to be provided.*",  # of trainer.max_time
    ".*is smaller than the logging interval.*",  # of an epoch; `Start` counts those of the run
    ".*module\\(s\\) in eval mode at the start of training.*",  # those that optim.freeze means
)


def hush_lightning() -> None:
    """Leaves out Lightning's `TALK` and `FALSE_ALARMS` from here on."""
    for logger in lightnings_loggers():
        logger.addFilter(_says_something)  # once, however often
    for message in FALSE_ALARMS:
        warnings.filterwarnings("ignore", message=message)


def lightnings_loggers() -> list[logging.Logger]:
    """One for each of its modules that has been imported: a logger's filter is for it alone."""
    names = [name for name in logging.root.manager.loggerDict if name.split(".")[0] == "lightning"]
    return [logging.getLogger(name) for name in names]


def _says_something(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(TALK)
