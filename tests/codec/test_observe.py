import pytest
import torch
from torch import nn

from lvc_zoo.codec.observe import observe


@pytest.fixture
def net():
    parts = {"gate": nn.Sequential(nn.ReLU(), nn.Sigmoid()), "flow": nn.Identity(), "unused": nn.ReLU()}
    net = nn.ModuleDict(parts)
    net.forward = lambda x: parts["flow"](parts["gate"](x))
    return net


def test_observe_collects_outputs_of_matching_modules_call_by_call(net):
    inputs = torch.tensor([-1.0, 2.0])
    with observe(net, "gate.*") as seen:
        net(inputs)
        net(-inputs)
    assert list(seen) == ["gate.0", "gate.1"]
    assert [out.tolist() for out in seen["gate.0"]] == [[0.0, 2.0], [1.0, 0.0]]
    assert torch.equal(seen["gate.1"][0], torch.sigmoid(torch.tensor([0.0, 2.0])))


def test_observe_with_several_patterns_names_all(net):
    with observe(net, "flow", "gate", "un*") as seen:
        net(torch.zeros(2))
    assert {name: len(outputs) for name, outputs in seen.items()} == {"flow": 1, "gate": 1, "unused": 0}


def test_observe_with_overlapping_patterns_collects_once(net):
    with observe(net, "flow", "fl*") as seen:
        net(torch.zeros(2))
    assert len(seen["flow"]) == 1


def test_observe_leaves_no_hook_even_after_an_error(net):
    with pytest.raises(TypeError), observe(net, "flow"):
        net(None)
    assert not any(module._forward_hooks for module in net.modules())


def test_observe_with_pattern_that_matches_nothing_raises_and_leaves_no_hook(net):
    message = "no submodule matches 'gates'; the top-level ones are: gate, flow, unused"
    with pytest.raises(ValueError, match=message), observe(net, "flow", "gates"):
        pass
    assert not any(module._forward_hooks for module in net.modules())
