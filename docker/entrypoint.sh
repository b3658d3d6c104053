#!/bin/sh
# What the container starts: `serve` and any other command of voice-agent, or a program by its path.
#   healthy   exit 0 if the server on $VOICE_AGENT_SERVER__PORT is ready
set -eu

case "${1:-serve}" in
healthy)
    exec python3 -c '
import os, ssl, sys
from urllib.request import HTTPSHandler, ProxyHandler, build_opener

port = os.environ.get("VOICE_AGENT_SERVER__PORT", "7860")
scheme = "https" if os.environ.get("VOICE_AGENT_SERVER__TLS_CERTIFICATE") else "http"
# It asks itself: past any proxy, and by an address that no certificate names.
ask = build_opener(ProxyHandler({}), HTTPSHandler(context=ssl._create_unverified_context()))
try:
    ask.open(f"{scheme}://127.0.0.1:{port}/readyz", timeout=4)
except OSError as error:
    sys.exit(str(error))
'
    ;;
/*)
    exec "$@"
    ;;
esac

if [ -n "${HF_HOME:-}" ] && ! [ -w "$HF_HOME" ]; then
    echo "entrypoint: $HF_HOME, where models are kept, cannot be written by user $(id -u);" \
        "mount a volume there, or chown it to $(id -u)" >&2
    exit 2
fi
# Flags alone are serve's.
case "${1:-}" in
"" | -*) set -- serve "$@" ;;
esac
exec voice-agent "$@"
