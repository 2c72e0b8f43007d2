"""Summaries of traces whose right answer is known, and of one that PyTorch has just made."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile, record_function

from soda_fast.profiling import as_text, parse_events, read_trace, summarise
from soda_fast.profiling.__main__ import main
from soda_fast.profiling.kinds import KINDS, kernel_kind, operation_kind
from soda_fast.profiling.timeline import Rooms, attribute, gaps, length, overlap, self_times, union

CONVOLUTION = "sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc_tilesize128x128x64"
REDUCTION = "ncclDevKernel_ReduceScatter_Sum_f32_RING_LL(ncclDevKernelArgsStorage<4096ul>)"


def event(category: str, name: str, start: float, duration: float, lane: int = 1, **arguments: Any) -> dict[str, Any]:
    return {"ph": "X", "cat": category, "name": name, "pid": 0, "tid": lane, "ts": start, "dur": duration} | {
        "args": arguments
    }


def hand_made() -> list[dict[str, Any]]:
    """Two steps on a GPU: 1000 us from the first kernel's start to the last one's end.

    Stream 7 computes, stream 20 communicates: 300 us of it, 200 of them while stream 7 is busy.

        7   convolution 0-400 | gap 400-500 | backward's convolution 500-800 |            | AdamW 900-1000
        20                                        reduce-scatter 600-900 (exposed 800-900)
    """
    kernels = [
        ("kernel", CONVOLUTION, 1000, 400, 7, 1),
        ("kernel", CONVOLUTION.replace("fprop", "dgrad"), 1500, 300, 7, 2),
        ("kernel", REDUCTION, 1600, 300, 20, 3),
        ("kernel", "triton_poi_fused_add_mul_3", 1900, 60, 7, 4),
        ("gpu_memcpy", "Memcpy HtoD (Pinned -> Device)", 1960, 40, 7, 5),
    ]
    launches = {1: 210, 2: 450, 3: 470, 4: 650, 5: 850}
    threads = {1: 1, 2: 2, 3: 2, 4: 1, 5: 1}
    return [
        event("user_annotation", "ProfilerStep#20", 100, 400),
        event("user_annotation", "ProfilerStep#21", 500, 500),
        event("user_annotation", "data", 100, 90),
        event("user_annotation", "decoder", 200, 200),
        event("user_annotation", "backward", 430, 70),
        event("user_annotation", "optimizer", 600, 100),
        *(event("cuda_runtime", "cudaLaunchKernel", at, 5, threads[n], correlation=n) for n, at in launches.items()),
        *(event(cat, name, at, long, lane, correlation=n) for cat, name, at, long, lane, n in kernels),
        event("gpu_user_annotation", "decoder", 1000, 400, 7),
        {"ph": "M", "name": "process_name", "pid": 0, "args": {"name": "python"}},
    ]


def test_a_gpu_trace_by_hand() -> None:
    summary = summarise(parse_events(hand_made()))
    assert (summary.device, summary.steps, summary.step_ms) == ("cuda", 2, 0.5)
    # The pointwise kernel was launched by the optimizer.
    expected = {"convolution": 0.7, "communication": 0.1, "optimizer": 0.06, "copy": 0.04}
    assert summary.shares == pytest.approx(expected)
    assert summary.idle == pytest.approx(0.1)
    assert summary.communication_ms == pytest.approx(0.3)
    assert summary.overlapped_ms == pytest.approx(0.2)
    assert summary.gaps is not None
    assert (summary.gaps.count, summary.gaps.longest_in) == (1, "")
    assert summary.gaps.total_ms == pytest.approx(0.1) == summary.gaps.longest_ms
    assert summary.data_wait == pytest.approx(90 / 900)
    # The reduce-scatter was launched in backward as well: one kind of work for each moment.
    assert summary.rooms == pytest.approx({"decoder": 0.4, "backward": 0.4, "optimizer": 0.06, "elsewhere": 0.04})
    first = summary.longest[0]
    assert (first.name, first.kind, first.calls, first.total_ms) == (CONVOLUTION, "convolution", 1, 0.4)
    assert len(summary.longest) == 5


def test_the_text_says_it() -> None:
    text = as_text(summarise(parse_events(hand_made())))
    assert "convolutions              70.0 %" in text
    assert "communication, exposed    10.0 %" in text
    assert "0.15 ms a step, 67 % of it overlapped" in text
    assert "1 longer than 10 us, 0.10 ms in all, the longest 0.10 ms" in text
    assert max(len(line) for line in text.splitlines()) <= 130


def test_what_a_single_process_does_for_fsdp_is_not_called_exposed() -> None:
    """Its host spends time on the reduction of gradients, with nobody to wait for."""
    events = [
        event("user_annotation", "ProfilerStep#0", 0, 1000),
        event("cpu_op", "RegisterPostBackwardFunctionBackward", 100, 40),
    ]
    text = as_text(summarise(parse_events(events)))
    assert "FSDP, communication        4.0 %" in text
    assert "communication  none" in text


def test_a_gap_knows_where_the_host_was() -> None:
    events = [
        event("user_annotation", "ProfilerStep#0", 0, 1000),
        event("user_annotation", "data", 300, 400),
        event("kernel", CONVOLUTION, 100, 250, 7, correlation=1),
        event("kernel", CONVOLUTION, 800, 200, 7, correlation=2),
    ]
    found = summarise(parse_events(events)).gaps
    assert found is not None
    assert (found.count, found.longest_ms, found.longest_in) == (1, 0.45, "data")


@pytest.mark.parametrize("name", ["trace.json", "trace.json.gz"])
def test_a_file_is_summarised_from_the_command_line(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = json.dumps({"traceEvents": hand_made()}).encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    monkeypatch.setattr("sys.argv", ["profiling", str(tmp_path / name)])
    assert main() == 0
    assert "2 steps of 0.5 ms on a GPU" in capsys.readouterr().out


@pytest.mark.parametrize("data", [b"", b"{}", b"\x1f\x8bnot gzip", b'{"traceEvents": []}'])
def test_no_trace_is_said(
    tmp_path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "trace").write_bytes(data)
    monkeypatch.setattr("sys.argv", ["profiling", str(tmp_path / "trace")])
    assert main() == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_real_trace_on_the_cpu(tmp_path: Path) -> None:
    convolution = torch.nn.Conv2d(8, 8, 3)
    x = torch.randn(4, 8, 64, 64)
    with profile(activities=[ProfilerActivity.CPU]) as kineto:
        for step in range(3):
            with record_function(f"ProfilerStep#{step}"):
                with record_function("decoder"):
                    y = convolution(x)
                with record_function("backward"):
                    y.square().mean().backward()
    kineto.export_chrome_trace(str(tmp_path / "trace.json"))
    summary = summarise(read_trace(tmp_path / "trace.json"))
    assert (summary.device, summary.steps, summary.gaps, summary.communication_ms) == ("cpu", 3, None, 0)
    assert sum(summary.shares.values()) + summary.idle == pytest.approx(1)
    assert summary.shares["convolution"] > 0
    assert {"decoder", "backward"} == set(summary.rooms)
    assert any(item.name == "aten::convolution_backward" and item.calls == 3 for item in summary.longest)


KERNELS = {
    CONVOLUTION: "convolution",
    "void cutlass__5x_cudnn::Kernel<cutlass_tensorop_bf16_s16816wgrad_optimized_bf16>": "convolution",
    "void cudnn::cnn::wgrad2d_c1_k1_nhwc_kernel<float, 3>": "convolution",
    "void cudnn::winograd_nonfused::winogradForwardData4x4<float>": "convolution",
    "void cudnn::engines_precompiled::nchwToNhwcKernel<float, float, float, false, true>": "layout",
    "void at::native::elementwise_kernel<128, 4, at::native::direct_copy_kernel_cuda()>": "layout",
    "void at::native::(anonymous namespace)::CatArrayBatchedCopy<float, unsigned int, 4, 64, 64>": "layout",
    "triton_poi_fused__to_copy_clone_2": "layout",
    "triton_poi_fused_convolution_0": "layout",
    "triton_poi_fused_convolution_silu_0": "pointwise",
    "triton_red_fused_native_group_norm_silu_4": "norm",
    "triton_red_fused_var_mean_1": "norm",
    "triton_tem_fused_addmm_1": "linear",
    "forward_whole": "norm",
    "backward_looped": "norm",
    "philox_words": "pointwise",
    "nvjet_hsh_128x256_64x4_1x2_h_bz_coopA_NNT": "linear",
    "ampere_bf16_s16816gemm_bf16_128x64_ldg8_f2f_stages_64x4_nn": "linear",
    "cutlass_80_wmma_tensorop_bf16_s161616gemm_bf16_32x32_128x1_nn_align8": "linear",
    "void pytorch_flash::flash_fwd_kernel<pytorch_flash::Flash_fwd_kernel_traits<256, 64, 64, 4>>": "attention",
    "cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7_64x128x128": "attention",
    "fmha_cutlassF_bf16_aligned_64x64_rf_sm80": "attention",
    "void at::native::(anonymous namespace)::multi_tensor_apply_kernel<FusedAdamMathFunctor<float, 4>>": "optimizer",
    REDUCTION: "communication",
    "Memcpy DtoD (Device -> Device)": "copy",
    "Memset (Device)": "copy",
    "void dali::kernels::resampling::BatchedSeparableResampleKernel<3, float, unsigned char>": "data",
    "void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>>": "pointwise",
    "void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float, at::native::NormOps>>": "pointwise",
    "nobody_knows": "other",
}


@pytest.mark.parametrize(("name", "kind"), KERNELS.items())
def test_kinds_of_kernels(name: str, kind: str) -> None:
    assert kernel_kind(name) == kind
    assert kind in KINDS


def test_the_optimizer_also_uses_common_kernels() -> None:
    name = "void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float, at::native::NormOps>>"
    assert kernel_kind(name, "optimizer") == "optimizer"
    assert kernel_kind(REDUCTION, "optimizer") == "communication"


OPERATIONS = {
    "aten::mkldnn_convolution": "convolution",
    "aten::convolution_backward": "convolution",
    "soda_kernels::group_norm_modulate": "norm",
    "aten::addmm": "linear",
    "aten::scaled_dot_product_attention": "attention",
    "aten::copy_": "layout",
    "aten::_fused_adamw_": "optimizer",
    "c10d::allreduce_": "communication",
    "RegisterPostBackwardFunctionBackward": "communication",
    "aten::mul": "pointwise",
    "autograd::engine::evaluate_function: MulBackward0": "other",
}


@pytest.mark.parametrize(("name", "kind"), OPERATIONS.items())
def test_kinds_of_operations(name: str, kind: str) -> None:
    assert operation_kind(name) == kind


def test_time_is_counted_once() -> None:
    assert union([(5, 6), (0, 2), (1, 3), (3, 4)]) == [(0, 4), (5, 6)]
    assert length([(0, 4), (5, 6)]) == 5
    assert overlap([(0, 4), (8, 9)], [(2, 3), (3.5, 10)]) == 2.5
    assert gaps([(0, 4), (5, 6), (9, 10)]) == [(4, 5), (6, 9)]
    assert attribute([(0, 10, "linear"), (5, 10, "norm")]) == {"linear": 7.5, "norm": 2.5}
    assert attribute([(0, 10, "copy"), (5, 15, "norm")]) == {"copy": 5, "norm": 10}
    assert attribute([(0, 10, "linear"), (0, 10, "linear")]) == {"linear": 10}


def test_nested_spans_and_parts() -> None:
    times = {"a": (0, 10), "b": (1, 4), "c": (2, 1), "d": (7, 2)}
    events = [event("cpu_op", name, *when) for name, when in times.items()]
    spans = parse_events(events)
    assert self_times(spans) == [10 - 4 - 2, 3, 1, 2]
    rooms = Rooms(spans)
    assert [rooms.at(time) for time in (-1, 0.5, 1.5, 2.5, 3.5, 6, 8, 9.5, 11)] == ["", *"abcbada", ""]
