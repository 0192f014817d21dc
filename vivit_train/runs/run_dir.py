"""The one folder that a run writes: config.yaml, metrics.csv, checkpoints/, results.json."""

import csv
import io
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import OmegaConf

from vivit_train.errors import UserError
from vivit_train.io.files import errors_name, write_whole
from vivit_train.io.layout import CONFIG_FILE, RESULTS_FILE
from vivit_train.io.terminal import json_text, say
from vivit_train.version import __version__


@rank_zero_only
def write_config(run_dir: Path, config: Mapping[str, Any]) -> None:
    """Writes the resolved configuration, enough to run the same again."""
    text = OmegaConf.to_yaml(OmegaConf.create(dict(config)))
    write_whole(run_dir / CONFIG_FILE, text)


class ConfigFile(Callback):
    """Writes config.yaml when training begins: it never holds what was refused before that.

    Args:
        run_dir: The run's folder.
        config: The resolved configuration.
    """

    def __init__(self, run_dir: Path, config: Mapping[str, Any]) -> None:
        self.run_dir = run_dir
        self.config = config

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the configuration, with the values that a resumed run has adapted."""
        given = self.config["trainer"]
        used = {
            name: getattr(trainer, name)
            for name in ("accumulate_grad_batches", "limit_train_batches", "val_check_interval")
            if isinstance(given[name], int)
        }
        write_config(self.run_dir, {**self.config, "trainer": {**given, **used}})

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes it where there was nothing left to train."""
        self.on_train_start(trainer, pl_module)


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
        "vivit_train": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "lightning": lightning.__version__,
        "av": av.__version__,
    }


class MetricsCsv(Logger):
    """Appends every logged metric to ``metrics.csv``: a column per metric, a row per step.

    Unlike Lightning's own it survives resuming: the rows that there were when the checkpoint was
    written are kept, later ones (of the part that is trained again) are dropped.

    Args:
        path: The csv file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = Path(path)
        self.rows: list[dict[str, Any]] = []
        self._columns = ["epoch", "step"]
        self._written = 0

    @property
    def name(self) -> str:
        """Name of the logger."""
        return "csv"

    @property
    def version(self) -> str:
        """The run's folder."""
        return self.path.parent.name

    @property
    @rank_zero_experiment
    def experiment(self) -> "MetricsCsv":
        """The logger itself."""
        return self

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: config.yaml holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Adds metrics to the row of a step."""
        row = {"step": step, **metrics}
        if self.rows and self.rows[-1]["step"] == step and len(self.rows) > self._written:
            self.rows[-1].update(row)
        else:
            self.rows.append(row)
        self._columns += [name for name in row if name not in self._columns]

    @rank_zero_only
    def resume(self, rows: int, following: Mapping[str, Any] | None = None) -> None:
        """Takes up an existing file.

        Args:
            rows: Rows to keep; later ones are of the part that is trained again.
            following: A row that comes after them.

        Raises:
            UserError: If the file is not a table in UTF-8.
        """
        if self.path.is_file():
            try:
                with self.path.open(newline="", encoding="utf-8") as file:
                    # A killed process may have left a last line that has no end.
                    reader = csv.DictReader(line for line in file if line.endswith("\n"))
                    self._columns = list(reader.fieldnames or self._columns)
                    self.rows = list(reader)[:rows]
                if any(None in row for row in self.rows):
                    raise csv.Error("a row has more values than there are columns")
            except (UnicodeDecodeError, csv.Error) as error:
                raise UserError(
                    f"{self.path} is damaged ({error}): restore it or move it away; the run then "
                    "resumes without its rows"
                ) from None
            self._written = len(self.rows)
        if len(self.rows) < rows:
            say(
                f"warning: {self.path} has {len(self.rows)} of the {rows} rows that there were "
                "when the checkpoint was written; the others are lost",
                file=sys.stderr,
            )
        if following is not None:
            step = following["step"]
            self.log_metrics({k: v for k, v in following.items() if k != "step"}, step)
        if self.rows:
            self._rewrite()

    @rank_zero_only
    def save(self) -> None:
        """Writes what is new; the whole file, atomically, when a column is new."""
        if len(self.rows) == self._written:
            return
        if self._written == 0 or self._header() != self._columns:
            self._rewrite()
            return
        with errors_name(self.path), self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writerows(self.rows[self._written :])
        self._written = len(self.rows)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Writes the rest."""
        self.save()

    def _header(self) -> list[str]:
        with self.path.open(newline="") as file:
            return next(csv.reader(file), [])

    def _rewrite(self) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self._columns)
        writer.writeheader()
        writer.writerows(self.rows)
        write_whole(self.path, text.getvalue())
        self._written = len(self.rows)
