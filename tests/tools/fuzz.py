"""Many mutated files for one reader: `python tests/tools/fuzz.py --reader npz --mutations 200000`.

Works in child processes of a few thousand files each, with bounded memory; a child that crashes is told from one that found a
defect, and both are reported with the number of the mutation, which `--first NUMBER --mutations 1` repeats.  Exits with 1 if
there is any defect.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import fuzzing
from fuzz_targets import TARGETS

CHUNK = 2000
#: Beyond any patience: several times what a file may take, on a machine that is busy with other things.
HUNG_SECONDS = fuzzing.WAITING_SECONDS + 30
#: Enough to look at; stop there.
MAX_DEFECTS = 20


def child(target: fuzzing.Target, first: int, count: int, folder: Path, shared: mmap.mmap, result: Path) -> int:
    def at(number: int) -> None:
        shared[:8] = number.to_bytes(8, "little")

    try:
        outcomes = fuzzing.run(target, first, count, folder, at)
    except fuzzing.Defect as defect:
        cause = defect.__cause__ or defect
        where = "".join(traceback.format_exception(cause)[-4:])
        result.write_text(json.dumps({"defect": str(defect), "where": where}))
        return 1
    result.write_text(json.dumps(outcomes))
    return 0


def watched(pid: int, shared: mmap.mmap) -> int:
    """Exit code of a child; one that stays with a file inside a library, where no alarm of Python reaches it, is killed."""
    seen, since = bytes(shared[:8]), time.monotonic()
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
        if seen != bytes(shared[:8]):
            seen, since = bytes(shared[:8]), time.monotonic()
        elif time.monotonic() - since > HUNG_SECONDS:
            os.kill(pid, signal.SIGKILL)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reader", choices=sorted(TARGETS), required=True)
    parser.add_argument("--mutations", type=int, default=200_000)
    parser.add_argument("--first", type=int, default=0, help="number (seed) of the first mutation")
    arguments = parser.parse_args()
    target = TARGETS[arguments.reader]()
    shared = mmap.mmap(-1, 8)
    totals: dict[str, int] = {}
    defects = 0
    begin = time.monotonic()
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as temporary:
        result = Path(temporary) / "result.json"
        number, end = arguments.first, arguments.first + arguments.mutations
        while number < end:
            folder = Path(tempfile.mkdtemp(dir=temporary))
            count = min(CHUNK, end - number)
            pid = os.fork()
            if pid == 0:
                os._exit(child(target, number, count, folder, shared, result))
            code = watched(pid, shared)
            number += count
            if code == 0:
                for outcome, times in json.loads(result.read_text()).items():
                    totals[outcome] = totals.get(outcome, 0) + times
                continue
            defects += 1
            at = int.from_bytes(shared[:8], "little")
            if code == 1:
                found = json.loads(result.read_text())
                print(found["defect"], found["where"], sep="\n", file=sys.stderr, flush=True)
            else:
                print(f"{arguments.reader}, mutation {at}: the process died ({code})", file=sys.stderr, flush=True)
            number = at + 1
            if defects == MAX_DEFECTS:
                break
    shown = ", ".join(f"{times} {outcome}" for outcome, times in sorted(totals.items(), key=lambda item: -item[1]))
    print(
        f"{arguments.reader}: {number - arguments.first} files in {time.monotonic() - begin:.0f} s, {defects} defects: {shown}"
    )
    return 1 if defects else 0


if __name__ == "__main__":
    sys.exit(main())
