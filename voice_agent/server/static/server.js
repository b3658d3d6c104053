/** What a page asks the server before a call or a recording. */

import { refusal, unreachable } from "./errors.js";

/**
 * Whether there is room for one more, and which ICE servers to use. Throws a Problem.
 *
 * @param {string} key of the server; empty for none.
 * @returns {Promise<{iceConfig: {iceServers: RTCIceServer[]}}>}
 */
export async function ask(key) {
  const response = await fetch("start", {
    method: "POST",
    credentials: "omit", // else a refusal makes the browser ask for a password of its own
    headers: { "Content-Type": "application/json", ...authorization(key) },
    body: JSON.stringify({ transport: "webrtc" }),
  }).catch(() => {
    throw unreachable();
  });
  if (!response.ok) throw await refusal(response);
  return response.json();
}

export function authorization(key) {
  return key ? { Authorization: `Bearer ${key}` } : {};
}
