"""IndicConformer: AI4Bharat's offline recognisers for the languages of India.

    conformer   the acoustic network in plain PyTorch, under NeMo's parameter names
    features    80 log-mel features, normalised over the segment
    layout      the files of a model directory: found, checked, read
    backend     audio to tokens with ONNX Runtime
    nemo_file   the same with PyTorch, for AI4Bharat's `.nemo` files
    decode      scores to tokens, words and times: CTC and RNNT
    segments    cutting long audio at pauses; when to decode a growing segment again
    stream      one caller: audio in, events out
    worker      the thread that batches all callers

`voice_agent.engine.indic_conformer` holds the recogniser that puts them together.
"""
