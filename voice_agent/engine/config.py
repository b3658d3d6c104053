"""What a checkpoint says of itself, under its own key names.

Each dataclass mirrors a section of NeMo's `model_config.yaml`. A key that changes the mathematics
and that the engine does not know is refused by name, never skipped: a checkpoint that loads is a
checkpoint that is computed as it was trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from voice_agent.engine.errors import UnsupportedCheckpoint
from voice_agent.engine.recognizer import FinalPass

_MISSING = object()
_OTHER_BACKEND = "; load_recognizer(..., backend='nemo') runs it through NeMo"


class _Section:
    """Reads one mapping of the config key by key and refuses what is left over.

    With `strict` off (the NeMo backend computes whatever NeMo can), only what decides which
    samples a chunk needs is checked: the `vital` keys.
    """

    def __init__(
        self, model: str, name: str, values: Mapping[str, Any] | None, strict: bool
    ) -> None:
        if values is None:
            raise UnsupportedCheckpoint(model, f"its config has no section {name!r}")
        self.model = model
        self.name = name
        self.left = dict(values)
        self.strict = strict

    def take(self, key: str, default: Any = _MISSING) -> Any:
        value = self.left.pop(key, _MISSING)
        if value is _MISSING:
            if default is _MISSING:
                raise UnsupportedCheckpoint(self.model, f"its config lacks {self.name}.{key}")
            return default
        return value

    def require(
        self, key: str, allowed: tuple[Any, ...], default: Any, *, vital: bool = False
    ) -> Any:
        value = self.take(key, default)
        if value not in allowed and (vital or self.strict):
            raise UnsupportedCheckpoint(
                self.model,
                f"{self.name}.{key} = {value!r} is not served (known: "
                f"{', '.join(map(repr, allowed))}){'' if vital else _OTHER_BACKEND}",
            )
        return value

    def ignore(self, *keys: str) -> None:
        for key in keys:
            self.left.pop(key, None)

    def done(self) -> None:
        unknown = sorted(k for k, v in self.left.items() if v is not None)
        if unknown and self.strict:
            raise UnsupportedCheckpoint(
                self.model,
                f"unknown key {self.name}.{unknown[0]} = {self.left[unknown[0]]!r}{_OTHER_BACKEND}",
            )


@dataclass(frozen=True, slots=True)
class PreprocessorConfig:
    """`preprocessor:`, log-mel features (nemo AudioToMelSpectrogramPreprocessor)."""

    sample_rate: int
    window_size: float
    window_stride: float
    features: int
    n_fft: int
    window: str
    preemph: float
    lowfreq: float
    highfreq: float
    mag_power: float
    mel_norm: str | None
    log_zero_guard_type: str
    log_zero_guard_value: float

    @property
    def win_length(self) -> int:
        """Samples under the analysis window."""
        return int(self.window_size * self.sample_rate)

    @property
    def hop_length(self) -> int:
        """Samples from one mel frame to the next."""
        return int(self.window_stride * self.sample_rate)

    @classmethod
    def read(
        cls, model: str, values: Mapping[str, Any] | None, strict: bool = True
    ) -> PreprocessorConfig:
        """Read the section; see `ModelConfig.read`."""
        s = _Section(model, "preprocessor", values, strict)
        s.ignore("_target_", "dither", "pad_to", "pad_value", "rng", "nb_augmentation_prob")
        s.ignore("nb_max_freq", "use_torchaudio", "max_duration", "stft_conv", "stft_exact_pad")
        # Per-feature normalisation needs the whole utterance, so it cannot stream.
        s.require("normalize", ("NA", None, "", "None", False), None, vital=True)
        s.require("log", (True,), True)
        s.require("frame_splicing", (1,), 1, vital=True)
        s.require("exact_pad", (False,), False, vital=True)
        sample_rate = s.require("sample_rate", (16000,), 16000, vital=True)
        guard = s.take("log_zero_guard_value", 2**-24)
        if isinstance(guard, str):
            import torch

            info = torch.finfo(torch.float32)
            guard = {"tiny": info.tiny, "eps": info.eps}[guard]
        config = cls(
            sample_rate=sample_rate,
            window_size=s.take("window_size", 0.025),
            window_stride=s.take("window_stride", 0.01),
            features=s.take("features"),
            n_fft=s.take("n_fft", None) or 512,
            window=s.require("window", ("hann", "hamming"), "hann"),
            preemph=s.take("preemph", 0.97) or 0.0,
            lowfreq=s.take("lowfreq", 0),
            highfreq=s.take("highfreq", None) or sample_rate / 2,
            mag_power=s.take("mag_power", 2.0),
            mel_norm=s.take("mel_norm", "slaney"),
            log_zero_guard_type=s.require("log_zero_guard_type", ("add", "clamp"), "add"),
            log_zero_guard_value=float(guard),
        )
        s.done()
        return config


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """`encoder:`, cache-aware FastConformer (nemo ConformerEncoder)."""

    feat_in: int
    n_layers: int
    d_model: int
    n_heads: int
    ff_expansion_factor: int
    subsampling_factor: int
    subsampling_conv_channels: int
    att_context_size: tuple[tuple[int, int], ...]
    conv_kernel_size: int
    conv_norm_type: str
    xscaling: bool
    use_bias: bool
    zero_frames: bool = True
    """Whether a second chunk sees zero mel frames before the segment; `subsampling` says why."""

    @property
    def right_contexts(self) -> tuple[int, ...]:
        """Look-aheads that the checkpoint was trained for, in encoder frames, ascending."""
        return tuple(sorted({right for _, right in self.att_context_size}))

    def left(self, right: int) -> int:
        """Encoder frames of past that a chunk sees when it looks `right` frames ahead."""
        return max(le for le, r in self.att_context_size if r == right)

    @property
    def max_left(self) -> int:
        """The longest past of all look-aheads, in encoder frames."""
        return max(left for left, _ in self.att_context_size)

    def chunk_frames(self, right: int) -> int:
        """Mel frames a step: right 0 -> 8 (80 ms), 1 -> 16, 6 -> 56, 13 -> 112."""
        return (1 + right) * self.subsampling_factor

    @classmethod
    def read(
        cls, model: str, values: Mapping[str, Any] | None, strict: bool = True
    ) -> EncoderConfig:
        """Read the section; see `ModelConfig.read`."""
        s = _Section(model, "encoder", values, strict)
        s.ignore("_target_", "att_context_probs", "dropout", "dropout_pre_encoder", "dropout_emb")
        s.ignore("dropout_att", "stochastic_depth_drop_prob", "stochastic_depth_mode")
        s.ignore("stochastic_depth_start_layer", "pos_emb_max_len", "use_pytorch_sdpa")
        s.ignore("use_pytorch_sdpa_backends", "sync_max_audio_length")
        s.ignore("subsampling_conv_chunking_factor", "reduction_position", "reduction_factor")
        s.ignore("global_tokens_spacing", "global_attn_separate")
        s.require("att_context_style", ("chunked_limited",), "regular", vital=True)
        s.require("self_attention_model", ("rel_pos",), "rel_pos")
        s.require("subsampling", ("dw_striding",), "striding", vital=True)
        s.require("causal_downsampling", (True,), False, vital=True)
        s.require("untie_biases", (True,), True)
        s.require("conv_context_style", ("regular",), "regular")
        s.require("reduction", (None,), None)
        s.require("feat_out", (-1,), -1)
        s.require("global_tokens", (0,), 0)
        kernel = s.take("conv_kernel_size", 31)
        s.require("conv_context_size", ("causal", [kernel - 1, 0]), None)
        contexts = s.take("att_context_size")
        if contexts and isinstance(contexts[0], int):
            contexts = [contexts]
        if not contexts or any(left < 0 or right < 0 for left, right in contexts):
            raise UnsupportedCheckpoint(
                model, f"encoder.att_context_size = {contexts!r} has an unlimited context"
            )
        d_model = s.take("d_model")
        channels = s.take("subsampling_conv_channels", -1)
        config = cls(
            feat_in=s.take("feat_in"),
            n_layers=s.take("n_layers"),
            d_model=d_model,
            n_heads=s.take("n_heads", 4),
            ff_expansion_factor=s.take("ff_expansion_factor", 4),
            subsampling_factor=s.require("subsampling_factor", (8,), 4, vital=True),
            subsampling_conv_channels=d_model if channels == -1 else channels,
            att_context_size=tuple((int(left), int(right)) for left, right in contexts),
            conv_kernel_size=kernel,
            conv_norm_type=s.require("conv_norm_type", ("layer_norm", "batch_norm"), "batch_norm"),
            xscaling=bool(s.take("xscaling", True)),
            use_bias=bool(s.take("use_bias", True)),
            zero_frames=bool(s.take("zero_frames", True)),
        )
        s.done()
        return config


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """`decoder:` and `joint:`, a transducer (nemo RNNTDecoder, RNNTJoint) and its greedy limit."""

    vocab_size: int
    pred_hidden: int
    pred_rnn_layers: int
    joint_hidden: int
    activation: str
    max_symbols: int

    @property
    def blank(self) -> int:
        """Blank is the id after the last token."""
        return self.vocab_size

    @classmethod
    def read(cls, model: str, config: Mapping[str, Any], strict: bool = True) -> DecoderConfig:
        """Read `decoder`, `joint` and `decoding.greedy`; see `ModelConfig.read`."""
        dec = _Section(model, "decoder", config.get("decoder"), strict)
        dec.ignore("_target_", "normalization_mode", "random_state_sampling")
        dec.require("blank_as_pad", (True,), True)
        pred = _Section(model, "decoder.prednet", dec.take("prednet"), strict)
        pred.ignore("t_max", "dropout", "weights_init_scale", "hidden_hidden_bias_scale")
        pred.require("rnn_hidden_size", (-1, None), -1)
        joint = _Section(model, "joint", config.get("joint"), strict)
        joint.ignore("_target_", "log_softmax", "preserve_memory", "fuse_loss_wer")
        joint.ignore("fused_batch_size", "vocabulary", "experimental_fuse_loss_wer", "num_classes")
        # Extra outputs are the durations of a TDT model: another decoder.
        joint.require("num_extra_outputs", (0,), 0)
        net = _Section(model, "joint.jointnet", joint.take("jointnet"), strict)
        net.ignore("dropout", "encoder_hidden", "pred_hidden")
        greedy = (config.get("decoding") or {}).get("greedy") or {}
        result = cls(
            vocab_size=dec.take("vocab_size"),
            pred_hidden=pred.take("pred_hidden"),
            pred_rnn_layers=pred.take("pred_rnn_layers", 1),
            joint_hidden=net.take("joint_hidden"),
            activation=net.require("activation", ("relu", "sigmoid", "tanh"), "relu"),
            max_symbols=greedy.get("max_symbols") or greedy.get("max_symbols_per_step") or 10,
        )
        for section in (dec, pred, joint, net):
            section.done()
        return result


@dataclass(frozen=True, slots=True)
class PromptConfig:
    """`model_defaults:` of a checkpoint that is told the language (Nemotron 3.5).

    Attributes:
        num_prompts: length of the one-hot prompt.
        prompt_dictionary: index of each language, "auto" among them.
    """

    num_prompts: int
    prompt_dictionary: Mapping[str, int]

    def index(self, language: str | None) -> int:
        """The prompt of a language: its own, its primary subtag's, or "auto" for None.

        Raises:
            ValueError: a language that the checkpoint was not trained for.
        """
        if language is None:
            return self.prompt_dictionary.get("auto", 0)
        for key in (language, language.split("-")[0]):
            if key in self.prompt_dictionary:
                return self.prompt_dictionary[key]
        raise ValueError(f"language {language!r} has no prompt in this checkpoint")

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> PromptConfig | None:
        """None where the checkpoint takes no prompt."""
        defaults = config.get("model_defaults") or {}
        if not defaults.get("initialize_prompt_feature"):
            return None
        return cls(defaults.get("num_prompts", 128), dict(defaults.get("prompt_dictionary") or {}))


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The parts of `model_config.yaml` that the engine computes with.

    Attributes:
        preprocessor: features.
        encoder: of them.
        decoder: prediction network and joint.
        prompt: languages that it is told; None where it is not.
        tail_frames: encoder frames of silence to end a segment with, for a model that tells words
            late (`model_defaults.tail_frames`, tiny-en's own key).
        final_pass: what its finals come from where nobody says (`model_defaults.final_pass`,
            another): see `voice_agent.engine.recognizer.StreamOptions`.
    """

    preprocessor: PreprocessorConfig
    encoder: EncoderConfig
    decoder: DecoderConfig
    prompt: PromptConfig | None = None
    tail_frames: int = 0
    final_pass: FinalPass = "stream"

    @property
    def frame_s(self) -> float:
        """Seconds from one encoder frame to the next (0.08 for Nemotron)."""
        return self.preprocessor.window_stride * self.encoder.subsampling_factor

    @classmethod
    def read(cls, model: str, config: Mapping[str, Any], strict: bool = True) -> ModelConfig:
        """Read a whole config.

        Args:
            model: name or path of the checkpoint, for messages.
            config: the parsed `model_config.yaml`.
            strict: refuse whatever our own engine does not compute; False for the NeMo backend.

        Raises:
            UnsupportedCheckpoint: a missing key, or a key or value that the engine does not serve.
        """
        defaults = config.get("model_defaults") or {}
        final_pass = defaults.get("final_pass", "stream")
        if final_pass not in get_args(FinalPass):
            raise UnsupportedCheckpoint(model, f"its model_defaults.final_pass is {final_pass!r}")
        return cls(
            preprocessor=PreprocessorConfig.read(model, config.get("preprocessor"), strict),
            encoder=EncoderConfig.read(model, config.get("encoder"), strict),
            decoder=DecoderConfig.read(model, config, strict),
            prompt=PromptConfig.read(config),
            tail_frames=defaults.get("tail_frames", 0),
            final_pass=final_pass,
        )
