"""Loggers: metrics.csv always, Weights & Biases and TensorBoard on request."""

import netrc
import os
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from vivit_train.errors import UserError
from vivit_train.launch import is_rank_zero
from vivit_train.run_dir import MetricsCsv
from vivit_train.terminal import say


def build_loggers(logger: dict[str, Any], run_dir: Path, name: str) -> list[Logger]:
    """The csv logger and those that the configuration asks for.

    Args:
        logger: ``wandb`` and ``tensorboard``: settings, or ``None`` for off.
        run_dir: The run's folder, into which all of them write.
        name: The run's name.

    Raises:
        UserError: If TensorBoard is asked for and not installed.
    """
    loggers: list[Logger] = [MetricsCsv(run_dir / "metrics.csv")]
    if logger["wandb"] is not None:
        loggers.append(_wandb(logger["wandb"], run_dir, name))
    if logger["tensorboard"] is not None:
        try:
            loggers.append(TensorBoardLogger(run_dir, "tensorboard", "", **logger["tensorboard"]))
        except ModuleNotFoundError:
            raise UserError(
                "logger=tensorboard needs TensorBoard: pip install 'vivit-train[tensorboard]'"
            ) from None
    return loggers


def _wandb(settings: dict[str, Any], run_dir: Path, name: str) -> WandbLogger:
    import wandb

    reason = None
    if os.environ.get("WANDB_MODE") is None:
        reason = why_wandb_is_offline()
        if reason and is_rank_zero():
            say(
                f"wandb: {reason}; logging offline, `wandb sync {run_dir}/wandb/offline-*` sends it"
            )
    wandb_logger = WandbLogger(
        name=f"{name}/{run_dir.name}",
        save_dir=run_dir,
        offline=reason is not None,
        settings=wandb.Settings(silent=True),
        **settings,
    )
    # Lightning passes it even if unset, and wandb then warns that it means nothing.
    wandb_logger._wandb_init.pop("anonymous", None)
    return wandb_logger


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
