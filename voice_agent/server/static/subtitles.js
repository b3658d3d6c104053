/**
 * Words with times, as text and as subtitles.
 *
 * A segment is what the server's VAD cut at pauses: {start, end, text, words}; a word is
 * {text, start, end}. Times are seconds.
 */

const LINE = 42; // characters, what broadcasters allow
const LONGEST_S = 6;
const PAUSE_S = 0.8;

/** Cues of at most two lines: {start, end, lines}. */
export function cues(segments) {
  return segments.flatMap((segment) => {
    if (!segment.words.length) {
      return segment.text ? [{ ...segment, lines: wrap(segment.text.split(/\s+/)) }] : [];
    }
    const groups = [];
    for (const word of segment.words) {
      const group = groups.at(-1);
      if (group && fits(group, word)) group.push(word);
      else groups.push([word]);
    }
    return groups.map((group) => ({
      start: group[0].start,
      end: Math.max(group.at(-1).end, group[0].start + 0.1),
      lines: wrap(group.map((word) => word.text)),
    }));
  });
}

function fits(group, word) {
  const texts = [...group, word].map(({ text }) => text);
  return (
    wrap(texts).length <= 2 &&
    word.end - group[0].start <= LONGEST_S &&
    word.start - group.at(-1).end <= PAUSE_S
  );
}

function wrap(words) {
  const lines = [];
  for (const word of words) {
    const longer = lines.length ? `${lines.at(-1)} ${word}` : word;
    if (lines.length && longer.length <= LINE) lines[lines.length - 1] = longer;
    else lines.push(word);
  }
  return lines;
}

/** 3661.5 -> "01:01:01,500" */
export function clock(seconds, point = ",") {
  const ms = Math.round(seconds * 1000);
  const part = (value, width = 2) => String(Math.floor(value)).padStart(width, "0");
  const whole = [part(ms / 3_600_000), part((ms / 60_000) % 60), part((ms / 1000) % 60)];
  return `${whole.join(":")}${point}${part(ms % 1000, 3)}`;
}

export function asText(segments) {
  return segments.map(({ text }) => `${text}\n`).join("");
}

export function asSrt(segments) {
  return cues(segments)
    .map(({ start, end, lines }, i) => {
      return `${i + 1}\n${clock(start)} --> ${clock(end)}\n${lines.join("\n")}\n`;
    })
    .join("\n");
}

export function asVtt(segments) {
  const blocks = cues(segments).map(({ start, end, lines }) => {
    const text = lines.join("\n").replace(/&/g, "&amp;").replace(/</g, "&lt;");
    return `${clock(start, ".")} --> ${clock(end, ".")}\n${text}\n`;
  });
  return ["WEBVTT\n", ...blocks].join("\n");
}
