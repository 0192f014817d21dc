"""Random command lines: healthy ones with a value, a word or a file that does not belong."""

import random
from collections.abc import Iterator

from omegaconf import DictConfig

from tests.fuzz.inputs import TRAIN
from tests.fuzz.sandbox import Case
from vivit_train.config import compose_config

VALUES = (
    "null", "0", "-1", "1", "2", "1.5", "0.5", "nan", "inf", "-inf", "1e30", "1000000000000", "''",
    "[]", "[1,2]", "[2.5,1]", "[null]", "[1,2,3,4]", "['a']", "{}", "{a:1}", "true", "false",
    "auto", "none", "text", "ä視", "a b", "a=b", "~", "~/x", "(", "[", "#", "&", "'", '"', "$HOME",
    "${seed}", "${oc.env:HOME}", "${nothing}", "${", "???", "../videos", "../run", "../names.csv",
    "/dev/null", "/proc/self/mem", "/dev/full", "..", "x" * 300, "=1+1", "a,b", "1,2", "\x1b[31m",
    "a\nb", "$(touch x)", "12:30:05.mp4", "http://127.0.0.1:9/x", "\udcff",
)  # fmt: skip
WORDS = (
    "", "=", "=x", "optim.lr", "optim.lr=", "+new=1", "++optim.lr=1e-3", "~optim.lr", "~data",
    "optim.lrr=1", "model=nope", "model=", "data=video", "data=nope", "experiment=nope",
    "data@x=csv", "optim=sgd", "optim=adamw", "augment=finetune", "trainer=", "logger=wandb",
    "experiment=finetune", "optim.lr=1,2", "optim.lr=range(3)", "optim.lr=choice(1,2)",
    "-m", "--multirun", "--cfg", "job", "--help", "--nope", "-h", "--config-name", "x",
    "--config-path", "..", "--info", "--package",
    "hydra.run.dir=x", "hydra/launcher=slurm", "ckpt_path=last", "ckpt_path=auto", "ckpt_path=null",
    "ckpt_path=../run", "ckpt_path=../run/checkpoints/last.ckpt", "run_dir=../run", "seed=-1",
    "data=csv", "data=demo", "data=kinetics400", "data=ssv2", "data=webdataset",
    "trainer.fast_dev_run=true", "+trainer.fast_dev_run=true", "+trainer.overfit_batches=1",
    "trainer.max_time=00:00:00:05", "trainer.limit_test_batches=0", "trainer.limit_val_batches=0",
    "--output", "../out", "--json", "--top-k", "-1", "--", "\ufeff",
)  # fmt: skip
PLACES = (
    "../run", "../run/checkpoints/best.ckpt", "../run/checkpoints", "../huggingface",
    "../safetensors", "../videos", "../videos/jump/0.mp4", "../names.csv", "../nothing",
    "/dev/null", "/proc/self/mem", "owner/name", "hf://x", "", "-", "~", "x" * 300,
    "../run/config.yaml",
)  # fmt: skip
# Keys that would start more processes, or name a device that is not there, cost 10 s each.
COSTLY = ("trainer.devices", "trainer.num_nodes", "trainer.strategy", "model.compile")


def command_lines(seed: int) -> Iterator[Case]:
    """Endless command lines; the same seed gives the same ones."""
    draw = random.Random(seed)
    keys = sorted({key for option in ("folder", "csv", "demo") for key in _keys_of(option)})
    while True:
        yield _train(draw, keys) if draw.random() < 0.6 else _vivit(draw, keys)


def _keys_of(data: str) -> list[str]:
    return list(_leaves(compose_config([f"data={data}"])))


def _leaves(config: DictConfig, prefix: str = "") -> Iterator[str]:
    for name in config:
        node = config._get_node(name)
        if isinstance(node, DictConfig) and node._value() is not None:
            yield from _leaves(node, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _odd(draw: random.Random, keys: list[str]) -> str:
    """One override that may not belong."""
    if draw.random() < 0.3:
        return draw.choice(WORDS)
    key = draw.choice(keys)
    if key in COSTLY and draw.random() < 0.8:
        key = draw.choice(keys)
    return f"{draw.choice(('', '', '', '', '+', '++'))}{key}={draw.choice(VALUES)}"


def _train(draw: random.Random, keys: list[str]) -> Case:
    words = [*TRAIN, *(_odd(draw, keys) for _ in range(draw.randint(1, 2)))]
    if draw.random() < 0.2:
        words.remove(draw.choice(TRAIN))
    if draw.random() < 0.1:
        draw.shuffle(words)
    return Case("train.py", words)


def _vivit(draw: random.Random, keys: list[str]) -> Case:
    verb, *words = draw.choice(
        (
            ("evaluate", "../run"),
            ("evaluate", "../huggingface", *TRAIN),
            ("predict", "../run", "../videos/jump/0.mp4"),
            ("predict", "../safetensors", "../videos/jump/0.mp4"),
            ("export", "../run", "--format", "huggingface", "--output", "../out"),
            ("export", "../run", "--format", "safetensors", "--output", "../out"),
            ("publish", "../run", "owner/name", "--license", "mit", "--output", "../out"),
            ("describe", *TRAIN),
            ("doctor", *TRAIN),
            ("show-batch", *TRAIN, "--output", "../out"),
            ("check", "data=folder", "data.root=../videos"),
            ("check", "data=csv", "data.root=..", "data.train_split=names.csv"),
            ("prepare", "data=folder", "data.root=../videos", "--output", "../out"),
            ("compare", "../run"),
            ("nope",),
        )
    )
    for _ in range(draw.randint(1, 2)):
        where = draw.randint(0, len(words))
        if words and draw.random() < 0.3:
            words[min(where, len(words) - 1)] = draw.choice(PLACES)
        else:
            words.insert(where, _odd(draw, keys))
    return Case("vivit", [verb, *words])
