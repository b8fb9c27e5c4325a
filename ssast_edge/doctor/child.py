"""The process in which the checks of an area run: a check that hangs or crashes takes only it.

Checks come in on standard input and findings go out on what was standard output, a line of JSON
each. Whatever libraries print goes to standard error.
"""

import dataclasses
import importlib
import json
import os
import re
import sys

from ssast_edge.doctor.finding import Check, Finding, Options, Skipped
from ssast_edge.errors import SsastEdgeError, one_line

_ADVICE = re.compile(r"(.*?): ((?:apt|pip|connect|give|update|build|flash|install|is it) .*)")


def run_check(check: Check, options: Options) -> list[Finding]:
    """What the check says; an error that nobody foresaw is a problem, not a traceback."""
    found: list[Finding] = []
    try:
        found.extend(check.run(options))
    except Skipped as reason:
        found.append(Finding("skipped", str(reason)))
    except SsastEdgeError as error:
        text, fix = _split(str(error))
        found.append(Finding("problem" if check.decides else "warning", text, fix))
    except Exception as error:
        what = one_line(f"{type(error).__name__}: {error}")
        found.append(Finding("problem", f"the check itself failed ({what})", "report this line"))
    return found


def _split(message: str) -> tuple[str, str]:
    """What is wrong, and what to do about it, if the message ends with that."""
    found = _ADVICE.fullmatch(message)
    return (found[1], found[2]) if found else (message, "")


def answer(question: str, options: Options) -> str:
    """The findings of the check that a line of JSON describes, as another."""
    asked = json.loads(question)
    module, _, function = asked["run"].partition(":")
    run = getattr(importlib.import_module(module), function)
    findings = run_check(Check(asked["name"], run, decides=asked["decides"]), options)
    return json.dumps([dataclasses.asdict(finding) for finding in findings])


def main(options: str) -> None:
    """Answer each line of standard input, after a first one that says "ready"."""
    # Before the first check's time begins: numpy takes seconds on a board under load.
    importlib.import_module("ssast_edge.doctor.checks")
    given = Options(**json.loads(options))
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as output:
        os.dup2(2, 1)
        sys.stdout = sys.stderr
        output.write('"ready"\n')
        output.flush()
        for line in sys.stdin:
            output.write(answer(line, given) + "\n")
            output.flush()
        # Not the ordinary end: a driver may hang while it is being unloaded.
        os._exit(0)
