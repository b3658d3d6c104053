"""The page at / as its tests see it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, Page, expect

ANSWER_MS = 30_000

# Every text that the transcript has shown, with what was grey in it and what was black.
WATCH = """
addEventListener("DOMContentLoaded", () => {
  window.seen = [];
  new MutationObserver(() => {
    for (const words of document.querySelectorAll("#transcript .words")) {
      const [black, grey] = words.children;
      window.seen.push([black.textContent, grey.textContent]);
    }
  }).observe(document.getElementById("transcript"),
             {subtree: true, childList: true, characterData: true});
});
"""

# The energy of all audio that calls have played so far.
ENERGY = """
const Plain = RTCPeerConnection;
window.calls = [];
window.RTCPeerConnection = class extends Plain {
  constructor(...all) { super(...all); window.calls.push(this); }
};
window.energy = async () => {
  let sum = 0;
  for (const call of window.calls)
    for (const report of (await call.getStats()).values())
      if (report.type === "inbound-rtp" && report.kind === "audio") sum += report.totalAudioEnergy;
  return sum;
};
"""


@dataclass
class CaptionsPage:
    page: Page

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name, exact=True)

    def talk(self) -> None:
        """Call, and wait until the agent is ready."""
        self.button("Talk").click()
        self.expect_state("Connected")

    def hang_up(self) -> None:
        self.button("Hang up").click()
        self.expect_state("Not connected")

    def expect_state(self, words: Any) -> None:
        expect(self.page.locator("#state")).to_have_text(words, timeout=ANSWER_MS)

    def expect_problem(self, words: Any) -> None:
        expect(self.page.get_by_role("alert")).to_contain_text(words, timeout=ANSWER_MS)

    def entry(self, who: str, text: Any) -> Locator:
        """What somebody said."""
        entries = self.page.locator("#transcript .entry")
        return entries.filter(has=self.page.locator(".who", has_text=who)).filter(has_text=text)

    def see(self, who: str, text: Any) -> Locator:
        """Wait until somebody has said something, and it is final."""
        entry = self.entry(who, text).first
        expect(entry).to_be_visible(timeout=ANSWER_MS)
        expect(entry.locator(".unsure")).to_be_empty(timeout=ANSWER_MS)
        return entry

    def seen(self) -> list[tuple[str, str]]:
        """What was black and what was grey, at each change."""
        return [tuple(shown) for shown in self.page.evaluate("window.seen")]

    def latency(self, kind: str) -> Locator:
        return self.page.locator(f"#latency [data-kind={kind}] dd span")

    def sparkline(self, kind: str) -> Locator:
        return self.page.locator(f"#latency [data-kind={kind}] path.line")

    def serious_faults(self) -> list[str]:
        """What axe-core finds wrong with the page as it is, as far as it is serious."""
        if not self.page.evaluate("'axe' in window"):
            axe = Path(__file__).with_name("vendor") / "axe.min.js"
            self.page.evaluate(axe.read_text(encoding="utf-8"))
        found = self.page.evaluate("axe.run()")
        assert found["passes"], "axe-core has looked at nothing"
        return [
            f"{fault['id']}: {node['html']}"
            for fault in found["violations"]
            if fault["impact"] in ("serious", "critical")
            for node in fault["nodes"]
        ]
