"""What the synthetic voices say: book sentences, more of `debian_text`, and made-up agent talk.

Every line is lower-case words and apostrophes, numbers spelled out, as the transcripts of the human
clips are. All of it is drawn from a `random.Random`, so a seed fixes it.
"""

from __future__ import annotations

import random
import re
from pathlib import Path

ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen"
).split()
TENS = "_ _ twenty thirty forty fifty sixty seventy eighty ninety".split()
ORDINALS = (
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth "
    "thirteenth fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth"
).split()
MONTHS = (
    "january february march april may june july august september october november december"
).split()
DAYS = "monday tuesday wednesday thursday friday saturday sunday today tomorrow tonight".split()
NAMES = (
    "john mary james linda robert susan michael karen william lisa david nancy richard betty "
    "joseph sandra thomas ashley charles emily daniel donna matthew carol anthony michelle mark "
    "amanda paul laura steven sarah andrew kimberly joshua deborah kevin jessica brian anna "
    "george emma edward olivia ronald sophia peter hannah alice henry kate jack ben priya anil "
    "ravi maria carlos"
).split()
SURNAMES = (
    "smith johnson williams brown jones garcia miller davis wilson anderson taylor moore jackson "
    "martin lee thompson white harris clark lewis robinson walker young allen king wright scott "
    "hill green adams baker nelson carter mitchell roberts turner phillips campbell parker evans "
    "edwards"
).split()
PLACES = (
    "london paris new york|boston|chicago|san francisco|seattle|tokyo|bangalore|mumbai|berlin|"
    "madrid|the airport|the office|the station|the hotel|the library|the hospital|the market|"
    "home|school|the kitchen|the bedroom|the living room|the bathroom|the garage|the garden"
).split("|")
COFFEES = (
    "latte|cappuccino|mocha|espresso|americano|coffee|drip coffee|iced coffee|iced mocha|iced "
    "latte|cup of coffee|macchiato|cup of tea|green tea|hot chocolate|flat white"
).split("|")
EXTRAS = (
    "sugar|milk|cream|skim milk|soy milk|almond milk|oat milk|brown sugar|sweetener|honey|a bit "
    "of cream|a lot of sugar|lots of milk|some cream|no sugar|two percent milk|whole milk|"
    "whipped cream"
).split("|")
SIZES = (
    "small|medium|large|eight ounce|twelve ounce|sixteen ounce|twenty ounce|double shot|single "
    "shot|triple shot|light roast|medium roast|dark roast|short|tall|regular"
).split("|")
ASK = (
    "can i get|can i have|could i have|may i have|i want|i'd like|i would like|get me|make me|"
    "give me|please make|i need|let me have|could you make me|can you get me|brew|pour|i'll have|"
    "order"
).split("|")
THINGS = (
    "lights|lamp|heating|fan|music|radio|television|alarm|timer|door|window|volume|camera|oven|"
    "air conditioner|coffee machine|speaker|thermostat|vacuum|curtains"
).split("|")
DO = "turn on|turn off|switch on|switch off|start|stop|check|open|close|set up|dim|pause".split("|")
TALK = (
    "yes|no|yes please|no thanks|thank you|thanks a lot|that's right|that's wrong|stop|go on|"
    "repeat that please|can you say that again|i don't understand|hello|hi there|good morning|"
    "good evening|good bye|see you later|how are you|i'm fine thank you|help|cancel|cancel that|"
    "never mind|okay|sure|of course|maybe|i'm not sure|wait a moment|hold on|one moment please|"
    "speak to an agent|what can you do|what's your name|who are you|tell me a joke|what time is "
    "it|what day is it today|what's the weather like|is it going to rain|play some music|next "
    "song please|louder please|be quiet|i'd like to talk to a person|my account is locked|i "
    "forgot my password|i lost my card|where is my order|i want to return this|how much does it "
    "cost|that's too expensive|what's the balance of my account|when does the shop open|when do "
    "you close|do you speak english|please call me back|it doesn't work|the internet is down|my "
    "phone is broken|i have a question|can you help me|how do i get there|how long does it take|"
    "i'm looking for a restaurant|book a table for two|i'd like to make a reservation|remind me "
    "to call my mother|read my messages"
).split("|")


def spell_number(n: int) -> str:
    """Say an integer below a billion in words."""
    if n < 20:
        return ONES[n]
    if n < 100:
        return TENS[n // 10] + (f" {ONES[n % 10]}" if n % 10 else "")
    for size, name in ((1_000_000, "million"), (1000, "thousand"), (100, "hundred")):
        if n >= size:
            rest = f" {spell_number(n % size)}" if n % size else ""
            return f"{spell_number(n // size)} {name}{rest}"
    raise ValueError(f"cannot say {n}")


def clean(line: str) -> str:
    """Return the line as bare words, or nothing if it holds what cannot be spelled here."""
    line = line.lower().replace("-", " ").replace("’", "'")  # noqa: RUF001
    line = re.sub(r"[\"`,.;:!?()*]+", " ", line)
    line = re.sub(r"(^|\s)'+|'+(\s|$)", " ", line)
    return " ".join(line.split()) if re.fullmatch(r"[a-z' \s]+", line) else ""


def _number_talk(r: random.Random) -> str:
    kind = r.randrange(9)
    if kind < 3:
        zero = "oh" if r.random() < 0.15 else "zero"
        count = 1 if r.random() < 0.25 else r.randint(2, 10)
        return " ".join(zero if (d := r.randrange(10)) == 0 else ONES[d] for _ in range(count))
    if kind == 3:
        day = ORDINALS[r.randrange(20)]
        if r.random() < 0.4:
            day = r.choice(["twenty", "thirty"]) + " " + ORDINALS[r.randrange(9)]
        year = f"{spell_number(r.randint(15, 20))} {spell_number(r.randint(10, 99))}"
        month = r.choice(MONTHS)
        return r.choice([f"{month} {day} {year}", f"the {day} of {month}", f"{month} {day}"])
    if kind == 4:
        hour = ONES[r.randint(1, 12)]
        minute = r.choice(
            ["", "thirty", "fifteen", "forty five", "o'clock", spell_number(r.randint(10, 59))]
        )
        return (
            f"{hour} {minute} {r.choice(['', 'a m', 'p m', 'in the morning', 'at night'])}".strip()
        )
    if kind == 5:
        unit = r.choice("dollars pounds euros percent miles minutes hours degrees people".split())
        return f"{spell_number(r.choice([r.randrange(100), r.randrange(10000)]))} {unit}"
    if kind == 6:
        letters = " ".join(r.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(r.randint(2, 6)))
        return letters + r.choice(["", " " + spell_number(r.randrange(100))])
    if kind == 7:
        return spell_number(r.choice([r.randrange(30), r.randrange(1000), r.randrange(1_000_000)]))
    return f"{r.choice(['chapter', 'number', 'room', 'page', 'line', 'gate', 'flight'])} " + (
        spell_number(r.randrange(1, 120))
    )


def _agent_talk(r: random.Random) -> str:
    kind = r.randrange(8)
    if kind < 3:
        sizes = " ".join(r.sample(SIZES, r.choice([0, 1, 1, 2, 3])))
        extras = " and ".join(r.sample(EXTRAS, r.choice([0, 1, 1, 2])))
        order = f"{r.choice(ASK)} {r.choice(['a', 'a', 'one', 'two', 'some', ''])} {sizes} "
        order += r.choice(COFFEES)
        return " ".join((order + (f" with {extras}" if extras else "")).split())
    if kind == 3:
        where = r.choice(["", f" in {r.choice(PLACES)}"])
        return (
            f"{r.choice(['', 'please ', 'could you '])}{r.choice(DO)} the {r.choice(THINGS)}{where}"
        )
    if kind == 4:
        return r.choice(
            [
                f"call {r.choice(NAMES)} {r.choice(SURNAMES)}",
                f"my name is {r.choice(NAMES)} {r.choice(SURNAMES)}",
                f"send a message to {r.choice(NAMES)}",
                f"this is {r.choice(NAMES)} from {r.choice(PLACES)}",
                f"how do i get to {r.choice(PLACES)} from {r.choice(PLACES)}",
            ]
        )
    if kind == 5:
        when = r.choice(DAYS)
        wish = r.choice(["set an alarm for", "remind me at", "book it for"])
        return f"{wish} {_number_talk(r)} {when}"
    return r.choice(TALK)


class Script:
    """An endless source of lines for the voices.

    Args:
        books: a text of sentences, one a line.
        examples: more sentences, one a line; may be empty.
        seed: fixes every draw.
    """

    def __init__(self, books: list[str], examples: list[str], seed: int) -> None:
        self.random = random.Random(seed)
        self.books = [c for line in books if (c := clean(line))]
        self.examples = [c for line in examples if (c := clean(line)) and len(c.split()) > 2]

    @classmethod
    def from_files(cls, books: Path, examples: Path | None, seed: int) -> Script:
        """Read both texts."""
        more = examples.read_text().splitlines() if examples else []
        return cls(books.read_text().splitlines(), more, seed)

    def _passage(self) -> str:
        words = self.random.choice(self.books).split()
        count = min(len(words), self.random.choice([3, 5, 8, 12, 16, 20, 24, 30, 36]))
        start = self.random.randint(0, len(words) - count)
        return " ".join(words[start : start + count])

    def line(self) -> str:
        """Return the next line."""
        kind = self.random.random()
        if kind < 0.5 or not self.examples:
            return self._passage()
        if kind < 0.8:
            return " ".join(self.random.choice(self.examples).split()[:36])
        talk = _number_talk if kind < 0.88 else _agent_talk
        return " ".join(talk(self.random).split())
