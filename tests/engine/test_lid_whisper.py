"""Whisper as a language identifier: a miniature of the multilingual model, through CTranslate2.

It has the special tokens of the real one at their places, and random weights; transformers computes
what it should answer.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

from voice_agent.engine.lid import load_language_identifier
from voice_agent.engine.lid.base import LanguageIdentifier

faster_whisper = pytest.importorskip("faster_whisper", reason="needs the extra 'alternatives'")
ctranslate2 = pytest.importorskip("ctranslate2")
transformers = pytest.importorskip("transformers")

WORDS = 50_257  # tokens that are no special ones
SIZE = 51_865


def special_tokens(languages):
    words = ["<|endoftext|>", "<|startoftranscript|>", *(f"<|{code}|>" for code in languages)]
    words += ["<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>"]
    words += ["<|nospeech|>", "<|notimestamps|>"]
    return [*words, *(f"<|{i * 0.02:.2f}|>" for i in range(1501))]


@pytest.fixture(scope="module")
def miniature(tmp_path_factory):
    """(transformers' model, folder in CTranslate2's layout, languages by token)."""
    import torch
    from faster_whisper.tokenizer import _LANGUAGE_CODES

    codes = [code for code in _LANGUAGE_CODES if code != "yue"]  # v3 alone has that one
    folder = tmp_path_factory.mktemp("whisper")
    source, made = folder / "source", folder / "made"
    source.mkdir()
    special = special_tokens(codes)
    assert WORDS + len(special) == SIZE
    vocab = {f"w{i}": i for i in range(WORDS - 1)}
    vocab[""] = WORDS - 1  # by which CTranslate2 knows a multilingual model; OpenAI's has it there
    vocab |= {token: WORDS + i for i, token in enumerate(special)}
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": None, "decoder": None,
        "added_tokens": [
            {"id": vocab[token], "content": token, "single_word": False, "lstrip": False,
             "rstrip": False, "normalized": False, "special": True}
            for token in special
        ],
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<|endoftext|>"},
    }  # fmt: skip
    (source / "tokenizer.json").write_text(json.dumps(tokenizer))
    (source / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<|endoftext|>"})
    )
    ids = vocab.__getitem__
    torch.manual_seed(0)
    model = transformers.WhisperForConditionalGeneration(
        transformers.WhisperConfig(
            vocab_size=SIZE, d_model=32, encoder_layers=1, decoder_layers=1, num_mel_bins=80,
            encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=64,
            decoder_ffn_dim=64, max_target_positions=64, pad_token_id=ids("<|endoftext|>"),
            bos_token_id=ids("<|endoftext|>"), eos_token_id=ids("<|endoftext|>"),
            decoder_start_token_id=ids("<|startoftranscript|>"), init_std=0.4,
        )
    ).eval()  # fmt: skip
    model.generation_config = transformers.GenerationConfig(
        lang_to_id={f"<|{code}|>": ids(f"<|{code}|>") for code in codes},
        no_timestamps_token_id=ids("<|notimestamps|>"), is_multilingual=True,
        decoder_start_token_id=ids("<|startoftranscript|>"), eos_token_id=ids("<|endoftext|>"),
        pad_token_id=ids("<|endoftext|>"), suppress_tokens=[], begin_suppress_tokens=[],
    )  # fmt: skip
    model.save_pretrained(source)
    ctranslate2.converters.TransformersConverter(
        str(source), copy_files=["tokenizer.json"]
    ).convert(str(made))
    return model, made, {code: ids(f"<|{code}|>") for code in codes}


def test_it_gives_the_answer_of_transformers(miniature):
    import torch
    from faster_whisper.feature_extractor import FeatureExtractor

    model, folder, tokens = miniature
    identifier = load_language_identifier("whisper", model=str(folder), device="cpu")
    assert isinstance(identifier, LanguageIdentifier)
    assert {"en", "kn", "hi"} <= {*identifier.languages}
    pcm = np.random.default_rng(1).normal(0, 0.1, 32_000).astype(np.float32)
    # faster-whisper's features: they end in zeros, transformers' in the level of silence.
    mel = faster_whisper.audio.pad_or_trim(FeatureExtractor()(pcm)[:, :3000])
    features = torch.from_numpy(mel)[None]
    start = torch.tensor([[model.config.decoder_start_token_id]])
    with torch.inference_mode():
        logits = model(features, decoder_input_ids=start).logits[0, 0]
    chance = torch.softmax(logits[list(tokens.values())], 0)
    want = dict(zip(tokens, chance.tolist(), strict=True))
    got = identifier.identify(pcm).posteriors
    assert set(got) == set(want)
    assert max(want.values()) > 2 / len(want), "a flat answer would compare nothing"
    assert got == pytest.approx(want, abs=2e-3)
