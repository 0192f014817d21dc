"""Trains a ViViT, tests it and writes the results: python train.py model=... data=..."""

import os
import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from vivit_train.config import (
    check_lora,
    check_schedule,
    command_line,
    compose_config,
    config_dir_words,
    from_here,
    parse_overrides,
    replaced,
    to_plain,
    use_config_dir,
)
from vivit_train.io.terminal import is_rank_zero, said_if_long, say
from vivit_train.launch.entry import errors_in_one_line, leave_cores_to_workers
from vivit_train.launch.processes import devices_of_launcher, launched_from
from vivit_train.launch.stop_watch import StopWatch
from vivit_train.runs.folders import run_folder
from vivit_train.runs.resume import begun_or_new, resumed, resumes
from vivit_train.sweep.command import is_sweep, sweep


@hydra.main(config_path="configs", config_name="train", version_base="1.3")
def main(config: DictConfig) -> None:
    """Composes the configuration, trains, and says where the run's folder is."""
    with errors_in_one_line():
        if starts_again := config.ckpt_path == "auto":
            begun_or_new(config)
        run(config, starts_again)


def run(config: DictConfig, starts_again: bool = False) -> None:
    """Trains, and prints the run's folder, which may hold a run that ``starts_again``."""
    devices_of_launcher(config.trainer)  # refused before torch is imported
    with run_folder(config, starts_again):
        run_dir = train(config)
    if is_rank_zero():
        say(run_dir)


def train(config: DictConfig) -> Path:
    """Compose -> build -> fit -> test. Returns the run's folder."""
    plain = from_here(to_plain(config))
    check_schedule(plain)
    check_lora(plain)
    # Heavy imports wait until here: a mistake is answered before torch is loaded.
    with said_if_long("importing torch and Lightning, which takes longest the first time"):
        import lightning

        from vivit_train import build
        from vivit_train.io.quiet import hush_lightning
        from vivit_train.preflight.advice import say_advice
        from vivit_train.preflight.span import fit_sampling
        from vivit_train.report.page import page_of_test
        from vivit_train.report.pictures import log_test
        from vivit_train.runs.begun import check_resumable, read_begun, resume_metrics
        from vivit_train.runs.checkpoint import restoring
        from vivit_train.runs.diagnosis import say_last
        from vivit_train.runs.results import results_of, say_scores
        from vivit_train.runs.scores import write_scores

    hush_lightning()
    if plain["trainer"]["deterministic"] is True:
        # cuBLAS reads it at its first use, which can be before Lightning sets it.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    run_dir = Path(plain["run_dir"])
    lightning.seed_everything(plain["seed"], verbose=False)
    begun = None if plain["ckpt_path"] is None else read_begun(Path(plain["ckpt_path"]))
    plain, data = build.open_data(plain, begun=begun)
    plain = fit_sampling(plain, data)
    if begun is not None and is_rank_zero():
        check_resumable(begun, plain, data)
    module = build.build_module(plain, data)
    watch = StopWatch()
    trainer, checkpoints = build.build_trainer(plain, run_dir, watch, begun)
    if begun is not None:
        resume_metrics(begun, trainer)
    say_advice(plain, data, trainer.world_size)

    with launched_from(watch, run_dir, plain):
        with restoring(plain["ckpt_path"]):
            trainer.fit(module, datamodule=data, ckpt_path=plain["ckpt_path"], weights_only=True)
        best = checkpoints.to_test()
        if trainer.limit_test_batches:
            trainer.test(module, datamodule=data, ckpt_path=best, weights_only=True, verbose=False)
        results = results_of(trainer, data, plain) | {"checkpoint": f"checkpoints/{best.name}"}
        told = write_scores(run_dir, results, module.accuracy, data)
    if trainer.is_global_zero:
        say_scores(results)
        page_of_test(run_dir, data.records.get("test"))
        log_test(run_dir, data.records.get("test"), trainer.loggers, trainer.global_step)
        say_last(run_dir, told, plain, data)
    return run_dir


if __name__ == "__main__":
    leave_cores_to_workers()
    with errors_in_one_line():
        call = command_line(sys.argv[1:])
        use_config_dir(call.config_dir)
        sys.argv[1:] = [*call.flags, *call.words]
        if call.is_sweep and is_sweep(sys.argv[1:]):
            sys.exit(sweep(sys.argv[1:]))
        # A resumed run has a configuration of its own: Hydra composes none.
        if resumes(call):
            run(resumed(call.words))
            sys.exit()
        if call.composes:
            to_plain(compose_config(call.words, call.is_sweep))
            sys.argv[1:1] = config_dir_words()
            sys.argv += replaced(parse_overrides(call.words, call.is_sweep))
        os.environ["HYDRA_FULL_ERROR"] = "1"  # it raises its errors, which then take one line
        main()
