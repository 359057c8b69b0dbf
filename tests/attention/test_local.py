import pytest
import torch
from compact_parallel.runtime.attention.local import attention_with_lse, merge
from sequence_parts import relative_error


def exact(q, k, v, scale, mask=None):
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    scores = q.double() @ k.double().transpose(-1, -2) * scale
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1) @ v.double(), scores.logsumexp(-1)


def some(kv_heads=4, dtype=torch.float32):
    torch.manual_seed(0)
    q = torch.randn(2, 4, 5, 16, dtype=dtype)
    return q, torch.randn(2, kv_heads, 9, 16, dtype=dtype), torch.randn(2, kv_heads, 9, 16, dtype=dtype)


@pytest.mark.parametrize("dtype,limit", [(torch.float32, 1e-6), (torch.bfloat16, 1e-2), (torch.float16, 1e-3)])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("masked", ["", "bool", "additive"])
def test_output_and_log_sum_exp(dtype, limit, kv_heads, masked):
    q, k, v = some(kv_heads, dtype)
    mask = {"": None, "bool": torch.rand(2, 1, 5, 9) > 0.4, "additive": torch.randn(1, 4, 1, 9)}[masked]
    out, lse = attention_with_lse(q, k, v, 0.3, mask)
    expected, expected_lse = exact(q, k, v, 0.3, mask)
    assert relative_error(out, expected) < limit
    assert relative_error(lse, expected_lse) < 1e-5
    assert relative_error(attention_with_lse(q, k, v, 0.4, mask)[0], expected) > limit


@pytest.mark.parametrize("hidden_half", [False, True])
def test_two_halves_merge_to_the_whole(hidden_half):
    q, k, v = some()
    mask = torch.ones(1, 1, 1, 9, dtype=torch.bool)
    mask[..., :4] = not hidden_half
    a = attention_with_lse(q, k[:, :, :4], v[:, :, :4], 0.25, mask[..., :4])
    b = attention_with_lse(q, k[:, :, 4:], v[:, :, 4:], 0.25, mask[..., 4:])
    expected, expected_lse = exact(q, k, v, 0.25, mask)
    out, lse = merge(*a, *b)
    assert relative_error(out, expected) < 1e-6
    assert relative_error(lse, expected_lse) < 1e-6
    assert relative_error((a[0] + b[0]) / 2, expected) > 1e-2


def test_no_keys_change_nothing():
    q, k, v = some()
    whole = attention_with_lse(q, k, v, 0.25)
    none = attention_with_lse(q, k[:, :, :0], v[:, :, :0], 0.25)
    assert torch.equal(merge(*whole, *none)[0], whole[0])
    assert attention_with_lse(q[:, :, :0], k, v, 0.25)[0].shape == (2, 4, 0, 16)
