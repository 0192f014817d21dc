"""Trains a ViViT, tests it and writes the results: python train.py model=... data=..."""

import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from vivit_train.config import check_keys, override_config, to_plain
from vivit_train.errors import UserError
from vivit_train.launch import errors_in_one_line, is_rank_zero, launched_from


@hydra.main(config_path="configs", config_name="train", version_base="1.3")
def main(config: DictConfig) -> None:
    """Composes the configuration, trains, and says where the run's folder is."""
    with errors_in_one_line():
        if config.ckpt_path is not None:
            config = resumed(config)
        elif HydraConfig.get().mode == RunMode.MULTIRUN:
            config.run_dir = f"{config.run_dir}/{HydraConfig.get().job.num}"  # of the sweep's jobs
        run_dir = train(config)
    if is_rank_zero():
        print(run_dir)


def train(config: DictConfig) -> Path:
    """Compose -> build -> fit -> test. Returns the run's folder."""
    # Heavy imports wait until here: a typo is answered before torch is loaded.
    import json

    import lightning

    from vivit_train import training
    from vivit_train.run_dir import MetricsCsv, write_config, write_results

    training.hush_lightning()
    plain = to_plain(config)
    run_dir = Path(plain["run_dir"])
    lightning.seed_everything(plain["seed"], verbose=False)

    data = training.build_data(plain)
    data.setup()  # the classes decide the size of the model's head
    module = training.build_module(plain, data)
    trainer, checkpoints = training.build_trainer(plain, run_dir)
    if is_rank_zero():
        write_config(run_dir, plain)
    if plain["ckpt_path"] is not None:
        training.check_resumable(plain["ckpt_path"], data.class_names)
        for logger in trainer.loggers:
            if isinstance(logger, MetricsCsv):
                logger.resume(training.step_of(plain["ckpt_path"]))

    with launched_from(run_dir):
        trainer.fit(module, datamodule=data, ckpt_path=plain["ckpt_path"], weights_only=True)
        best = checkpoints.best if checkpoints.best.is_file() else checkpoints.last
        trainer.test(module, datamodule=data, ckpt_path=best, weights_only=True, verbose=False)
        results = training.results(trainer, data, plain)
        results["checkpoint"] = f"checkpoints/{best.name}"
        write_results(run_dir, results)
    if trainer.is_global_zero:
        print(f"results {json.dumps(training.headline(results))}")
    return run_dir


def resumed(config: DictConfig) -> DictConfig:
    """The configuration of the run that a checkpoint belongs to, with this call's overrides."""
    checkpoint = Path(config.ckpt_path).expanduser().resolve()
    saved = checkpoint.parent.parent / "config.yaml"
    if not checkpoint.is_file() or not saved.is_file():
        raise UserError(
            f"ckpt_path={config.ckpt_path}: expected RUN/checkpoints/last.ckpt of a run, with "
            f"RUN/config.yaml beside; {'no such file' if not checkpoint.is_file() else saved}"
        )
    overrides = [o for o in HydraConfig.get().overrides.task if not o.startswith("ckpt_path=")]
    base = OmegaConf.load(saved)
    assert isinstance(base, DictConfig)
    base.run_dir = str(checkpoint.parent.parent)
    base.ckpt_path = str(checkpoint)
    return override_config(base, overrides)


if __name__ == "__main__":
    words = sys.argv[1:]
    # A resumed run has keys of its own: they are checked against its own configuration.
    resumes = any(word.startswith("ckpt_path=") for word in words)
    has_flags = any(word.startswith("-") and word not in ("-m", "--multirun") for word in words)
    if not resumes and not has_flags:
        with errors_in_one_line():
            check_keys([word for word in words if not word.startswith("-")])
    main()
