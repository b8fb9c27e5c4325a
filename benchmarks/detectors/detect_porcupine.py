"""Porcupine over a WAV file, several sensitivities: JSON lines for `ssast-edge eval --external`.

Runs in an environment of its own (README.md here), needs pvporcupine 1.9.5 and nothing else. An
event is a frame for which Porcupine names a keyword, its time the end of that frame.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import json
import sys
import wave

# Label -> name of the keyword file in the wheel.
KEYWORDS = {
    "alexa": "alexa",
    "computer": "computer",
    "jarvis": "jarvis",
    "smart_mirror": "smart mirror",
    "snowboy": "snowboy",
    "view_glass": "view glass",
}
SENSITIVITIES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
PROGRESS_S = 60


def main() -> None:
    """One pass over the audio, an engine for each sensitivity."""
    parser = argparse.ArgumentParser(description="Porcupine 1.9.5 as an external detector")
    parser.add_argument("--sensitivity", type=float, action="append", help="0 to 1; repeatable")
    parser.add_argument("--label", choices=KEYWORDS, action="append", help="repeatable")
    parser.add_argument("audio", help="WAV, 16 kHz, mono, 16 bits")
    options = parser.parse_args()
    try:
        pvporcupine = importlib.import_module("pvporcupine")
    except ImportError:
        sys.exit("pvporcupine is not installed: pip install pvporcupine==1.9.5")
    settings = options.sensitivity or list(SENSITIVITIES)
    labels = options.label or list(KEYWORDS)
    missing = [KEYWORDS[label] for label in labels if KEYWORDS[label] not in pvporcupine.KEYWORDS]
    if missing:
        sys.exit(f"pvporcupine has no keyword {missing[0]!r} for this platform")
    engines = [
        pvporcupine.create(
            keywords=[KEYWORDS[label] for label in labels], sensitivities=[setting] * len(labels)
        )
        for setting in settings
    ]
    print(json.dumps({"settings": settings, "passes": len(settings)}))
    size, rate = engines[0].frame_length, engines[0].sample_rate
    pointer = ctypes.POINTER(ctypes.c_short)
    found = ctypes.c_int()
    with wave.open(options.audio, "rb") as audio:
        if (audio.getframerate(), audio.getnchannels(), audio.getsampwidth()) != (rate, 1, 2):
            sys.exit(f"{options.audio}: wanted {rate} Hz, mono, 16 bits")
        frames = audio.getnframes() // size
        for frame in range(frames):
            # Not engine.process(): it makes a Python integer of every sample, a fifth more CPU
            # time, which a program in C does not pay.
            samples = ctypes.create_string_buffer(audio.readframes(size), 2 * size)
            at = ctypes.cast(samples, pointer)
            time_s = (frame + 1) * size / rate
            for setting, engine in zip(settings, engines, strict=True):
                status = engine.process_func(engine._handle, at, ctypes.byref(found))
                if status is not engine.PicovoiceStatuses.SUCCESS:
                    sys.exit(f"Porcupine failed at {time_s:.2f} s: {status.name}")
                if found.value >= 0:
                    label = labels[found.value]
                    event = {"setting": setting, "label": label, "time_s": round(time_s, 3)}
                    print(json.dumps(event))
            if frame % (PROGRESS_S * rate // size) == 0:
                print(json.dumps({"progress": round(frame / frames, 4)}), flush=True)


if __name__ == "__main__":
    main()
