"""Lanes that the host decodes: those with phrases to prefer, and those that are searched.

A GPU's step decodes greedily by itself (`kernels.decode`); what it leaves out, and everything on a
CPU, is decoded here. Engine thread only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from voice_agent.engine.beam import BeamSearch
from voice_agent.engine.boosting import PhraseBoost
from voice_agent.engine.decoder import BoostState, Decoder
from voice_agent.engine.emissions import Emissions, Said
from voice_agent.engine.fusion import Fusion
from voice_agent.engine.slots import SlotPool


class Hosted:
    """How each slot is decoded, where not greedily without more ado."""

    def __init__(self, decoder: Decoder, pool: SlotPool, fusion: Fusion | None = None) -> None:
        """Nothing is left to the host yet; searches have this language model beside them."""
        self._decoder = decoder
        self._pool = pool
        self._fusion = fusion
        self._boosts: dict[int, BoostState] = {}
        self._searches: dict[int, BeamSearch] = {}

    def reset(self, slot: int, phrases: PhraseBoost | None) -> None:
        """A new segment begins in `slot`, with these phrases to prefer."""
        self._boosts.pop(slot, None)
        self._searches.pop(slot, None)
        if phrases:
            self._boosts[slot] = BoostState(phrases)

    def search(self, slot: int, chunks: int | None) -> None:
        """The segment that has just begun in `slot` is decoded by search; see `BeamSearch`."""
        boost = self._boosts.pop(slot, None)
        phrases = boost.phrases if boost else None
        self._searches[slot] = BeamSearch(self._decoder, chunks, phrases, fusion=self._fusion)

    def rest(self, slot: int) -> Said:
        """End the search in `slot`, if there is one; what it has not told yet."""
        search = self._searches.pop(slot, None)
        return search.rest() if search else ((), (), ())

    def lanes(self, slots: np.ndarray) -> list[int]:
        """Lanes of these slots, shape (n,), that are left to the host."""
        if not self._boosts and not self._searches:
            return []
        hosted = self._boosts.keys() | self._searches.keys()
        return [lane for lane, slot in enumerate(slots.tolist()) if slot in hosted]

    def hear(self, projected: torch.Tensor, slots: torch.Tensor) -> Emissions:
        """Decode one chunk a lane.

        Args:
            projected: shape (n, frames, joint_hidden), from `Decoder.project`.
            slots: int64, shape (n,), on the device: distinct.
        """
        if not self._boosts and not self._searches:
            return self._decoder(projected, self._pool, slots)
        names = slots.tolist()
        searched = [lane for lane, slot in enumerate(names) if slot in self._searches]
        rest = [lane for lane, slot in enumerate(names) if slot not in self._searches]
        parts = [Emissions.of([], [], [], [])]
        for lane in searched:
            search = self._searches[names[lane]]
            if said := search.feed(projected[lane]):
                parts.append(Emissions.of([lane] * len(said[0]), *said))
            if search.ended:
                del self._searches[names[lane]]
        if rest:
            boosts = [self._boosts.get(names[lane]) for lane in rest] if self._boosts else []
            at = torch.tensor(rest, device=projected.device)
            theirs = self._decoder(projected[at], self._pool, slots[at], boosts)
            parts.append(of_lanes(theirs, rest))
        return merged(parts)


def of_lanes(said: Emissions, lanes: Sequence[int]) -> Emissions:
    """What was said by a part of a batch, whose lanes are these in the whole."""
    own = np.asarray(lanes, np.int32)[said.lanes]
    return Emissions(own, said.tokens, said.frames, said.probs)


def merged(parts: Sequence[Emissions]) -> Emissions:
    """One of several, sorted by lane; the order within a lane is kept."""
    if len(parts) == 1:
        return parts[0]
    columns = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("lanes", "tokens", "frames", "probs")
    )
    lanes, tokens, frames, probs = columns
    by_lane = np.argsort(lanes, kind="stable")
    return Emissions(lanes[by_lane], tokens[by_lane], frames[by_lane], probs[by_lane])
