/**
 * A call to the agent, kept up: Pipecat's client over WebRTC, dialled again when the line is lost.
 *
 *            start()            bot-ready             the agent hangs up
 *     idle ──────────► connecting ─────────► live ──────────────────────► idle
 *       ▲                ▲    │ busy, lost     │ lost
 *       └──── stop() ────┼────┴─► waiting ◄────┘
 *                        └─ later ──┘
 */

import { PipecatClient, SmallWebRTCTransport } from "./vendor/pipecat.js";
import { Problem, refusal, sentence, unreachable } from "./errors.js";
import { ask, authorization } from "./server.js";

const READY_LIMIT_MS = 20_000;
const FIRST_WAIT_S = 1;
const LONGEST_WAIT_S = 15;
const LASTING_MS = 10_000; // a call that lived longer was a good one
const WARNINGS = 2; // of Pipecat's log levels

class Client extends PipecatClient {
  /** Takes one message more than its base, which does not know it yet. */
  handleMessage(message) {
    if (message.type === "bot-interrupted") this._options.callbacks.onBotInterrupted?.();
    else super.handleMessage(message);
  }
}

class Transport extends SmallWebRTCTransport {
  // Its own reconnecting would hide from the page, and from the user, that the line is lost.
  maxReconnectionAttempts = 0;

  replaceMicrophone(track) {
    return this.pc?.getTransceivers()[0].sender.replaceTrack(track);
  }
}

/** Events: "state" (detail: {state, words, inS}), "message" (detail: {type, data}), "problem". */
export class Call extends EventTarget {
  state = "idle";
  #microphone;
  #key;
  #client = null;
  #transport = null;
  #timer = null;
  #failures = 0; // in a row
  #liveSince = null;
  #round = 0; // which attempt is current: what comes from an earlier one is not heard
  #callError = null; // what the server said was wrong in this call: {error, fatal}

  /**
   * @param {import("./devices.js").Microphone} microphone
   * @param {() => string} key of the server; empty for none.
   */
  constructor(microphone, key) {
    super();
    this.#microphone = microphone;
    this.#key = key;
  }

  async start() {
    this.#failures = 0;
    await this.#attempt();
  }

  async stop() {
    this.#become("idle");
    await this.#drop();
    this.#microphone.close();
  }

  /** Whether the agent hears the microphone. */
  set microphoneOn(on) {
    if (this.state === "live") this.#client.enableMic(on);
    else this.#microphone.enableMic(on);
  }

  /** Say something by keyboard; what the agent is saying is cut off. */
  async sendText(text) {
    await this.#client.sendText(text, { run_immediately: true, audio_response: true });
  }

  async #attempt() {
    this.#become("connecting");
    const round = ++this.#round;
    try {
      await this.#microphone.open();
      if (this.state === "idle") this.#microphone.close(); // stopped while the browser asked
      if (round !== this.#round) return;
      const { iceConfig } = await ask(this.#key());
      if (round !== this.#round) return;
      await this.#dial(round, iceConfig);
    } catch (error) {
      if (round === this.#round) await this.#failed(error);
      return;
    }
    if (round !== this.#round) return;
    this.#liveSince = performance.now();
    this.#become("live");
  }

  /** Resolves when the agent is ready. Throws a Problem. */
  #dial(round, iceConfig) {
    return new Promise((resolve, reject) => {
      const late = () => reject(new Problem("The agent does not answer.", { passing: true }));
      const timer = setTimeout(late, READY_LIMIT_MS);
      const mine = (act) => (data) => round === this.#round && act(data);
      const tell = (type) =>
        mine((data) => this.dispatchEvent(new CustomEvent("message", { detail: { type, data } })));
      let connected = false;
      this.#callError = null;
      this.#transport = new Transport({ mediaManager: this.#microphone });
      this.#client = new Client({
        transport: this.#transport,
        enableMic: this.#microphone.isMicEnabled,
        disconnectOnBotDisconnect: false,
        callbacks: {
          onConnected: () => (connected = true),
          onBotReady: resolve,
          onBotDisconnected: mine(() => this.#hungUp()),
          // Before it is connected, connect() itself is rejected, and knows why.
          onDisconnected: mine(() => connected && this.#lost(reject)),
          onError: mine(({ data }) => (this.#callError = data)),
          onTrackStarted: mine((track) => track.kind === "audio" && tell("voice")(track)),
          onServerMessage: tell("server"),
          onUserStartedSpeaking: tell("user-started"),
          onUserStoppedSpeaking: tell("user-stopped"),
          onBotStartedSpeaking: tell("agent-started"),
          onBotStoppedSpeaking: tell("agent-stopped"),
          onBotInterrupted: tell("agent-interrupted"),
          onBotLlmStarted: tell("agent-answers"),
          onBotLlmText: tell("agent-plans"),
          onBotOutput: tell("agent-says"),
        },
      });
      this.#client.setLogLevel(WARNINGS);
      this.#microphone.whenReplaced((track) => this.#transport?.replaceMicrophone(track));
      this.#client
        .connect({
          webrtcRequestParams: {
            endpoint: new URL("api/offer", document.baseURI),
            headers: new Headers(authorization(this.#key())),
          },
          iceConfig,
        })
        .catch(async ({ cause }) => reject(await this.#problemOf(cause)))
        .finally(() => clearTimeout(timer));
    });
  }

  async #problemOf(cause) {
    if (cause instanceof Response) return cause.bodyUsed ? unreachable() : refusal(cause);
    return new Problem("The call could not be connected. A firewall may be in its way.", {
      passing: true,
    });
  }

  /** The server ended the call: because it stops, or because this call is over. */
  async #hungUp() {
    const round = this.#round;
    const ready = await fetch("readyz").catch(() => null);
    if (round !== this.#round) return;
    if (!ready?.ok) {
      await this.#failed(new Problem("The server is stopping.", { passing: true }));
      return;
    }
    const why = this.#callError?.error ?? "It does so when nobody has spoken for a while";
    await this.#failed(new Problem(`The agent has hung up. ${sentence(why)}`));
  }

  #lost(reject) {
    const problem = this.#callError?.fatal
      ? new Problem(`The call has failed. ${sentence(this.#callError.error)}`)
      : new Problem("The line is lost.", { passing: true });
    if (this.state === "live") this.#failed(problem);
    else reject(problem);
  }

  /** Wait and try again, or give up where that makes no sense. */
  async #failed(error) {
    this.#round++;
    await this.#drop();
    if (!(error instanceof Problem)) console.error(error);
    const problem =
      error instanceof Problem ? error : new Problem(`Something went wrong: ${error.message}`);
    if (!problem.passing) {
      await this.stop();
      this.dispatchEvent(new CustomEvent("problem", { detail: problem }));
      return;
    }
    if (this.#liveSince !== null && performance.now() - this.#liveSince > LASTING_MS) {
      this.#failures = 0;
    }
    this.#liveSince = null;
    const backoffS = Math.min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** this.#failures++);
    this.#wait(problem.message, problem.retryAfterS ?? backoffS);
  }

  #wait(words, leftS) {
    this.#become("waiting", { words, inS: leftS });
    this.#timer = setTimeout(() => {
      if (leftS > 1) this.#wait(words, leftS - 1);
      else this.#attempt();
    }, 1000);
  }

  async #drop() {
    const client = this.#client;
    this.#client = this.#transport = null;
    await client?.disconnect();
  }

  #become(state, detail = {}) {
    clearTimeout(this.#timer);
    if (state === "idle") this.#round++;
    this.state = state;
    this.dispatchEvent(new CustomEvent("state", { detail: { state, ...detail } }));
  }
}
