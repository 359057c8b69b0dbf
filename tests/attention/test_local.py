import pytest
import torch
from compact_parallel.runtime.attention import local
from compact_parallel.runtime.attention.local import attention_with_lse, merge
from device import DEVICE
from sequence_parts import relative_error
from simulated_card import SimulatedCard


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
@pytest.mark.parametrize("masked", ["", "bool", "additive", "of queries"])
def test_output_and_log_sum_exp(dtype, limit, kv_heads, masked):
    q, k, v = some(kv_heads, dtype)
    mask = {"": None, "bool": torch.rand(2, 1, 5, 9) > 0.4, "additive": torch.randn(1, 4, 1, 9),
            "of queries": torch.randn(2, 1, 5, 1)}[masked]  # fmt: skip
    out, lse = attention_with_lse(q, k, v, 0.3, mask)
    expected, expected_lse = exact(q, k, v, 0.3, mask)
    assert relative_error(out, expected) < limit
    assert relative_error(lse, expected_lse) < 1e-5
    assert relative_error(attention_with_lse(q, k, v, 0.4, mask)[0], expected) > limit


def a_mask(masked, dtype=torch.bool):
    """(2, 1, 5, 17); of the first query it hides all keys, of the second the first nine."""
    mask = torch.rand(2, 1, 5, 17) > 0.4
    mask[:, :, 0], mask[:, :, 1, :9] = False, False
    mask[:, :, 1:, 9:12] = True
    return mask if masked == "bool" else torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, -torch.inf)


@pytest.mark.parametrize("dtype,limit", [(torch.float32, 1e-6), (torch.bfloat16, 1e-2), (torch.float16, 2e-3)])
@pytest.mark.parametrize("masked", ["bool", "additive"])
@pytest.mark.parametrize("on_card", [False, pytest.param(True, marks=pytest.mark.skipif(DEVICE != "cpu", reason=""))])
def test_parts_of_a_mask_go_to_fused_kernels_and_give_no_nan(monkeypatch, dtype, limit, masked, on_card):
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 4, 5, 16), torch.randn(2, 4, 17, 16), torch.randn(2, 4, 17, 16)
    q, k, v = (x.to(dtype) for x in (q, k, v))
    mask = a_mask(masked, dtype)
    monkeypatch.setattr(local, "_plain_attention", None)
    parts = []
    with SimulatedCard() as card:
        put = card.put if on_card else lambda x: x
        for keys in (slice(0, 9), slice(9, 17)):  # rows of the mask's second part begin anywhere in memory
            given = [put(q), *(put(x[:, :, keys]) for x in (k, v)), 0.25, put(mask)[..., keys]]
            parts.append(card.take(attention_with_lse(*given)))
        assert card.waits.total() == 0
    (a, a_lse), (b, b_lse) = parts
    assert all(torch.isfinite(x).all() for x in (a, a_lse, b, b_lse))
    assert float(a_lse[:, :, :2].max()) < -1e4 and float(b_lse[:, :, 0].max()) < -1e4
    out, lse = merge(a.to(a_lse.dtype), a_lse, b, b_lse)
    expected, expected_lse = exact(q, k, v, 0.25, mask)
    assert relative_error(out[:, :, 1:], expected[:, :, 1:]) < limit
    assert float((lse - expected_lse)[:, :, 1:].abs().max()) < 1e-3
    assert relative_error(out[:, :, 1:], exact(q, k, v, 0.25)[0][:, :, 1:]) > limit


@pytest.mark.skipif(DEVICE != "cpu", reason="here is a real card")
@pytest.mark.parametrize(("dtype", "kernel"), [(torch.float16, "flash"), (torch.float32, "efficient")])
def test_without_a_mask_the_card_has_two_kernels(dtype, kernel):
    q, k, v = (torch.randn(1, 2, tokens, 16).to(dtype) for tokens in (5, 17, 17))
    with SimulatedCard() as card:
        out, lse = map(card.take, attention_with_lse(*map(card.put, (q, k, v)), 0.25))
        assert [name for name, _ in card.launches if "attention" in name] == [f"_scaled_dot_product_{kernel}_attention"]
    expected, expected_lse = exact(q, k, v, 0.25)
    assert relative_error(out, expected) < 1e-3 and relative_error(lse, expected_lse) < 1e-4


@pytest.mark.skipif(DEVICE != "cpu", reason="here is a real card")
def test_a_mask_whose_rows_are_not_aligned_is_refused_by_the_cards_kernel():
    with SimulatedCard() as card:
        q, k, mask = (card.put(torch.randn(shape)) for shape in ((1, 2, 5, 16), (1, 2, 17, 16), (5, 17)))
        params = torch.backends.cuda.SDPAParams(q, k, k, mask, 0.0, False, False)
        assert torch.backends.cuda.can_use_efficient_attention(params)
        with pytest.raises(RuntimeError, match="not correctly aligned"):
            torch.ops.aten._scaled_dot_product_efficient_attention(
                q, k, k, mask.expand(1, 2, 5, 17), True, 0.0, False, scale=0.25
            )


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
