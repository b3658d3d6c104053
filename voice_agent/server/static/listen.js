/** A recording over `WS /v1/listen`: decoded here, sent as 16-bit PCM, answered in segments. */

import { Problem } from "./errors.js";
import { ask } from "./server.js";

const RATE = 16_000;
const PIECE = RATE / 2; // samples a message
const MOST_UNSENT = 256 * 1024; // bytes that wait in the browser
const LOOK_MS = 25;

/** A file's sound, mono at 16 kHz. Throws a Problem. */
export async function decode(file) {
  const context = new OfflineAudioContext(1, 1, RATE); // decoding also resamples to its rate
  let sound;
  try {
    sound = await context.decodeAudioData(await file.arrayBuffer());
  } catch {
    throw new Problem(`${file.name} holds no sound that this browser can read.`);
  }
  const channels = Array.from({ length: sound.numberOfChannels }, (_, i) => sound.getChannelData(i));
  const pcm = new Int16Array(sound.length);
  for (let i = 0; i < pcm.length; i++) {
    let sum = 0;
    for (const channel of channels) sum += channel[i];
    pcm[i] = Math.max(-1, Math.min(1, sum / channels.length)) * 32767;
  }
  return pcm;
}

/**
 * Transcribe.
 *
 * @param {Int16Array} pcm
 * @param {{key: string, signal: AbortSignal, onProgress: (part: number) => void,
 *          onResult: (segment: object, final: boolean) => void}} options
 * @returns {Promise<void>} when all was heard. Throws a Problem, or the signal's reason.
 */
export async function transcribe(pcm, { key, signal, onProgress, onResult }) {
  await ask(key); // browsers do not tell why a websocket is refused
  const query = new URLSearchParams({
    encoding: "linear16",
    sample_rate: RATE,
    interim_results: true,
    language: "multi",
  });
  const address = new URL(`v1/listen?${query}`, document.baseURI);
  address.protocol = address.protocol.replace("http", "ws");
  const socket = new WebSocket(address, key ? ["token", key] : []);
  const stop = () => socket.close(1000);
  signal.addEventListener("abort", stop);
  let heard = 0; // samples: what was sent may still wait to be transcribed
  let complete = false;
  let problem = null;
  socket.addEventListener("message", ({ data }) => {
    const message = JSON.parse(data);
    if (message.type === "Results") {
      const segment = segmentOf(message);
      heard = Math.max(heard, segment.end * RATE);
      onProgress(Math.min(1, heard / pcm.length));
      onResult(segment, message.is_final);
    } else if (message.type === "Metadata") complete = true;
    else if (message.type === "Error") problem = new Problem(`It stopped: ${message.description}`);
  });
  const opened = new Promise((resolve) => socket.addEventListener("open", resolve));
  const closed = new Promise((resolve) => socket.addEventListener("close", resolve));
  try {
    const first = await Promise.race([opened, closed]);
    if (first.type === "close") {
      throw new Problem("The server took no recording just now; it may be full. Try again.");
    }
    await send(socket, pcm);
    await closed;
    signal.throwIfAborted();
    if (problem) throw problem;
    if (!complete) throw new Problem("The connection was lost before the end of the recording.");
    onProgress(1);
  } finally {
    signal.removeEventListener("abort", stop);
    socket.close(1000);
  }
}

async function send(socket, pcm) {
  for (let at = 0; at < pcm.length; at += PIECE) {
    while (socket.bufferedAmount > MOST_UNSENT) await new Promise((go) => setTimeout(go, LOOK_MS));
    if (socket.readyState !== WebSocket.OPEN) return;
    socket.send(pcm.subarray(at, at + PIECE));
  }
  socket.send(JSON.stringify({ type: "CloseStream" }));
}

function segmentOf({ start, duration, channel }) {
  const [{ transcript, words, languages }] = channel.alternatives;
  return {
    start,
    end: start + duration,
    text: transcript,
    language: languages?.[0] ?? null,
    words: words.map((word) => ({ text: word.punctuated_word, start: word.start, end: word.end })),
  };
}
