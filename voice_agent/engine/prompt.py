"""The language prompt of Nemotron 3.5: what it was told to hear is mixed into every frame.

    frame' = W2 · relu(W1 · [frame, onehot(prompt)] + b1) + b2

nemo PromptStreamingMixin (`prompt_kernel`); transformers Nemotron3_5AsrPromptProjector.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F

from voice_agent.engine.config import PromptConfig


class Prompt:
    """`prompt_kernel`. The one-hot picks a column of W1, so it is a look-up."""

    def __init__(self, weights: Mapping[str, torch.Tensor], config: PromptConfig) -> None:
        """Take `prompt_kernel.*` of a state dict, on the device."""
        first = weights["prompt_kernel.0.weight"]
        width = first.shape[1] - config.num_prompts
        self.frame = first[:, :width].contiguous()
        self.of_prompt = first[:, width:].T.contiguous() + weights["prompt_kernel.0.bias"]
        self.out = weights["prompt_kernel.2.weight"], weights["prompt_kernel.2.bias"]

    def __call__(self, encoded: torch.Tensor, prompts: torch.Tensor) -> torch.Tensor:
        """Mix prompts in.

        Args:
            encoded: shape (n, frames, d_model).
            prompts: int64, shape (n,).

        Returns:
            shape (n, frames, d_model).
        """
        hidden = F.linear(encoded, self.frame) + self.of_prompt[prompts][:, None]
        return F.linear(torch.relu(hidden), *self.out)
