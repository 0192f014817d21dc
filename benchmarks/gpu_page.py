"""The GPU section of docs/performance.md, made of what `gpu.py` measured.

    python benchmarks/gpu_page.py                        # of results/gpu.json here
    python benchmarks/gpu_page.py first.json second.json # parts of the second replace the first's

Only what lies between the page's two marker comments is written. What was not measured says so.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from measure import RESULTS, cell, ratio

Row = dict[str, Any]

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
BEGIN, END = "<!-- gpu.py: begin -->", "<!-- gpu.py: end -->"
NOT_MEASURED = "Not measured."
NAMES = {"vivit_train": "vivit-train", "huggingface": "Hugging Face"}
# Of the profile's kernels; the rest are in the file beside the JSON.
KERNELS = 8


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("reports", type=Path, nargs="*", default=[RESULTS / "gpu.json"])
    parser.add_argument("--page", type=Path, default=PAGE)
    args = parser.parse_args(argv)
    reports = [json.loads(path.read_text()) for path in args.reports]
    args.page.write_text(replaced(args.page.read_text(), section(reports)))
    print(f"written to {args.page}")


def replaced(page: str, text: str) -> str:
    """The page with this text between its markers."""
    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(END) < page.index(BEGIN):
        raise SystemExit(f"the page must have one line {BEGIN} and below it one line {END}")
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    return f"{before}{BEGIN}\n{text}{END}{after}"


def section(reports: Sequence[dict[str, Any]]) -> str:
    """All of it: the machine of each report, then a table for each part."""
    parts: dict[str, Any] = {}
    for report in reports:
        parts |= {name: part for name, part in report["parts"].items() if part["rows"]}
    lines = ["", *(machine(report) for report in reports)]
    for title, text, name, make in TABLES:
        lines += ["", f"### {title}", "", text, ""]
        rows = parts[name]["rows"] if name in parts else []
        lines += make(rows) or [NOT_MEASURED]
        ended = parts[name]["ended"] if name in parts else "done"
        if ended != "done":
            lines += ["", f"This part is not whole: {ended.splitlines()[0]}."]
    return "\n".join(lines) + "\n\n"


def machine(report: dict[str, Any]) -> str:
    """What was measured when, on what."""
    found, versions = report["hardware"], report["versions"]
    told = ", ".join(f"{name} {versions[name]}" for name in ("torch", "transformers"))
    parts = ", ".join(f"`{name}`" for name, part in report["parts"].items() if part["rows"])
    return f"{found.get('gpu', found['cpu'])}, {report['date'][:10]}, {told}: {parts}."


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table's lines; none without rows."""
    if not rows:
        return []
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(line)} |".replace("|  |", "| |") for line in lines]


def matrix(rows: Sequence[Row]) -> list[str]:
    table = [
        [r["precision"], f"{r['matrix_tflops']:.0f}", f"{r['copy_gb_per_second']:,.0f}"]
        for r in rows
    ]
    return markdown(["", "product, TFLOP/s", "copy, GB/s"], table)


def step(rows: Sequence[Row]) -> list[str]:
    table = [
        [
            r["form"],
            str(r["batch"]),
            milliseconds(r["median_seconds"]),
            f"{r['clips_per_second']:.0f}",
            f"{r['mfu']:.2f}",
            gigabytes(r["peak_bytes"]),
            f"{r['first_step_seconds']:.0f} s",
        ]
        for r in rows
        if "profile" not in r
    ]
    head = ["", "clips", "ms", "clips/s", "MFU", "peak GB", "first step"]
    return markdown(head, table)


def profile(rows: Sequence[Row]) -> list[str]:
    found = next((r["profile"] for r in rows if "profile" in r), None)
    if found is None:
        return []
    whole = found["seconds"]
    kinds = [
        [kind, milliseconds(seconds), percent(seconds / whole), ""]
        for kind, seconds in found["kinds"].items()
    ]
    kernels = [
        [
            f"`{k['name'][:60]}`",
            milliseconds(k["seconds"]),
            percent(k["share"]),
            str(k["launches"]),
        ]
        for k in found["kernels"][:KERNELS]
    ]
    together = [["together", milliseconds(whole), "100 %", str(found["launches"])]]
    return markdown(["", "ms", "share", "launches"], kinds + together + kernels)


def train(rows: Sequence[Row]) -> list[str]:
    table = [
        [
            str(r["batch"]),
            cell(r["clips_per_second"], "{:.0f}"),
            cell(r["share_of_step"], "{:.2f}"),
        ]
        for r in rows
    ]
    return markdown(["clips", "clips/s", "of the bare step's"], table)


def transforms(rows: Sequence[Row]) -> list[str]:
    table = [
        [
            f"{r['what']}, {r['clips']} clips",
            milliseconds(r["median_seconds"]),
            milliseconds(r["host_seconds"]),
            milliseconds(r["kernel_seconds"]),
            str(r["launches"]),
            percent(r["share_of_step"]),
        ]
        for r in rows
    ]
    head = ["", "ms", "host, ms", "kernels, ms", "launches", "of a compiled step"]
    return markdown(head, table)


def huggingface(rows: Sequence[Row]) -> list[str]:
    table = []
    for r in rows:
        ours, theirs = r["vivit_train"], r["huggingface"]
        table.append(
            [
                f"{r['phase']}, {r['form']}",
                str(r["batch"]),
                milliseconds(ours["median_seconds"]),
                milliseconds(theirs["median_seconds"]) + left_out(r, f"huggingface {r['form']}"),
                cell(r["speed_ratio"], "{:.2f}x"),
                cell(r["speed_ratio_to_huggingface_eager"], "{:.2f}x"),
                f"{gigabytes(ours['peak_bytes'])} / {gigabytes(theirs['peak_bytes'])}",
                cell(r["memory_ratio"], "{:.2f}"),
            ]
        )
    head = ["", "clips", "ours ms", "theirs ms", "speed", "to their eager form", "peak GB", ""]
    return markdown(head, table)


def left_out(row: Row, name: str) -> str:
    why = row["left_out"].get(name)
    return f" ({why})" if why else ""


def attention_tables(rows: Sequence[Row]) -> list[str]:
    table = [
        [
            f"{r['phase']}, {name}",
            str(r["batch"]),
            *(milliseconds(r[origin][kind]["median_seconds"]) for kind in ("eager", "sdpa")),
            cell(r[origin]["speedup_percent"], "{:.1f} %"),
            *(megabytes(r[origin][kind]["peak_bytes"]) for kind in ("eager", "sdpa")),
            cell(r[origin]["memory_saving_percent"], "{:.1f} %"),
        ]
        for r in rows
        for origin, name in NAMES.items()
    ]
    columns = ["eager ms", "sdpa ms", "speedup", "eager MB", "sdpa MB", "memory saving"]
    return markdown(["", "clips", *columns], table)


def kernels(rows: Sequence[Row]) -> list[str]:
    table = [
        [
            r["kernel"],
            *(
                f"{1e3 * r[f'{way}_seconds']:.2f} ms, {r[f'{way}_tflops']:.0f} TFLOP/s"
                if f"{way}_seconds" in r
                else "-"
                for way in ("forward", "both")
            ),
        ]
        for r in rows
    ]
    return markdown(["", "forward", "forward and backward"], table)


def bits(rows: Sequence[Row]) -> list[str]:
    table = [
        [
            r["compared"],
            f"{r['tensors_that_differ']} of {r['tensors']}" if "tensors" in r else "not measured",
            cell(r.get("largest_difference"), "{:.2g}"),
        ]
        for r in rows
        if "compared" in r
    ]
    lines = markdown(["", "tensors that differ", "by at most"], table)
    for r in rows:
        if r.get("share_of_usual") is not None:
            share = r["share_of_usual"]
            lines += ["", f"`train.py` has {share:.2f} times as many clips per second with it."]
    return lines


def nccl(rows: Sequence[Row]) -> list[str]:
    table = [
        [r["strategy"], "runs" if r["rc"] == 0 else "fails", cell(r["loss"], "{:.3f}")]
        for r in rows
    ]
    return markdown(["", "", "loss"], table)


def milliseconds(seconds: float | None) -> str:
    return cell(ratio(seconds, 1e-3), "{:.1f}")


def gigabytes(number: float | None) -> str:
    return cell(ratio(number, 1e9), "{:.1f}")


def megabytes(number: float | None) -> str:
    return cell(ratio(number, 1e6), "{:,.0f}")


def percent(share: float | None) -> str:
    return cell(ratio(share, 0.01), "{:.1f} %")


# Title, the sentence above the table, the part that it is made of, and how.
TABLES: list[tuple[str, str, str, Callable[[Sequence[Row]], list[str]]]] = [
    (
        "The machine's own rates",
        "A product of two random 8192x8192 matrices, and a large copy.",
        "matrix",
        matrix,
    ),
    (
        "A training step",
        "ViViT-B at 32x224x224, bf16 autocast, fused AdamW, gradient clipping; compiled is "
        "`model.compile=true`. MFU is the share of the product's rate.",
        "step",
        step,
    ),
    (
        "Where the compiled step's time goes",
        "torch's profiler over one step of the larger batch: kinds of kernels, then the longest.",
        "step",
        profile,
    ),
    (
        "Through `train.py`",
        "Decoding, transforms and callbacks included: generated videos of 340x256, 16 workers, "
        "compiled, medians without the first reports.",
        "train",
        train,
    ),
    (
        "Transforms",
        "Clips of four frame sizes, on the device: until it is idle, until the host has issued "
        "all, and the kernels alone.",
        "transforms",
        transforms,
    ),
    (
        "Beside Hugging Face's model",
        "The same weights and clips, in turns, bf16, sdpa on both sides; compiled is "
        "`model.compile=true` beside `torch.compile(model)`. Peak memory is that of each alone, "
        "ours / theirs.",
        "huggingface",
        huggingface,
    ),
    (
        "Hugging Face's attention tables",
        "The rows and columns of their ViViT page, fp32 without TF32: how much more eager takes.",
        "attention_tables",
        attention_tables,
    ),
    (
        "Attention kernels",
        "16 clips, 12 heads of 64, 3,137 tokens, bf16.",
        "kernels",
        kernels,
    ),
    (
        "The same bits",
        "`trainer.deterministic=true`: the last weights of a second run, and of one that was "
        "killed and resumed, beside the first run's.",
        "deterministic",
        bits,
    ),
    (
        "Several processes",
        "Short runs with one GPU and NCCL.",
        "nccl",
        nccl,
    ),
]


if __name__ == "__main__":
    main()
