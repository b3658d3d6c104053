/**
 * The microphone of Pipecat's prebuilt page, straight from the browser.
 *
 * The page asks Daily's call object for its devices, and that fetches its code from Daily's servers
 * and reports errors to Sentry's: no microphone without the internet. The server sends this module
 * in its place (page.py). It has the methods and events of that object which the page's media
 * manager uses, for audio alone; the agent has no use for a camera or a screen.
 *
 *   startCamera() ──► source: the device's track ──clone──► lent: what the call may stop
 *                                                └────────► level meter
 */

const DEFAULT_DEVICE = "default";

class Microphone {
  static #instance = null;

  static getCallInstance() {
    return Microphone.#instance;
  }

  static createCallObject() {
    Microphone.#instance = new Microphone();
    return Microphone.#instance;
  }

  #listeners = new Map(); // event -> functions
  #source = null;
  #lent = null;
  #meter = null; // {context, timer}
  #micId = DEFAULT_DEVICE;
  #speakerId = DEFAULT_DEVICE;
  #muted = false;

  constructor() {
    navigator.mediaDevices?.addEventListener("devicechange", async () => {
      const { devices } = await this.enumerateDevices();
      this.#emit("available-devices-updated", { availableDevices: devices });
    });
  }

  on(event, listener) {
    this.#listeners.set(event, [...(this.#listeners.get(event) ?? []), listener]);
    return this;
  }

  async startCamera({ startAudioOff = false } = {}) {
    this.#muted = startAudioOff;
    if (!startAudioOff) await this.#open();
    return this.#selected();
  }

  leave() {
    // Without a track-stopped, which the page would take for a muted microphone.
    this.#stopTracks();
    if (this.#meter) {
      clearInterval(this.#meter.timer);
      this.#meter.context.close();
      this.#meter = null;
    }
  }

  participants() {
    if (this.#lent?.readyState === "ended" && this.#source?.readyState === "live") {
      this.#lend(); // the last call is over and has stopped what it was lent
    }
    const audio = this.#lent ? { persistentTrack: this.#lent } : {};
    return { local: { ...LOCAL, tracks: { audio } } };
  }

  localAudio() {
    return this.#source !== null && !this.#muted;
  }

  setLocalAudio(on) {
    this.#muted = !on;
    if (this.#lent) this.#lent.enabled = on;
    else if (on) this.#open();
  }

  async enumerateDevices() {
    return { devices: (await navigator.mediaDevices?.enumerateDevices()) ?? [] };
  }

  async setInputDevicesAsync({ audioDeviceId }) {
    if (audioDeviceId && audioDeviceId !== this.#micId) {
      this.#micId = audioDeviceId;
      if (this.#source) await this.#open();
      this.#emit("selected-devices-updated", { devices: await this.#selected() });
    }
    return this.#selected();
  }

  async setOutputDeviceAsync({ outputDeviceId }) {
    this.#speakerId = outputDeviceId;
    return this.#selected();
  }

  isLocalAudioLevelObserverRunning() {
    return this.#meter !== null;
  }

  async startLocalAudioLevelObserver(intervalMs) {
    const context = new AudioContext();
    const analyser = new AnalyserNode(context, { fftSize: 1024 });
    const samples = new Float32Array(analyser.fftSize);
    let measured = null; // {track, node}
    const timer = setInterval(() => {
      if (measured?.track !== this.#lent) {
        measured?.node.disconnect();
        const node = this.#lent && context.createMediaStreamSource(new MediaStream([this.#lent]));
        node?.connect(analyser);
        measured = this.#lent && { track: this.#lent, node };
      }
      analyser.getFloatTimeDomainData(samples);
      const power = samples.reduce((sum, x) => sum + x * x, 0) / samples.length;
      this.#emit("local-audio-level", { audioLevel: measured ? Math.sqrt(power) : 0 });
    }, intervalMs);
    this.#meter = { context, timer };
  }

  // The page has buttons for these; without a camera or a screen they change nothing.
  localVideo() {
    return false;
  }
  setLocalVideo() {}
  startScreenShare() {}
  stopScreenShare() {}
  localScreenAudio() {
    return false;
  }
  localScreenVideo() {
    return false;
  }

  async #open() {
    this.#stopTracks();
    try {
      if (!navigator.mediaDevices) {
        throw new DOMException("only pages on localhost or https get it", "NotAllowedError");
      }
      const deviceId = this.#micId === DEFAULT_DEVICE ? undefined : { exact: this.#micId };
      const stream = await navigator.mediaDevices.getUserMedia({ audio: { deviceId } });
      [this.#source] = stream.getAudioTracks();
    } catch (error) {
      this.#emit("camera-error", { error: asDailyTells(error) });
      return;
    }
    this.#lend();
    this.#emit("track-started", { type: "audio", track: this.#lent, participant: LOCAL });
  }

  #lend() {
    this.#lent = this.#source.clone();
    this.#lent.enabled = !this.#muted;
  }

  #stopTracks() {
    this.#source?.stop();
    this.#lent?.stop();
    this.#source = this.#lent = null;
  }

  async #selected() {
    const { devices } = await this.enumerateDevices();
    const find = (kind, id) =>
      devices.find((d) => d.kind === kind && (d.deviceId === id || id === DEFAULT_DEVICE)) ?? {};
    return {
      camera: {},
      mic: find("audioinput", this.#micId),
      speaker: find("audiooutput", this.#speakerId),
    };
  }

  #emit(event, detail) {
    for (const listener of this.#listeners.get(event) ?? []) listener({ action: event, ...detail });
  }
}

const LOCAL = { local: true, user_id: "local", user_name: "You" };

/** What getUserMedia throws, as Daily's camera-error has it. */
function asDailyTells(error) {
  switch (error.name) {
    case "NotAllowedError":
    case "SecurityError":
      return {
        type: "permissions",
        msg: `The page may not use the microphone: ${error.message}`,
        blockedMedia: ["audio"],
        blockedBy: "user",
      };
    case "NotFoundError":
    case "OverconstrainedError":
      return { type: "not-found", msg: "There is no microphone.", missingMedia: ["audio"] };
    case "NotReadableError":
      return { type: "mic-in-use", msg: "Another program holds the microphone." };
    default:
      return { type: "unknown", msg: `The microphone failed: ${error.message}` };
  }
}

export { Microphone as t };
