#!/usr/bin/env bash
# One session of measurements on a bare machine with a GPU: Python 3.12, torch, transformers; no
# network, nothing of this project installed. NeMo is measured where PYTHONPATH has it.
#
#   bash benchmarks/gpu_session.sh OUT [SECONDS]          everything, within SECONDS (540)
#   DRY=1 bash benchmarks/gpu_session.sh OUT 120          the same on a CPU at the toy shape
#
# The most valuable comes first, every result is on disk as soon as it is there, and what no time
# is left for is said. A file `COMMIT` beside README.md names the commit of a tree sent without git:
#   git rev-parse HEAD > COMMIT
set -uo pipefail
out=${1:?usage: gpu_session.sh OUT [SECONDS]}
total=${2:-540}
cd "$(dirname "$0")/.."
mkdir -p "$out"
export PYTHONUNBUFFERED=1 PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
python=${PYTHON:-python3}
if [ "${DRY:-}" ]; then
    device=cpu shape=toy batches=1,8,16 paced=4 most=16 seconds=3 search=2 dtype=float32
else
    device=cuda shape=nemotron-0.6b batches=1,64,512,1024,4096,8192 paced=8192 most=16384
    seconds=60 search=10 dtype=float16
fi
left() { echo $((total - SECONDS)); }
bench() { # NAME SECONDS ARGUMENT...: never longer than what is left
    local name=$1 budget=$2 rest
    shift 2
    rest=$(($(left) - 10))
    if [ "$rest" -lt 20 ]; then
        echo "== $name: no time left"
        return
    fi
    [ "$budget" -gt "$rest" ] && budget=$rest
    echo "== $name, within $budget s"
    timeout $((budget + 10)) "$python" -m voice_agent.bench engine --shape "$shape" --device "$device" \
        --dtype "$dtype" --budget-s "$budget" --out "$out/$name" "$@" 2>&1 | tee "$out/$name.log"
}
nvidia-smi 2>/dev/null | tee "$out/nvidia-smi.txt"
bench steps $((total * 45 / 100)) --batches "$batches"
bench paced $((total * 30 / 100)) --batches "" --paced "$paced" --seconds "$seconds"
bench capacity $((total * 25 / 100)) --batches "" --find-capacity --most "$most" \
    --capacity-seconds "$search"
echo "== done after $SECONDS s"
