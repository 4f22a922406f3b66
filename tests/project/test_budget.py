"""The budget of a file: bytes and steps that grow with its size, charged before anything is made."""

from __future__ import annotations

from pathlib import Path

import pytest

from xnorinfer import budget
from xnorinfer.errors import InputError, OptionError, SourceError


def file_of(folder: Path, size: int, name: str = "net.bin") -> Path:
    (folder / name).write_bytes(bytes(size))
    return folder / name


def test_what_a_file_may_cost_grows_with_its_size(tmp_path: Path) -> None:
    with budget.reading(file_of(tmp_path, 1000)) as allowed:
        assert allowed.max_bytes == 64 * 1000 + (64 << 20)
        budget.spend_bytes(int(allowed.max_bytes), "all of it")
        with pytest.raises(SourceError, match=r"^net\.bin: one more would take 1 bytes after 64\.1 MiB .* --max-memory"):
            budget.spend_bytes(1, "one more")
    with budget.reading(tmp_path / "net.bin"):
        budget.spend_bytes(1 << 20, "of another reading")


def test_what_is_made_is_summed_and_a_look_is_not(tmp_path: Path) -> None:
    with budget.reading(file_of(tmp_path, 0), max_memory=100) as allowed:
        for _ in range(9):
            budget.require_bytes(100, "a look")
        for _ in range(10):
            budget.spend_bytes(10, "a tenth")
        with pytest.raises(SourceError, match="a look would take 100 bytes after 100 bytes"):
            budget.require_bytes(100, "a look")
        assert allowed.bytes == 100


def test_steps_follow_the_bytes(tmp_path: Path) -> None:
    with budget.reading(file_of(tmp_path, 0), max_memory=256 * 50):
        for _ in range(50):
            budget.spend_steps(what="walking")
        with pytest.raises(SourceError, match=r"^net\.bin: walking takes more than 50 steps, .* --max-memory"):
            budget.spend_steps(what="walking")


def test_files_of_one_checkpoint_share_one_budget(tmp_path: Path) -> None:
    first, second = file_of(tmp_path, 10, "a"), file_of(tmp_path, 20, "b")
    with budget.reading(first) as allowed:
        for path in (second, second, first, tmp_path / "not there", tmp_path):
            budget.add_file(path)
        assert allowed.size == 30
        with budget.reading(second, max_memory=1) as inner:
            assert inner is allowed
        budget.spend_bytes(1000, "the outer limit holds")
    with budget.reading(tmp_path) as allowed:
        assert allowed.size == 30


def test_outside_of_a_budget_each_call_is_held_against_the_least() -> None:
    for _ in range(3):
        budget.spend_bytes(50 << 20, "much")
    with pytest.raises(SourceError, match="too much would take 100 MiB"):
        budget.spend_bytes(100 << 20, "too much")
    with budget.unlimited("a module"):
        budget.spend_bytes(1 << 60, "what is there already")


@pytest.mark.parametrize("kind", [MemoryError, RecursionError])
@pytest.mark.parametrize("error", [SourceError, InputError])
def test_the_end_of_memory_and_stack_is_an_error_that_names_the_file(tmp_path: Path, kind: type, error: type) -> None:
    with pytest.raises(error, match=r"^net\.bin: "), budget.reading(file_of(tmp_path, 0), error=error):
        raise kind


@pytest.mark.parametrize(
    ("text", "size"), [("123456", 123456), ("500M", 500 << 20), ("4g", 4 << 30), ("1.5GiB", 3 << 29), ("2 kb", 2048)]
)
def test_sizes(text: str, size: int) -> None:
    assert budget.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "-1", "0", "nan", "inf", "4X", "²", "9" * 5000])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match=r"no size|convert"):
        budget.parse_size(text)


@pytest.mark.parametrize("value", [0, -1, True, 1.5, "4G"])
def test_max_memory_is_a_number_of_bytes(tmp_path: Path, value: object) -> None:
    with pytest.raises(OptionError, match="max_memory"), budget.reading(tmp_path, value):  # type: ignore[arg-type]
        pass


@pytest.mark.parametrize(
    ("shape", "problem"),
    [
        ([1] * 65, "65 dimensions"),
        ((-1, 2), "negative"),
        ((1 << 62, 0), "beyond"),
        ((1 << 40, 1 << 40), "beyond"),
        ((0, 3), None),
    ],
)
def test_shapes_that_no_array_can_have(shape: list[int], problem: str | None) -> None:
    found = budget.shape_problem(shape, 4)
    assert found is None if problem is None else problem in (found or "")
