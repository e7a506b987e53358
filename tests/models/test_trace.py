"""The trace finds what each part of a layer adds, whatever way the layer adds it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.models.trace import LayerTrace, Tracer, token_rows

WIDTH, ROWS = 8, 5


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.softmax(x @ x.transpose(1, 2), -1) @ x)


class MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.relu(self.up(x)))


class Layer(nn.Module):
    def __init__(self, wiring: Callable[["Layer", Tensor], Tensor]) -> None:
        super().__init__()
        self.attn, self.mlp, self.norm = Attention(), MLP(), nn.LayerNorm(WIDTH)
        self.wiring = wiring

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (self.wiring(self, x),)


def sequential(layer: Layer, x: Tensor) -> Tensor:
    x = x + layer.attn(layer.norm(x))
    return x + layer.mlp(layer.norm(x))


def scaled(layer: Layer, x: Tensor) -> Tensor:
    x = x + layer.attn(x) * 0.25
    return x + layer.mlp(x) * 0.25


def parallel(layer: Layer, x: Tensor) -> Tensor:
    attention, mlp = layer.attn(x), layer.mlp(x)
    mlp += attention
    return mlp + x


def after_norm(layer: Layer, x: Tensor) -> Tensor:
    x = layer.norm(x + layer.attn(x))
    return layer.norm(x + layer.mlp(x))


def three_parts(layer: Layer, x: Tensor) -> Tensor:
    return sequential(layer, x) + torch.tanh(x)


def attending_to_the_stream(layer: Layer, x: Tensor) -> Tensor:
    return torch.softmax(x, -1) @ torch.eye(WIDTH) * layer.attn(x)


def trace(wiring: Callable[[Layer, Tensor], Tensor]) -> LayerTrace:
    torch.manual_seed(0)
    layer = Layer(wiring)
    network = nn.Sequential(layer)
    with torch.no_grad(), Tracer(network, [layer], ROWS) as tracer:
        network(torch.randn(1, ROWS, WIDTH))
    return tracer.traces[0]


@pytest.mark.parametrize("wiring", [sequential, scaled, parallel, three_parts])
def test_the_parts_add_up_to_the_update(wiring: Callable[[Layer, Tensor], Tensor]) -> None:
    result = trace(wiring)
    kinds = sorted(part.kind for part in result.parts)
    assert kinds == (["mixer", "mlp", "other"] if wiring is three_parts else ["mixer", "mlp"])
    assert result.plain
    total = sum(part.value for part in result.parts)
    torch.testing.assert_close(total, token_rows(result.after - result.before, ROWS))


def test_the_value_is_what_is_added_and_not_what_the_module_returns() -> None:
    plain, quarter = trace(sequential), trace(scaled)
    hidden = [part.hidden[0][1] for part in quarter.parts if part.kind == "mlp"]
    assert hidden[0].shape[-1] == 2 * WIDTH
    assert quarter.parts[0].value.norm() < plain.parts[0].value.norm()


def test_a_norm_of_the_sum_is_passed_and_shown() -> None:
    result = trace(after_norm)
    assert result.path == "norm"
    assert sorted(part.kind for part in result.parts) == ["mixer", "mlp"]


def test_a_layer_without_a_residual_path_has_no_parts() -> None:
    result = trace(attending_to_the_stream)
    assert (result.path, result.parts) == ("no residual path", [])


def test_tokens_are_found_on_every_axis_of_a_prompt_that_ran_alone() -> None:
    hidden = torch.randn(1, ROWS, WIDTH)
    rows = hidden[0]
    assert torch.equal(token_rows(hidden.transpose(0, 1), ROWS), rows)
    assert torch.equal(token_rows(torch.cat([hidden, hidden], 1), ROWS), rows)
    assert torch.equal(token_rows(torch.cat([hidden * 0, hidden], 1), ROWS, last=True), rows)
    assert token_rows(hidden.expand(4, 1, ROWS, WIDTH), ROWS).shape == (ROWS, 4 * WIDTH)
