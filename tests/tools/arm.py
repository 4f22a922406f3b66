"""The ARM kernels without an ARM machine: `python tests/tools/arm.py [--cpu neoverse-n1 ...] [--mca]`.

Compiles the functions of the kernels `neon` and `portable` for ARM CPUs, links them with a small program (`arm_run.c`) and
runs them under `qemu-aarch64` on the networks of `test_kernels`, `test_kernels_inputs`, `test_kernels_maps` and
`level_networks`: a plan is laid out here, as it would be there, with the addresses that its arrays have here; the program
maps copies of them at the same addresses and calls the driver.
Scores are compared with integers multiplied by numpy.  Not part of the suite: needs Debian's qemu-user and
gcc-aarch64-linux-gnu, and llvm for --mca.

--mca: instructions of the hot loops, and the cycles that llvm-mca computes for them; computed, not measured.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

TRIPLE = "aarch64-unknown-linux-gnu"
CPUS = ("neoverse-n1", "apple-m1")
KERNELS = ("neon", "portable")
HERE = Path(__file__).resolve().parent
KERNEL_TESTS = HERE.parent / "kernels"
PAGE = 4096


def become(cpu: str) -> None:
    """Make numba and the kernels compile for an ARM CPU from here on."""
    os.environ["NUMBA_CPU_NAME"] = cpu
    from llvmlite import binding

    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    binding.get_process_triple = binding.targets.get_process_triple = lambda: TRIPLE


class Functions:
    """Compiled functions by what `store.address` is asked for; an address is a number that the program replaces."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tokens: dict[tuple[Any, ...], int] = {}
        self.assembly: dict[tuple[Any, ...], str] = {}

    def address(self, maker: str, arity: int, *arguments: Any, returns: bool = False) -> int:
        """The number of a function, compiled when first asked for."""
        from xnorinfer.kernels import build

        key = (maker, arguments)
        if key not in self.tokens:
            number = self.tokens[key] = len(self.tokens) + 1
            code = build.library(maker, f"function_{number}", arity, arguments, returns).get_asm_str()
            source, made = self.folder / f"{number}.s", self.folder / f"{number}.o"
            source.write_text(code)
            call("aarch64-linux-gnu-gcc", "-march=armv8.6-a+sha3+crypto", "-c", source, "-o", made)
            # numba's own functions come with each of them.
            call("aarch64-linux-gnu-objcopy", f"--keep-global-symbol=function_{number}", made)
            self.assembly[key] = code
        return self.tokens[key]

    def program(self) -> Path:
        """The program with all functions so far."""
        count = len(self.tokens)
        table = ", ".join(f"(void *)function_{number}" for number in range(1, count + 1))
        declared = "".join(f"void function_{number}(void);\n" for number in range(1, count + 1))
        (self.folder / "functions.h").write_text(f"{declared}static void *const functions[] = {{0, {table}}};\n")
        made = self.folder / "run"
        objects = [self.folder / f"{number}.o" for number in range(1, count + 1)]
        # What numba's functions for Python would need is never called.
        ignore = "-Wl,--unresolved-symbols=ignore-all"
        call(
            "aarch64-linux-gnu-gcc",
            "-O1",
            "-static",
            ignore,
            "-I",
            self.folder,
            HERE / "arm_run.c",
            *objects,
            "-o",
            made,
            "-lm",
        )
        return made


def call(*command: Any) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]}: {done.stderr or done.stdout}")
    return done.stdout


class Emulated:
    """A plan whose runs are those of the program under qemu."""

    def __init__(self, plan: Any, functions: Functions) -> None:
        self.plan, self.functions = plan, functions

    def run(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Scores of canonical inputs, as `Plan.run` gives them."""
        from xnorinfer.kernels import fields, layout

        plan = self.plan
        context = plan._context()
        source, target = layout.kept(x), layout.aligned((x.shape[0], plan._scores), np.float32)
        pointers = layout.kept(np.array([source.ctypes.data, target.ctypes.data], np.int64))
        arrays = [*plan._kept, context.job, *context.memory, source, target, pointers]
        patches = [
            (plan._rows[index, field : field + 1].ctypes.data, int(plan._rows[index, field]))
            for index in range(len(plan._rows))
            for field in fields.FUNCTIONS
            if plan._rows[index, field]
        ]
        finishing = {token for (maker, *_), token in self.functions.tokens.items() if maker == "make_finish_rows"}
        for row in plan._rows:
            for turn in range(int(row[fields.OPS]) if row[fields.FINISH] in finishing else 0):
                at = int(row[fields.OP_CODES]) + 8 * (fields.TURN_FIELDS * turn + fields.RUN)
                token = ctypes.c_int64.from_address(at).value
                patches += [(at, token)] * (token > 0)
        drive = self.functions.tokens["make_drive", ()]
        head = [drive, context.job_address, x.shape[0], pointers.ctypes.data, target.ctypes.data, target.nbytes]
        image = self.functions.folder / "image"
        with image.open("wb") as stream:
            stream.write(np.array([*head, len(pages(arrays)), len(arrays), len(patches)], np.int64).tobytes())
            stream.write(np.array(pages(arrays), np.int64).tobytes())
            stream.write(np.array(patches, np.int64).tobytes())
            for array in arrays:
                stream.write(np.array([array.ctypes.data, array.nbytes], np.int64).tobytes())
                stream.write(np.ascontiguousarray(array).tobytes())
        result = self.functions.folder / "result"
        call("qemu-aarch64", "-cpu", "max", self.functions.folder / "run", image, result)
        return np.fromfile(result, np.float32).reshape(target.shape)


def pages(arrays: list[NDArray[Any]]) -> list[tuple[int, int]]:
    """(first, last) of the stretches of memory, in whole pages, that hold the arrays."""
    spans = sorted((a.ctypes.data // PAGE * PAGE, -(-(a.ctypes.data + a.nbytes) // PAGE) * PAGE) for a in arrays if a.nbytes)
    merged: list[tuple[int, int]] = []
    for begin, end in spans:
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return merged


def check(cpu: str, folder: Path, mca: bool) -> int:
    """Run everything for one CPU; the number of networks whose scores differ."""
    become(cpu)
    import level_networks
    import packed_networks as nets

    sys.path.insert(0, str(KERNEL_TESTS))
    import test_kernels
    import test_kernels_inputs
    import test_kernels_maps

    from xnorinfer import kernels
    from xnorinfer.engine import plan as plan_module
    from xnorinfer.engine.model import canonical_input, random_inputs
    from xnorinfer.net.reference import forward
    from xnorinfer.packing.lower import lower

    functions = Functions(folder)
    kernels.address = functions.address
    plan_module.pool = lambda: None  # type: ignore[assignment]
    functions.address("make_drive", kernels._DRIVE, returns=True)
    print(f"{cpu}: features {', '.join(sorted(kernels.cpu_features()))}", flush=True)
    cases = []
    for kernel in KERNELS:
        for source, mapping in test_kernels.INPUTS.items():
            for shape, (widths, rows) in test_kernels.SHAPES.items():
                if rows:
                    rng = np.random.default_rng([len(widths), rows, widths[0], ord(mapping.kind[0])])
                    for floats in (0, 1) if len(widths) > 2 and max(widths) < 1000 else (0,):
                        model = nets.random_model(rng, mapping, widths, floats)
                        x = nets.random_rows(rng, model, rows)
                        plan = plan_module.Plan(model, threads=1, kernel=kernel)
                        cases.append((kernel, source, shape, floats, Emulated(plan, functions), x, nets.expected(model, x)[-1]))
        for source, mapping in test_kernels_maps.INPUTS.items():
            for seed in range(8):
                shape = test_kernels_maps.shape_for(mapping, seed)
                model = nets.random_maps(np.random.default_rng(seed), mapping, shape, 1 + seed % 4)
                x = nets.random_rows(np.random.default_rng(0), model, 3)
                plan = plan_module.Plan(model, threads=1, kernel=kernel)
                cases.append((kernel, source, "maps", seed, Emulated(plan, functions), x, nets.expected(model, x)[-1]))
        for kind in test_kernels_inputs.KINDS:
            for depth in test_kernels_inputs.DEPTHS:
                rng = np.random.default_rng(depth)
                model = test_kernels_inputs.random_network(rng, kind, depth)
                x = test_kernels_inputs.random_rows(rng, model, 5)
                plan = plan_module.Plan(model, threads=1, kernel=kernel)
                cases.append((kernel, kind, "limits", depth, Emulated(plan, functions), x, nets.expected(model, x)[-1]))
        for seed in range(24):
            net = level_networks.random_net(seed)
            model = lower(net).packed
            x = canonical_input(model, random_inputs(model, 5, seed))
            plan = plan_module.Plan(model, threads=1, kernel=kernel)
            cases.append((kernel, "any", "levels", seed, Emulated(plan, functions), x, forward(net, x)))
    functions.program()
    wrong = [case[:4] for case in cases if not nets.same(case[4].run(case[5]), case[6])]
    print(f"{cpu}: {len(cases)} networks, {len(wrong)} with other scores {wrong[:5] or ''}", flush=True)
    if mca:
        for (maker, arguments), code in functions.assembly.items():
            if maker in ("make_compute_bits", "make_compute_nibbles", "make_compute_lookup"):
                describe(cpu, f"{maker} {arguments}", code, folder)
    return len(wrong)


def describe(cpu: str, name: str, assembly: str, folder: Path) -> None:
    """The longest innermost loops that count bits or look up, with llvm-mca's cycles of one turn."""
    import re

    lines = [line.split("//")[0].rstrip() for line in assembly.splitlines()]
    places = {line[:-1]: number for number, line in enumerate(lines) if re.fullmatch(r"\.\w+:", line)}
    loops = []
    for number, line in enumerate(lines):
        jump = re.fullmatch(r"\s+(?:b\.\w+|cbn?z\s+\w+,|tbn?z\s+\w+,\s*#\d+,)\s+(\.\w+)", line)
        if jump and places.get(jump[1], number) < number:
            body = [one for one in lines[places[jump[1]] + 1 : number + 1] if one.strip() and not one.strip().startswith(".")]
            if not any(re.match(r"\s+(b\.|cbn?z|tbn?z)", one) for one in body[:-1]):
                vectors = sum(bool(re.search(r"\b(cnt|tbl)\b", one)) for one in body)
                if vectors:
                    loops.append((len(body), vectors, body))
    print(f"{cpu}: {name}")
    seen = set()
    for length, vectors, body in sorted(loops, key=lambda one: -one[0]):
        if (length, vectors) in seen:
            continue
        seen.add((length, vectors))
        text = folder / "loop.s"
        text.write_text("\n".join([*body[:-1], ""]))
        out = call("llvm-mca", f"-mtriple={TRIPLE}", f"-mcpu={cpu}", "-iterations=100", text)
        cycles = float(re.search(r"Total Cycles:\s+(\d+)", out)[1]) / 100  # type: ignore[index]
        print(f"    loop of {length} instructions, {vectors} CNT or TBL: {cycles:.1f} cycles")


def main() -> None:
    """Check each CPU in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", nargs="+", default=list(CPUS))
    parser.add_argument("--mca", action="store_true")
    options = parser.parse_args()
    tools = ["qemu-aarch64", "aarch64-linux-gnu-gcc", *(["llvm-mca"] if options.mca else [])]
    missing = [tool for tool in tools if not shutil.which(tool)]
    if missing:
        parser.error(f"{', '.join(missing)} not found; on Debian: apt-get install qemu-user gcc-aarch64-linux-gnu llvm")
    if len(options.cpu) > 1:
        more = ["--mca"] if options.mca else []
        codes = [subprocess.run([sys.executable, __file__, "--cpu", cpu, *more], check=False).returncode for cpu in options.cpu]
        sys.exit(max(codes))
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(bool(check(options.cpu[0], Path(folder), options.mca)))


if __name__ == "__main__":
    main()
