/**
 * The conversation as it is seen: what I say, grey until it is final; what the agent says, grey
 * until it is spoken, so what was cut off stays grey.
 */

const NEAR_END_PX = 80;
const names = new Intl.DisplayNames(["en"], { type: "language" });

/** "kn" -> "Kannada"; the code itself where it has no name. */
export function languageName(code) {
  try {
    return names.of(code);
  } catch {
    return code;
  }
}

function element(tag, className, text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

/** One thing that somebody said. */
class Entry {
  constructor(who, className) {
    this.item = element("li", `entry ${className}`);
    this.who = element("span", "who", who);
    this.badge = element("span", "badge");
    this.badge.hidden = true;
    this.text = element("p", "words");
    this.sure = element("span", "sure");
    this.unsure = element("span", "unsure");
    this.text.append(this.sure, this.unsure);
    const head = element("div", "head");
    head.append(this.who, this.badge);
    this.item.append(head, this.text);
  }

  say(sure, unsure = "") {
    this.sure.textContent = sure;
    this.unsure.textContent = unsure;
  }

  speaks(language) {
    this.badge.hidden = !language;
    if (!language) return;
    this.badge.textContent = languageName(language);
    this.badge.dataset.language = language.split("-")[0];
    this.text.lang = language;
  }
}

export class Transcript {
  #list;
  #announcer;
  #mine = null; // the segment that is being spoken
  #decided = null; // its language, where the gate knew that before the first words
  #answer = null; // {entry, planned, segments: Map of id -> words spoken}
  #agentSpeaks = false;

  /**
   * @param {HTMLOListElement} list
   * @param {HTMLElement} announcer a live region: is told what is final, and nothing tentative.
   */
  constructor(list, announcer) {
    this.#list = list;
    this.#announcer = announcer;
  }

  /** A caption of the server: {text, final, language}. */
  caption({ text, final, language }) {
    this.#mine ??= this.#add(new Entry("You", "mine"));
    const entry = this.#mine;
    this.#keepUp(() => {
      entry.say(final ? text : "", final ? "" : text);
      entry.speaks(language ?? this.#decided);
    });
    if (!final) return;
    entry.item.dataset.final = "";
    this.#mine = this.#decided = null;
    this.#announce(`You: ${text}`);
  }

  /** The gate has decided which language the segment is in: {language}. */
  language({ language }) {
    this.#decided = language;
    this.#mine?.speaks(language);
  }

  typed(text) {
    const entry = this.#add(new Entry("You, typed", "mine"));
    entry.say(text);
    entry.item.dataset.final = "";
  }

  answerBegins() {
    this.#answer = null;
  }

  /** Words that the agent is going to say. */
  plans({ text }) {
    const answer = this.#current();
    answer.planned += text;
    this.#render(answer);
  }

  /** What the agent says or has said: RTVI's bot-output. */
  says({ text, segment_id: id, spoken_status: status, spoken_progress: progress, will_be_spoken }) {
    const answer = this.#current();
    const spoken = will_be_spoken === false || status === "completed";
    const said = spoken ? text : (progress?.accumulated_text ?? "");
    if (!answer.planned.includes(text) && !answer.segments.has(id)) {
      answer.planned = `${answer.planned} ${text}`.trim(); // a greeting, which no model planned
    }
    answer.segments.set(id, said);
    this.#render(answer);
    if (status === "completed") this.#announce(`Agent: ${text}`);
  }

  agentStarted() {
    this.#agentSpeaks = true;
  }

  agentStopped() {
    this.#agentSpeaks = false;
  }

  /** I spoke, or typed, while the agent was speaking. */
  agentInterrupted() {
    if (!this.#agentSpeaks || !this.#answer) return;
    this.#answer.entry.item.dataset.cut = "";
    this.#answer.entry.who.textContent = "Agent, interrupted";
    this.#answer = null;
    this.#agentSpeaks = false;
  }

  /** The call is over: what is tentative will never be final. */
  end() {
    if (this.#mine) this.#mine.item.remove();
    this.#mine = this.#decided = this.#answer = null;
    this.#agentSpeaks = false;
  }

  #current() {
    this.#answer ??= {
      entry: this.#add(new Entry("Agent", "agent")),
      planned: "",
      segments: new Map(),
    };
    return this.#answer;
  }

  #render({ entry, planned, segments }) {
    const said = [...segments.values()].filter(Boolean).join(" ");
    this.#keepUp(() => entry.say(said, planned.slice(said.length)));
  }

  #add(entry) {
    this.#keepUp(() => this.#list.append(entry.item));
    return entry;
  }

  /** Change the list, and stay at its end if that is where the reader is. */
  #keepUp(change) {
    const list = this.#list;
    const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < NEAR_END_PX;
    change();
    if (atEnd) list.scrollTop = list.scrollHeight;
  }

  #announce(text) {
    this.#announcer.replaceChildren(element("p", "", text));
  }
}
