"""Checks that misbehave, for the tests of the doctor: its processes find them by their names."""

import ctypes
import os
import time
from collections.abc import Iterator

from ssast_edge.doctor.finding import Finding, Options, Skipped, ok, warning
from ssast_edge.errors import AudioError


def fine(options: Options) -> Iterator[Finding]:
    print("this goes to standard error")
    os.write(1, b"and this\n")
    yield ok(f"{options.bundle} in {os.getpid()}")


def hangs(options: Options) -> Iterator[Finding]:
    time.sleep(60)
    yield ok("never")


def crashes(options: Options) -> Iterator[Finding]:
    ctypes.string_at(0)
    yield ok("never")


def ends(options: Options) -> Iterator[Finding]:
    os.write(2, b"some warning\nlibfoo.so: undefined symbol bar\n")
    os._exit(3)
    yield ok("never")


def fails(options: Options) -> Iterator[Finding]:
    yield warning("half of it", "do this")
    raise ZeroDivisionError("two\nlines")


def refuses(options: Options) -> Iterator[Finding]:
    raise AudioError("no microphone was found: connect one")
    yield ok("never")


def skips(options: Options) -> Iterator[Finding]:
    raise Skipped("does not apply")
    yield ok("never")
