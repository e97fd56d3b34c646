import pytest
import torch

from lvc_zoo.blocks.adaptor import QualityAdaptor


def test_adaptor_after_intra_reads_picture_alone():
    torch.manual_seed(0)
    adaptor, picture = QualityAdaptor(4), torch.rand(2, 3, 8, 6)
    torch.testing.assert_close(adaptor(picture, None, 1), adaptor.intra(picture))


@pytest.mark.parametrize(("position", "used"), [(2, 0), (3, 2), (4, 0), (5, 1), (6, 0), (7, 2), (129, 1)])
def test_adaptor_position_chooses_quality_class(position, used):
    """Only the chosen adaptor gets a gradient; the classes follow the published table (0, 1, 0, 2)."""
    adaptor = QualityAdaptor(4, 7)
    adaptor(torch.rand(1, 3, 8, 6), torch.rand(1, 7, 8, 6), position).sum().backward()
    assert [part.weight.grad is not None for part in adaptor.inter] == [i == used for i in range(3)]
    assert adaptor.intra.weight.grad is None


def test_adaptor_parameter_counts_are_published_ones():
    adaptor = QualityAdaptor(48)
    assert sum(p.numel() for p in adaptor.intra.parameters()) == 1_344
    assert sum(p.numel() for p in adaptor.inter.parameters()) == 7_056
