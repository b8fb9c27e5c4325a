"""The process in which the checks of an area run: a check that hangs or crashes takes only it.

Names of checks come in on standard input, findings go out as one JSON object a line on what was
standard output. Whatever libraries print goes to standard error.
"""

import dataclasses
import json
import os
import re
import sys
from typing import Any

from ssast_edge.doctor.checks import find_check
from ssast_edge.doctor.finding import Check, Finding, Options, Skipped
from ssast_edge.errors import SsastEdgeError, one_line

_ADVICE = re.compile(r"(.*?): ((?:apt|pip|connect|give|update|build|flash|install|is it) .*)")


def run_check(check: Check, options: Options) -> list[Finding]:
    """What the check says; an error that nobody foresaw is a problem, not a traceback."""
    found = []
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


def answer(name: str, options: Options) -> dict[str, Any]:
    """What the check of that name says, for JSON."""
    findings = run_check(find_check(name), options)
    return {"findings": [dataclasses.asdict(finding) for finding in findings]}


def main(options: str) -> None:
    """Answer each name of a check on standard input, after a first line that says "ready"."""
    given = Options(**json.loads(options))
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as output:
        os.dup2(2, 1)
        sys.stdout = sys.stderr
        output.write('"ready"\n')
        output.flush()
        for line in sys.stdin:
            output.write(json.dumps(answer(line.strip(), given)) + "\n")
            output.flush()
        # Not the ordinary end: a driver may hang while it is being unloaded.
        os._exit(0)
