"""The convolutional LSTM cell against PyTorch's LSTM cell, and its bounds."""

import torch
from torch import nn

from lvc_zoo.blocks.recurrent import ConvLSTMCell, LSTMState
from tests.gradients import assert_gradients_reach_all


def matching_cells(in_channels=3, channels=5, kernel_size=3):
    """A ConvLSTM and PyTorch's cell of the same weights.

    PyTorch's rows are input, forget, candidate, output, with weights for the input apart; ours are input, forget,
    output, candidate of `[hidden, input]`, here at the kernel's centre.
    """
    torch.manual_seed(0)
    ours, theirs = ConvLSTMCell(in_channels, channels, kernel_size), nn.LSTMCell(in_channels, channels)
    i, f, g, o = torch.cat([theirs.weight_hh, theirs.weight_ih], dim=1).detach().chunk(4)
    bias_i, bias_f, bias_g, bias_o = (theirs.bias_hh + theirs.bias_ih).detach().chunk(4)
    with torch.no_grad():
        ours.gates.weight[:, :, kernel_size // 2, kernel_size // 2] = torch.cat([i, f, o, g])
        ours.gates.bias.copy_(torch.cat([bias_i, bias_f, bias_o, bias_g]))
    return ours, theirs


def test_cell_on_single_pixel_equals_lstm_cell_over_steps():
    ours, theirs = matching_cells()
    state, expected = None, None
    for x in 3 * torch.randn(6, 4, 3):
        state = ours(x[:, :, None, None], state)
        expected = theirs(x, expected)
        torch.testing.assert_close(state.hidden[..., 0, 0], expected[0])
        torch.testing.assert_close(state.cell[..., 0, 0], expected[1])


def test_cell_gradient_through_time_equals_that_of_lstm_cell():
    ours, theirs = matching_cells()
    x = torch.randn(3, 4, 3)
    gradients = []
    for cell, inputs in ((ours, x[..., None, None].clone()), (theirs, x.clone())):
        inputs.requires_grad_()
        state = None
        for step in inputs:
            state = cell(step, state)
        state[0].square().sum().backward()
        gradients.append(inputs.grad.flatten(2))
    torch.testing.assert_close(gradients[0], gradients[1].reshape(3, 4, 3))


def test_cell_of_kernel_1_treats_each_pixel_as_lstm_cell():
    ours, theirs = matching_cells(kernel_size=1)
    x, hidden, cell = torch.randn(2, 3, 4, 6), torch.rand(2, 5, 4, 6), torch.randn(2, 5, 4, 6)
    state = ours(x, LSTMState(hidden, cell))
    pixels = [part.permute(0, 2, 3, 1).flatten(0, 2) for part in (x, hidden, cell)]
    for ours_out, theirs_out in zip(state, theirs(pixels[0], tuple(pixels[1:])), strict=True):
        torch.testing.assert_close(ours_out, theirs_out.view(2, 4, 6, 5).permute(0, 3, 1, 2))


def test_cell_sees_input_and_hidden_of_the_neighbouring_pixels():
    torch.manual_seed(0)
    cell = ConvLSTMCell(3, 5)
    x, state = torch.randn(1, 3, 9, 9), LSTMState(torch.rand(1, 5, 9, 9), torch.randn(1, 5, 9, 9))
    before = cell(x, state).cell
    for changed in (x, state.hidden):
        kept = changed[..., 4, 4].clone()
        changed[..., 4, 4] += 1
        difference = (cell(x, state).cell - before).abs().amax(dim=(0, 1)) > 0
        changed[..., 4, 4] = kept
        expected = torch.zeros(9, 9, dtype=torch.bool)
        expected[3:6, 3:6] = True
        assert torch.equal(difference, expected)


def test_cell_without_state_starts_from_zeros():
    torch.manual_seed(0)
    cell, x = ConvLSTMCell(3, 5), torch.randn(2, 3, 4, 6)
    zeros = torch.zeros(2, 5, 4, 6)
    for ours, expected in zip(cell(x), cell(x, LSTMState(zeros, zeros)), strict=True):
        assert torch.equal(ours, expected)


def test_cell_gradients_reach_every_parameter_and_the_first_input():
    torch.manual_seed(0)
    cell, x = ConvLSTMCell(3, 5), torch.randn(3, 2, 3, 4, 6, requires_grad=True)
    state = None
    for step in x:
        state = cell(step, state)
    assert_gradients_reach_all(cell, torch.cat(list(state)))
    assert all(bool(g.abs().max() > 0) for g in x.grad)
    # the hidden state's half of the weights learns from the second step on
    assert bool((cell.gates.weight.grad[:, :5] != 0).any())


def test_cell_grows_by_at_most_one_a_step_and_exactly_so_with_open_gates():
    torch.manual_seed(0)
    loud, open_gates = ConvLSTMCell(3, 5), ConvLSTMCell(3, 5)
    with torch.no_grad():
        loud.gates.weight *= 30
        open_gates.gates.weight.zero_()
        open_gates.gates.bias.fill_(40)
        states = [None, None]
        for step in range(1, 33):
            x = 5 * torch.randn(1, 3, 4, 6)
            states = [cell(x, state) for cell, state in zip((loud, open_gates), states, strict=True)]
            assert float(states[0].cell.abs().max()) <= step
            assert all(float(state.hidden.abs().max()) <= 1 for state in states)
            assert states[1].cell.unique().tolist() == [step]


def test_cell_parameter_count_is_counted_one():
    # reference sheet, CHOICE-5
    assert sum(p.numel() for p in ConvLSTMCell(48, 48).parameters()) == 166_080
