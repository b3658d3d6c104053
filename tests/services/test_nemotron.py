"""NemotronSTTService over the real engine, on a random checkpoint, and in somebody else's bot."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
from pipecat.frames.frames import (
    ErrorFrame,
    InputAudioRawFrame,
    InterimTranscriptionFrame,
    TranscriptionFrame,
)

from tests.support.checkpoints import random_nemo
from tests.support.collect import Collector
from tests.support.frames import CHUNK, RATE, of_type, run, started, stopped
from voice_agent.engine.errors import ModelNotFound
from voice_agent.engine.recognizer import StreamOptions
from voice_agent.services import NemotronSTTService, shared_recognizer


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    return str(random_nemo(tmp_path_factory.mktemp("random"))[1])


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    """Two seconds that a random model does not find dull, int16."""
    swell = np.sin(np.arange(2 * RATE) / 3000) ** 2
    pcm = np.random.default_rng(0).standard_normal(2 * RATE) * 0.2 * swell
    return (pcm * 32768).astype(np.int16)


def frames(pcm: np.ndarray, size: int) -> list[InputAudioRawFrame]:
    return [
        InputAudioRawFrame(pcm[i : i + size].tobytes(), RATE, 1) for i in range(0, pcm.size, size)
    ]


@pytest.mark.parametrize(
    "right_context, final_pass",
    [(0, "stream"), (6, "stream"), (0, "beam"), (0, "full"), (0, "search")],
)
async def test_the_service_says_what_the_engine_says(checkpoint, noise, right_context, final_pass):
    """However the audio is cut, and with the last word there."""
    noise = np.tile(noise, 3)
    recognizer = await shared_recognizer(checkpoint, device="cpu")
    bare = Collector()
    options = StreamOptions("en", right_context, final_pass=final_pass)
    stream = recognizer.open(bare, options=options)
    stream.feed(noise)
    stream.finish()
    expected = bare.final()
    stream.close()
    assert expected.text

    for size in (CHUNK, 320, 5000):
        settings = NemotronSTTService.Settings(right_context=right_context, final_pass=final_pass)
        stt = NemotronSTTService(model=checkpoint, device="cpu", settings=settings)
        down, _ = await run(stt, started(), frames(noise, size), stopped())
        (final,) = of_type(down, TranscriptionFrame)
        assert final.text == expected.text
        assert final.finalized
        assert [w.word for w in final.result.words] == [w.word for w in expected.words]
        partials = [f.text for f in of_type(down, InterimTranscriptionFrame)]
        assert len(set(partials)) == len(partials)
        # A second pass does not wait for what is yet to be streamed, all of this audio perhaps.
        assert partials or final_pass != "stream"


async def test_services_that_name_the_same_model_share_its_weights(checkpoint):
    first, second = (NemotronSTTService(model=checkpoint, device="cpu") for _ in range(2))
    assert await first.load_recognizer() is await second.load_recognizer()


async def test_a_language_model_is_loaded_with_the_model_and_told_apart(checkpoint, tmp_path):
    path = tmp_path / "lm.arpa"
    counts = "\\data\\\nngram 1=2\n\n\\1-grams:\n"
    path.write_text(f"{counts}-99\t<s>\n-1\t<unk>\n\n\\end\\\n")
    plain = await NemotronSTTService(model=checkpoint, device="cpu").load_recognizer()
    first, second = (
        NemotronSTTService(model=checkpoint, device="cpu", language_model=path) for _ in range(2)
    )
    fused = await first.load_recognizer()
    assert fused is await second.load_recognizer() is not plain
    with pytest.raises(ValueError, match="not beside a recognizer"):
        NemotronSTTService(recognizer=plain, language_model=path)
    missing = NemotronSTTService(model=checkpoint, device="cpu", language_model="none.arpa")
    with pytest.raises(ModelNotFound, match=r"none\.arpa: there is no such language model"):
        await missing.load_recognizer()


async def test_a_look_ahead_that_the_model_lacks_is_named(checkpoint):
    stt = NemotronSTTService(
        model=checkpoint, device="cpu", settings=NemotronSTTService.Settings(right_context=5)
    )
    _, up = await run(stt)
    assert not stt.is_usable
    (error,) = of_type(up, ErrorFrame)
    assert "right_context 5 is not one of" in error.error and "0, 1, 6, 13" in error.error


BOT = """
    import services, processors                     # the bot's own
    assert services.MINE == processors.MINE == "mine"
    from services.greeter import greet
    assert greet() == "hello"

    from voice_agent.services.nemotron import NemotronSTTService
    from voice_agent.services import EspeakTTSService, EchoLLMService
    from voice_agent.processors import LanguageFollower, AudioChunker
    assert "voice_agent" in NemotronSTTService.__module__
    assert services.__file__.startswith(__file__.removesuffix("bot.py"))
    print(NemotronSTTService().name)
"""


def test_a_bot_with_services_and_processors_of_its_own_imports_ours(tmp_path):
    for package in ("services", "processors"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text('MINE = "mine"\n')
    (tmp_path / "services" / "greeter.py").write_text('def greet():\n    return "hello"\n')
    (tmp_path / "bot.py").write_text(textwrap.dedent(BOT))
    done = subprocess.run(
        [sys.executable, "bot.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("NemotronSTTService")


def test_the_service_imports_neither_torch_nor_nemo():
    """They come with the weights; a bot that reaches a server needs neither."""
    code = (
        "import sys; import voice_agent.services.nemotron, voice_agent.processors; "
        "heavy = {'torch', 'nemo', 'transformers'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
