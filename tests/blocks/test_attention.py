import pytest
import torch

from lvc_zoo.blocks.attention import LinearAttention


def direct(query, key, value, head_dim):
    """With the whole similarity matrix: softmax over a head's channels times softmax over positions (eq. 3)."""
    batch, channels, height, width = query.shape
    out, similarities = [], []
    for start in range(0, channels, head_dim):
        q, k, v = (x[:, start : start + head_dim].double().flatten(2) for x in (query, key, value))
        similarity = torch.einsum("bdm,bdn->bmn", q.softmax(dim=1), k.softmax(dim=2))
        out.append(torch.einsum("bmn,bvn->bvm", similarity, v))
        similarities.append(similarity)
    return torch.cat(out, dim=1).reshape(batch, channels, height, width), torch.stack(similarities, dim=1)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (12, 20)], ids=str)
@pytest.mark.parametrize("head_dim", [4, 8, 16])
def test_attention_equals_quadratic_computation(size, head_dim):
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 16, *size).mul(3)
    attention = LinearAttention(head_dim)
    summary = attention.summarise(key, value)
    assert summary.shape == (2, 16 // head_dim, head_dim, head_dim)
    out = attention(query, summary)
    torch.testing.assert_close(out.double(), direct(query, key, value, head_dim)[0], rtol=1e-5, atol=1e-5)


def test_attention_reads_reference_of_another_size():
    torch.manual_seed(0)
    attention = LinearAttention(8)
    summary = attention.summarise(torch.randn(1, 16, 4, 4), torch.randn(1, 16, 4, 4))
    assert attention(torch.randn(1, 16, 3, 7), summary).shape == (1, 16, 3, 7)


def test_attention_implied_similarity_has_rows_that_sum_to_one():
    """Values that are unit vectors of the positions read the similarity matrix out of the block itself."""
    torch.manual_seed(0)
    query, key = torch.randn(2, 1, 8, 2, 2)
    value = torch.eye(4).reshape(1, 4, 2, 2).repeat(1, 2, 1, 1)
    attention = LinearAttention(head_dim=4)
    read = attention(query, attention.summarise(key, value)).reshape(2, 4, 4).transpose(1, 2)
    torch.testing.assert_close(read.sum(dim=-1), torch.ones(2, 4))
    torch.testing.assert_close(read.double(), direct(query, key, value, 4)[1][0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [1e3, 1e30])
def test_attention_with_large_logits_stays_finite(size):
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 1, 8, 4, 4)
    query, key = (query * size).requires_grad_(), (key * size).requires_grad_()
    attention = LinearAttention(8)
    out = attention(query, attention.summarise(key, value))
    out.sum().backward()
    assert bool(out.isfinite().all() and query.grad.isfinite().all() and key.grad.isfinite().all())


def test_attention_under_autocast_computes_in_float32():
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 1, 8, 16, 16)
    attention = LinearAttention(8)
    plain = attention(query, attention.summarise(key, value))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        summary = attention.summarise(key, value)
        assert summary.dtype == torch.float32
        assert torch.equal(attention(query, summary), plain)


def test_attention_with_indivisible_channels_raises():
    with pytest.raises(ValueError, match="12 channels does not split into heads of 8"):
        LinearAttention(8).summarise(torch.zeros(1, 12, 2, 2), torch.zeros(1, 12, 2, 2))
