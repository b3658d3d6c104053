/** What can go wrong, in words that say what to do. */

export class Problem extends Error {
  /**
   * @param {string} words shown to the user.
   * @param {{retryAfterS?: number, needsKey?: boolean, passing?: boolean}} [more]
   *   `passing`: it may well be over in a moment, so trying again by itself makes sense.
   */
  constructor(words, { retryAfterS = null, needsKey = false, passing = false } = {}) {
    super(words);
    this.retryAfterS = retryAfterS;
    this.needsKey = needsKey;
    this.passing = passing;
  }
}

/** Why the server said no. */
export async function refusal(response) {
  const said = sentence(await reasonIn(response));
  const retryAfterS = Number(response.headers.get("Retry-After")) || null;
  switch (response.status) {
    case 401:
      if (/has no keys/.test(said)) return new Problem(said); // nor would it take one
      return new Problem(
        /not known/.test(said)
          ? "The server does not know this key. Check it and try again."
          : "This server wants a key.",
        { needsKey: true },
      );
    case 403:
    case 421:
      return new Problem(`This server does not serve this page. ${said}`);
    case 429:
      return new Problem(`This key's limit is reached. ${said}`, { retryAfterS });
    case 503:
      return new Problem(said.replace(/; retry in \d+ s/, ""), {
        retryAfterS: retryAfterS ?? 5,
        passing: true,
      });
    default:
      return new Problem(`The server answered with an error (${response.status}). ${said}`);
  }
}

async function reasonIn(response) {
  const text = await response.text();
  try {
    const body = JSON.parse(text);
    return body.detail ?? body.error?.message ?? body.err_msg ?? text;
  } catch {
    return text || response.statusText;
  }
}

/** With a capital letter, and a full stop. */
export function sentence(text) {
  const words = String(text).trim();
  if (!words) return "";
  const ended = /[.!?]$/.test(words) ? words : `${words}.`;
  return ended[0].toUpperCase() + ended.slice(1);
}

/** The server cannot be reached at all. */
export function unreachable() {
  return new Problem("The server cannot be reached. Is it running?", { passing: true });
}

/** What `getUserMedia` threw; null as `error` where the browser has none to offer. */
export function microphoneProblem(error) {
  if (!globalThis.isSecureContext || !navigator.mediaDevices) {
    return new Problem(
      "Browsers give a page the microphone over https or on localhost alone. Open this page as " +
        `http://localhost:${location.port || 80} on the server's own machine, or put https in ` +
        "front of the server.",
    );
  }
  switch (error?.name) {
    case "NotAllowedError":
    case "SecurityError":
      return new Problem(
        "The browser does not let this page use the microphone. Allow it with the icon beside " +
          "the address, then press Talk again.",
      );
    case "NotFoundError":
      return new Problem("There is no microphone. Plug one in, then press Talk again.");
    case "OverconstrainedError":
      return new Problem("The chosen microphone is gone. Choose another one below.");
    case "NotReadableError":
      return new Problem(
        "The microphone does not answer; another program may hold it. Close that one, then press " +
          "Talk again.",
      );
    default:
      return new Problem(`The microphone failed: ${error?.message ?? "no reason was given"}`);
  }
}
