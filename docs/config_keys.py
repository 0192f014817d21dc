"""The page of all configuration keys, made from the code when the site is built.

A key's type and range come from `vivit_train.config.keys` and its default from `configs/`. Its
meaning is that in the docstring of the class that takes it or, where that refers to another one,
the comment beside it in `configs/`.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from vivit_train.config.keys import KEYS

ROOT = Path(__file__).resolve().parents[1]
# Group -> the file and class whose docstring says what the group's keys mean.
CLASSES = (
    ("model", "model/arguments.py", "Arguments"),
    ("model.from_image", "model/weights/inflate.py", "FromImage"),
    ("data", "data/datamodule.py", "VideoDataModule"),
    ("data", "data/demo.py", "Demo"),
    ("data", "data/folder.py", "Folder"),
    ("data", "data/webdataset.py", "WebDataset"),
    ("processor", "transforms/processor.py", "Processor"),
    ("augment", "transforms/augment.py", "Augment"),
    ("hydra.sweeper", "sweep/search.py", "OptunaSearch"),
    ("hydra.launcher", "sweep/slurm.py", "SlurmLauncher"),
)
# Files of `configs/` in which a key is looked for, in this order, before those of `data/`.
FILES = (
    "train", "model/vivit_b", "data/video", "processor/auto", "processor/scenic", "augment/basic",
    "optim/sgd", "optim/adamw", "optim/torch", "trainer/default", "callbacks/default", "logger/csv",
    "logger/wandb", "logger/tensorboard", "logger/mlflow", "hydra/sweeper/optuna",
    "hydra/launcher/local", "hydra/launcher/slurm", "data/folder", "data/webdataset",
)  # fmt: skip
TITLES = {
    "": "The run",
    "model": "`model`: the model and its weights",
    "data": "`data`: the data set and its clips",
    "processor": "`processor`: pixels",
    "augment": "`augment`: what training adds",
    "optim": "`optim`: optimiser and schedule",
    "trainer": "`trainer`: Lightning's Trainer",
    "callbacks": "`callbacks`: checkpoints, stopping, averages",
    "logger": "`logger`: Weights & Biases, TensorBoard and MLflow",
    "hydra": "`hydra`: sweeps",
}
# Keys that neither a docstring nor a comment explains.
MEANINGS = {
    "name": "name of the run's folder below `runs/`",
    "seed": "seed of all random draws",
    "run_dir": "folder of the run",
    "model.name": "the model's name, of which the run's folder is made",
    "data._target_": "class of the data set; `data=...` sets it",
    "optim.name": "optimiser; `optim=sgd`, `adamw` or `torch` sets it",
    "optim.lr": "highest learning rate, of the head",
    "optim.momentum": "momentum of SGD",
    "optim.betas": "decay of the two moments of AdamW",
    "optim.eps": "epsilon of AdamW",
    "optim.weight_decay": "weight decay; biases, norms and positions have none",
    "optim.label_smoothing": "share of each label that goes to all classes evenly",
    "logger.wandb": "settings of Weights & Biases",
    "logger.wandb.project": "project",
    "logger.wandb.entity": "user or team",
    "logger.wandb.tags": "tags of the run",
    "logger.tensorboard": "settings of TensorBoard",
    "logger.tensorboard.flush_secs": "seconds between writes",
    "logger.mlflow": "settings of MLflow",
    "logger.mlflow.experiment_name": "experiment to which the run belongs",
    "hydra.sweep.dir": "folder of the sweep, in which each trial has a numbered folder",
    "hydra.launcher.name": "where trials run; `hydra/launcher=local` or `slurm` sets it",
    "hydra.sweeper.params": "what to sweep, as an alternative to the command line",
}


def page() -> str:
    """The page, in Markdown.

    Raises:
        ValueError: If a key has no meaning: give it a comment in `configs/`.
    """
    defaults, comments = read_configs()
    meanings = {**comments, **docstrings(), **MEANINGS}
    parts = [
        "# Every configuration key",
        "This page lists each key with its meaning, what it takes and its default. It is made from "
        "the code when the site is built. Set a key on the command line:",
        "```\npython train.py optim.lr=0.05 model.drop_path=0.1\n```",
        "The default is that of the group's first choice (`model=vivit_b`, `data=video`, "
        "`optim=sgd`, ...); a data set or an experiment may set another. "
        "`python train.py --cfg job` prints the values of a command. "
        "[Configuration](../configuration.md) says how values are written.",
    ]
    for group, title in TITLES.items():
        names = [key for key in KEYS if (key.partition(".")[0] if "." in key else "") == group]
        rows = "".join(row(name, defaults, meanings) for name in names)
        parts.append(
            f"## {title}\n\n| key | meaning | takes | default |\n|---|---|---|---|\n{rows}"
        )
    return "\n\n".join(parts)


def row(key: str, defaults: dict[str, str], meanings: dict[str, str]) -> str:
    """A row of the table."""
    meaning = meanings.get(key, "")
    if not meaning:
        raise ValueError(f"the key {key} has no meaning: write a comment beside it in configs/")
    default = f"`{defaults[key]}`" if key in defaults else ""
    cells = (f"`{key}`", cell(meaning), cell(KEYS[key].expected), cell(default))
    return f"| {' | '.join(cells)} |\n"


def cell(text: str) -> str:
    """A text within a table: on one line, without a bar that would end the cell."""
    text = re.sub(r"``+", "`", " ".join(text.split())).replace("|", r"\|")
    text = text.replace("`None`", "`null`").replace("or None", "or null").replace(" None", " null")
    parts = text.split("`")  # every second one is code, in which HTML is text already
    parts[::2] = [part.replace("<", "&lt;") for part in parts[::2]]
    return "`".join(parts)


def read_configs() -> tuple[dict[str, str], dict[str, str]]:
    """Default and comment of each key, as they stand in `configs/`; the first file counts."""
    defaults: dict[str, str] = {}
    comments: dict[str, str] = {}
    others = (path.stem for path in sorted((ROOT / "configs/data").glob("*.yaml")))
    for name in (*FILES, *(f"data/{other}" for other in others)):
        text = (ROOT / "configs" / f"{name}.yaml").read_text()
        is_global = "/" not in name or text.startswith("# @package _global_")
        group = "" if is_global else f"{name.rpartition('/')[0].replace('/', '.')}."
        for key, value, comment in entries(text):
            if value:
                defaults.setdefault(group + key, value)
            if comment:
                comments.setdefault(group + key, comment)
    return defaults, comments


def entries(text: str) -> Iterator[tuple[str, str, str]]:
    """(dotted key, value, comment) of each line of a YAML file that sets a key.

    A comment on lines of its own belongs to the key below it, if that has none beside it.
    """
    path: list[tuple[int, str]] = []
    above = ""
    for line in text.splitlines():
        if note := re.match(r"\s*# ?(.*)", line):
            above = f"{above} {note[1]}".strip()
            continue
        match = re.match(r"( *)([\w]+):(?: +(.*))?$", line)
        if match:
            indent, key, rest = len(match[1]), match[2], match[3] or ""
            path = [*((i, k) for i, k in path if i < indent), (indent, key)]
            value, _, comment = f" {rest}".partition(" # ")
            yield ".".join(k for _, k in path), value.strip(), comment.strip() or above
        above = ""


def docstrings() -> dict[str, str]:
    """Meaning of each key whose class describes it under Args or Attributes."""
    found: dict[str, str] = {}
    for group, file, name in CLASSES:
        tree = ast.parse((ROOT / "vivit_train" / file).read_text())
        node = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name)
        text = ast.get_docstring(node) or ""
        for section in re.findall(r"^(?:Args|Attributes):\n((?:    .*\n|\n)+)", f"{text}\n", re.M):
            for entry in re.split(r"^    (?=\S)", section, flags=re.M)[1:]:
                argument, _, meaning = entry.partition(":")
                if f"{group}.{argument}" in KEYS and not re.search(
                    r"\bsee (`|there)", meaning, re.I
                ):
                    found.setdefault(f"{group}.{argument}", " ".join(meaning.split()))
    return found
