"""Tiny random checkpoints in the formats that people download, saved by the libraries themselves.

They hear nothing that makes sense; loading, features, decoding and text are the real code.
"""

from __future__ import annotations

import json
from pathlib import Path


def whisper_tokenizer(folder: Path) -> int:
    """A byte-level Whisper tokenizer without merges, with Whisper's special tokens.

    Returns:
        The vocabulary's size.
    """
    from transformers import WhisperTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    vocab = {char: i for i, char in enumerate(bytes_to_unicode().values())}
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    special = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|kn|>", "<|translate|>",
               "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>",
               "<|notimestamps|>"]  # fmt: skip
    special += [f"<|{i * 0.02:.2f}|>" for i in range(1501)]
    tokenizer = WhisperTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"),
        unk_token="<|endoftext|>", bos_token="<|endoftext|>", eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
    )  # fmt: skip
    tokenizer.add_tokens(special, special_tokens=True)
    tokenizer.save_pretrained(folder)
    return len(tokenizer)


def whisper(folder: Path) -> Path:
    """A random Whisper of two layers in Hugging Face's layout."""
    import torch
    from transformers import (
        GenerationConfig,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperProcessor,
        WhisperTokenizer,
    )

    size = whisper_tokenizer(folder)
    tokenizer = WhisperTokenizer.from_pretrained(folder)
    ids = tokenizer.convert_tokens_to_ids
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=size, d_model=32, encoder_layers=1, decoder_layers=1, num_mel_bins=80,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=64,
        decoder_ffn_dim=64, max_target_positions=64, pad_token_id=ids("<|endoftext|>"),
        bos_token_id=ids("<|endoftext|>"), eos_token_id=ids("<|endoftext|>"),
        decoder_start_token_id=ids("<|startoftranscript|>"), suppress_tokens=None,
        begin_suppress_tokens=None,
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        decoder_start_token_id=ids("<|startoftranscript|>"), eos_token_id=ids("<|endoftext|>"),
        pad_token_id=ids("<|endoftext|>"), bos_token_id=ids("<|endoftext|>"),
        lang_to_id={"<|en|>": ids("<|en|>"), "<|kn|>": ids("<|kn|>")},
        task_to_id={"transcribe": ids("<|transcribe|>"), "translate": ids("<|translate|>")},
        no_timestamps_token_id=ids("<|notimestamps|>"), is_multilingual=True,
        prev_sot_token_id=ids("<|startofprev|>"), max_length=40, max_initial_timestamp_index=50,
        suppress_tokens=list(range(size - 1511, size)), begin_suppress_tokens=None,
    )  # fmt: skip
    model.save_pretrained(folder)
    WhisperProcessor(WhisperFeatureExtractor(feature_size=80), tokenizer).save_pretrained(folder)
    return folder


def openai_whisper(folder: Path) -> Path:
    """A random Whisper as OpenAI's `.pt` file: dimensions and state."""
    import dataclasses

    import torch
    from whisper.model import ModelDimensions, Whisper

    torch.manual_seed(0)
    dims = ModelDimensions(
        n_mels=80, n_audio_ctx=1500, n_audio_state=32, n_audio_head=2, n_audio_layer=1,
        n_vocab=51865, n_text_ctx=64, n_text_state=32, n_text_head=2, n_text_layer=1,
    )  # fmt: skip
    model = Whisper(dims)
    with torch.no_grad():  # left empty by the class
        model.decoder.positional_embedding.normal_()
    path = folder / "random.pt"
    torch.save({"dims": dataclasses.asdict(dims), "model_state_dict": model.state_dict()}, path)
    return path


def wav2vec2(folder: Path, *, languages: tuple[str, ...] = ()) -> Path:
    """A random Wav2Vec2 with a CTC head; with `languages`, MMS' adapters and vocabularies."""
    import torch
    from safetensors.torch import save_file
    from transformers import (
        Wav2Vec2Config,
        Wav2Vec2CTCTokenizer,
        Wav2Vec2FeatureExtractor,
        Wav2Vec2ForCTC,
        Wav2Vec2Processor,
    )

    letters = {c: i for i, c in enumerate(["<pad>", "<s>", "</s>", "<unk>", "|", *"ಕನಡabc"])}
    vocab = {code: letters for code in languages} if languages else letters
    (folder / "vocab.json").write_text(json.dumps(vocab))
    torch.manual_seed(0)
    model = Wav2Vec2ForCTC(
        Wav2Vec2Config(
            vocab_size=len(letters), hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=64, conv_dim=(16,) * 7, num_conv_pos_embeddings=16,
            num_conv_pos_embedding_groups=2, pad_token_id=0,
            adapter_attn_dim=8 if languages else None,
        )
    )  # fmt: skip
    model.save_pretrained(folder)
    if languages:
        for code in languages:  # each another random one
            adapter = {k: torch.randn_like(v) for k, v in model._get_adapters().items()}
            save_file(adapter, folder / f"adapter.{code}.safetensors", {"format": "pt"})
    tokenizer = Wav2Vec2CTCTokenizer(
        str(folder / "vocab.json"), target_lang=languages[0] if languages else None
    )
    extractor = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)
    Wav2Vec2Processor(extractor, tokenizer).save_pretrained(folder)
    return folder


def seamless(folder: Path) -> Path:
    """A random SeamlessM4T v2 with its tokenizer, English and Kannada."""
    import torch
    from transformers import (
        GenerationConfig,
        SeamlessM4TFeatureExtractor,
        SeamlessM4TProcessor,
        SeamlessM4TTokenizer,
        SeamlessM4Tv2Config,
        SeamlessM4Tv2ForSpeechToText,
    )

    pieces = ["<pad>", "<unk>", "<s>", "</s>", "▁", *"abcdefghಕನಡ"]
    tokenizer = SeamlessM4TTokenizer(
        {piece: i for i, piece in enumerate(pieces)}, [],
        additional_special_tokens=["__eng__", "__kan__"], src_lang="eng", tgt_lang="kan",
    )  # fmt: skip
    torch.manual_seed(0)
    config = SeamlessM4Tv2Config(
        vocab_size=len(tokenizer), hidden_size=32, speech_encoder_layers=1,
        speech_encoder_attention_heads=2, speech_encoder_intermediate_size=64,
        encoder_layers=1, encoder_ffn_dim=64, encoder_attention_heads=2, decoder_layers=1,
        decoder_ffn_dim=64, decoder_attention_heads=2, max_position_embeddings=64,
        feature_projection_input_dim=160, num_adapter_layers=1, max_new_tokens=12,
        t2u_vocab_size=10, t2u_encoder_layers=1, t2u_decoder_layers=1,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id, decoder_start_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    model = SeamlessM4Tv2ForSpeechToText(config)
    codes = {code: tokenizer.convert_tokens_to_ids(f"__{code}__") for code in ("eng", "kan")}
    model.generation_config = GenerationConfig(
        text_decoder_lang_to_code_id=codes, max_new_tokens=12,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id, decoder_start_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    model.save_pretrained(folder)
    SeamlessM4TProcessor(SeamlessM4TFeatureExtractor(), tokenizer).save_pretrained(folder)
    return folder


def nemotron(folder: Path, *, multilingual: bool = False) -> Path:
    """A random Nemotron (English, or 3.5 with language prompts) in Hugging Face's layout."""
    import torch
    import transformers as t
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    pieces = [
        "<unk>",
        *(f"▁{w}" for w in ("the", "fox", "dog", "box")),
        *"abcdefgh",
        "<pad>",
        "<blank>",
    ]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    blank = vocab["<blank>"]
    if multilingual:
        config_class, model_class = t.Nemotron3_5AsrConfig, t.Nemotron3_5AsrForRNNT
        processor_class = t.Nemotron3_5AsrProcessor
    else:
        config_class, model_class = t.NemotronAsrStreamingConfig, t.NemotronAsrStreamingForRNNT
        processor_class = t.NemotronAsrStreamingProcessor
    torch.manual_seed(0)
    config = config_class(
        vocab_size=len(pieces), decoder_hidden_size=32, blank_token_id=blank,
        pad_token_id=vocab["<pad>"],
        encoder_config={
            "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
            "intermediate_size": 64, "num_mel_bins": 128, "subsampling_conv_channels": 16,
        },
    )  # fmt: skip
    model = model_class(config).eval()
    model.generation_config.decoder_start_token_id = blank  # as the published checkpoints have it
    with torch.no_grad():  # a random joint would say one token for ever, or nothing
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3.0)
    model.save_pretrained(folder)
    tokenizer = t.PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>",
        additional_special_tokens=["<blank>"],
    )  # fmt: skip
    extractor = t.NemotronAsrStreamingFeatureExtractor(feature_size=128)
    processor_class(extractor, tokenizer, blank_token="<blank>").save_pretrained(folder)
    return folder


def ggml_whisper(folder: Path) -> Path:
    """The random `.pt` of `openai_whisper` as a ggml file, as whisper.cpp's converter writes it."""
    import struct

    import numpy as np
    import torch
    import whisper
    from whisper.audio import mel_filters

    saved = torch.load(openai_whisper(folder), weights_only=True)
    dims, state = saved["dims"], saved["model_state_dict"]
    tokens = whisper.tokenizer.get_tokenizer(multilingual=True).encoding._mergeable_ranks
    path = folder / "ggml-random.bin"
    with path.open("wb") as file:
        keys = ("n_vocab", "n_audio_ctx", "n_audio_state", "n_audio_head", "n_audio_layer",
                "n_text_ctx", "n_text_state", "n_text_head", "n_text_layer", "n_mels")  # fmt: skip
        file.write(struct.pack("i", 0x67676D6C))  # "ggml"
        file.write(struct.pack("11i", *(dims[k] for k in keys), 1))  # 1: matrices are float16
        filters = mel_filters("cpu", dims["n_mels"]).numpy()
        file.write(struct.pack("2i", *filters.shape) + filters.astype("<f4").tobytes())
        file.write(struct.pack("i", len(tokens)))
        for token in tokens:
            file.write(struct.pack("i", len(token)) + token)
        for name, tensor in state.items():
            data = tensor.numpy()
            if name in ("encoder.conv1.bias", "encoder.conv2.bias"):
                data = data.reshape(-1, 1)
            half = data.ndim >= 2 and not name.endswith(("positional_embedding", "conv1.bias",
                                                         "conv2.bias"))  # fmt: skip
            data = np.ascontiguousarray(data, dtype="<f2" if half else "<f4")
            file.write(struct.pack("3i", data.ndim, len(name), int(half)))
            file.write(struct.pack(f"{data.ndim}i", *reversed(data.shape)) + name.encode())
            file.write(data.tobytes())
    return path


def voxtral(folder: Path) -> Path:
    """A random Voxtral Realtime with a tekken tokenizer of the 256 bytes and Mistral's control."""
    import base64

    import torch
    from mistral_common.tokens.tokenizers.base import SpecialTokens
    from transformers import (
        MistralCommonBackend,
        VoxtralRealtimeConfig,
        VoxtralRealtimeFeatureExtractor,
        VoxtralRealtimeForConditionalGeneration,
        VoxtralRealtimeProcessor,
    )

    names = [t.value for t in SpecialTokens]
    control = ["<unk>", "<s>", "</s>", *(n for n in names if n not in ("<unk>", "<s>", "</s>"))]
    size = len(control) + 256
    tekken = {
        "config": {
            "pattern": r"\s*\S+", "num_vocab_tokens": 256, "default_vocab_size": size,
            "default_num_special_tokens": len(control), "version": "v13",
        },
        "vocab": [
            {"rank": i, "token_bytes": base64.b64encode(bytes([i])).decode(), "token_str": None}
            for i in range(256)
        ],
        "special_tokens": [
            {"rank": i, "token_str": name, "is_control": True} for i, name in enumerate(control)
        ],
        "audio": {
            "sampling_rate": 16_000, "frame_rate": 12.5, "transcription_format": "streaming",
            "transcription_delay_ms": 480.0, "streaming_look_ahead_ms": 2.5,
            "streaming_look_back_ms": 52.5, "streaming_n_left_pad_tokens": 32,
            "audio_encoding_config": {"num_mel_bins": 128, "hop_length": 160, "window_size": 400},
        },
    }  # fmt: skip
    (folder / "tekken.json").write_text(json.dumps(tekken))
    torch.manual_seed(0)
    text = {
        "vocab_size": size, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
        "pad_token_id": 11, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    audio = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16, "num_mel_bins": 128,
    }  # fmt: skip
    model = VoxtralRealtimeForConditionalGeneration(
        VoxtralRealtimeConfig(audio_config=audio, text_config=text)
    )
    with torch.no_grad():  # control tokens are not shown: let it say bytes, letters among them
        model.get_output_embeddings().weight[: len(control) + 97] = 0.0
    model.save_pretrained(folder)
    tokenizer = MistralCommonBackend(str(folder / "tekken.json"))
    VoxtralRealtimeProcessor(VoxtralRealtimeFeatureExtractor(), tokenizer).save_pretrained(folder)
    return folder
