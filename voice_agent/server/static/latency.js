/**
 * How long things take, by this page's clock and ears.
 *
 *   first words    I begin to speak  ──► the first tentative words are here
 *   final          I stop speaking   ──► the final words are here
 *   voice to voice I stop speaking   ──► the agent's voice begins to play
 *
 * Beginnings and ends of speech are taken from levels, so the server's VAD, the network and the
 * agent are all inside; what the sound card adds on either side is not.
 */

const PAUSE_MS = 250; // a shorter one is inside an utterance
const STILL_TALKING_MS = 100;
const QUIET = 0.006; // below it, nothing is taken for speech
const ABOVE_NOISE = 3;
const LONGEST_MS = 15_000; // more is another utterance's

const KINDS = {
  first: ["First words", "From when you begin to speak until the first words are here"],
  final: ["Final", "From when you stop speaking until your words are final"],
  voice: ["Voice to voice", "From when you stop speaking until the agent is heard"],
};

/** Runs of sound in a stream of levels. */
class Runs {
  #floor = QUIET;
  runs = []; // {from, to} in ms, oldest first

  /** @returns {boolean} whether a run begins with this level. */
  hear(now, level) {
    this.#floor = Math.min(Math.max(level, 1e-5), this.#floor * 1.002);
    if (level < Math.max(QUIET, this.#floor * ABOVE_NOISE)) return false;
    const last = this.runs.at(-1);
    if (last && now - last.to <= PAUSE_MS) {
      last.to = now;
      return false;
    }
    this.runs.push({ from: now, to: now });
    if (this.runs.length > 32) this.runs.shift();
    return true;
  }

  get last() {
    return this.runs.at(-1);
  }
}

export class LatencyClock {
  #mine = new Runs();
  #theirs = new Runs();
  #onMeasure;
  #segmentOpen = false;
  #awaited = null; // when my turn ended, until the agent's voice answers it

  /** @param {(kind: "first"|"final"|"voice", ms: number) => void} onMeasure */
  constructor(onMeasure) {
    this.#onMeasure = onMeasure;
  }

  /** Levels of both sides, some 40 times a second. */
  hear(now, mine, theirs) {
    this.#mine.hear(now, mine);
    const begins = this.#theirs.hear(now, theirs);
    if (begins && this.#awaited !== null) {
      this.#tell("voice", now - this.#awaited);
      this.#awaited = null;
    }
  }

  /** A caption came. */
  caption(now, final) {
    const run = this.#mine.last;
    if (!final) {
      if (!this.#segmentOpen && run) this.#tell("first", now - run.from);
      this.#segmentOpen = true;
      return;
    }
    this.#segmentOpen = false;
    if (run && now - run.to > STILL_TALKING_MS) {
      this.#tell("final", now - run.to);
      this.#awaited = run.to;
    }
  }

  /** I speak again: what the agent says next answers something later. */
  userStarted() {
    this.#awaited = null;
  }

  #tell(kind, ms) {
    if (ms > 0 && ms < LONGEST_MS) this.#onMeasure(kind, ms);
  }
}

/** One tile for each kind: the newest value and a sparkline of those before. */
export class LatencyStrip {
  #tiles = {};

  /** @param {HTMLDListElement} list filled here. */
  constructor(list) {
    for (const [kind, [name, meaning]] of Object.entries(KINDS)) {
      const tile = document.createElement("div");
      const [term, value] = [document.createElement("dt"), document.createElement("dd")];
      const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      const path = (name) => {
        const made = document.createElementNS(svg.namespaceURI, "path");
        made.setAttribute("class", name);
        made.setAttribute("vector-effect", "non-scaling-stroke");
        svg.append(made);
        return made;
      };
      term.textContent = name;
      svg.setAttribute("viewBox", "0 0 100 24");
      svg.setAttribute("preserveAspectRatio", "none");
      svg.setAttribute("aria-hidden", "true");
      const [area, line, newest] = ["area", "line", "now"].map(path);
      const number = document.createElement("span");
      number.textContent = "–";
      svg.toggleAttribute("hidden", true); // until there is something to compare
      value.append(number, svg);
      tile.append(term, value);
      tile.dataset.kind = kind;
      tile.title = meaning;
      list.append(tile);
      this.#tiles[kind] = { number, svg, area, line, newest, past: [] };
    }
  }

  show(kind, ms) {
    const { number, svg, area, line, newest, past } = this.#tiles[kind];
    past.push(ms);
    if (past.length > 24) past.shift();
    number.textContent = `${Math.round(ms)} ms`;
    if (past.length < 2) return;
    svg.toggleAttribute("hidden", false);
    const points = pointsOf(past);
    line.setAttribute("d", `M${points.join("L")}`);
    area.setAttribute("d", `M${points.join("L")}V24H0Z`);
    newest.setAttribute("d", `M${points.at(-1)}h0`); // a line without length is a round dot
  }
}

/** From 0 at the bottom to the largest at the top, in the box of the sparkline. */
function pointsOf(values) {
  const top = Math.max(...values);
  const step = 100 / (values.length - 1);
  return values.map((ms, i) => `${(i * step).toFixed(1)},${(22 - (20 * ms) / top).toFixed(1)}`);
}
