import numpy as np
import packed_oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xnorinfer.bits import bitpack, bitunpack, pad_mask, words_for


@given(st.integers(0, 3), st.integers(1, 200), st.integers(0, 2**32 - 1))
def test_words_hold_the_bits_least_significant_first(rows: int, depth: int, seed: int) -> None:
    signs = np.random.default_rng(seed).choice(np.array([-1, 1], np.int8), (rows, depth))
    words = bitpack(signs)
    assert words.dtype == np.uint64
    assert words.shape == (rows, -(-depth // 64))
    for row in range(rows):
        as_number = sum(int(word) << (64 * i) for i, word in enumerate(words[row]))
        assert as_number == sum(1 << k for k in range(depth) if signs[row, k] > 0)
    assert (bitunpack(words, depth) == signs).all()
    # So are those of the tests' own oracle.
    assert (packed_oracle.to_words(signs > 0) == words).all()
    assert (packed_oracle.from_words(words, depth) == signs).all()


@pytest.mark.parametrize("dtype", [np.bool_, np.int8, np.int64, np.float32, np.float64])
def test_positive_is_one_whatever_the_dtype(dtype: type) -> None:
    signs = np.array([[1, 0, 1, 1]], dtype)
    assert bitpack(signs).tolist() == [[0b1101]]


def test_non_contiguous_input() -> None:
    signs = np.random.default_rng(0).choice(np.array([-1, 1]), (70, 6))
    assert (bitunpack(bitpack(signs.T), 70) == signs.T).all()


@pytest.mark.parametrize("depth", [1, 63, 64, 65, 127, 128, 129])
def test_pad_mask_covers_exactly_the_depth(depth: int) -> None:
    assert (bitpack(np.ones((1, depth)))[0] == pad_mask(depth)).all()
    assert sum(int(word).bit_count() for word in pad_mask(depth)) == depth
    assert len(pad_mask(depth)) == words_for(depth)


def test_dot_is_depth_minus_twice_the_mismatches() -> None:
    rng = np.random.default_rng(1)
    a, w = (rng.choice(np.array([-1, 1]), (5, 130)) for _ in range(2))
    mismatches = np.bitwise_count(bitpack(a)[:, None] ^ bitpack(w)[None]).sum(-1, dtype=np.int64)
    assert (130 - 2 * mismatches == a @ w.T).all()


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(rows, depth\)"):
        bitpack(np.ones(3))
    with pytest.raises(ValueError, match="uint64 for 65 bits"):
        bitunpack(np.zeros((1, 1), np.uint64), 65)
