"""One inventory of phones for all languages, so coarse that a symbol does not name a language.

eSpeak NG writes the same open vowel as ɐ in Kannada, a in Telugu, ʌ in Tamil and ə in Hindi, and
its r in four ways. A network taught those symbols would hear whose tables spoke. Here they are one
phone, and what differs between languages is which phones follow which.
"""

from __future__ import annotations

import re
import unicodedata

# A line a phone: its name, then what counts as it. A length mark counts where a line has one.
_SAME = """
a ɐ ʌ ə ɜ æ
aː ɑː ɑ ɒ ɜː ɐː ʌː
i ɪ ᵻ
iː
u ʊ ʉ ɨ
uː ʊː ʉː
e ɛ
eː ɛː æː
o ɔ
oː ɔː
aɪ aj
eɪ
oʊ əʊ
aʊ
ɔɪ
r ɹ ɾ ɽ ɻ ɚ ɽʰ
v ʋ
w
l ɫ
ɭ ɬ
n n̪
ɳ
ŋ
ɲ
m
p
pʰ f ɸ
b
bʰ
t t̪
tʰ θ t̪ʰ
d d̪
dʰ ð d̪ʰ
ʈ ʈʰ
ɖ ɖʰ
k q
kʰ x χ
ɡ g ɣ
ɡʰ
tʃ c tɕ ts
tʃʰ cʰ
dʒ ɟ dʑ dz
dʒʰ ɟʰ
s
z ʒ
ʃ ʂ ɕ
h ɦ ħ
j
"""
PHONES = ("pause", *(line.split()[0] for line in _SAME.strip().splitlines()))
UNKNOWN = 255
_CODE = {
    symbol: code
    for code, line in enumerate(_SAME.strip().splitlines(), start=1)
    for symbol in line.split()
}
_IGNORED = re.compile("[ˈˌˑ\u0303\u0329\u032f\u0325\u030a'ʔ|.,?!;:]")


def code(name: str) -> int:
    """Return the number of a phone under eSpeak NG's IPA name; `UNKNOWN` where it is not listed.

    Stress, nasality and a leading glide (`ʲe`) are dropped; a long phone that has no line of its
    own is its short one.
    """
    bare = _IGNORED.sub("", unicodedata.normalize("NFD", name)).replace("ʱ", "ʰ")
    bare = bare.lstrip("ʲʷ").rstrip("ʲʷ")
    for form in (bare, bare.replace("ː", ""), bare.replace("ː", "").replace("ʰ", "")):
        if form in _CODE:
            return _CODE[form]
    return UNKNOWN


def codes(ipa: str) -> list[int]:
    """Read a line of IPA, longest phones first; spaces and unknown symbols are left out.

    >>> [PHONES[c] for c in codes("nˈɐmɐskˌaːɹɐ")]
    ['n', 'a', 'm', 'a', 's', 'k', 'aː', 'r', 'a']
    """
    bare = _IGNORED.sub("", unicodedata.normalize("NFD", ipa)).replace("ʱ", "ʰ")
    found, at = [], 0
    while at < len(bare):
        for size in (4, 3, 2, 1):
            symbol = bare[at : at + size]
            if len(symbol) == size and symbol in _CODE:
                found.append(_CODE[symbol])
                break
        else:
            size = 1
        at += size
    return found
