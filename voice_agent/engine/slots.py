"""The slot pool: all that a stream keeps on the device between two steps.

A stream owns one index from its first chunk to `reset`; a step names its slots by index and
works in place.

    k, v     [layer, slot, ring, head, d_head]   keys and values, frame p at p % ring
    conv     [layer, slot, d_model, kernel - 1]  inputs of the causal depthwise convolution
    mel      [slot, 1, n_mels]                   last input frame of each subsampling stage:
    sub1     [slot, channels, 1, n_mels / 2]         what a stride-2, kernel-3 causal convolution
    sub2     [slot, channels, 1, n_mels / 4]         needs of the chunk before
    lstm_h   [slot, pred_layer, pred_hidden]     prediction network after the last token
    lstm_c   [slot, pred_layer, pred_hidden]
    pred     [slot, joint_hidden]                its output, projected into the joint's space

K and V are kept, where NeMo keeps the attention's inputs (`cache_last_channel`) and projects all
of them again at each step; the projection is frame by frame, so the numbers are the same.

Engine thread only.
"""

from __future__ import annotations

import torch

from voice_agent.engine.config import ModelConfig


class SlotPool:
    """Device memory of `slots` streams."""

    def __init__(
        self,
        config: ModelConfig,
        slots: int,
        *,
        freq: tuple[int, int],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        """Allocate.

        Args:
            config: shapes.
            slots: how many streams fit.
            freq: frequency bins after the first and the second subsampling stage.
            device: where.
            dtype: of everything but the decoder's state, which stays float32.
        """
        e, d = config.encoder, config.decoder
        self.slots = slots
        # A chunk is written before its attention is read, so past and chunk are there together.
        self.ring = max(left + right + 1 for left, right in e.att_context_size)
        head = e.d_model // e.n_heads

        def zeros(*shape: int, dtype: torch.dtype = dtype) -> torch.Tensor:
            return torch.zeros(shape, device=device, dtype=dtype)

        self.k = zeros(e.n_layers, slots, self.ring, e.n_heads, head)
        self.v = zeros(e.n_layers, slots, self.ring, e.n_heads, head)
        self.conv = zeros(e.n_layers, slots, e.d_model, e.conv_kernel_size - 1)
        self.mel = zeros(slots, 1, config.preprocessor.features)
        self.sub1 = zeros(slots, e.subsampling_conv_channels, 1, freq[0])
        self.sub2 = zeros(slots, e.subsampling_conv_channels, 1, freq[1])
        layers, hidden = d.pred_rnn_layers, d.pred_hidden
        self.lstm_h = zeros(slots, layers, hidden, dtype=torch.float32)
        self.lstm_c = zeros(slots, layers, hidden, dtype=torch.float32)
        self.pred = zeros(slots, d.joint_hidden, dtype=torch.float32)

    def reset(self, slot: int, start: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> None:
        """Forget the segment in `slot`.

        K and V need no clearing: a frame is visible only if this segment has written it.

        Args:
            slot: index.
            start: (lstm_h, lstm_c, pred) of the decoder before the first token.
        """
        self.conv[:, slot].zero_()
        for tensor in (self.mel, self.sub1, self.sub2):
            tensor[slot].zero_()
        self.lstm_h[slot], self.lstm_c[slot], self.pred[slot] = start

    def nbytes(self) -> int:
        """Bytes of device memory held."""
        return sum(t.nbytes for t in vars(self).values() if isinstance(t, torch.Tensor))
