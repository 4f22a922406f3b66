"""The tables of docs/microcontrollers.md, `python -m benchmarks.extracted sizes` and `... times`: the C that `extract` writes.

sizes: what a network takes in flash and on the stack, compiled and linked for microcontrollers (gcc-arm-none-eabi and
gcc-xtensa-lx106), with what it needs of the compiler's library; nothing is run.  times: microseconds a sample on this machine's
own C compiler, the least of many runs, beside xnorinfer on one thread.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from xnorinfer import shipped
from xnorinfer.engine.model import Model, random_inputs
from xnorinfer.export import ccode
from xnorinfer.packing import modelfile
from xnorinfer.speed.timing import in_turns

ARM, XTENSA = "arm-none-eabi", "xtensa-lx106-elf"
#: What is said of a processor -> the compiler, and what it is told.
PROCESSORS: dict[str, tuple[str, tuple[str, ...]]] = {
    "Cortex-M0, M0+": (ARM, ("-mcpu=cortex-m0plus", "-mthumb")),
    "Cortex-M3": (ARM, ("-mcpu=cortex-m3", "-mthumb")),
    "Cortex-M4F": (ARM, ("-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16")),
    "Cortex-M7": (ARM, ("-mcpu=cortex-m7", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv5-d16")),
    "Cortex-M33": (ARM, ("-mcpu=cortex-m33", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv5-sp-d16")),
    # Its floats are functions of the chip's ROM, which the compiler's library leaves out.
    "xtensa LX106 (ESP8266)": (XTENSA, ("-mlongcalls", "-Wl,--unresolved-symbols=ignore-all")),
}
LEVELS = ("-Os", "-O2", "-O3")
FLAGS = ("-std=c99", "-ffreestanding", "-ffunction-sections", "-fdata-sections", "-fno-tree-loop-distribute-patterns")

#: A program that does nothing else; functions of the C library that compilers call by themselves are written out.
PROGRAM = """\
#include "net.h"
void *memset(void *to, int value, size_t count)
{
    for (size_t k = 0; k < count; k++)
        ((volatile uint8_t *)to)[k] = (uint8_t)value;
    return to;
}
void *memcpy(void *to, const void *from, size_t count)
{
    for (size_t k = 0; k < count; k++)
        ((volatile uint8_t *)to)[k] = ((const uint8_t *)from)[k];
    return to;
}
volatile int found;
extern net_input sample[NET_INPUTS];
net_input sample[NET_INPUTS];
void start(void)
{
    found = net_predict(sample);
}
"""

#: Least microseconds of one sample.
TIMES = """\
#define _POSIX_C_SOURCE 199309L
#include "net.h"
#include <stdio.h>
#include <time.h>
int main(void)
{
    static net_input samples[16][NET_INPUTS];
    double least = 1e9;
    volatile int found;
    if (fread(samples, sizeof samples, 1, stdin) != 1)
        return 1;
    for (int round = 0; round < 2000; round++) {
        struct timespec a, b;
        clock_gettime(CLOCK_MONOTONIC, &a);
        found = net_predict(samples[round % 16]);
        clock_gettime(CLOCK_MONOTONIC, &b);
        const double passed = 1e6 * (double)(b.tv_sec - a.tv_sec) + 1e-3 * (double)(b.tv_nsec - a.tv_nsec);
        least = passed < least ? passed : least;
    }
    (void)found;
    printf("%.1f", least);
    return 0;
}
"""


def run(*command: str, **options: object) -> str:
    """What a command prints; its own words where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr[:2000]}")
    return str(done.stdout)


def write(folder: Path, name: str, program: str) -> Path:
    """A program around a network that ships; its path."""
    packed = modelfile.load(shipped.path(name))
    (folder / "net.h").write_text(ccode.header(packed, "net"), encoding="utf-8")
    source = folder / "main.c"
    source.write_text(program, encoding="utf-8")
    return source


def measure(source: Path, processor: str, level: str) -> tuple[int, int, int]:
    """Bytes of code with what it needs of the compiler's library, of constants, and of the stack without the library's."""
    tool, flags = PROCESSORS[processor]
    command = [f"{tool}-gcc", *flags, *FLAGS, level, "-fcallgraph-info=su", "-c", source.name, "-o", "main.o"]
    run(*command, cwd=source.parent)
    command = [f"{tool}-gcc", *flags, "-nostdlib", "-Wl,--gc-sections", "-Wl,-e,start", "main.o", "-lgcc", "-o", "main.elf"]
    run(*command, cwd=source.parent)
    whole = sum(size for name, size in sections(tool, source.with_name("main.elf")) if name.startswith((".text", ".rodata")))
    constants = sum(size for name, size in sections(tool, source.with_name("main.o")) if name.startswith(".rodata"))
    return whole - constants, constants, deepest(source.with_name("main.ci").read_text(encoding="utf-8"))


def sections(tool: str, path: Path) -> Iterator[tuple[str, int]]:
    """The sections of an object or a program, and their bytes."""
    for line in run(f"{tool}-size", "-A", str(path)).splitlines():
        if found := re.match(r"(\.\S+)\s+(\d+)\s", line):
            yield found[1], int(found[2])


def deepest(graph: str) -> int:
    """The most stack from `start` on, by the compiler's graph of calls."""
    sizes = {name: int(size) for name, size in re.findall(r'node: { title: "([^"]+)" label: "[^"]*\\n(\d+) bytes', graph)}
    calls: dict[str, set[str]] = {}
    for caller, called in re.findall(r'sourcename: "([^"]+)" targetname: "([^"]+)"', graph):
        calls.setdefault(caller, set()).add(called)

    def depth(name: str) -> int:
        return sizes.get(name, 0) + max((depth(other) for other in calls.get(name, ()) if other != name), default=0)

    return depth("start")


def sizes_table(names: list[str]) -> Iterator[str]:
    """A line of a Markdown table for each network and processor."""
    yield f"| network | processor | constants | code {' | '.join(LEVELS)} | stack {' | '.join(LEVELS)} |"
    yield "|---" * (3 + 2 * len(LEVELS)) + "|"
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            source = write(Path(folder), name, PROGRAM)
            for processor, (tool, _) in PROCESSORS.items():
                if shutil.which(f"{tool}-gcc") is None:
                    print(f"skipped: {processor} needs {tool}-gcc", file=sys.stderr)
                    continue
                found = [measure(source, processor, level) for level in LEVELS]
                cells = [*(f"{code / 1024:.1f}" for code, _, _ in found), *(f"{stack / 1024:.1f}" for _, _, stack in found)]
                yield f"| `{name}` | {processor} | {found[-1][1] / 1024:.1f} | {' | '.join(cells)} |"


def times_table(names: list[str]) -> Iterator[str]:
    """A line of a Markdown table for each network."""
    builds = [("-O2",), ("-O3",), ("-O3", "-march=native")]
    heads = [f"`{' '.join(flags)}`" for flags in builds]
    yield f"| network | {' | '.join(heads)} | xnorinfer |"
    yield "|---" * (2 + len(builds)) + "|"
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            source, model = write(Path(folder), name, TIMES), Model(modelfile.load(shipped.path(name)), threads=1)
            samples, cells = random_inputs(model.packed, 16, 0), []
            for flags in builds:
                run("cc", "-std=c99", *flags, source.name, "-o", "main", cwd=source.parent)
                done = subprocess.run([source.with_name("main")], input=samples.tobytes(), capture_output=True, check=True)
                cells.append(f"{float(done.stdout):.0f} us")
            here = in_turns({"here": lambda model=model, samples=samples: model.predict(samples[:1])}, 1.0)["here"]
            yield f"| `{name}` | {' | '.join(cells)} | {here.low * 1e6:.0f} us |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.extracted", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("sizes", "times"))
    tables = {"sizes": sizes_table, "times": times_table}
    print("\n".join(tables[parser.parse_args().what](list(shipped.names()))))
