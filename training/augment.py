"""Augmentation of waveforms and features, a batch at a time on the training device.

Synthetic voices are clean and few. Every use of an utterance is therefore played at another speed
and pitch, by somebody who slows down and speeds up elsewhere, in another room, through another
channel, over another noise, at another level, and with another vocal tract.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from training.mel import SAMPLE_RATE

Number = float | Tensor
MOST_TIME_MASKS = 5


@dataclass(frozen=True, slots=True)
class Strength:
    """How hard to augment; probabilities, and the range of the signal-to-noise ratio in dB.

    Each may be a tensor without dimensions instead, on the device where it is used.
    """

    noise: Number = 0.6
    babble: Number = 0.2
    room: Number = 0.4
    channel: Number = 0.7
    telephone: Number = 0.12
    warp: Number = 0.75
    borrow: Number = 0.4
    snr_db: tuple[Number, Number] = (4.0, 30.0)
    time_masks: Number = 5  # at most MOST_TIME_MASKS
    frequency_masks: int = 2

    def packed(self) -> Tensor:
        """Return all but the masks of frequencies as one tensor [10]."""
        one = (self.noise, self.babble, self.room, self.channel, self.telephone, self.warp)
        return torch.tensor([*one, self.borrow, *self.snr_db, self.time_masks])

    @classmethod
    def unpacked(cls, packed: Tensor) -> Strength:
        """Return what `packed` has packed, as tensors on its device."""
        *one, low, high, masks = packed.unbind()
        return cls(*one, snr_db=(low, high), time_masks=masks)

    def lighter(self, share: float) -> Strength:
        """Return this with `share` (0 to 1) of the way gone towards clean speech."""
        keep = 1.0 - share
        return Strength(
            noise=self.noise * keep,
            babble=self.babble * keep,
            room=self.room * keep,
            channel=self.channel * keep,
            telephone=self.telephone * keep,
            warp=self.warp * keep,
            borrow=self.borrow * keep,
            snr_db=(self.snr_db[0] + 8.0 * share, self.snr_db[1] + 5.0 * share),
            time_masks=max(2, round(self.time_masks * keep)),
            frequency_masks=self.frequency_masks,
        )


Wobble = tuple[Tensor, Tensor]  # [batch] depth, below 1; [batch] cycles in an utterance, whole


def place(
    at: Tensor, speed: Tensor, lead: Tensor, length: Tensor, wobble: Wobble | None = None
) -> Tensor:
    """Return where in its utterance each moment of the playing falls; before it is below zero.

    Args:
        at: [batch, n] or [n], moments in samples.
        speed: [batch], 1.1 is faster and higher.
        lead: [batch], samples of silence before it.
        length: [batch] int64, its samples.
        wobble: how much, and how many times, the speed swings about its mean; none is steady.

    Returns:
        [batch, n] float64, samples; it grows by `speed * (1 +- depth)` a sample.
    """
    since = (at - lead[:, None]).double()
    steady = since * speed[:, None]
    if wobble is None:
        return steady
    depth, cycles = wobble
    turn = 2 * torch.pi * cycles[:, None] / (length / speed)[:, None].double()
    swing = (depth * speed)[:, None] / turn * torch.sin(turn * since)
    # Whole cycles: the swing is zero at both ends, so the length stays what the speed makes it.
    return steady + torch.where((steady > 0) & (steady < length[:, None]), swing, 0.0)


def play(
    store: Tensor,
    start: Tensor,
    length: Tensor,
    speed: Tensor,
    lead: Tensor,
    samples: int,
    wobble: Wobble | None = None,
) -> Tensor:
    """Read utterances out of the store at given speeds (cubic interpolation).

    Args:
        store: [n] int16, all audio end to end.
        start: [batch] int64, first sample of each utterance.
        length: [batch] int64, its samples.
        speed: [batch], 1.1 is faster and higher.
        lead: [batch], samples of silence before it.
        samples: width of the result.
        wobble: see `place`.

    Returns:
        [batch, samples] float32 in -1..1.
    """
    at = place(torch.arange(samples, device=store.device), speed, lead, length, wobble)
    whole = at.floor()
    part = (at - whole).float()
    whole = whole.long()
    a, b, c, d = (
        store[(start[:, None] + (whole + k).clamp(min=0).minimum(length[:, None] - 1))].float()
        for k in (-1, 0, 1, 2)
    )
    wave = b + 0.5 * part * (
        c - a + part * (2 * a - 5 * b + 4 * c - d + part * (3 * (b - c) + d - a))
    )
    return wave * ((whole >= 0) & (whole < length[:, None])) / 32768.0


def _uniform(batch: int, low: Number, high: Number, like: Tensor) -> Tensor:
    return low + (high - low) * torch.rand(batch, 1, device=like.device)


def _chance(batch: int, probability: Number, like: Tensor) -> Tensor:
    return (torch.rand(batch, 1, device=like.device) < probability).float()


def _rooms(batch: int, size: int, probability: Number, like: Tensor) -> Tensor:
    """Return transfer functions [batch, bins] of rooms: a direct path and a decaying noise tail."""
    n = SAMPLE_RATE // 2
    time = torch.arange(n, device=like.device) / SAMPLE_RATE
    decay = _uniform(batch, 0.08, 0.6, like)  # seconds to fall by 60 dB
    tail = torch.randn(batch, n, device=like.device) * torch.exp(-6.9 * time / decay)
    tail = tail * (time > _uniform(batch, 0.0005, 0.01, like))
    tail = tail / tail.norm(dim=1, keepdim=True).clamp(min=1e-6)
    level = 10 ** (_uniform(batch, -18.0, 1.0, like) / 20)
    response = tail * level * _chance(batch, probability, like)
    response[:, 0] += 1.0
    return torch.fft.rfft(response, size)


def _channels(batch: int, bins: int, strength: Strength, like: Tensor) -> Tensor:
    """Return smooth random gains [batch, bins]: equaliser, low pass, telephone band."""
    hertz = torch.linspace(0, SAMPLE_RATE / 2, bins, device=like.device)
    knots = 9
    gains = torch.randn(batch, knots, device=like.device).cumsum(1) * 2.5
    gains = (gains - gains.mean(1, keepdim=True)) * _chance(batch, strength.channel, like)
    place = (torch.log2(hertz.clamp(min=60) / 60) / 7.06 * (knots - 1)).clamp(max=knots - 1.001)
    low, share = place.long(), place.frac()
    decibels = gains[:, low] * (1 - share) + gains[:, low + 1] * share
    cut = _uniform(batch, 3600.0, 7800.0, like)
    cut = torch.where(_chance(batch, 0.25 * strength.channel, like) > 0, cut, 9000.0)
    phone = _chance(batch, strength.telephone, like)
    cut = torch.where(phone > 0, _uniform(batch, 3300.0, 3800.0, like), cut)
    floor = torch.where(phone > 0, _uniform(batch, 150.0, 350.0, like), 20.0)
    decibels = decibels - ((hertz - cut).clamp(min=0) * 0.12).clamp(max=60.0)
    decibels = decibels - ((floor - hertz).clamp(min=0) * 0.2).clamp(max=40.0)
    return 10 ** (decibels / 20)


def _coloured_noise(batch: int, samples: int, size: int, like: Tensor) -> Tensor:
    """Return noise [batch, samples] whose power falls as 1 / f**slope, with a slow swell."""
    bins = size // 2 + 1
    hertz = torch.arange(bins, device=like.device).clamp(min=1).float()
    slope = _uniform(batch, 0.0, 2.2, like)
    shape = torch.exp(-0.5 * slope * torch.log(hertz)) * (hertz > 20.0 * size / SAMPLE_RATE)
    spectrum = torch.randn(batch, bins, 2, device=like.device) * shape[..., None]
    noise = torch.fft.irfft(torch.view_as_complex(spectrum), size)[:, :samples]
    time = torch.arange(samples, device=like.device) / SAMPLE_RATE
    swell = torch.sin(6.283 * (_uniform(batch, 0.05, 2.0, like) * time + torch.rand_like(slope)))
    return noise * (1.0 + 0.7 * torch.rand_like(slope) * swell)


def _power(wave: Tensor, inside: Tensor) -> Tensor:
    return (wave.square() * inside).sum(1, keepdim=True) / inside.sum(1, keepdim=True).clamp(min=1)


def degrade(wave: Tensor, samples: Tensor, strength: Strength) -> Tensor:
    """Put each waveform [batch, n] in a room, a channel, noise, and at a level."""
    batch, n = wave.shape
    inside = (torch.arange(n, device=wave.device) < samples[:, None]).float()
    size = -(-(n + SAMPLE_RATE // 2) // 8000) * 8000
    shape = _channels(batch, size // 2 + 1, strength, wave)
    heard = torch.fft.rfft(wave, size) * _rooms(batch, size, strength.room, wave) * shape
    heard = torch.fft.irfft(heard, size)[:, :n]
    speech = _power(heard, inside).clamp(min=1e-9)

    noise = _coloured_noise(batch, n, size, wave)
    # Clean takes too keep a faint floor: digital silence would give a synthetic voice away.
    loud = _chance(batch, strength.noise, wave)
    snr = torch.where(
        loud > 0, _uniform(batch, *strength.snr_db, wave), _uniform(batch, 30.0, 65.0, wave)
    )
    heard = heard + noise * torch.sqrt(speech / _power(noise, inside).clamp(min=1e-12)) * 10 ** (
        -snr / 20
    )
    if batch > 3:
        others = torch.rand(3, batch, device=wave.device).argsort(1)
        talk = wave[others[0]] + wave[others[1]] + wave[others[2]]
        gain = torch.sqrt(speech / _power(talk, inside).clamp(min=1e-9))
        gain = gain * 10 ** (-_uniform(batch, 6.0, 25.0, wave) / 20)
        heard = heard + talk * gain * _chance(batch, strength.babble, wave)

    level = 10 ** (_uniform(batch, -42.0, -14.0, wave) / 20)
    heard = (heard * level / torch.sqrt(_power(heard, inside).clamp(min=1e-9))).clamp(-1.0, 1.0)
    return torch.round(heard * 32768.0) / 32768.0 * inside


def _stretches(places: Tensor, widest: Tensor, end: Tensor, most: int, count: Number) -> Tensor:
    """Return [batch, n], true in `count` (of `most`) random stretches below `end` [batch, 1]."""
    batch = len(end)
    width = torch.rand(batch, most, device=end.device) * widest
    width = width * (torch.arange(most, device=end.device) < count)
    start = torch.rand(batch, most, device=end.device) * (end - width)
    past = places >= start[..., None]
    return (past & (places < (start + width)[..., None])).any(1)


def borrow(mel: Tensor, frames: Tensor, probability: Number) -> Tensor:
    """Give utterances each other's level and range in every band (MixStyle, arXiv 2104.02008).

    In log-mel that is a recording's channel, its voice's tilt and its distance from the noise:
    synthetic voices get those of people.

    Args:
        mel: [batch, bands, frames].
        frames: [batch] that hold audio.
        probability: of borrowing, half the way on average.
    """
    batch = len(mel)
    inside = torch.arange(mel.shape[2], device=mel.device) < frames[:, None]
    inside = inside[:, None].to(mel.dtype)
    count = frames.clamp(min=1)[:, None, None]
    mean = (mel * inside).sum(2, keepdim=True) / count
    centred = (mel - mean) * inside
    spread = (centred.square().sum(2, keepdim=True) / count + 1e-4).sqrt()
    other = torch.rand(batch, device=mel.device).argsort()
    share = torch.rand(batch, 1, 1, device=mel.device) * _chance(batch, probability, mel)[..., None]
    wide = (1 - share) + share * (spread[other] / spread).clamp(0.5, 2.0)
    return (centred * wide + mean + share * (mean[other] - mean)) * inside


def mask_features(mel: Tensor, frames: Tensor, strength: Strength) -> Tensor:
    """SpecAugment (arXiv 1904.08779): blank bands and stretches of [batch, bands, frames]."""
    batch, bands, length = mel.shape
    rows = torch.arange(length, device=mel.device)
    most = (0.05 * frames[:, None]).clamp(max=40.0)
    hide = _stretches(rows, most, frames[:, None], MOST_TIME_MASKS, strength.time_masks)[:, None]
    columns = torch.arange(bands, device=mel.device)
    widest, all_bands = torch.full_like(most, 18.0), torch.full_like(most, bands)
    count = strength.frequency_masks
    hide = hide | _stretches(columns, widest, all_bands, count, count)[:, :, None]
    mean = mel.sum((1, 2), keepdim=True) / (bands * frames.clamp(min=1))[:, None, None]
    inside = (rows < frames[:, None])[:, None]
    return torch.where(hide & inside, mean, mel)
