"""Loggers: metrics.csv always; Weights & Biases, TensorBoard, MLflow and others on request."""

import netrc
import os
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from vivit_train.config.changes import values
from vivit_train.config.keys import in_words
from vivit_train.config.target import build_named
from vivit_train.errors import UserError, first_line
from vivit_train.io.files import write_whole
from vivit_train.io.layout import METRICS_FILE, MLFLOW_FILE
from vivit_train.io.terminal import is_rank_zero, said_if_long, say
from vivit_train.runs.metrics_csv import MetricsFile

WANDB_SECONDS = 60.0  # for its server, at the start and at the end of a run
# For the process that its client starts, which on a cold and busy machine takes above its 30 s.
WANDB_SERVICE_SECONDS = 600


def build_loggers(logger: dict[str, Any], run_dir: Path, name: str) -> list[Logger]:
    """The csv logger and those that the configuration asks for.

    Args:
        logger: ``wandb``, ``tensorboard`` and ``mlflow``: settings, or ``None`` for off;
            ``extra``: others by a name of the user's, each with its ``_target_`` and arguments.
        run_dir: The run's folder, into which all of them write.
        name: The run's name.

    Raises:
        UserError: If what is asked for is not installed, or a logger refuses its settings.
    """
    loggers: list[Logger] = [MetricsCsv(run_dir / METRICS_FILE)]
    if logger["wandb"] is not None:
        loggers.append(_wandb(logger["wandb"], run_dir, name))
    if logger["tensorboard"] is not None:
        settings = logger["tensorboard"]
        try:
            loggers.append(TensorBoardLogger(run_dir, "tensorboard", "", **settings))
            _ = loggers[-1].experiment  # type: ignore[attr-defined]  # refuses settings only here
        except (TypeError, ValueError) as error:
            raise UserError(
                f"logger.tensorboard={in_words(settings)}: TensorBoard refuses it, {error}"
            ) from None
        except ModuleNotFoundError:
            raise UserError(
                "logger=tensorboard needs TensorBoard: pip install 'vivit-train[tensorboard]'"
            ) from None
    if logger["mlflow"] is not None:
        loggers.append(_mlflow(logger["mlflow"], run_dir, name))
    for key, settings in logger["extra"].items():
        if settings is not None:
            named = f"logger.extra.{key}"
            made = build_named(named, settings, Logger, "a logger")  # type: ignore[type-abstract]
            loggers.append(made)
    return loggers


class MetricsCsv(Logger):
    """Writes every logged metric to metrics.csv."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.file = MetricsFile(path)
        self.resume = rank_zero_only(self.file.resume)

    @property
    def name(self) -> str:
        """Name of the logger."""
        return "csv"

    @property
    def version(self) -> str:
        """The run's folder."""
        return self.file.path.parent.name

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: config.yaml holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Adds metrics to the row of a step."""
        self.file.add(metrics, step)

    @rank_zero_only
    def save(self) -> None:
        """Writes what is new; Lightning asks for it now and then, and at the end."""
        self.file.save()


class Mlflow(MLFlowLogger):
    """MLflow, where a resumed run goes on in the run that it began."""

    @rank_zero_only
    def log_hyperparams(self, params: Mapping[str, Any]) -> None:  # type: ignore[override]
        """Logs the configuration, key by key as on the command line.

        MLflow refuses to change what a run has: of a resumed run only new keys are logged.
        """
        known = self.experiment.get_run(self.run_id).data.params
        told = {key: value for key, value in values(params) if key not in known}
        super().log_hyperparams(told)


class Wandb(WandbLogger):
    """Weights & Biases, whose failure does not stop a run: metrics.csv has the same numbers.

    Its client raises errors of its own and of others, now or at any later call.
    """

    failed = False

    def log_metrics(self, *args: Any, **kwargs: Any) -> None:
        """Logs a row."""
        self.attempt(super().log_metrics, *args, **kwargs)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Logs the configuration."""
        self.attempt(super().log_hyperparams, *args, **kwargs)

    def finalize(self, status: str) -> None:
        """Ends the logging."""
        self.attempt(super().finalize, status)

    def attempt(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Calls something of the client, unless it has failed before; then says so once."""
        if self.failed:
            return
        try:
            call(*args, **kwargs)
        except Exception as error:
            self.failed = True
            say(
                f"warning: wandb has failed ({first_line(error)}) and is left out from here on; "
                "metrics.csv has all that is logged",
                file=sys.stderr,
            )


@said_if_long(f"asking the server of wandb, for up to {WANDB_SECONDS:.0f} s")
def _wandb(settings: dict[str, Any], run_dir: Path, name: str) -> Wandb:
    import wandb

    # What is left of the data after these times is in the run's folder, for `wandb sync`.
    limits: dict[str, Any] = {"init_timeout": WANDB_SECONDS}
    if "finish_timeout" in wandb.Settings.model_fields:  # of later versions
        limits["finish_timeout"] = WANDB_SECONDS
    # The settings of a run come too late for it.
    os.environ.setdefault("WANDB__SERVICE_WAIT", str(WANDB_SERVICE_SECONDS))

    def build(mode: str) -> Wandb:
        given = dict(settings)
        if given.get("id") is None and mode == "online":
            given["id"] = begun_in(run_dir)
        logger = Wandb(
            name=f"{name}/{run_dir.name}",
            save_dir=run_dir,
            settings=wandb.Settings(silent=True, **limits),
            mode=mode,  # Lightning's own switch has no effect after a first attempt
            **given,
        )
        # Lightning passes it even if unset, and wandb then warns that it means nothing.
        logger._wandb_init.pop("anonymous", None)
        return logger

    asked = os.environ.get("WANDB_MODE")
    reason = None if asked else why_wandb_is_offline()
    logger = build(asked or ("offline" if reason else "online"))
    if reason is None:
        try:
            _ = logger.experiment  # on rank 0 it asks the server
        except Exception as error:
            reason = f"the server does not take the run ({first_line(error)})"
            logger = build("offline")
    if reason and is_rank_zero():
        say(f"wandb: {reason}; logging offline, `wandb sync {run_dir}/wandb/offline-*` sends it")
    return logger


@said_if_long("asking MLflow, which makes its database the first time")
def _mlflow(settings: dict[str, Any], run_dir: Path, name: str) -> Mlflow:
    file, given = run_dir / MLFLOW_FILE, dict(settings)
    if given.get("run_id") is None and file.is_file():
        given["run_id"] = file.read_text().strip()
    if given.get("tracking_uri") is None:
        given["tracking_uri"] = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    try:
        logger = Mlflow(run_name=f"{name}/{run_dir.name}", **given)
        run_id = logger.run_id  # on rank 0 it begins or finds the run
    except ModuleNotFoundError as error:
        raise UserError(f"logger=mlflow needs MLflow: pip install mlflow ({error})") from None
    except Exception as error:  # of its own, its database's or its server's
        raise UserError(
            f"logger=mlflow: {given['tracking_uri']} refuses the run ({first_line(error)}): check "
            "logger.mlflow.tracking_uri, or MLFLOW_TRACKING_URI, and logger.mlflow.run_id"
        ) from error
    if is_rank_zero():
        write_whole(file, f"{run_id}\n")
    return logger


def begun_in(run_dir: Path) -> str | None:
    """The id under which the server of Weights & Biases knows a run, to continue it.

    Args:
        run_dir: The run's folder, in which each start has left ``wandb/run-<time>-<id>``.

    Returns:
        ``None`` where the server knows none.
    """
    folders = sorted((run_dir / "wandb").glob("run-*-*"))
    return folders[-1].name.split("-", 2)[2] if folders else None


def why_wandb_is_offline() -> str | None:
    """Why Weights & Biases cannot be reached, or ``None`` if it can.

    Asked beforehand, because with a key and no network its client blocks for minutes and then
    ends the run.
    """
    url = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai"))
    host = url.hostname or "api.wandb.ai"
    if not os.environ.get("WANDB_API_KEY"):
        try:
            known = netrc.netrc().authenticators(host) is not None
        except (OSError, netrc.NetrcParseError):
            known = False
        if not known:
            return "no API key"
    try:
        socket.create_connection((host, url.port or 443), timeout=3).close()
    except OSError:
        return f"{host} cannot be reached"
    return None
