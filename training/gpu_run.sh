#!/usr/bin/env bash
# Trains tiny-en on a machine with a GPU or some, 16 cores and no network, out of training.pack's
# pieces. With several GPUs, training takes the first ones and the voices the last (TRAINERS=3 of 4).
#
#   bash training/gpu_run.sh unpack PIECES   take in the pieces that are there; may be repeated
#   bash training/gpu_run.sh start           whatever can begin and has not: voices, training
#   bash training/gpu_run.sh watch SECONDS   wait, show the log, put results into $OUT
#   bash training/gpu_run.sh end NAME        end what start began: kokoro-2, say
#   bash training/gpu_run.sh finish          export, and put the model into $OUT
#
# Everything long runs in sessions of its own, so that a stage returns while it goes on, and every
# stage can be repeated: it begins nothing twice, but what ends badly is tried again. State is in
# $WORK.
#   MINUTES  from the first stage here to the end of training, however late training begins
#   TRAINERS GPUs that training takes               VOICES_AT GPUs of the voices: "2 3", say
#   KOKOROS  processes on those GPUs                HOURS    that each of them makes
#   OTHERS   hours of each other voice, if not theirs
#   BATCH    seconds of audio in a step, on a GPU   WARM     small.pt or .nemo to begin from
#   GRAPHS   no: steps without CUDA graphs          EVALUATE seconds from one evaluation to the next
#   RATE     peak learning rate, if not the recipe's      ENCODER_RATE  the encoder's share of it
set -euo pipefail

WORK=${WORK:-/tmp/tiny-en} OUT=${OUT:-/tmp/tiny-en/out} PYTHON=${PYTHON:-python3}
TRAINERS=${TRAINERS:-1} VOICES_AT=${VOICES_AT:-$((TRAINERS > 1 ? TRAINERS : 0))}
MINUTES=${MINUTES:-24} KOKOROS=${KOKOROS:-3} HOURS=${HOURS:-36} WARM=${WARM:-}
SEED=${SEED:-1} EVALUATE=${EVALUATE:-180} BATCH=${BATCH:-700} GRAPHS=${GRAPHS:-} POOL_HOURS=${POOL_HOURS:-150} DEVICE=${DEVICE:-cuda}
IN=$WORK/in POOL=$WORK/pool LOGS=$WORK/logs MANIFEST=$WORK/manifest
mkdir -p "$IN" "$POOL" "$LOGS" "$MANIFEST" "$OUT"
[ -e "$WORK/began" ] || date +%s >"$WORK/began"
export PYTHONPATH=$WORK/code:$WORK/site OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1
export PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True
# The trainers meet on this machine, whose name nobody may know.
export GLOO_SOCKET_IFNAME=lo NCCL_SOCKET_IFNAME=lo

# Begins NAME once, in a session of its own; a command that fails is tried three times, {} in its
# words being the number of the try (from 0).
begin() { # begin NAME COMMAND...
    local name=$1
    shift
    [ -e "$LOGS/$name.log" ] && return
    : >"$LOGS/$name.log"
    # shellcheck disable=SC2016
    (cd "$WORK/code" && PID=$LOGS/$name.pid setsid nohup bash -c 'echo $$ >"$PID"
    for try in 0 1 2; do
        "${@//\{\}/$try}" && exit
        echo "try $try ended with $?"
        sleep 1
    done; echo "gave up"' "$name" "$@" >"$LOGS/$name.log" 2>&1 </dev/null &)
    echo "began $name"
}

end() { # end NAME...: for good, with all that it began
    local name
    for name in "$@"; do
        kill -- "-$(cat "$LOGS/$name.pid")"
        echo "ended" >>"$LOGS/$name.log"
    done
}

voice() { # voice NAME SEED VOICES HOURS DEVICE
    # The last third of training has its device to itself; where voices have one of their own, they
    # go on for longer, but what is made at the very end is hardly played.
    local at=($VOICES_AT) turn=0
    local part=$((at[0] < TRAINERS ? 40 : 52))
    local left=$(($(cat "$WORK/began") + MINUTES * part - $(date +%s)))
    if [ "$left" -lt 60 ]; then return; fi
    if [[ $1 =~ -([0-9]+)$ ]]; then turn=$((BASH_REMATCH[1] % ${#at[@]})); fi
    # Another try is another seed: what the one before has made stays, and is not made again.
    CUDA_VISIBLE_DEVICES=${at[turn]} begin "$1" "$PYTHON" -m training.synthesise \
        --voices "$3" --pool "$POOL" --seed "{}$2" \
        --books "$IN/speech/text/librispeech_train_clean_100.txt" --examples "$IN/examples.txt" \
        --files "$IN/files" --minutes "$((left / 60))" --hours "$4" --device "$5" --shard-seconds 400
}

unpack() {
    # The run keeps a copy of the code: the next call may bring another tree here.
    [ -d "$WORK/code" ] || { mkdir -p "$WORK/code" && cp -r training voice_agent "$WORK/code"; }
    (cd "$WORK/code" && "$PYTHON" -m training.unpack "$1" --into "$IN")
    cp "$1/manifest.json" "$MANIFEST/" # without its pieces, which the next call may not bring
    local wheel
    for wheel in $(compgen -G "$IN/wheels/*.whl"); do
        [ -e "$wheel.done" ] && continue
        "$PYTHON" -m zipfile -e "$wheel" "$WORK/site"
        touch "$wheel.done"
    done
}

start() {
    local i
    if [ -e "$IN/tokenizer.model" ]; then cp "$IN/tokenizer.model" "$WORK/"; fi
    # Voices first: what follows them takes all cores for a while.
    if [ -e "$IN/files/kokoro/kokoro.onnx" ] && [ -e "$IN/files/kokoro/voices.npz" ]; then
        for i in $(seq "$KOKOROS"); do
            voice "kokoro-$i" "$((SEED * 100 + 20 + i))" kokoro "$HOURS" "$DEVICE"
        done
    fi
    if [ -e "$IN/files/flite/libflite.so.1" ]; then
        voice flite "$((SEED * 100 + 1))" flite "${OTHERS:-6}" cpu
        voice pico "$((SEED * 100 + 2))" pico "${OTHERS:-6}" cpu
        voice espeak "$((SEED * 100 + 3))" espeak "${OTHERS:-1}" cpu
    fi
    (cd "$WORK/code" && "$PYTHON" -m training.unpack "$MANIFEST" --into "$IN" --finish "$POOL")
    if [ -e "$IN/files/joe.onnx" ]; then
        for i in 1 2 3; do voice "joe-$i" "$((SEED * 100 + 10 + i))" joe "${OTHERS:-2}" cpu; done
    fi
    if [ -e "$POOL/human.json" ]; then
        begin splice "$PYTHON" -m training.splice --pool "$POOL" --hours "${OTHERS:-40}" --seed "$SEED"
        begin units "$PYTHON" -m training.units --pool "$POOL" --hours "${OTHERS:-40}" --seed "$SEED" \
            --books "$IN/speech/text/librispeech_train_clean_100.txt" --examples "$IN/examples.txt" \
            --files "$IN/files"
    fi
    # The first batches are drawn by shares: without Kokoro they would be the other voices alone.
    if [ -e "$POOL/human.json" ] && [ -e "$IN/teacher.npz" ] && [ -e "${WARM:-$POOL}" ] &&
        compgen -G "$POOL/kokoro-*.json" >/dev/null; then
        # Graphs keep their memory to themselves, and their shapes are few.
        PYTORCH_CUDA_ALLOC_CONF=${GRAPHS:+expandable_segments:True} \
            begin train "$PYTHON" -m torch.distributed.run --nnodes 1 \
            --nproc-per-node "$TRAINERS" --master-addr 127.0.0.1 --master-port "${PORT:-29511}" \
            -m training.tiny_en --stage train --work "$WORK" --device "$DEVICE" \
            --speech "$IN/speech" --teacher "$IN/teacher.npz" --batch-seconds "$BATCH" \
            --ema 0.9995 --deadline "$(($(cat "$WORK/began") + MINUTES * 60))" \
            --pool-hours "$POOL_HOURS" --evaluate-every "$EVALUATE" --seed "$SEED" \
            ${GRAPHS:+--"$GRAPHS"-graphs} ${RATE:+--rate "$RATE"} ${ENCODER_RATE:+--encoder-rate "$ENCODER_RATE"} \
            ${WARM:+--warm "$WARM"}
    fi
}

watch() {
    local end=$((SECONDS + $1)) left pause=3
    while [ $SECONDS -lt $end ]; do
        start >>"$LOGS/start.txt" 2>&1 || tail -3 "$LOGS/start.txt"
        if [ -e "$LOGS/train.log" ]; then
            if grep -qE '^(done in|gave up)' "$LOGS/train.log"; then break; fi
            pause=15
        fi
        left=$((end - SECONDS))
        sleep "$((left < 0 ? 0 : left < pause ? left : pause))"
    done
    nvidia-smi --query-gpu=memory.used,utilization.gpu --format=csv,noheader 2>/dev/null || true
    for log in "$LOGS"/*.log; do echo "$(basename "$log"): $(tail -1 "$log" | cut -c1-160)"; done
    tail -4 "$LOGS/train.log" 2>/dev/null | cut -c1-900 || true
    grep -F '"wer"' "$WORK/run/log.jsonl" 2>/dev/null | tail -3 | cut -c1-300 || true
    results
}

results() {
    if [ -e "$WORK/run/log.jsonl" ]; then cp "$WORK/run/log.jsonl" "$OUT/log.jsonl"; fi
    if [ -e "$WORK/run/small.pt" ]; then
        split -b 15728640 -d -a 1 "$WORK/run/small.pt" "$OUT/small.pt."
    fi
    # Of a log that grows meanwhile tar says so, and fails.
    tar -czf "$OUT/logs.tgz" -C "$WORK" logs 2>/dev/null || true
}

finish() {
    (cd "$WORK/code" && "$PYTHON" -m training.tiny_en --stage export --work "$WORK" \
        --out "$OUT/tiny-en.nemo")
    results
}

case "${1:-}" in
unpack) unpack "$(realpath "$2")" ;;
start) start ;;
watch) watch "$2" ;;
end) shift && end "$@" ;;
finish) finish ;;
*) sed -n '4,21s/^# \?//p' "$0" && exit 2 ;;
esac
