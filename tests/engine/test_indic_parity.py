"""Every stage of the ONNX path against the PyTorch modules that its files came from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.support.collect import Collector
from training import indic_miniature
from voice_agent.engine.indic.backend import OnnxBackend
from voice_agent.engine.indic.conformer import Conformer, ConformerConfig
from voice_agent.engine.indic.decode import ctc_tokens
from voice_agent.engine.indic.features import LogMel, mel_filters
from voice_agent.engine.indic.layout import read
from voice_agent.engine.indic_conformer import load_indic_conformer

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def miniature():
    return indic_miniature.build(seed=3)


@pytest.fixture(scope="module")
def folder(miniature, tmp_path_factory):
    path = tmp_path_factory.mktemp("indic")
    indic_miniature.write(miniature, path)
    return path


@pytest.fixture(scope="module")
def ctc(folder):
    return OnnxBackend(read("mini", folder), device="cpu", threads=1)


@pytest.fixture(scope="module")
def rnnt(folder):
    layout = read("mini", folder, "rnnt")
    return OnnxBackend(layout, device="cpu", decoding="rnnt", threads=1)


def audio(samples: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    swell = np.sin(np.arange(samples) / 3000) ** 2
    return (rng.standard_normal(samples) * 0.2 * swell).astype(np.float32)


def reference_features(module: LogMel, pcm: np.ndarray) -> torch.Tensor:
    mel, frames = module(torch.from_numpy(pcm)[None], torch.tensor([len(pcm)]))
    return mel[:, :, : int(frames)]


@pytest.mark.parametrize("samples", [1600, 16_000, 16_079, 75_123])
def test_the_preprocessor_file_gives_the_modules_features(ctc, miniature, samples):
    pcm = audio(samples)
    want = reference_features(miniature.ctc.features, pcm)[0].numpy()
    np.testing.assert_allclose(ctc.features(pcm), want, atol=1e-5)


@pytest.mark.parametrize("lengths", [(20_000,), (48_000, 7_000, 31_000)], ids=["alone", "padded"])
def test_encoder_and_ctc_files_give_the_modules_scores(ctc, miniature, lengths):
    clips = [audio(n, seed=n) for n in lengths]
    encoded, frames = ctc.encode([ctc.features(c) for c in clips])
    scores = ctc.ctc_scores(encoded)
    for row, clip in enumerate(clips):
        mel = reference_features(miniature.ctc.features, clip)
        with torch.inference_mode():
            want, n = miniature.ctc.encoder(mel, torch.tensor([mel.shape[2]]))
            want_scores = miniature.ctc.ctc(want)
        assert frames[row] == n
        got = encoded.numpy()[row, :, : frames[row]]
        np.testing.assert_allclose(got, want[0].numpy(), atol=1e-4)
        np.testing.assert_allclose(scores[row, : frames[row]], want_scores[0].numpy(), atol=1e-4)


@pytest.mark.parametrize("language", ["kn", "as", "ur"])
def test_ctc_tokens_come_from_the_languages_own_columns(ctc, miniature, language):
    clip = audio(40_000, seed=9)
    mel = reference_features(miniature.ctc.features, clip)
    with torch.inference_mode():
        encoded, _ = miniature.ctc.encoder(mel, torch.tensor([mel.shape[2]]))
        scores = miniature.ctc.ctc(encoded)[0].numpy()
    start = 256 * indic_miniature.LANGUAGES.index(language)
    own = np.concatenate([scores[:, start : start + 256], scores[:, -1:]], axis=1)
    want = [t.number for t in ctc_tokens(own, 256)]
    assert want, "the miniature says nothing here, so the test would show nothing"
    assert [t.number for t in ctc.tokens([clip], [language])[0]] == want


@torch.inference_mode()
def reference_rnnt(miniature, clip, language):
    mel = reference_features(miniature.ctc.features, clip)
    encoded, _ = miniature.ctc.encoder(mel, torch.tensor([mel.shape[2]]))
    parts = miniature.rnnt
    state = torch.zeros(2, 1, parts.state_shape[1]), torch.zeros(2, 1, parts.state_shape[1])
    last, said = 5632, []
    for frame in parts.joint_enc(encoded.transpose(1, 2))[0]:
        for _ in range(10):
            g, _, *after = parts.decoder(
                torch.tensor([[last]], dtype=torch.int32), torch.tensor([1]), *state
            )
            both = frame + parts.joint_pred(g.transpose(1, 2))
            token = int(parts.joint_post_nets[language](parts.joint_pre_net(both)).argmax())
            if token == 256:
                break
            said.append(token)
            last, state = token, tuple(after)
    return said


@pytest.mark.parametrize("language", ["kn", "ta"])
def test_rnnt_files_give_the_modules_tokens(rnnt, miniature, language):
    clip = audio(40_000, seed=4)
    want = reference_rnnt(miniature, clip, language)
    assert want
    assert [t.number for t in rnnt.tokens([clip], [language])[0]] == want


def test_tokens_are_the_same_alone_and_in_a_batch(ctc):
    clips = [audio(n, seed=n) for n in (9_000, 52_000, 17_000, 80_000)]
    alone = [ctc.tokens([c], ["kn"])[0] for c in clips]
    crowd = ctc.tokens(clips, ["kn"] * 4)
    assert [[t.number for t in a] for a in alone] == [[t.number for t in c] for c in crowd]


@pytest.mark.parametrize("decoding", ["ctc", "rnnt"])
def test_the_recognizer_says_the_same_however_its_audio_arrives(folder, decoding):
    recognizer = load_indic_conformer(
        str(folder), device="cpu", decoding=decoding, language="kn", threads=1
    )
    clip = audio(90_000, seed=12)
    texts = []
    for size in (len(clip), 7001):
        heard = Collector()
        stream = recognizer.open(heard)
        for start in range(0, len(clip), size):
            stream.feed(clip[start : start + size])
        stream.finish()
        texts.append(heard.final().text)
    recognizer.close()
    assert texts[0] and texts[0] == texts[1]


def test_a_frame_lasts_what_the_encoders_stride_makes_it(ctc):
    assert ctc.frame_s == pytest.approx(0.08)


@pytest.mark.parametrize("style", ["striding", "dw_striding"])
@pytest.mark.parametrize("norm", ["batch_norm", "layer_norm"])
def test_the_encoder_computes_what_nemos_does(style, norm):
    encoders = pytest.importorskip("nemo.collections.asr.modules")
    torch.manual_seed(1)
    keys = {
        "feat_in": 80,
        "n_layers": 2,
        "d_model": 32,
        "n_heads": 4,
        "subsampling": style,
        "subsampling_factor": 4,
        "subsampling_conv_channels": 16,
        "conv_kernel_size": 9,
        "conv_norm_type": norm,
    }
    theirs = encoders.ConformerEncoder(**keys, feat_out=-1).eval()
    for name, buffer in theirs.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    for name, parameter in theirs.named_parameters():
        if "pos_bias" in name:
            torch.nn.init.normal_(parameter)
    ours = Conformer(ConformerConfig.from_nemo(keys)).eval()
    weights = {k: v for k, v in theirs.state_dict().items() if not k.startswith("pos_enc")}
    ours.load_state_dict(weights)
    mel, lengths = torch.randn(2, 80, 203), torch.tensor([203, 120])
    mel[1, :, 120:] = 0.0
    with torch.inference_mode():
        want, want_n = theirs(audio_signal=mel, length=lengths)
        got, got_n = ours(mel, lengths)
    assert got_n.tolist() == want_n.tolist()
    for row, n in enumerate(got_n):
        torch.testing.assert_close(got[row, :, :n], want[row, :, :n], atol=1e-4, rtol=1e-4)


def test_the_features_are_nemos():
    parts = pytest.importorskip("nemo.collections.asr.parts.preprocessing.features")
    theirs = parts.FilterbankFeatures(
        n_window_size=400, n_window_stride=160, n_fft=512, nfilt=80, dither=0.0, pad_to=0
    ).eval()
    torch.testing.assert_close(mel_filters(80, 512)[None], theirs.fb, atol=1e-7, rtol=1e-4)
    assert theirs.normalize == "per_feature"
    # NeMo 3 pads the ends with zeros where IndicConformer's NeMo reflected, and drops a last frame
    # that is half empty: audio with silent ends and one sample less makes both the same.
    pcm = torch.from_numpy(audio(40_000))[None]
    pcm[:, :600] = pcm[:, -600:] = 0.0
    want, want_n = theirs(pcm, torch.tensor([40_000]))
    got, got_n = LogMel()(pcm[:, :-1], torch.tensor([39_999]))
    assert got_n.tolist() == want_n.tolist() == [250]
    torch.testing.assert_close(got, want[:, :, :250], atol=1e-4, rtol=1e-4)
