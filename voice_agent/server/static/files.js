/** The tab that transcribes a dropped file. */

import { languageName } from "./captions.js";
import { Problem } from "./errors.js";
import { decode, transcribe } from "./listen.js";
import { asSrt, asText, asVtt, clock } from "./subtitles.js";

const $ = (id) => document.getElementById(id);
const FORMATS = {
  txt: { make: asText, type: "text/plain" },
  srt: { make: asSrt, type: "application/x-subrip" },
  vtt: { make: asVtt, type: "text/vtt" },
};

export class FileTab {
  #key;
  #onProblem;
  #running = null; // AbortController

  /**
   * @param {() => string} key of the server; empty for none.
   * @param {(problem: Error|null) => void} onProblem
   */
  constructor(key, onProblem) {
    this.#key = key;
    this.#onProblem = onProblem;
    const drop = $("drop");
    for (const kind of ["dragenter", "dragover"]) {
      drop.addEventListener(kind, (event) => {
        event.preventDefault();
        drop.dataset.over = "";
      });
    }
    drop.addEventListener("dragleave", () => delete drop.dataset.over);
    drop.addEventListener("drop", (event) => {
      event.preventDefault();
      delete drop.dataset.over;
      if (event.dataTransfer.files.length) this.take(event.dataTransfer.files[0]);
    });
    $("file-input").addEventListener("change", ({ target }) => {
      if (target.files.length) this.take(target.files[0]);
      target.value = ""; // so that the same file can be chosen again
    });
    $("file-cancel").addEventListener("click", () => this.#running?.abort());
  }

  /** Transcribe a file; one that is under way is given up. */
  async take(file) {
    this.#running?.abort();
    const running = (this.#running = new AbortController());
    const mine = (act) => (...told) => running === this.#running && act(...told);
    this.#onProblem(null);
    this.#begin(file.name);
    const segments = [];
    try {
      const pcm = await decode(file);
      if (running !== this.#running) return;
      $("file-state").textContent = "is being transcribed";
      await transcribe(pcm, {
        key: this.#key(),
        signal: running.signal,
        onProgress: mine((part) => ($("file-progress").value = part)),
        onResult: mine((segment, final) => {
          this.#show(segment, final);
          if (final && segment.text) segments.push(segment);
        }),
      });
      $("file-state").textContent = segments.length ? "is done" : "holds no speech";
    } catch (error) {
      if (running !== this.#running) return;
      $("file-state").textContent = "was not finished";
      if (!running.signal.aborted) {
        if (!(error instanceof Problem)) console.error(error);
        this.#onProblem(error);
      }
    }
    this.#offer(file.name, segments);
    $("file-cancel").hidden = true;
  }

  #begin(name) {
    $("work").hidden = false;
    $("file-cancel").hidden = false;
    $("downloads").hidden = true;
    $("file-name").textContent = name;
    $("file-state").textContent = "is being read";
    $("file-progress").value = 0;
    $("segments").replaceChildren();
  }

  /** The last line is tentative until its segment is final. */
  #show(segment, final) {
    const list = $("segments");
    list.querySelector("li[data-tentative]")?.remove();
    if (!segment.text) return;
    const line = document.createElement("li");
    line.className = "entry";
    const head = document.createElement("div");
    head.className = "head";
    const at = document.createElement("span");
    at.className = "who";
    at.textContent = clock(segment.start).slice(0, 8);
    head.append(at);
    if (segment.language) {
      const badge = document.createElement("span");
      badge.className = "badge";
      badge.dataset.language = segment.language.split("-")[0];
      badge.textContent = languageName(segment.language);
      head.append(badge);
    }
    const words = document.createElement("p");
    words.className = final ? "words sure" : "words unsure";
    if (segment.language) words.lang = segment.language;
    words.textContent = segment.text;
    line.append(head, words);
    if (!final) line.dataset.tentative = "";
    list.append(line);
    list.scrollTop = list.scrollHeight;
  }

  #offer(name, segments) {
    $("downloads").hidden = !segments.length;
    const stem = name.replace(/\.[^.]+$/, "");
    for (const [ending, { make, type }] of Object.entries(FORMATS)) {
      const link = $(`save-${ending}`);
      URL.revokeObjectURL(link.href);
      link.href = URL.createObjectURL(new Blob([make(segments)], { type }));
      link.download = `${stem}.${ending}`;
    }
  }
}
