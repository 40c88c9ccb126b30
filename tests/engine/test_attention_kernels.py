"""Every kernel of attention gives the output and the log-sum-exp of the formula.

Kernels of GPUs do not run here: in their places stand the formula and the rules of their arguments,
behind torch's own signatures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from flowtune_cli.engine import attention_kernels as kernels
from flowtune_cli.engine.attention import attend_with_lse, merge, padding_mask
from flowtune_cli.engine.attention_kernels import choose, choose_for_gpu

Case = tuple[Tensor, Tensor, Tensor, float, Tensor | None, bool]


def formula(
    queries: Tensor, keys: Tensor, values: Tensor, scale: float, mask: Tensor | None, causal: bool
) -> tuple[Tensor, Tensor]:
    """All scores at once, in float64."""
    group = queries.shape[1] // keys.shape[1]
    keys, values = (x.repeat_interleave(group, dim=1).double() for x in (keys, values))
    scores = queries.double() @ keys.transpose(-1, -2) * scale
    if mask is not None:
        scores = scores + mask.double()
    if causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(later, -torch.inf)
    output = scores.softmax(-1) @ values
    return output.to(queries.dtype), scores.logsumexp(-1).float()


@st.composite
def cases(draw: st.DrawFn, *, masks: bool = True, dtype: torch.dtype = torch.float32) -> Case:
    rows, groups, group = (draw(st.integers(1, most)) for most in (3, 2, 3))
    count, columns = draw(st.integers(1, 70)), draw(st.integers(1, 70))
    size = draw(st.sampled_from([4, 8, 12, 16]))
    causal = draw(st.booleans())
    if causal:
        columns = count
    noise = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    queries = 3 * torch.randn(rows, groups * group, count, size, generator=noise)
    keys, values = torch.randn(2, rows, groups, columns, size, generator=noise)
    mask = None
    if masks and not causal and draw(st.booleans()):
        lengths = [draw(st.integers(1, columns)) for _ in range(rows)]
        # As the kernels of a GPU get it, but on this device.
        mask = padding_mask(torch.tensor(lengths), columns, dtype, "meta")
        mask = torch.empty_strided(mask.shape, mask.stride(), dtype=dtype).zero_()
        unused = torch.arange(columns) >= torch.tensor(lengths)[:, None, None, None]
        mask.masked_fill_(unused, -torch.inf)
    scale = draw(st.sampled_from([0.1, 0.5]))
    return queries.to(dtype), keys.to(dtype), values.to(dtype), scale, mask, causal


@given(case=cases(), most=st.sampled_from([1, 7, 64, 500, kernels.MOST_SCORES]))
def test_blocks_of_any_size_are_the_formula(case: Case, most: int) -> None:
    output, lse = kernels.blocks(*case, most=most)
    expected, expected_lse = formula(*case)
    assert (output.dtype, lse.dtype) == (torch.float32, torch.float32)
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(lse, expected_lse, rtol=1e-5, atol=1e-5)


@given(case=cases())
def test_the_kernel_of_processors_is_the_formula(case: Case) -> None:
    output, lse = kernels.cpu(*case)
    expected, expected_lse = formula(*case)
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(lse, expected_lse, rtol=1e-5, atol=1e-5)


def test_blocks_never_hold_more_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    held = []
    logsumexp = Tensor.logsumexp

    def watched(self: Tensor, *args: Any, **more: Any) -> Tensor:
        held.append(self.numel())
        return logsumexp(self, *args, **more)

    monkeypatch.setattr(Tensor, "logsumexp", watched)
    queries, keys = torch.randn(5, 6, 90, 8), torch.randn(5, 3, 110, 8)
    for most in (6, 100, 1000, 10_000, 10**6):
        held.clear()
        kernels.blocks(queries, keys, keys, 0.3, None, False, most=most)
        assert most / 8 < max(held) <= most or max(held) == 5 * 6 * 90 * 110


def test_blocks_compute_halves_in_float32() -> None:
    noise = torch.Generator().manual_seed(0)
    queries, keys, values = torch.randn(3, 1, 2, 50, 16, generator=noise).bfloat16().unbind(0)
    output, lse = kernels.blocks(queries, keys, values, 1.0, None, True, most=300)
    expected, expected_lse = formula(queries, keys, values, 1.0, None, True)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(lse, expected_lse, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(output, expected, rtol=2**-8, atol=1e-6)


@given(case=cases(), cut=st.floats(0, 1))
def test_parts_of_the_columns_merge_into_all(case: Case, cut: float) -> None:
    queries, keys, values, scale, _, _ = case
    columns = keys.shape[2]
    if columns == 1:
        return
    place = 1 + int(cut * (columns - 2))
    parts = [
        attend_with_lse(queries, keys[:, :, part], values[:, :, part], scale)
        for part in (slice(place), slice(place, None))
    ]
    expected, _ = formula(queries, keys, values, scale, None, False)
    torch.testing.assert_close(merge(parts[0], parts[1]), expected, rtol=1e-5, atol=1e-5)


# Which kernel

HALVES = (torch.float16, torch.bfloat16)


@pytest.mark.parametrize(
    ("capability", "dtype", "head_size", "masked", "kernel"),
    [
        ((9, 0), torch.bfloat16, 128, False, "flash"),
        ((8, 0), torch.float16, 100, False, "flash"),
        ((12, 0), torch.bfloat16, 256, False, "flash"),
        ((9, 0), torch.bfloat16, 257, False, "efficient"),
        ((9, 0), torch.bfloat16, 128, True, "efficient"),
        ((9, 0), torch.float32, 128, False, "efficient"),
        ((9, 0), torch.float32, 128, True, "efficient"),
        ((7, 5), torch.float16, 64, False, "efficient"),
        ((7, 5), torch.float32, 64, True, "efficient"),
        # Such GPUs emulate bfloat16.
        ((7, 5), torch.bfloat16, 64, False, "blocks"),
        ((9, 0), torch.float64, 64, False, "blocks"),
        ((3, 5), torch.float32, 64, False, "blocks"),
        # Not of NVIDIA.
        (None, torch.bfloat16, 128, False, "blocks"),
    ],
)
def test_the_kernel_of_a_gpu(
    capability: tuple[int, int] | None,
    dtype: torch.dtype,
    head_size: int,
    masked: bool,
    kernel: str,
) -> None:
    assert choose_for_gpu(capability, dtype, head_size=head_size, masked=masked) == kernel


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("masked", [True, False])
def test_the_kernel_of_a_device(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, masked: bool
) -> None:
    about = {"dtype": dtype, "head_size": 64, "masked": masked}
    assert choose(torch.device("cpu"), **about) == "cpu"
    assert choose(torch.device("mps"), **about) == "blocks"
    monkeypatch.setattr(kernels, "compute_capability", lambda index: [(9, 0), (7, 0)][index])
    assert choose(torch.device("cuda"), **about) == choose_for_gpu((9, 0), **about)
    assert choose(torch.device("cuda:1"), **about) == choose_for_gpu((7, 0), **about)


def test_another_torch_may_lack_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_has", lambda name: False)
    assert choose(torch.device("cpu"), torch.float32, head_size=64, masked=False) == "blocks"
    for dtype in (torch.float32, *HALVES):
        assert choose_for_gpu((9, 0), dtype, head_size=64, masked=False) == "blocks"


# What kernels of GPUs are given, and what is made of what they return


def aligned(*tensors: Tensor) -> None:
    for tensor in tensors:
        assert tensor.shape[-1] % 8 == 0
        assert tensor.stride(-1) == 1


def flash_rules(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    return_debug_mask: bool = False,
    *,
    scale: float | None = None,
) -> tuple[Any, ...]:
    assert query.dtype in HALVES
    assert query.dtype == key.dtype == value.dtype
    assert scale is not None
    assert (dropout_p, return_debug_mask) == (0.0, False)
    aligned(query, key, value)
    output, lse = formula(query, key, value, scale, None, is_causal)
    none = torch.empty(0)
    return output, lse, none, none, query.shape[2], key.shape[2], none, none, none


def efficient_rules(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_bias: Tensor | None,
    compute_log_sumexp: bool,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
) -> tuple[Tensor, ...]:
    assert scale is not None
    assert (compute_log_sumexp, dropout_p) == (True, 0.0)
    assert query.shape[1] == key.shape[1] == value.shape[1]
    aligned(query, key, value)
    if attn_bias is not None:
        assert attn_bias.dtype == query.dtype
        assert attn_bias.shape == (*query.shape[:3], key.shape[2])
        assert all(stride % 16 == 0 for stride in attn_bias.stride()[:3])
        assert attn_bias.stride(3) == 1
    output, lse = formula(query, key, value, scale, attn_bias, is_causal)
    lse = torch.nn.functional.pad(lse, (0, -lse.shape[-1] % 32), value=torch.inf)
    none = torch.empty((), dtype=torch.long)
    return output, lse, none, none


@pytest.fixture(scope="module")
def gpu_kernels() -> Iterator[None]:
    library = torch.library.Library("aten", "IMPL")
    rules: dict[str, Callable[..., Any]] = {"flash": flash_rules, "efficient": efficient_rules}
    for name, rule in rules.items():
        library.impl(f"_scaled_dot_product_{name}_attention", rule, "CPU")
    yield
    library._destroy()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.parametrize("kernel", ["flash", "efficient"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels_of_gpus_get_what_they_take(
    gpu_kernels: None, kernel: kernels.Kernel, dtype: torch.dtype, data: st.DataObject
) -> None:
    case = data.draw(cases(masks=kernel == "efficient", dtype=dtype))
    if kernel == "flash" and dtype == torch.float32:
        return
    output, lse = kernels.KERNELS[kernel](*case)
    expected, expected_lse = formula(*case)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(lse, expected_lse)


@pytest.mark.parametrize("kernel", ["flash", "efficient"])
@pytest.mark.parametrize("size", [64, 100])
def test_torch_itself_knows_the_shapes_of_kernels_of_gpus(
    kernel: kernels.Kernel, size: int
) -> None:
    queries = torch.empty(2, 8, 33, size, device="meta", dtype=torch.bfloat16)
    keys = torch.empty(2, 2, 40, size, device="meta", dtype=torch.bfloat16)
    output, lse = kernels.KERNELS[kernel](queries, keys, keys, 0.1, None, False)
    assert (output.shape, output.dtype) == (queries.shape, torch.bfloat16)
    assert (lse.shape, lse.dtype) == ((2, 8, 33), torch.float32)
