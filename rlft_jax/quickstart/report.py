"""What the quickstart found, on the terminal and as a page."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlft_jax.evaluate import with_interval
from rlft_jax.progress import duration, table
from rlft_jax.reports.html import Answer, Comparison, Figure, Table, write_report
from rlft_jax.reports.svg import Chart

STAGES = {"sft": "SFT", "rloo": "SFT, then RLOO"}
COLUMNS = ("", "pass@1", "best of 8, verifier", "best of 8, majority", "formatted")
CURVES = {
    "sft": [("loss", "Loss of SFT", "nats per token")],
    "rloo": [
        ("reward", "Reward of RLOO", "mean over responses"),
        ("entropy", "Entropy of the policy", "nats per token"),
        ("completions/mean_length", "Length of responses", "tokens"),
    ],
}


def show(folder: Path, summary: dict[str, Any]) -> None:
    """Prints the results and writes report.html."""
    rows = [_row(label, summary[name]) for name, label in STAGES.items()]
    spec = summary["rloo"]["spec"]
    caption = (
        f"{spec['problems']} held-out problems, {spec['samples']} samples each at temperature"
        f" {spec['temperature']}, seed {spec['seed']}; {spec['intervals']}."
    )
    table("Countdown, three numbers up to 20", COLUMNS, rows, caption=caption)
    total = summary["seconds"]["total"]
    write_report(
        folder / "report.html",
        title="Countdown in minutes: SFT, then RLOO",
        subtitle=(
            "A tiny Qwen2 learns to reach a target from three numbers: first from worked"
            f" derivations, then from a verifier. The whole took {duration(total)}."
        ),
        figures=_figures(summary),
        tables=[Table("Held-out problems", COLUMNS, rows, caption)],
        charts=[chart for name in STAGES for chart in _charts(folder / name, CURVES[name])],
        comparisons=_comparisons(summary),
        summary={k: v for k, v in summary.items() if k not in STAGES}
        | {name: summary[name]["spec"] for name in STAGES},
    )
    print(f"Report: {folder / 'report.html'}\nModel:  {folder / 'export'} (Hugging Face format)")


def _row(label: str, result: dict[str, Any]) -> list[str]:
    best = result["best_of_n"]
    found = [
        result["pass_at_k"]["1"],
        best["verifier"]["8"],
        best["majority"]["8"],
        result["formatted"],
    ]
    return [label, *(with_interval(estimate) for estimate in found)]


def _figures(summary: dict[str, Any]) -> list[Figure]:
    before, after = (summary[name]["pass_at_1"] for name in STAGES)
    return [
        Figure("pass@1 after SFT", f"{before:.2f}"),
        Figure("pass@1 after RLOO", f"{after:.2f}", f"{after / max(before, 1e-9):.1f} times SFT's"),
        Figure("best of 8 after SFT", f"{summary['sft']['best_of_8']:.2f}", "the verifier chooses"),
        Figure("time", duration(summary["seconds"]["total"])),
    ]


def _charts(run: Path, curves: Sequence[tuple[str, str, str]]) -> list[Chart]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        Chart(title, "step", unit, {name: [(x["step"], x[name]) for x in lines if name in x]})
        for name, title, unit in curves
    ]


def _comparisons(summary: dict[str, Any]) -> list[Comparison]:
    """The first completions of both models to the same problems."""
    pairs = zip(*(summary[name]["completions"] for name in STAGES), strict=True)
    return [
        Comparison(
            before["prompt"],
            {
                "after SFT": Answer(before["completion"], before["correct"]),
                "after RLOO": Answer(after["completion"], after["correct"]),
            },
        )
        for before, after in pairs
    ]
