"""A check that several test files share."""

from torch import Tensor, nn


def assert_gradients_reach_all(module: nn.Module, output: Tensor) -> None:
    """The gradient of a generic function of `output` is finite and non-zero for every parameter of `module`."""
    (output * output.detach().cos()).sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, f"no gradient reaches {name}"
        assert bool(parameter.grad.isfinite().all()), f"gradient of {name} is not finite"
        assert bool(parameter.grad.abs().max() > 0), f"gradient of {name} is zero"
