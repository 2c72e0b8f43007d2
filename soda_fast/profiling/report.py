"""A summary as a page of text."""

from soda_fast.profiling.kinds import HOST_KINDS, KINDS
from soda_fast.profiling.summary import GAP_US, Gaps, Summary

_NAME_WIDTH = 78


def as_text(summary: Summary) -> str:
    """What a person reads in ten seconds: shares first, then what stands out."""
    gpu = summary.device == "cuda"
    lines = [
        f"{summary.steps} steps of {summary.step_ms:.1f} ms on {'a GPU' if gpu else 'a CPU'}, traced "
        "(tracing itself slows the host)",
        "",
    ]
    names = KINDS if gpu else HOST_KINDS
    lines += [_bar(names[kind], share) for kind, share in summary.shares.items()]
    lines += [_bar("idle" if gpu else "outside operations", summary.idle), ""]
    lines += [f"data wait      {100 * summary.data_wait:.1f} % of the time the host waited for images"]
    lines += [f"communication  {_communication(summary)}"]
    lines += [f"GPU gaps       {_gaps(summary.gaps)}"] if summary.gaps else []
    lines += [f"parts          {_rooms(summary)} ({'GPU' if gpu else 'host'} time)", ""]
    lines += [f"longest {'kernels' if gpu else 'operations, by their own time'}"]
    lines += [f"{'share':>7}  {'ms':>9}  {'calls':>6}  name"]
    lines += [
        f"{100 * item.share:6.1f}%  {item.total_ms:9.2f}  {item.calls:6}  {_short(item.name)}  [{item.kind}]"
        for item in summary.longest
    ]
    return "\n".join(lines)


def _bar(name: str, share: float) -> str:
    return f"{name:24} {100 * share:5.1f} %  {'#' * round(50 * share)}".rstrip()


def _communication(summary: Summary) -> str:
    if not summary.communication_ms:
        return "none"
    per_step, hidden = summary.communication_ms / summary.steps, summary.overlapped_ms / summary.communication_ms
    return f"{per_step:.2f} ms a step, {100 * hidden:.0f} % of it overlapped by computation"


def _gaps(gaps: Gaps) -> str:
    if not gaps.count:
        return f"none longer than {GAP_US:.0f} us"
    where = f", while the host was in {gaps.longest_in!r}" if gaps.longest_in else ""
    return (
        f"{gaps.count} longer than {GAP_US:.0f} us, {gaps.total_ms:.2f} ms in all, "
        f"the longest {gaps.longest_ms:.2f} ms{where}"
    )


def _rooms(summary: Summary) -> str:
    return ", ".join(f"{name} {100 * share:.0f} %" for name, share in summary.rooms.items()) or "none named"


def _short(name: str) -> str:
    return name if len(name) <= _NAME_WIDTH else f"{name[: _NAME_WIDTH - 3]}..."
