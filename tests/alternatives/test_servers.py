"""Systems behind a server: our client against a server that speaks the documented messages.

Shapes: WhisperX's container (`POST /transcribe`), whisper.cpp's `whisper-server` (`/inference`),
NeMo-Speech.cpp's docs/api.md, vLLM's `/v1/realtime`, Riva's protos from nvidia-riva-client.
"""

from __future__ import annotations

import base64
import email
import io
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import soundfile
from websockets.sync.server import serve

from tests.support.collect import Collector
from voice_agent.alternatives import Choice, load
from voice_agent.alternatives.errors import NoServer, SystemFailed
from voice_agent.engine.recognizer import Failed, StreamOptions


@contextmanager
def http_server(answer):
    """`answer(path, form)` gives status and object; `form` holds fields and the audio."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):  # noqa: N802
            self.reply(*answer(self.path, None))

        def do_POST(self):  # noqa: N802
            body = self.rfile.read(int(self.headers["Content-Length"]))
            head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
            form = {}
            for part in email.message_from_bytes(head + body).get_payload():
                name = part.get_param("name", header="content-disposition")
                data = part.get_payload(decode=True)
                if name == "file":
                    form[name], rate = soundfile.read(io.BytesIO(data), dtype="float32")
                    assert rate == 16_000
                else:
                    form[name] = data.decode()
            self.reply(*answer(self.path, form))

        def reply(self, status, said):
            data = said if isinstance(said, bytes) else json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def socket_server(talk):
    """A websocket server whose plain GETs (`/health`, `/ready`) are answered with 200."""
    talks = []

    def healthy(connection, request):
        if "Upgrade" not in request.headers:
            return connection.respond(200, "ok")
        return None

    def handler(socket):
        talks.append(socket.request)
        talk(socket)

    with serve(handler, "127.0.0.1", 0, process_request=healthy) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.socket.getsockname()[1]}", talks
        server.shutdown()
        thread.join()


def say(recognizer, pcm, **options):
    got = Collector()
    stream = recognizer.open(got, options=StreamOptions(**options))
    for start in range(0, pcm.size, 8_000):
        stream.feed(pcm[start : start + 8_000])
    stream.finish()
    return got.end(), got


@pytest.fixture
def opened():
    """Loads systems and closes them."""
    made = []

    def make(name, **choice):
        made.append(load(name, Choice(**choice)))
        return made[-1]

    yield make
    for recognizer in made:
        recognizer.close()


def test_whisperx_gets_the_segment_and_gives_words_with_times(opened, noise):
    forms = []

    def answer(path, form):
        if form is None:
            return 200, {"status": "healthy"}
        assert path == "/transcribe"
        forms.append(form)
        words = [
            {"word": "Hello", "start": 0.1, "end": 0.4, "score": 0.9, "speaker": "SPEAKER_00"},
            {"word": "42."},  # digits are not aligned
        ]
        segments = [{"text": " Hello 42.", "start": 0.1, "end": 1.0, "words": words}]
        return 200, {"status": "success", "language": "en", "segments": segments,
                     "word_segments": words, "num_speakers": 1}  # fmt: skip

    with http_server(answer) as url:
        final, _ = say(opened("whisperx", url=url), noise, language="en-GB")
    assert final.text == "Hello 42."
    assert [(w.word, w.end_s) for w in final.words] == [("Hello", 0.4)]
    assert final.language == "en"
    assert forms[0]["language"] == "en"
    np.testing.assert_allclose(forms[0]["file"], noise, atol=1e-4)


def test_whisper_server_gives_its_text_on_one_line(opened, noise):
    def answer(path, form):
        if form is None:
            return 200, b"<html></html>"
        assert path == "/inference"
        assert form["response_format"] == "json"
        return 200, {"text": " And so my fellow\n Americans\n"}

    with http_server(answer) as url:
        final, _ = say(opened("whisper.cpp", url=url), noise)
    assert final.text == "And so my fellow Americans"


@pytest.mark.parametrize(
    ("status", "said", "words"),
    [(500, {"detail": "CUDA out of memory"}, "out of memory"), (200, b"<html>", "not JSON")],
)
def test_a_server_that_fails_fails_the_stream_in_its_own_words(opened, noise, status, said, words):
    def answer(path, form):
        return (200, {}) if form is None else (status, said)

    with http_server(answer) as url:
        end, _ = say(opened("whisperx", url=url), noise)
    assert isinstance(end, Failed)
    assert isinstance(end.error, SystemFailed)
    assert words in str(end.error)


def test_a_server_that_is_not_well_counts_as_none():
    with http_server(lambda path, form: (503, {})) as url, pytest.raises(NoServer, match="503"):
        load("whisperx", Choice(url=url))


def nemo_speech(socket):
    """As http_server.cpp of NeMo-Speech.cpp: deltas, completed, then committed."""

    def send(kind, **fields):
        socket.send(json.dumps({"type": kind, **fields}))

    item = "conversation.item.input_audio_transcription"
    send("session.created", session={"sample_rate": 16_000})
    heard = 0
    for message in socket:
        if isinstance(message, bytes):
            assert len(message) % 2 == 0
            first = heard == 0
            heard += len(message) // 2
            send(f"{item}.delta", delta="hello" if first else " x", audio_processed=heard / 16_000)
            continue
        event = json.loads(message)
        if event["type"] == "session.update":
            assert event["session"]["sample_rate"] == 16_000
            send("session.updated", session=event["session"])
        elif event["type"] == "input_audio_buffer.commit":
            words = [{"word": "hello", "start": 0.0, "end": 0.5, "confidence": 0.75}]
            send(f"{item}.completed", transcript=f"hello {heard}", words=words)
            send("input_audio_buffer.committed")


def test_nemo_speech_streams_deltas_and_ends_with_committed(opened, noise):
    with socket_server(nemo_speech) as (url, talks):
        recognizer = opened("nemo-speech-cpp", url=url, api_key="secret")
        final, got = say(recognizer, noise, language="en")
        assert final.text == f"hello {noise.size}"
        assert (final.words[0].end_s, final.words[0].confidence) == (0.5, 0.75)
        assert got.partials[0].text == "hello"
        assert talks[0].path == "/v1/realtime"
        assert talks[0].headers["Authorization"] == "Bearer secret"


def vllm(socket):
    """As vLLM's realtime server: generation begins with the first commit, ends with the final."""

    def send(kind, **fields):
        socket.send(json.dumps({"type": kind, **fields}))

    send("session.created", id="sess-1", created=1)
    begun, samples = False, 0
    for message in socket:
        event = json.loads(message)
        match event["type"], event.get("final"):
            case "session.update", _:
                assert event["model"] == "some/voxtral"
            case "input_audio_buffer.commit", False:
                begun = True
            case "input_audio_buffer.append", _:
                assert begun
                samples += len(base64.b64decode(event["audio"])) // 2
                send("transcription.delta", delta=" ja")
            case "input_audio_buffer.commit", True:
                send("transcription.done", text=f" ja {samples}", usage={"total_tokens": 3})


def test_voxtral_on_vllm_streams_deltas_and_ends_with_done(opened, noise):
    with socket_server(vllm) as (url, _):
        recognizer = opened("voxtral", url=url, model="some/voxtral")
        assert recognizer.streaming
        final, got = say(recognizer, noise)
        assert final.text == f"ja {noise.size}"
        assert got.partials[0].text == "ja"


def test_an_error_event_fails_the_stream_in_the_servers_words(opened, noise):
    def refuse(socket):
        error = {"type": "invalid_request_error", "message": "no such model"}
        socket.send(json.dumps({"type": "error", "error": error}))

    with socket_server(refuse) as (url, _):
        end, _ = say(opened("voxtral", url=url), noise)
    assert isinstance(end, Failed)
    assert "no such model" in str(end.error)


def test_a_server_that_hangs_up_fails_the_stream(opened, noise):
    with socket_server(lambda socket: None) as (url, _):
        end, _ = say(opened("nemo-speech-cpp", url=url), noise)
    assert isinstance(end, Failed)
    assert "hung up" in str(end.error)


# Riva: a real gRPC server with the protos of nvidia-riva-client


@pytest.fixture
def riva():
    grpc = pytest.importorskip("grpc")
    pytest.importorskip("riva.client")
    from concurrent.futures import ThreadPoolExecutor

    from riva.client.proto import riva_asr_pb2 as messages
    from riva.client.proto import riva_asr_pb2_grpc as stubs

    class Servicer(stubs.RivaSpeechRecognitionServicer):
        configs = []

        def StreamingRecognize(self, requests, context):  # noqa: N802
            samples = 0
            for request in requests:
                if request.HasField("streaming_config"):
                    self.configs.append(request.streaming_config)
                    if request.streaming_config.config.language_code == "xx-XX":
                        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no model for xx-XX")
                    continue
                samples += len(request.audio_content) // 2
                yield self.result(f"so far {samples}", final=False)
            yield self.result(f"heard {samples}", final=True)

        def result(self, text, *, final):
            word = messages.WordInfo(word="heard", start_time=80, end_time=400, confidence=0.5)
            best = messages.SpeechRecognitionAlternative(
                transcript=text + " ", words=[word] if final else []
            )
            result = messages.StreamingRecognitionResult(alternatives=[best], is_final=final)
            return messages.StreamingRecognizeResponse(results=[result])

    servicer = Servicer()
    server = grpc.server(ThreadPoolExecutor(4))
    stubs.add_RivaSpeechRecognitionServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}", servicer
    server.stop(None).wait()


def test_riva_streams_and_the_end_of_audio_brings_the_final(opened, riva, noise):
    url, servicer = riva
    recognizer = opened("riva", url=url, model="parakeet")
    final, got = say(recognizer, noise, language="en")
    assert final.text == f"heard {noise.size}"
    assert (final.words[0].start_s, final.words[0].end_s) == (0.08, 0.4)
    assert got.partials[-1].text.startswith("so far")
    config = servicer.configs[0].config
    assert (config.language_code, config.sample_rate_hertz) == ("en-US", 16_000)
    assert config.model == "parakeet"


def test_rivas_refusal_fails_the_stream_in_its_own_words(opened, riva, noise):
    url, _ = riva
    end, _ = say(opened("riva", url=url), noise, language="xx-XX")
    assert isinstance(end, Failed)
    assert "no model for xx-XX" in str(end.error)
