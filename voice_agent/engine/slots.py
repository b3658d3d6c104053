"""The slot pool: all that a stream keeps on the device between two steps.

A stream owns one index from its first chunk to `reset`; a step names its slots by index and
works in place.

    k, v     [layer, slot, head, ring, d_head]   keys and values, frame p at p % ring: kv's halves
    conv     [layer, slot, kernel - 1, d_model]  inputs of the depthwise convolution, likewise
    mel      [slot, n_mels]                      last input frame of each subsampling stage:
    sub1     [slot, n_mels / 2, channels]            what a stride-2, kernel-3 causal convolution
    sub2     [slot, n_mels / 4, channels]            needs of the chunk before
    lstm_h   [slot, pred_layer, pred_hidden]     prediction network after the last token
    lstm_c   [slot, pred_layer, pred_hidden]
    pred     [slot, joint_hidden]                its output, projected into the joint's space

K and V are kept, where NeMo keeps the attention's inputs (`cache_last_channel`) and projects all
of them again at each step; the projection is frame by frame, so the numbers are the same.

Nothing is cleared between segments: what lies before a segment's first frame is told by its
position, and a step over position 0 starts the decoder's state anew.

With 8-bit K and V each (slot, head, frame) has a float32 scale: k_scale, v_scale, [layer, slot,
head, ring].

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
        quantized: bool = False,
    ) -> None:
        """Allocate.

        Args:
            config: shapes.
            slots: how many streams fit.
            freq: frequency bins after the first and the second subsampling stage.
            device: where.
            dtype: of everything but the decoder's state, which stays float32.
            quantized: keep K and V in int8.
        """
        e, d = config.encoder, config.decoder
        self.slots = slots
        # A chunk is written before its attention is read, so past and chunk are there together.
        self.ring = max(left + right + 1 for left, right in e.att_context_size)
        head = e.d_model // e.n_heads

        def zeros(*shape: int, dtype: torch.dtype = dtype) -> torch.Tensor:
            return torch.zeros(shape, device=device, dtype=dtype)

        kept = torch.int8 if quantized else dtype
        # One tensor, so that `lean` writes both in one operation.
        self.kv = zeros(2, e.n_layers, slots, e.n_heads, self.ring, head, dtype=kept)
        self.k, self.v = self.kv.unbind(0)
        scaled = (e.n_layers, slots if quantized else 0, e.n_heads, self.ring)
        self.k_scale = zeros(*scaled, dtype=torch.float32)
        self.v_scale = zeros(*scaled, dtype=torch.float32)
        self.conv = zeros(e.n_layers, slots, e.conv_kernel_size - 1, e.d_model)
        self.mel = zeros(slots, config.preprocessor.features)
        self.sub1 = zeros(slots, freq[0], e.subsampling_conv_channels)
        self.sub2 = zeros(slots, freq[1], e.subsampling_conv_channels)
        layers, hidden = d.pred_rnn_layers, d.pred_hidden
        self.lstm_h = zeros(slots, layers, hidden, dtype=torch.float32)
        self.lstm_c = zeros(slots, layers, hidden, dtype=torch.float32)
        self.pred = zeros(slots, d.joint_hidden, dtype=torch.float32)

    @property
    def decoder(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """lstm_h, lstm_c and pred."""
        return self.lstm_h, self.lstm_c, self.pred

    def nbytes(self) -> int:
        """Bytes of device memory held."""
        return sum(
            tensor.nbytes
            for name, tensor in vars(self).items()
            if isinstance(tensor, torch.Tensor) and name not in ("k", "v")
        )
