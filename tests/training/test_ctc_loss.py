"""Our CTC beside PyTorch's, in values and gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from training.ctc_loss import ctc_loss

BLANK = 6


@pytest.mark.parametrize("seed", range(4))
def test_it_is_pytorchs_in_values_and_gradients(seed):
    torch.manual_seed(seed)
    frames = torch.tensor([12, 9, 5, 12, 3, 4, 1])
    tokens = torch.tensor([5, 3, 2, 0, 3, 4, 1])
    targets = torch.randint(0, BLANK, (7, 6))
    targets[1, :3] = 2  # the same again and again: blanks must lie between
    targets[4, :3] = torch.tensor([1, 2, 3])  # just fits
    targets[5, :4] = 1  # cannot fit
    ours = torch.randn(7, 12, BLANK + 1, dtype=torch.float32, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    weight = torch.rand(7)
    got = ctc_loss(ours.log_softmax(-1), targets, frames, tokens, BLANK)
    (got * weight).sum().backward()
    wanted = F.ctc_loss(
        theirs.log_softmax(-1).transpose(0, 1),
        targets,
        frames,
        tokens,
        BLANK,
        reduction="none",
        zero_infinity=True,
    )
    (wanted * weight).sum().backward()
    torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=1e-4)
    assert got[5] == 0 and not ours.grad[5].any()
