"""A call in your browser: start the agent and open its page, which has a button to talk.

python examples/browser_call.py    # Ctrl-C ends it

The page is voice_agent/server/static, plain modules over Pipecat's JavaScript client, to copy from:
call.js is the call, captions.js what is seen of it. Pipecat's own page is at /client.
"""

import sys
import webbrowser

from voice_agent.config import load_settings
from voice_agent.engine.recognizer import Recognizer
from voice_agent.server.banner import url_of
from voice_agent.server.listening import bind
from voice_agent.server.serve import serve


def main(port: str = "7860", model: str = "tiny-en") -> int:
    settings = load_settings(overrides={"server.port": int(port), "stt.model": model})
    sock = bind(settings.server.host, settings.server.port)

    def open_page(recognizer: Recognizer) -> None:
        print(f"{recognizer.name}: {url_of(sock)}", flush=True)
        webbrowser.open(url_of(sock))

    return serve(settings, sock, on_ready=open_page)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
