from __future__ import annotations

import torch

from models.base import seeded
from models.masked import masked_perceptron


def test_an_output_sees_inputs_of_lower_degrees_alone() -> None:
    degrees = [-1, 0, 1, 2]
    network = masked_perceptron(degrees, degrees[1:], [16, 16])
    for parameter in network.parameters():
        torch.nn.init.uniform_(parameter, 0.1, 1.0, generator=seeded(1))
    seen = torch.func.jacrev(network)(torch.zeros(4)) != 0
    assert torch.equal(seen, torch.tensor(degrees) < torch.tensor(degrees[1:]).unsqueeze(1))


def test_making_one_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    masked_perceptron(range(3), range(3), [8])
    assert torch.equal(torch.get_rng_state(), before)
