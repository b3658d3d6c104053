"""Sentences out of the layouts that Debian's packages have."""

from __future__ import annotations

from training.debian_text import sentences

GLOSS = """  1 This software and database is provided by a university
00001740 03 n 01 entity 0 001 @ 00001930 n 0000 | that which is perceived (or known); "it was full
00002137 03 n 02 bond 0 001 @ 00001930 n 0000 | fastening two things; by heat: "the bond held well"
"""
FORTUNES = """A banker is a fellow who lends you his umbrella.
He wants it back when it rains!
\t\t-- Mark Twain
%
There is no
second page.
%
"""


def test_every_source_gives_its_sentences_and_nothing_of_its_markup(tmp_path):
    share = tmp_path / "usr/share"
    (share / "wordnet").mkdir(parents=True)
    for part in ("noun", "verb", "adj", "adv"):
        (share / f"wordnet/data.{part}").write_text(GLOSS if part == "noun" else "")
    (share / "games/fortunes").mkdir(parents=True)
    (share / "games/fortunes/wisdom").write_text(FORTUNES)
    (share / "games/fortunes/wisdom.u8").symlink_to("wisdom")
    for folder in ("bin", "lib"):
        (tmp_path / "usr" / folder).mkdir()
    program = tmp_path / "usr/bin/bible"
    program.write_text("#!/bin/sh\necho 'Psa72:2 He shall judge thy people: and thy poor.'\n")
    program.chmod(0o755)
    assert sentences(tmp_path) == [
        "that which is perceived",
        '"it was full',
        "the bond held well",
        "fastening two things",
        "by heat",
        "A banker is a fellow who lends you his umbrella.",
        "He wants it back when it rains!",
        "There is no second page.",
        "He shall judge thy people",
        "and thy poor",
    ]
