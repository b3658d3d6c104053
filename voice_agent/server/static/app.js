/** The page: wires the call, the captions, the meters and the file tab to what is on the screen. */

import { Call } from "./call.js";
import { Transcript } from "./captions.js";
import { DeviceLists, Meter, Microphone } from "./devices.js";
import { Problem } from "./errors.js";
import { FileTab } from "./files.js";
import { LatencyClock, LatencyStrip } from "./latency.js";

const METER_MS = 25;
const KEY = "voice-agent-key"; // of sessionStorage: gone with the tab
const THEME = "voice-agent-theme";

const $ = (id) => document.getElementById(id);

const microphone = new Microphone();
const call = new Call(microphone, () => sessionStorage.getItem(KEY) ?? "");
const transcript = new Transcript($("transcript"), $("announcer"));
const strip = new LatencyStrip($("latency"));
const clock = new LatencyClock((kind, ms) => strip.show(kind, ms));
const voice = $("voice");

// Errors

function show(problem) {
  $("problem").hidden = !problem;
  if (!problem) return;
  const words = problem instanceof Problem ? problem.message : `Something went wrong: ${problem}`;
  const later = problem.retryAfterS ? ` Try again in ${problem.retryAfterS} s.` : "";
  $("problem-words").textContent = words + later;
  $("key-form").hidden = !problem.needsKey;
  if (problem.needsKey) $("key").focus();
}

$("problem-close").addEventListener("click", () => show(null));
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, $("key").value.trim());
  $("key").value = "";
  $("key-form").hidden = true;
  show(null);
});

// The call

const STATES = {
  idle: () => ["Not connected", "Talk"],
  connecting: () => ["Connecting …", "Cancel"],
  live: () => ["Connected", "Hang up"],
  waiting: ({ words }) => [`${words} Trying again`, "Cancel"],
};

call.addEventListener("state", ({ detail }) => {
  const { state } = detail;
  const [words, action] = STATES[state](detail);
  // Only what is new is read out, and the seconds are not.
  if ($("state").textContent !== words) $("state").textContent = words;
  $("countdown").textContent = state === "waiting" ? `in ${Math.ceil(detail.inS)} s` : "";
  $("state").dataset.state = state;
  $("call").dataset.state = state;
  $("call-label").textContent = action;
  for (const id of ["text", "send"]) $(id).disabled = state !== "live";
  if (state !== "live") transcript.end();
  arrangeMicrophone();
});
call.addEventListener("problem", ({ detail }) => show(detail));

$("call").addEventListener("click", async () => {
  show(null);
  if (call.state !== "idle") {
    await call.stop();
    return;
  }
  listen();
  await call.start();
});

// A page that just goes leaves the server waiting for half a minute.
window.addEventListener("pagehide", () => call.stop());

call.addEventListener("message", ({ detail: { type, data } }) => {
  const now = performance.now();
  switch (type) {
    case "server":
      server(now, data);
      break;
    case "voice":
      voice.srcObject = new MediaStream([data]);
      meters?.theirs.watch(data);
      break;
    case "user-started":
      clock.userStarted();
      break;
    case "agent-answers":
      transcript.answerBegins();
      break;
    case "agent-plans":
      transcript.plans(data);
      break;
    case "agent-says":
      transcript.says(data);
      break;
    case "agent-started":
      transcript.agentStarted();
      break;
    case "agent-stopped":
      transcript.agentStopped();
      break;
    case "agent-interrupted":
      transcript.agentInterrupted();
      break;
  }
});

/** Messages of our own server (processors/captions.py, services/language_gate.py). */
function server(now, message) {
  switch (message?.type) {
    case "caption":
      clock.caption(now, message.final);
      transcript.caption(message);
      break;
    case "language":
      transcript.language(message);
      break;
    case "gate_trouble":
      show(new Problem(`The language gate has trouble: ${message.problem}`));
      break;
  }
}

// Levels

let meters = null; // {mine, theirs}, once the user has pressed something: browsers ask for that

function listen() {
  if (meters) return;
  const context = new AudioContext();
  meters = { mine: new Meter(context), theirs: new Meter(context) };
  microphone.addEventListener("opened", () => meters.mine.watch(microphone.track));
  setInterval(() => {
    const mine = heard() ? meters.mine.level() : 0;
    clock.hear(performance.now(), mine, meters.theirs.level());
    const shown = Math.min(1, mine * 4); // speech is some 0.05 to 0.2
    $("level").value = shown;
    $("ring").style.transform = `scale(${1 + 0.35 * shown})`;
  }, METER_MS);
}

// Mute and push to talk

let held = false;

function heard() {
  const on = $("ptt").ariaPressed === "true" ? held : $("mute").ariaPressed !== "true";
  return on && call.state === "live";
}

function applyMicrophone() {
  call.microphoneOn = heard();
}

/** Show what there is to press, in this state of the call. */
function arrangeMicrophone() {
  const live = call.state === "live";
  const pushing = $("ptt").ariaPressed === "true";
  $("hold").hidden = !pushing || !live;
  $("mute").disabled = pushing || !live;
  $("hint-title").textContent = !live
    ? "Press Talk, and speak."
    : pushing
      ? "Hold the button, and speak."
      : "Speak.";
  held = false;
  $("hold").dataset.held = held;
  if (!live) return;
  applyMicrophone();
  // So that Space talks at once, instead of pressing the last button again.
  if (pushing && [$("call"), $("ptt")].includes(document.activeElement)) $("hold").focus();
}

function hold(on) {
  if ($("hold").hidden || held === on) return;
  held = on;
  $("hold").dataset.held = on;
  applyMicrophone();
}

$("mute").addEventListener("click", ({ currentTarget: button }) => {
  button.ariaPressed = String(button.ariaPressed !== "true");
  applyMicrophone();
});
$("ptt").addEventListener("click", ({ currentTarget: button }) => {
  button.ariaPressed = String(button.ariaPressed !== "true");
  arrangeMicrophone();
});
$("hold").addEventListener("pointerdown", () => hold(true));
$("hold").addEventListener("click", ({ detail }) => {
  if (detail === 0) hold(!held); // by Enter or a screen reader, which cannot hold
});
for (const end of ["pointerup", "pointercancel", "blur"]) {
  window.addEventListener(end, () => hold(false));
}
/** Space talks wherever it would do nothing else. */
function isTalkKey({ code, target }) {
  const used = target.closest("input, select, summary, a, button");
  return code === "Space" && !$("hold").hidden && (!used || used === $("hold"));
}
window.addEventListener("keydown", (event) => {
  if (!isTalkKey(event)) return;
  event.preventDefault();
  hold(true);
});
window.addEventListener("keyup", (event) => {
  if (isTalkKey(event)) event.preventDefault(); // Firefox presses a button when Space comes up
  if (event.code === "Space") hold(false);
});

// Text

$("text-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (!text || call.state !== "live") return;
  $("text").value = "";
  transcript.agentInterrupted();
  transcript.typed(text);
  await call.sendText(text).catch(show);
});

// Devices, file tab, tabs, theme

new DeviceLists(microphone, $("microphone"), $("speaker"), voice, show);
microphone.addEventListener("unplugged", () => show(new Problem("The microphone is gone.")));
new FileTab(() => sessionStorage.getItem(KEY) ?? "", show);

const tabs = [...document.querySelectorAll("[role=tab]")];
function choose(tab) {
  for (const other of tabs) {
    other.ariaSelected = String(other === tab);
    other.tabIndex = other === tab ? 0 : -1;
    $(other.getAttribute("aria-controls")).hidden = other !== tab;
  }
}
for (const [i, tab] of tabs.entries()) {
  tab.addEventListener("click", () => choose(tab));
  tab.addEventListener("keydown", ({ key }) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[key];
    if (!step) return;
    const next = tabs[(i + step + tabs.length) % tabs.length];
    choose(next);
    next.focus();
  });
}

function paint(theme) {
  document.documentElement.dataset.theme = theme;
  $("theme").ariaPressed = String(theme === "dark");
}
const dark = matchMedia("(prefers-color-scheme: dark)");
paint(localStorage.getItem(THEME) ?? (dark.matches ? "dark" : "light"));
dark.addEventListener("change", () => {
  if (!localStorage.getItem(THEME)) paint(dark.matches ? "dark" : "light");
});
$("theme").addEventListener("click", () => {
  const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  localStorage.setItem(THEME, theme);
  paint(theme);
});

fetch("readyz")
  .then((response) => response.json())
  .then(({ model }) => ($("model").textContent = model ?? ""))
  .catch(() => {}); // only a label
