"""What a run writes into its folder as a whole: config.yaml and results.json."""

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import OmegaConf

from vivit_train.io.files import write_whole
from vivit_train.io.layout import CONFIG_FILE, RESULTS_FILE
from vivit_train.io.terminal import json_text
from vivit_train.version import version_and_commit

OF_ONE_CALL = ("ckpt_path", "allow_other_videos")


@rank_zero_only
def write_config(run_dir: Path, config: Mapping[str, Any]) -> None:
    """Writes the resolved configuration, enough to run the same again."""
    text = OmegaConf.to_yaml(OmegaConf.create(dict(config)))
    write_whole(run_dir / CONFIG_FILE, text)


class ConfigFile(Callback):
    """Writes config.yaml when training begins: it never holds what was refused before that.

    The loggers get the same values, but for those that are about one call alone.

    Args:
        run_dir: The run's folder.
        config: The resolved configuration.
    """

    def __init__(self, run_dir: Path, config: Mapping[str, Any]) -> None:
        self.run_dir = run_dir
        self.config = config

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes and logs the configuration, with the values that a resumed run has adapted."""
        config = self.used(trainer)
        write_config(self.run_dir, config)
        of_the_run = {k: v for k, v in config.items() if k not in OF_ONE_CALL}
        for logger in trainer.loggers:
            logger.log_hyperparams(of_the_run)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes it where there was nothing left to train."""
        write_config(self.run_dir, self.used(trainer))

    def used(self, trainer: Trainer) -> dict[str, Any]:
        """The configuration as it is used."""
        given = self.config["trainer"]
        used = {
            name: getattr(trainer, name)
            for name in ("accumulate_grad_batches", "limit_train_batches", "val_check_interval")
            if isinstance(given[name], int)
        }
        return {**self.config, "trainer": {**given, **used}}


@rank_zero_only
def write_results(run_dir: Path, results: Mapping[str, Any]) -> None:
    """Writes results.json."""
    write_whole(run_dir / RESULTS_FILE, json_text(results) + "\n")


def versions() -> dict[str, str]:
    """Versions of what a score depends on."""
    import av
    import lightning
    import torch
    import torchvision

    return {
        "vivit_train": version_and_commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "lightning": lightning.__version__,
        "av": av.__version__,
    }
