"""Draws what compare.py has measured: rates as multiples of IPPROTO_SMC's, as SVG and a table.

    python benchmarks/plot.py benchmarks.json docs/_static

writes speed-light.svg, speed-dark.svg and speed.md there. It needs the extra ``docs``.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
from contenders import BASELINE, CONTROL, TCP
from matplotlib import pyplot as plt

SHOWN = {"smcsock": "smcsock", CONTROL: "control", TCP: "socket.socket, TCP", "C": "C"}
"""The contenders in the plot, and what they are called there."""

THEMES = {
    "light": {"paper": "#ffffff", "ink": "#1f2328", "grid": "#d1d9e0"},
    "dark": {"paper": "#0d1117", "ink": "#e6edf3", "grid": "#3d444d"},
}
COLOURS = {"smcsock": "#0f62fe", CONTROL: "#8d8d8d", TCP: "#ff832b", "C": "#24a148"}
BAR = 0.2


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path, metavar="FILE", help="from compare.py --json")
    parser.add_argument("directory", type=Path, metavar="DIRECTORY", help="where they go")
    options = parser.parse_args()
    report = json.loads(options.results.read_text())
    for theme, colours in THEMES.items():
        draw(report, colours, options.directory / f"speed-{theme}.svg")
    (options.directory / "speed.md").write_text(table(report))


def draw(report: dict[str, Any], theme: dict[str, str], file: Path) -> None:
    # Text as text, and the same file from the same numbers.
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "smcsock", "font.size": 10})
    workloads = report["timing"]["workloads"]
    figure, axes = plt.subplots(figsize=(8, 0.75 * len(workloads) + 1), layout="constrained")
    for number, (contender, name) in enumerate(shown(report).items()):
        ratios = [workload["ratios"][BASELINE][contender] for workload in workloads]
        medians = [each["median"] for each in ratios]
        errors = [
            [each["median"] - each["interval"][0] for each in ratios],
            [each["interval"][1] - each["median"] for each in ratios],
        ]
        axes.barh(
            [place + number * BAR for place in range(len(workloads))],
            medians,
            BAR * 0.9,
            xerr=errors,
            color=COLOURS[contender],
            ecolor=theme["ink"],
            error_kw={"elinewidth": 0.8},
            label=name,
        )
    middle = BAR * (len(shown(report)) - 1) / 2
    axes.set_yticks(
        [place + middle for place in range(len(workloads))],
        [workload["name"] for workload in workloads],
    )
    axes.invert_yaxis()
    axes.axvline(1, color=theme["ink"], linewidth=1)
    # Whole bars; the ends of the intervals of a noisy run may be outside.
    axes.set_xlim(0, 1.25 * max(bar.get_width() for bar in axes.patches))
    axes.set_xlabel("rate, as a multiple of an IPPROTO_SMC socket's; more is faster")
    figure.set_facecolor(theme["paper"])
    axes.set_facecolor(theme["paper"])
    axes.tick_params(colors=theme["ink"])
    axes.xaxis.label.set_color(theme["ink"])
    for spine in axes.spines.values():
        spine.set_color(theme["grid"])
    axes.grid(axis="x", color=theme["grid"], linewidth=0.5)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, labelcolor=theme["ink"], ncols=4, loc="lower center",
                bbox_to_anchor=(0.5, 1))  # fmt: skip
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)


def shown(report: dict[str, Any]) -> dict[str, str]:
    return {key: name for key, name in SHOWN.items() if key in report["timing"]["contenders"]}


def table(report: dict[str, Any]) -> str:
    """The numbers as a page, with what they were measured on."""
    system, timing = report["system"], report["timing"]
    names = [name for name in timing["contenders"] if name != BASELINE]
    (mode,) = timing["modes"][BASELINE]
    lines = [
        (
            f"Measured on {system['date']}: Linux {system['kernel']} on {system['machine']}, "
            f"{system['cpus']} processors, Python {system['python']}, "
            f"smcsock {system['smcsock']}; the connections were {mode}, over loopback, "
            f"{timing['rounds']} rounds of turns of {timing['seconds']} s. Medians of the "
            f"ratio to `{BASELINE}`, with their 99 % confidence interval."
        ),
        "",
        f"| | {' | '.join(names)} |",
        "|---" * (len(names) + 1) + "|",
    ]
    for workload in timing["workloads"]:
        cells = (cell(workload["ratios"][BASELINE][name]) for name in names)
        lines.append(f"| {workload['name']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def cell(ratio: dict[str, Any]) -> str:
    low, high = ratio["interval"]
    return f"{ratio['median']:.2f} [{low:.2f} {high:.2f}]"


if __name__ == "__main__":
    main()
