"""What the tasks' networks have in common."""

import torch

from tasks.engine.model import average_pool


def test_the_average_pools_gradient_keeps_channels_last() -> None:
    """The layers before it take half the time in that layout."""
    maps = torch.randn(2, 8, 5, 3).contiguous(memory_format=torch.channels_last)
    weights = torch.randn(2, 8)
    wanted = weights[:, :, None, None].expand(maps.shape) / 15
    inputs = maps.clone(memory_format=torch.channels_last).requires_grad_()
    pooled = average_pool(inputs.clone())
    torch.testing.assert_close(pooled, average_pool(maps))
    torch.testing.assert_close(pooled, maps.mean(dim=(2, 3)))
    hidden = inputs.clamp(-9, 9)
    gradients: list[torch.Tensor] = []
    hidden.register_hook(gradients.append)
    (average_pool(hidden) * weights).sum().backward()
    torch.testing.assert_close(gradients[0], wanted)
    assert gradients[0].stride()[2:] == (0, 0)  # a view of one value for each channel
    assert inputs.grad is not None
    assert inputs.grad.is_contiguous(memory_format=torch.channels_last)
