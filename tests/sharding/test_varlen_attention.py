"""Attention to many sequences, shared by ranks: together they compute each once, and all get the whole."""

import pytest
import torch
from compact_parallel.runtime.sharding.varlen_attention import share_sequences
from residuals import gauss

HEADS, DIM = 3, 4


def attend(*, q, k, v, cu_seqlens_q, cu_seqlens_k, computed=None):
    """Every sequence on its own."""
    out = []
    for q_first, q_last, k_first, k_last in zip(cu_seqlens_q, cu_seqlens_q[1:], cu_seqlens_k, cu_seqlens_k[1:]):
        one = [x.transpose(0, 1) for x in (q[q_first:q_last], k[k_first:k_last], v[k_first:k_last])]
        out.append(torch.nn.functional.scaled_dot_product_attention(*one).transpose(0, 1))
        if computed is not None:
            computed.append(q_last - q_first)
    return torch.cat(out)


@pytest.mark.parametrize("parts", [1, 2, 3, 5])
@pytest.mark.parametrize("lengths", [(4, 4, 4, 4, 4, 4), (1, 9, 2, 2, 7, 3), (20, 1), (5,)])
def test_shares_make_the_whole(parts, lengths):
    ends_q = [sum(lengths[:i]) for i in range(len(lengths) + 1)]
    ends_k = [2 * end for end in ends_q]
    tokens = {name: gauss(2 * HEADS * sum(lengths), DIM, seed).view(-1, HEADS, DIM) for seed, name in enumerate("qkv")}
    tokens["q"] = tokens["q"][: sum(lengths)]
    given = {**tokens, "cu_seqlens_q": ends_q, "cu_seqlens_k": ends_k}
    computed, shares = [[] for _ in range(parts)], []
    for part in range(parts):
        share_sequences(
            attend, parts, part, lambda x, layout: (shares.append(x), x.repeat(parts, 1, 1))[1],
            computed=computed[part], **given,
        )  # fmt: skip
    assert [length for each in computed for length in each] == list(lengths)
    assert all(sum(each) <= sum(lengths) / parts + max(lengths) for each in computed)
    for part in range(parts):
        whole = share_sequences(attend, parts, part, lambda x, layout: torch.cat(shares), **given)
        assert torch.equal(whole, attend(**given))
    if parts > 1 and len(lengths) > 1:
        others_lost = torch.cat([shares[0], *(torch.zeros_like(share) for share in shares[1:])])
        assert not torch.equal(
            share_sequences(attend, parts, 0, lambda x, layout: others_lost, **given), attend(**given)
        )
