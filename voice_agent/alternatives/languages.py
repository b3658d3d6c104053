"""Language codes between BCP-47, which we speak, and ISO 639-3, which MMS and Seamless want."""

from __future__ import annotations

# The languages of India that the systems here write, and the world's most spoken ones; a
# three-letter code is passed on as it is, so that the other thousand need no row.
_ISO_639_3 = {
    "as": "asm", "bn": "ben", "brx": "brx", "doi": "doi", "gu": "guj", "hi": "hin",
    "kn": "kan", "kok": "kok", "ks": "kas", "mai": "mai", "ml": "mal", "mni": "mni",
    "mr": "mar", "ne": "npi", "or": "ory", "pa": "pan", "sa": "san", "sat": "sat",
    "sd": "snd", "ta": "tam", "te": "tel", "ur": "urd",
    "ar": "arb", "de": "deu", "en": "eng", "es": "spa", "fr": "fra", "id": "ind",
    "it": "ita", "ja": "jpn", "ko": "kor", "nl": "nld", "pl": "pol", "pt": "por",
    "ru": "rus", "tr": "tur", "uk": "ukr", "vi": "vie", "zh": "cmn",
}  # fmt: skip


def primary(language: str | None) -> str | None:
    """The first part of a BCP-47 code: "kn-IN" -> "kn"."""
    return language.split("-")[0].lower() if language else None


def iso_639_3(language: str) -> str:
    """BCP-47 to ISO 639-3: "kn-IN" -> "kan".

    Raises:
        ValueError: a code that is not in our table and not of three letters.
    """
    code = primary(language) or ""
    if code in _ISO_639_3:
        return _ISO_639_3[code]
    if len(code) == 3:
        return code
    raise ValueError(f"language {language!r}: give its three-letter ISO 639-3 code")
