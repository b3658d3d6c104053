"""NeMo's own streaming of one segment, step by step: the reference of the engine's tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch


@dataclass
class Reference:
    """What NeMo computed.

    Attributes:
        mel: (frames, n_mels)
        encoded: (encoder frames, d_model)
        tokens: ids
    """

    mel: torch.Tensor
    encoded: torch.Tensor
    tokens: list[int]


@torch.inference_mode()
def nemo_stream(model, audio: np.ndarray, right: int) -> Reference:
    """Stream a whole segment through `conformer_stream_step`, chunked by NeMo's own buffer."""
    from nemo.collections.asr.parts.utils.streaming_utils import CacheAwareStreamingAudioBuffer

    contexts = [c for c in model.encoder.att_context_size_all if c[1] == right]
    model.encoder.set_default_att_context_size(list(contexts[0]))
    buffer = CacheAwareStreamingAudioBuffer(model)
    mel, length = buffer.preprocess_audio(audio.astype(np.float32))
    mel = mel[:, :, : int(length)]  # NeMo's STFT gives one frame more and zeroes it
    buffer.append_processed_signal(mel)
    caches = model.encoder.get_initial_cache_state(batch_size=1)
    hypotheses = previous = None
    encoded = []
    handle = model.encoder.register_forward_hook(lambda *_: None)
    original = model.encoder.cache_aware_stream_step

    def spy(*args, **kwargs):
        out = original(*args, **kwargs)
        encoded.append(out[0][0, :, : int(out[1][0])].T.clone())
        return out

    model.encoder.cache_aware_stream_step = spy
    try:
        for step, (chunk, lengths) in enumerate(buffer):
            previous, _, *caches, hypotheses = model.conformer_stream_step(
                processed_signal=chunk,
                processed_signal_length=lengths,
                cache_last_channel=caches[0],
                cache_last_time=caches[1],
                cache_last_channel_len=caches[2],
                keep_all_outputs=buffer.is_buffer_empty(),
                previous_hypotheses=hypotheses,
                previous_pred_out=previous,
                drop_extra_pre_encoded=(
                    0 if step == 0 else model.encoder.streaming_cfg.drop_extra_pre_encoded
                ),
                return_transcription=True,
            )
    finally:
        del model.encoder.cache_aware_stream_step
        handle.remove()
    tokens = [] if not hypotheses else [int(t) for t in hypotheses[0].y_sequence]
    return Reference(mel[0].T, torch.cat(encoded), tokens)
