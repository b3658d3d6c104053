"""Audio files to text, without a bot framework: what `voice-agent transcribe` runs.

    errors       AudioFileError, OptionNotServed
    audio        any file that libsndfile reads, as 16 kHz mono pieces
    segments     the stretches of speech in them (Silero VAD), or the whole as one
    transcriber  pieces into a recogniser, events out as a Transcript
    formats      a Transcript as txt, json, srt or vtt

A file is never in memory as a whole: it is read, resampled, cut and decoded a second at a time.
"""
