"""Coverage-guided fuzzing of one reader: `python tests/tools/fuzz_coverage.py --reader npz --seconds 600`.

Needs the package atheris.  Starts from the seeds of `fuzz_targets` and from `corpus/`; inputs that reach new code of the
package are mutated further, as bytes and inside containers.  Each input has the bounds of `fuzzing`.  With `--keep` few small
inputs that run every line reached are written to `corpus/`, which the test suite reads.  Exits with 1 if there is a defect,
whose input is kept as `corpus/READER.defect`.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path

#: What is instrumented: readers and what they are made of.  Not the kernels: numba reads their bytecode.
INSTRUMENTED = [
    "xnorinfer.converters",
    "xnorinfer.packing.modelfile",
    "xnorinfer.packing.packed",
    "xnorinfer.net",
    "xnorinfer.budget",
]
#: Bytes of a reader's file in `corpus/`, at most.
MOST_KEPT = 20_000


def child(reader: str, arguments: list[str]) -> None:
    """Fuzz in this process, which libFuzzer ends."""
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED, enable_loader_override=False):
        import fuzzing
        from fuzz_targets import TARGETS

        from xnorinfer.converters import SOURCES  # noqa: F401
        from xnorinfer.packing import modelfile  # noqa: F401
    import coverage_corpus

    target = TARGETS[reader]()
    ways = list(target.deeper.values())
    others = [content for seed in target.seeds for content in seed.values()]

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if len(data) < 2 or rng.random() < 0.5:
            return bytes(atheris.Mutate(data, max_size))
        try:
            way = rng.choice([*ways, fuzzing.mutate])
            return (data[:1] + way(rng, data[1:], rng.choice(others)))[:max_size]
        except Exception:  # what is no container any more
            return bytes(atheris.Mutate(data, max_size))

    with tempfile.TemporaryDirectory() as folder:

        def one_input(data: bytes) -> None:
            target.bounded(coverage_corpus.files_of(target, data), Path(folder), unchecked=True)

        target.contents_of(0, Path(folder))
        atheris.Setup([sys.argv[0], *arguments], one_input, custom_mutator=mutate)
        atheris.Fuzz()


def libfuzzer(reader: str, *arguments: str) -> tuple[int, str]:
    command = [sys.executable, __file__, "--reader", reader, "--child", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    return done.returncode, done.stdout + done.stderr


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reader", required=True)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--child", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    if importlib.util.find_spec("atheris") is None:
        print("needs the package atheris: pip install atheris", file=sys.stderr)
        return 2
    if arguments.child is not None:
        child(arguments.reader, arguments.child)
    import coverage_corpus
    from fuzz_targets import TARGETS

    with tempfile.TemporaryDirectory() as temporary:
        found, defects = (Path(temporary) / name for name in ("found", "defects"))
        for folder in (found, defects):
            folder.mkdir()
        for data in (*coverage_corpus.first_inputs(TARGETS[arguments.reader]()), *coverage_corpus.kept(arguments.reader)):
            (found / hashlib.sha1(data).hexdigest()).write_bytes(data)
        common = [
            f"-max_len={coverage_corpus.MAX_BYTES + 1}",
            "-timeout=120",
            "-rss_limit_mb=0",
            f"-artifact_prefix={defects}/",
        ]
        code, output = libfuzzer(
            arguments.reader, str(found), *common, f"-max_total_time={arguments.seconds}", "-print_final_stats=1"
        )
        runs = re.search(r"number_of_executed_units: (\d+)", output)
        reached = re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)", output)
        print(
            f"{arguments.reader}: {runs[1] if runs else 'no'} inputs, "
            + (f"{reached[-1][0]} edges, {reached[-1][1]} features, {reached[-1][2]} inputs kept" if reached else "no coverage")
        )
        if code:
            print(output[-4000:], file=sys.stderr)
            for path in defects.iterdir():
                coverage_corpus.CORPUS.mkdir(exist_ok=True)
                (coverage_corpus.CORPUS / f"{arguments.reader}.defect").write_bytes(path.read_bytes())
            return 1
        if arguments.keep:
            inputs = coverage_corpus.smallest(TARGETS[arguments.reader](), [path.read_bytes() for path in found.iterdir()])
            count = coverage_corpus.keep(arguments.reader, inputs, MOST_KEPT)
            print(f"{arguments.reader}: {count} of {len(inputs)} inputs are kept in corpus/")
    return 0


if __name__ == "__main__":
    sys.exit(main())
