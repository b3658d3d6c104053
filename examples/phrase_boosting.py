"""Names that a recogniser does not expect: a recording without and with them as phrases.

python examples/phrase_boosting.py recording.wav Nemotron "Acme Corporation" Bengaluru=6

A phrase is preferred where it fits what is heard; it cannot make words out of silence. The number
is its boost in logits. Over /v1/listen a phrase is a `keyterm` or one of the `keywords`.
"""

import queue
import sys

import soundfile
import soxr

from voice_agent.engine import Event, Failed, Final, StreamOptions, load_recognizer


def main(path: str, *wanted: str, model: str = "tiny-en") -> None:
    phrases: dict[str, float | None] = {}
    for phrase, _, boost in (text.partition("=") for text in wanted):
        phrases[phrase] = float(boost) if boost else None  # None: the usual boost
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    pcm = soxr.resample(samples.mean(axis=1), rate, 16_000)

    recognizer = load_recognizer(model)
    for name, extra in (("without", {}), ("with", {"phrases": phrases})):
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        stream = recognizer.open(events.put, options=StreamOptions(partials=False, extra=extra))
        stream.feed(pcm)
        stream.finish()
        match events.get():
            case Final(text=text):
                print(f"{name}: {text}")
            case Failed(error=error):
                raise error
        stream.close()
    recognizer.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
