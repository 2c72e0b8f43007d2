"""Scaling as text."""

from typing import Any


def format_result(result: dict[str, Any]) -> str:
    """Tables for a person."""
    machine = result["machine"]
    lines = [
        f"{result['config']}, {result['strategy']}, batch {result['batch_images']}; {machine['device']}, "
        f"torch {machine['torch']}, commit {machine['commit']}"
    ]
    if result["measured"]:
        lines += [
            "",
            "measured   processes   images each   step, ms (quartiles)          images/s   predicted step, ms",
        ]
        lines += [_measured(row) for row in result["measured"]]
    if "computation" in result:
        lines += ["", f"computation: {result['computation']}"]
    if "predicted" in result:
        links = result["links"]
        lines.append(
            f"links ({result['gpu']}): {links['machine_bytes_s'] / 1e9:.0f} GB/s inside a machine of eight, "
            f"{links['network_bytes_s'] / 1e9:.1f} GB/s for each GPU between machines"
        )
        lines += ["", "predicted  GPUs   images each   step, ms   of it exposed   images/s     of linear"]
        for kind, rows in result["predicted"].items():
            lines += [_predicted(kind, row) for row in rows]
    return "\n".join(lines)


def _measured(row: dict[str, Any]) -> str:
    head = f"{'':10} {row['processes']:9} {row['process_images']:13}   "
    if "error" in row:
        return head + row["error"]
    step = row["step_s"]
    rate = row["processes"] * row["process_images"] / step["median"]
    times = f"{1e3 * step['median']:.1f} ({1e3 * step['lower_quartile']:.1f} .. {1e3 * step['upper_quartile']:.1f})"
    predicted = f"{1e3 * row['predicted_step_s']:20.1f}" if "predicted_step_s" in row else ""
    return f"{head}{times:28} {rate:9,.1f} {predicted}"


def _predicted(kind: str, row: dict[str, Any]) -> str:
    step, exposed = 1e3 * (row["computation_s"] + row["exposed_s"]), 1e3 * row["exposed_s"]
    return (
        f"{kind:10} {row['processes']:4} {row['process_images']:13,.6g} {step:10.2f} {exposed:15.2f} "
        f"{row['images_per_second']:12,.0f} {100 * row['share_of_linear']:9.1f} %"
    )
