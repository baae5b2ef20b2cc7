"""All contenders compute one gradient."""

import pytest
import torch

from tests.benchmarks.torch_compile import candidates


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, within torch.compile
def test_every_way_finds_the_same_gradient():
    gradients = {name: way().clone() for name, way in candidates(16).items()}
    ours = gradients.pop("marl")
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, ours, rtol=1e-3, atol=1e-5, msg=name)
