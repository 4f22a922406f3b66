"""Binary layers by carries of running parities, compiled: `parities` has the tile, `layers` says what the function takes."""

from __future__ import annotations

from collections.abc import Callable

from xnorinfer.kernels import fields
from xnorinfer.kernels.count_rows import counts_finisher
from xnorinfer.kernels.parities import parity_tile
from xnorinfer.kernels.shapes import ParityShape
from xnorinfer.kernels.vector_ir import get, inner, store_word


def make_compute_parities(shape: ParityShape, lanes: int) -> Callable[..., None]:
    """Mismatches of prepared rows and groups of neurons against limits, or to the float32 steps."""
    finish_counts = counts_finisher(lanes)
    several, single, most = parity_tile(shape, shape.rows), parity_tile(shape, 1), shape.rows
    neurons, limit_bytes = shape.panel, shape.bits // 8
    panels_of_group = 64 // neurons

    @inner
    def rows_of_panel(row, row_bytes, word_bytes, words, panel, limits, shifts, rows, out, out_bytes, counted):
        whole = rows // most * most
        for r in range(0, whole, most):
            several(row + r * row_bytes, row_bytes, word_bytes, words, panel,
                    limits, shifts + 8 * r, out + r * out_bytes, out_bytes, counted)  # fmt: skip
        for r in range(whole, rows):
            single(row + r * row_bytes, 0, word_bytes, words, panel,
                   limits, shifts + 8 * r, out + r * out_bytes, 0, counted)  # fmt: skip

    def compute_parities(layer, source, target, rows, first_group, last_group, scratch, prepared, shifts):
        words = get(layer, fields.WORDS)
        row_bytes = get(layer, fields.PREPARED_BYTES)
        out_bytes = get(layer, fields.OUT_BYTES)
        panel_bytes = get(layer, fields.PANEL_BYTES)
        panels = get(layer, fields.PANELS)
        finish = get(layer, fields.FINISH)
        word_bytes = get(layer, fields.WORD_BYTES)
        counted = get(layer, fields.COUNTED) != 0
        parts = prepared + max(get(layer, fields.SUB_ROWS) * row_bytes, words * word_bytes)
        for group in range(first_group, last_group):
            first = group * panels_of_group
            count = min(panels_of_group, panels - first)
            if finish == 0 and count < panels_of_group and not counted:
                for r in range(rows):
                    store_word(target + r * out_bytes + group * 8, 0)
            for p in range(count):
                panel = get(layer, fields.PANEL) + (first + p) * panel_bytes
                limits = get(layer, fields.LIMITS) + (64 * group + p * neurons) * limit_bytes
                if counted:
                    out = target + p * neurons * 8
                    rows_of_panel(prepared, row_bytes, word_bytes, words, panel, limits, shifts, rows, out, out_bytes, 1)
                elif finish == 0:
                    out = target + group * 8 + p * (neurons // 8)
                    rows_of_panel(prepared, row_bytes, word_bytes, words, panel, limits, shifts, rows, out, out_bytes, 0)
                else:
                    out = parts + p * neurons * 8
                    rows_of_panel(prepared, row_bytes, word_bytes, words, panel,
                                  limits, shifts, rows, out, fields.COUNTS_BYTES, 1)  # fmt: skip
            if finish != 0:
                finish_counts(layer, group, rows, parts, fields.COUNTS_BYTES, shifts, scratch, target + group * 256)

    return compute_parities
