"""The results as a picture, by matplotlib."""

from pathlib import Path

from ._result import Results, format_size

__all__ = ["plot"]


def plot(results: Results, path: Path) -> None:
    """Writes a picture of the throughput and the round trips, in the format of its suffix.

    Raises ModuleNotFoundError without matplotlib, OSError, and ValueError for a suffix
    that it does not know.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    smc = results.mode if results.is_of_smc else "SMC socket (TCP)"
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    for name, run in results.runs.items():
        speeds = run.summary()["throughput_bytes_per_second"]
        assert isinstance(speeds, dict)
        sizes = [int(size) for size in speeds]
        style = "--" if name.endswith("large") else "-"
        color = "C0" if name.startswith("tcp") else "C1"
        label = name.replace("smc", smc).replace("tcp", "TCP").replace("large", "larger buffers")
        values = [speed / 1e6 for speed in speeds.values()]
        left.plot(sizes, values, style, color=color, marker="o", label=label)
    left.set(xscale="log", yscale="log", ylabel="MB/s", title="Throughput by size of messages")
    left.set_xticks(sizes, [format_size(size) for size in sizes])
    left.minorticks_off()
    left.legend()
    names = ["tcp", "smc"]
    right.boxplot(
        [[trip * 1e6 for trip in results.runs[name].round_trips] for name in names],
        whis=(1, 99),
        showfliers=False,
    )
    right.set_xticks([1, 2], ["TCP", smc])
    right.set(title="Round trip", ylabel="us (1 % to 99 %)", ylim=(0, None))
    figure.savefig(path)
    pyplot.close(figure)
