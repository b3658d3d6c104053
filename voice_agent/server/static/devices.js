/**
 * The microphone, the speaker, and how loud both are.
 *
 *   open() ──► source: the device's track ──clone──► lent: what a call sends, and stops at its end
 *                                         └────────► level()
 */

import { microphoneProblem } from "./errors.js";

const DEFAULT = "default";

/** Has the methods that Pipecat's transports expect of a media manager, for audio alone. */
export class Microphone extends EventTarget {
  supportsScreenShare = false;
  isSharingScreen = false;
  isCamEnabled = false;
  selectedCam = {};
  selectedSpeaker = {};

  #source = null;
  #lent = null;
  #id = DEFAULT;
  #on = true;
  #replace = null; // (track) => Promise, of the call that sends

  /** Ask the browser for the device. Throws a Problem. */
  async open(id = this.#id) {
    if (this.#source?.readyState === "live" && id === this.#id) return;
    if (!globalThis.isSecureContext || !navigator.mediaDevices) throw microphoneProblem(null);
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({
        audio: {
          deviceId: id === DEFAULT ? undefined : { exact: id },
          echoCancellation: true,
          noiseSuppression: true,
          autoGainControl: true,
        },
      });
    } catch (error) {
      throw microphoneProblem(error);
    }
    this.#source?.stop();
    [this.#source] = stream.getAudioTracks();
    this.#id = id;
    this.#source.addEventListener("ended", () => this.dispatchEvent(new Event("unplugged")));
    if (this.#lent) {
      this.#lend();
      await this.#replace?.(this.#lent);
    }
    this.dispatchEvent(new Event("opened"));
  }

  /** Let go of the device, so that the browser's recording sign goes out. */
  close() {
    this.#source?.stop();
    this.#lent?.stop();
    this.#source = this.#lent = this.#replace = null;
  }

  /** The device's own track, for a meter; null while it is closed. */
  get track() {
    return this.#source;
  }

  /** Tell how a running call takes another track. */
  whenReplaced(replace) {
    this.#replace = replace;
  }

  #lend() {
    this.#lent?.stop();
    this.#lent = this.#source.clone();
    this.#lent.enabled = this.#on;
  }

  // What a transport calls

  setClientOptions() {}
  async initialize() {
    await this.open();
  }
  async connect() {
    this.#lend();
  }
  async disconnect() {
    this.#lent = this.#replace = null;
  }
  tracks() {
    return { local: this.#lent ? { audio: this.#lent } : {} };
  }
  enableMic(on) {
    this.#on = on;
    if (this.#lent) this.#lent.enabled = on;
  }
  get isMicEnabled() {
    return this.#on;
  }
  get selectedMic() {
    return { deviceId: this.#id, label: this.#source?.label ?? "" };
  }
  async updateMic(id) {
    await this.open(id);
  }
  async getAllMics() {
    return devices("audioinput");
  }
  async getAllSpeakers() {
    return devices("audiooutput");
  }
}

async function devices(kind) {
  const all = (await navigator.mediaDevices?.enumerateDevices()) ?? [];
  return all.filter((device) => device.kind === kind);
}

/** Root mean square of a track's last samples, 0 to 1, whenever somebody asks. */
export class Meter {
  #context;
  #analyser;
  #node = null;
  #samples = new Float32Array(1024);

  /** @param {AudioContext} context shared by the page's meters. */
  constructor(context) {
    this.#context = context;
    this.#analyser = new AnalyserNode(context, { fftSize: this.#samples.length });
  }

  /** @param {MediaStreamTrack|null} track to listen to from now on. */
  watch(track) {
    this.#node?.disconnect();
    this.#node = track && this.#context.createMediaStreamSource(new MediaStream([track]));
    this.#node?.connect(this.#analyser);
  }

  level() {
    if (!this.#node) return 0;
    this.#analyser.getFloatTimeDomainData(this.#samples);
    const power = this.#samples.reduce((sum, x) => sum + x * x, 0) / this.#samples.length;
    return Math.sqrt(power);
  }
}

/** Fill the two lists of devices, now and whenever one comes or goes. */
export class DeviceLists {
  #microphone;
  #microphones;
  #speakers;
  #speaker = DEFAULT; // chosen; the element has it only once the browser has found it
  #voice;

  /**
   * @param {Microphone} microphone
   * @param {HTMLSelectElement} microphones
   * @param {HTMLSelectElement} speakers
   * @param {HTMLAudioElement} voice plays the agent.
   * @param {(problem: Error) => void} onProblem
   */
  constructor(microphone, microphones, speakers, voice, onProblem) {
    this.#microphone = microphone;
    this.#microphones = microphones;
    this.#speakers = speakers;
    this.#voice = voice;
    navigator.mediaDevices?.addEventListener("devicechange", () => this.fill());
    microphone.addEventListener("opened", () => this.fill());
    const failed = (problem) => {
      this.fill(); // the one before stays chosen
      onProblem(problem);
    };
    microphones.addEventListener("change", () =>
      microphone.updateMic(microphones.value).catch(failed),
    );
    speakers.addEventListener("change", () => this.#speak(speakers.value).catch(failed));
    this.fill();
  }

  async #speak(id) {
    this.#speaker = id;
    try {
      await this.#voice.setSinkId(id);
    } catch (error) {
      if (this.#speaker === id) this.#speaker = this.#voice.sinkId || DEFAULT;
      throw error;
    }
  }

  async fill() {
    const [microphones, speakers] = await Promise.all([
      this.#microphone.getAllMics(),
      this.#microphone.getAllSpeakers(),
    ]);
    options(this.#microphones, microphones, this.#microphone.selectedMic.deviceId);
    options(this.#speakers, speakers, this.#speaker);
    // Safari plays where the system says, and Chrome names speakers only after the permission.
    this.#speakers.disabled = !("setSinkId" in HTMLMediaElement.prototype) || !speakers.length;
  }
}

function options(list, found, chosen) {
  const named = found.filter((device) => device.deviceId);
  const all = named.some((device) => device.deviceId === DEFAULT)
    ? named
    : [{ deviceId: DEFAULT, label: "The system's default" }, ...named];
  list.replaceChildren(
    ...all.map(({ deviceId, label }, i) => new Option(label || `Device ${i}`, deviceId)),
  );
  list.value = all.some((device) => device.deviceId === chosen) ? chosen : DEFAULT;
}
