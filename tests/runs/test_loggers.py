import builtins
import itertools
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import wandb
import yaml
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger

from vivit_train.errors import UserError
from vivit_train.io.quiet import hush_lightning
from vivit_train.runs import loggers
from vivit_train.runs.loggers import MetricsCsv, build_loggers, why_wandb_is_offline
from vivit_train.runs.metrics_csv import read_metrics

WANDB = {"project": "vivit-train", "entity": None, "tags": ["a"]}
CONFIG = {"seed": 0, "optim": {"name": "sgd", "lr": 0.1}, "data": {"eval_views": [2, 1]}}
OFF: dict[str, Any] = {"wandb": None, "tensorboard": None, "mlflow": None, "extra": {}}


@pytest.fixture(autouse=True)
def _no_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that knows no key, and on which nobody answers questions."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "WANDB__SERVICE_WAIT"):
        monkeypatch.setenv(name, "")  # so that what Lightning sets is undone
        monkeypatch.delenv(name)
    monkeypatch.setattr(builtins, "input", lambda *_: pytest.fail("a question was asked"))


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Addresses that were tried; every one is refused."""
    tried: list[Any] = []

    def refuse(address: Any, timeout: float | None = None, *_: Any) -> None:
        tried.append((address, timeout))
        raise TimeoutError("no route")

    monkeypatch.setattr(socket, "create_connection", refuse)
    return tried


def test_the_csv_is_always_written(tmp_path: Path) -> None:
    (only,) = build_loggers(OFF, tmp_path, "x")
    assert isinstance(only, MetricsCsv)
    assert only.file.path == tmp_path / "metrics.csv"
    assert (only.name, only.version) == ("csv", tmp_path.name)
    only.log_metrics({"train/loss": 2.5, "epoch": 0}, 7)
    only.save()
    only.log_metrics({"train/loss": 1.5, "epoch": 0}, 8)
    only.finalize("success")
    assert read_metrics(only.file.path) == [
        (0, 7, {"train/loss": 2.5}),
        (0, 8, {"train/loss": 1.5}),
    ]


class TestWhyOffline:
    def test_no_key(self, connections: list[Any]) -> None:
        assert why_wandb_is_offline() == "no API key"
        assert connections == []

    def test_no_network(self, connections: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
        assert why_wandb_is_offline() == "api.wandb.ai cannot be reached"
        ((address, timeout),) = connections
        assert address == ("api.wandb.ai", 443)
        assert 0 < timeout <= 5  # nobody waits for minutes

    def test_a_server_of_ones_own(
        self, connections: list[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
        monkeypatch.setenv("WANDB_BASE_URL", "http://wandb.example:8080")
        assert why_wandb_is_offline() == "wandb.example cannot be reached"
        assert connections[0][0] == ("wandb.example", 8080)

    def test_a_key_in_netrc(self, connections: list[Any], tmp_path: Path) -> None:
        netrc = tmp_path / "home" / ".netrc"
        netrc.write_text("machine other.org login user password x\n")
        netrc.chmod(0o600)
        assert why_wandb_is_offline() == "no API key"
        netrc.write_text("machine api.wandb.ai login user password x\n")
        assert why_wandb_is_offline() == "api.wandb.ai cannot be reached"
        netrc.write_text("nonsense")
        assert why_wandb_is_offline() == "no API key"

    def test_online(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
            assert why_wandb_is_offline() is None


def late_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cold and busy machine: wandb's own process answers after two minutes."""
    wandb.teardown()  # one that runs already
    ticks = itertools.count()
    module = pytest.importorskip("wandb.sdk.lib.service.service_port_file")
    monkeypatch.setattr(module, "_MONOTONIC", lambda: 120 * (next(ticks) > 0) + time.monotonic())


class TestWandb:
    def build(self, run_dir: Path) -> WandbLogger:
        _, logger = build_loggers(OFF | {"wandb": WANDB}, run_dir, "vivit_x")
        assert isinstance(logger, WandbLogger)
        return logger

    @pytest.mark.parametrize("has_key", [False, True])
    def test_offline_writes_into_the_run_without_a_word(
        self,
        has_key: bool,
        connections: list[Any],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture,
    ) -> None:
        if has_key:
            monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
        late_service(monkeypatch)
        run_dir = tmp_path / "2026-01-31"
        run_dir.mkdir()
        logger = self.build(run_dir)
        logger.log_hyperparams(CONFIG)
        logger.log_metrics({"train/loss": 1.0}, 0)
        assert logger.experiment.config["optim"] == CONFIG["optim"]
        logger.experiment.finish()
        (folder,) = (run_dir / "wandb").glob("offline-run-*")
        assert list(folder.glob("*.wandb"))
        assert logger.experiment.name == "vivit_x/2026-01-31"
        out, err = capfd.readouterr()
        assert out.count("\n") == 1  # why it is offline
        assert "wandb:" not in err

    def test_the_reason_is_said(
        self, tmp_path: Path, capsys: pytest.CaptureFixture, connections: list[Any]
    ) -> None:
        """Also after Lightning's own talk has been turned off."""
        hush_lightning()
        self.build(tmp_path)
        said = "".join(capsys.readouterr())
        where = f"{tmp_path}/wandb/offline-*"
        assert said == f"wandb: no API key; logging offline, `wandb sync {where}` sends it\n"

    @pytest.mark.parametrize(("status", "body"), [(200, b"<html>"), (401, b"{}")])
    def test_a_server_that_answers_wrongly(
        self, status: int, body: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd
    ) -> None:
        class Wrong(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Wrong)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(loggers, "WANDB_SECONDS", 5)
        monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
        logger = self.build(tmp_path)
        server.shutdown()
        logger.log_metrics({"train/loss": 1.0}, 0)
        logger.experiment.finish()
        assert list((tmp_path / "wandb").glob("offline-run-*"))
        assert "wandb: the server does not take the run (" in capfd.readouterr().out

    def test_a_client_that_fails_later_is_left_out(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        calls = []

        def fail(*_: object, **__: object) -> None:
            calls.append(1)
            raise ConnectionResetError("reset by peer")

        for name in ("log_metrics", "log_hyperparams", "finalize"):
            monkeypatch.setattr(WandbLogger, name, fail)
        monkeypatch.setenv("WANDB_MODE", "disabled")
        logger = self.build(tmp_path)
        logger.log_hyperparams({})
        logger.log_metrics({"train/loss": 1.0}, 0)
        logger.finalize("success")
        assert calls == [1]
        assert capsys.readouterr().err == (
            "warning: wandb has failed (reset by peer) and is left out from here on; metrics.csv "
            "has all that is logged\n"
        )

    def test_a_run_goes_on_in_the_run_that_the_server_has(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Unasked(loggers.Wandb):
            experiment = None  # which would ask the server

        monkeypatch.setattr(loggers, "Wandb", Unasked)
        monkeypatch.setenv("WANDB_MODE", "online")
        assert self.build(tmp_path).version is None
        for name in ("run-20260131_120000-first", "run-20260201_120000-my-own", "offline-run-3-x"):
            (tmp_path / "wandb" / name).mkdir(parents=True)
        assert self.build(tmp_path).version == "my-own"
        chosen = OFF | {"wandb": WANDB | {"id": "chosen"}}
        assert build_loggers(chosen, tmp_path, "x")[1].version == "chosen"
        monkeypatch.setenv("WANDB_MODE", "offline")  # whose runs `wandb sync` would overwrite
        assert self.build(tmp_path).version is None

    def test_the_users_own_mode_is_left_alone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("WANDB_MODE", "disabled")
        monkeypatch.setattr(loggers, "why_wandb_is_offline", lambda: pytest.fail("asked"))
        logger = self.build(tmp_path)
        assert logger._offline is False


class TestTensorBoard:
    def test_events_are_written(self, tmp_path: Path) -> None:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        _, logger = build_loggers(OFF | {"tensorboard": {"flush_secs": 1}}, tmp_path, "x")
        assert isinstance(logger, TensorBoardLogger)
        logger.log_hyperparams(CONFIG)
        for step in range(3):
            logger.log_metrics({"train/loss": 3.0 - step}, step)
        logger.finalize("success")
        assert yaml.safe_load((tmp_path / "tensorboard/hparams.yaml").read_text()) == CONFIG
        events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
        assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [
            (0, 3.0),
            (1, 2.0),
            (2, 1.0),
        ]

    def test_not_installed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from lightning.fabric.loggers import tensorboard

        for name in ("_TENSORBOARD_AVAILABLE", "_TENSORBOARDX_AVAILABLE"):
            monkeypatch.setattr(tensorboard, name, False)
        with pytest.raises(UserError, match=r"needs TensorBoard: pip install 'vivit-train\[ten"):
            build_loggers(OFF | {"tensorboard": {"flush_secs": 1}}, tmp_path, "x")

    @pytest.mark.parametrize("settings", [{"_target_": "os.system"}, {"max_queue": "many"}])
    def test_a_setting_that_it_does_not_know(self, settings: dict, tmp_path: Path) -> None:
        """A saved configuration may have any: TensorBoard itself refuses them at the first row."""
        expected = rf"logger\.tensorboard=.*{next(iter(settings))}.*: TensorBoard refuses it, "
        with pytest.raises(UserError, match=expected):
            build_loggers(OFF | {"tensorboard": settings}, tmp_path, "x")


class TestMlflow:
    @pytest.fixture(autouse=True)
    def uri(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        pytest.importorskip("mlflow")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
        return f"sqlite:///{tmp_path}/mlflow.db"

    def build(self, run_dir: Path, **settings: Any) -> MLFlowLogger:
        given = {"experiment_name": "x", "tracking_uri": None, "run_id": None} | settings
        _, logger = build_loggers(OFF | {"mlflow": given}, run_dir, "vivit_x")
        assert isinstance(logger, MLFlowLogger)
        return logger

    def test_a_run_goes_on_in_the_run_that_it_began(self, tmp_path: Path, uri: str) -> None:
        first = self.build(tmp_path / "2026-01-31")
        first.log_hyperparams(CONFIG)
        first.log_metrics({"train/loss": 1.0}, 0)
        first.finalize("failed")
        second = self.build(tmp_path / "2026-01-31")
        second.log_hyperparams(CONFIG | {"seed": 1, "new": 2})  # what it refuses to change is kept
        second.log_metrics({"train/loss": 0.5}, 1)
        second.finalize("success")
        assert first.run_id == second.run_id != self.build(tmp_path / "other").run_id
        run = second.experiment.get_run(second.run_id)
        assert run.data.params == {
            "seed": "0", "optim.name": "sgd", "optim.lr": "0.1", "data.eval_views": "[2, 1]",
            "new": "2",
        }  # fmt: skip
        assert (run.info.run_name, run.info.status) == ("vivit_x/2026-01-31", "FINISHED")
        history = second.experiment.get_metric_history(second.run_id, "train/loss")
        assert [(metric.step, metric.value) for metric in history] == [(0, 1.0), (1, 0.5)]
        assert self.build(tmp_path / "third", run_id=first.run_id).run_id == first.run_id

    def test_what_it_refuses(self, tmp_path: Path, uri: str) -> None:
        with pytest.raises(UserError, match=rf"mlflow: {uri} refuses the run \(Run .*x.*\): check"):
            self.build(tmp_path / "run", run_id="x")
        assert not (tmp_path / "run").exists()


def test_without_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning.pytorch.loggers import mlflow

    monkeypatch.setattr(mlflow, "_MLFLOW_AVAILABLE", False)
    settings = {"experiment_name": "x", "tracking_uri": None, "run_id": None}
    with pytest.raises(UserError, match="logger=mlflow needs MLflow: pip install mlflow"):
        build_loggers(OFF | {"mlflow": settings}, tmp_path, "x")


class TestOthers:
    def test_several_at_once(self, tmp_path: Path) -> None:
        target = {"_target_": "lightning.pytorch.loggers.CSVLogger", "save_dir": str(tmp_path)}
        extra = {"a": target | {"name": "a"}, "off": None, "b": target | {"name": "b"}}
        settings = OFF | {"tensorboard": {"flush_secs": 1}, "extra": extra}
        names = [logger.name for logger in build_loggers(settings, tmp_path, "x")]
        assert names == ["csv", "tensorboard", "a", "b"]

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"_target_": "os.system"}, r"extra\.mine\._target_=os\.system is not the class"),
            ({"_target_": "nowhere.Logger"}, r"_target_=nowhere\.Logger cannot be imported: No"),
            (
                {"_target_": "lightning.pytorch.loggers.CSVLogger", "folder": "x"},
                r"logger\.extra\.mine: light\S+ cannot be built with \{folder: x\}: .*'folder'",
            ),
        ],
    )
    def test_mistakes(self, settings: dict, message: str, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=message):
            build_loggers(OFF | {"extra": {"mine": settings}}, tmp_path, "x")
