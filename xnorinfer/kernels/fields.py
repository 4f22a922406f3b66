"""The tables that a plan fills and the driver walks: arrays of int64, rows of fields.

Addresses are plain integers; the plan keeps the arrays behind them alive.  `_bytes` in comments are byte strides.
"""

from __future__ import annotations

# One row per layer.
(
    PREPARE,  # address of the function that brings rows into the form the tiles read, 0 = none
    COMPUTE,  # address of the function that computes groups of neurons
    FINISH,  # address of the function for float32 steps, 0 = the layer has a threshold
    DEPTH,
    WORDS,  # words of a prepared row as the tile takes them
    NEURONS,
    GROUPS,  # ceil(neurons / 64); a group of neurons gives one output word
    PANELS,  # panels in use; each has as many neurons as the kernel's tile for this kind
    PANEL,  # address of the first panel
    PANEL_BYTES,  # from panel to panel
    # address: i64 per neuron (f64 for reals, fewer bits where tiles count in those), filled up to whole groups with values that
    # no sum reaches
    LIMITS,
    IN_BYTES,  # from input row to input row
    OUT_BYTES,  # from output row to output row
    STEP_BYTES,  # the same of what steps give in rows (`float_layers`), whose rows may be pixels
    SUB_ROWS,  # rows that are prepared together
    PREPARED_BYTES,  # prepared form of one row
    WORD_BYTES,  # from word to word of a prepared row of parities; from row to row is PREPARED_BYTES
    PART_BYTES,  # counts of one row behind the prepared rows, where those of all rows are kept; 0 = they are not
    OPS,  # number of float32 steps, or of turns on rows
    OP_CODES,  # address: i64 per step; of steps on rows TURN_FIELDS for each turn
    OP_VALUES,  # address: (steps, 2, neurons) f32
    SUMS_STEPS,  # of a float layer: which of the runs it takes on sums before they are written, NOT_ON_SUMS, or below 0 none
    BASE,  # address: i64 per neuron; integer accumulator = base + FACTOR * count
    FACTOR,
    MAPPING,  # address: f64 slope, intercept, divisor (pixels)
    TABLES,  # address: (256, TABLE_COLUMNS) f32 of pixels that enter as numbers, channel by channel or one for all
    TABLE_COLUMNS,
    SHIFTED,  # address: f64 shifts of the columns, again and again for a vector from any on, then as many factors; or 0
    WEIGHT_SUM,  # address: f64 per neuron, sum of the -1/+1 weights (pixels)
    MIRRORED,  # address: i64 per group, bits of the inputs that are compared the other way round (`layers.make_binarize`)
    CHUNK,  # groups that a thread takes at a time when threads share the neurons
    WORK,  # rough work of a group of a row, in multiplications of one bit
    DEEP_LIMITS,  # address: i64 per neuron, where LIMITS has 16 bits (nibbles)
    SOURCE_AT,  # where in the buffers the input rows lie; below 0: not there, they are those of the run
    TARGET_AT,  # where the output rows go; the last layer of a run writes to the run's own
    BIT_LIMITS,  # address: f32 per neuron, behind the last ones NaN, of each sign that compares what steps give; 0: none does
    BIT_TURNED,  # address: the same i32 that bits of numbers are XORed with before
    SHIFTS,  # address: i64 per row, or per output pixel of a map: groups from the first limits to those of its border class
    # What follows is of layers over maps (`map_layers`), whose "groups" are tasks: parts of the neurons of a strip of pixels.
    INNER,  # address of the rows for what a strip of pixels is to them, one for each group of channels
    CHANNEL_GROUPS,
    GATHER,  # address of the function that brings windows into rows; 0: the pixels are the rows
    GATHER_PREPARES,  # whether it gives rows as PREPARE of INNER would
    ROW_BYTES,  # from one row that it gives to the next
    PLANE_BYTES,  # from word to word where it gives words of a place for all pixels together, else 0
    RAW_AT,  # where those rows lie, from the prepared rows on
    MERGED_AT,  # where the bits of a group of channels lie that do not fill words; 0: they go where they belong
    PARTS,  # parts of the neurons, a task each
    STRIP,  # pixels of a strip; the whole map where SUB_ROWS is above 1
    STRIP_BYTES,  # what a strip takes behind the prepared rows' begin
    HEIGHT,  # of the map that is read
    WIDTH,
    PIXEL_BYTES,
    DOWN,  # of the map that is given
    ACROSS,
    KERNEL_DOWN,
    KERNEL_ACROSS,
    STRIDE_DOWN,
    STRIDE_ACROSS,
    DILATION_DOWN,
    DILATION_ACROSS,
    TOP,  # padding
    LEFT,
    CHANNELS,  # bits, or bytes, that a tap has of a group of channels
    FILL,  # what a tap outside the map has: a byte, or for bits 0 or -1; of joined pixels whether they are bits
    DIVISOR,  # of averages; 0: the taps inside
    # Of layers that read several values, or write some.
    OTHERS,  # how many there are beside SOURCE and TARGET
    OTHERS_AT,  # address: for each where it lies, as SOURCE_AT says it, and the bytes of its rows
    SEGMENTS,  # what a joined pixel is made of (`map_layers.make_join`)
    SEGMENTS_AT,  # address: SEGMENT_FIELDS for each
    # Of levels (`level_layers`).
    GRADED,  # whether FINISH makes codes of counts, whose address it takes in the place of `integers`
    COUNTED,  # whether the layer gives its counts, of one group [64] i64 a row
    LEVEL_BYTES,  # from plane to plane of what it gives; of a layer over levels on maps, of its prepared rows
    LAYER_FIELDS,
) = range(73)

#: Which of the values that are joined, the bytes of a pixel of it, where in its pixel a segment begins, in bytes, how many bits
#: it has, and the bit of the joined pixel where it goes.
FROM, FROM_BYTES, FROM_AT, BITS, BIT_AT, SEGMENT_FIELDS = range(6)

#: The fields that are addresses of functions.
FUNCTIONS = (PREPARE, COMPUTE, FINISH, GATHER)

# Float32 steps, in the order of `packed.STEP_NAMES`, and the product with the number in the same place of another value.
MUL, ADD, FMA, CLIP, DIV, STEP, PRELU, SIDE, TANH, SIGMOID, TIMES = range(11)

#: Runs of steps that are taken together where they are taken on rows (`float_layers`), those of several steps last.
PIECES: tuple[tuple[int, ...], ...] = (
    *((code,) for code in range(TIMES + 1)),
    (MUL, ADD),
    (MUL, MUL, ADD),
    (CLIP, MUL, ADD),
    (MUL, ADD, CLIP),
    (MUL, ADD, SIDE),
    (MUL, MUL, ADD, SIDE),
    (CLIP, MUL, ADD, SIDE),
    (CLIP, MUL, ADD, SIDE, CLIP),
    (MUL, FMA),
    (FMA, CLIP),
    (FMA, SIDE),
    (MUL, FMA, SIDE),
    (FMA, SIDE, ADD, PRELU, ADD),
    (MUL, FMA, SIDE, ADD, PRELU, ADD),
    (PRELU, SIDE),
    (SIDE, CLIP),
    (MUL, ADD, PRELU),
    (MUL, ADD, PRELU, SIDE),
    (MUL, ADD, SIDE, CLIP),
    (MUL, ADD, SIDE, PRELU),
    (MUL, MUL, ADD, SIDE, CLIP),
    (MUL, MUL, ADD, SIDE, PRELU),
    (ADD, PRELU, ADD),
    (MUL, ADD, SIDE, ADD, PRELU, ADD),
    (MUL, MUL, ADD, SIDE, ADD, PRELU, ADD),
    # BatchNorm of maps as Keras 2 has it.
    (ADD, MUL, FMA),
    (MUL, ADD, MUL, FMA),
    (CLIP, ADD, MUL, FMA),
    (ADD, MUL, FMA, CLIP),
    (ADD, MUL, FMA, PRELU),
    (ADD, MUL, FMA, SIDE),
    (MUL, ADD, MUL, FMA, SIDE),
    (CLIP, ADD, MUL, FMA, SIDE),
    (ADD, MUL, FMA, SIDE, CLIP),
    (ADD, MUL, FMA, SIDE, PRELU),
    (ADD, MUL, FMA, PRELU, SIDE),
    (CLIP, ADD, MUL, FMA, SIDE, CLIP),
)

#: Numbers of those that the tile of a float layer takes on its sums; what `SUMS_STEPS` is where the steps are others.
NOT_ON_SUMS = len(PIECES)
_ON_SUMS = {(ADD,), (FMA,), (CLIP,), (MUL, ADD), (MUL, ADD, CLIP), (FMA, CLIP), (ADD, MUL, FMA), (ADD, MUL, FMA, CLIP)}
ON_SUMS = tuple(number for number, piece in enumerate(PIECES) if piece in _ON_SUMS)

#: What is done with rows of float32 (`float_layers.make_finish_rows`), turn by turn.
#: RUN: address of the function of one of PIECES; AS_NUMBERS, AS_BITS: rows, or their bits at limits, are written and go on as
#: they are.  AT: the first step, or which of the signs.
#: BESIDE: which of OTHERS a step takes numbers of, -1: none; BESIDE_BYTES from row to row there, or with BESIDE_ROWS one row
#: for so many; of bits, the bytes of a row.
#: GOES: where rows are written, which of OTHERS, TO_TARGET, or NOWHERE, so that they stay where they are; GOES_BYTES from row
#: to row there.
RUN, AT, BESIDE, BESIDE_BYTES, BESIDE_ROWS, GOES, GOES_BYTES, TURN_FIELDS = range(8)
AS_NUMBERS, AS_BITS = -1, -2
TO_TARGET, NOWHERE = -1, -2

# One row per run.  The first fields are filled in by `drive` itself.
(
    ROWS,
    SOURCE,  # address of the input rows
    TARGET,  # address of the output rows
    BY_NEURONS,  # 0: threads take blocks of rows through all layers; 1: they share the neurons of each layer
    BLOCK,  # rows of a block
    THREADS,  # participants at most
    TABLE,  # address of the layer rows
    FIRST,  # layers FIRST <= layer < LAST are run
    LAST,
    GIVEN,  # the layer that reads SOURCE, and the one that writes TARGET; others, and those of calls before, pass on values
    WANTED,
    FIRST_GROUP,  # groups FIRST_GROUP <= group < LAST_GROUP of the one layer that is run; all where LAST_GROUP is 0
    LAST_GROUP,
    BLOCK_MOST,  # BLOCK at most: what the buffers hold
    THREADS_MOST,  # THREADS where there are helpers
    NEURON_ROWS,  # up to so many rows helpers share the neurons
    SCRATCH,  # address of the first participant's scratch
    SCRATCH_BYTES,
    SHARED,  # address of the buffers that BY_NEURONS, and who works alone, passes values through
    BUFFERS_BYTES,  # buffers of a run, or at the end of each scratch those of a block
    COUNTERS,  # address of (layers, threads + 1) counters of COUNTER_BYTES: next task of each owner, tasks done
    WAITED,  # turns that the caller waited for helpers
    OWN,  # how much of ALL the caller did itself
    ALL,
    GIVEN_OTHERS,  # address: addresses of what layer GIVEN reads beside SOURCE; 0: those lie where its row says
    JOB_FIELDS,
) = range(26)

#: Rows of a task at least, and tasks of a thread about, where threads share the rows.
TASK_ROWS = 32
TASKS_PER_THREAD = 4

# A pool's control block: one field per 64 bytes, so that spinning on one does not slow writes to another.
TICKET, OPEN, ACTIVE, JOB, STOP, CONTROL_FIELDS = range(6)
COUNTER_BYTES = 64
# Roles of a caller of `drive`; helpers are numbered from 1.
START, GO_ON, PUBLISH = 0, -1, -2

# A participant's scratch: a padded tail of input bytes, values of a group, counts per row of a block, which strip of a map is
# prepared (its first pixel, -1: none), where other inputs lie, then prepared rows, then buffers of block rows.
TAIL_AT = 0
SUMS_AT = 64
VALUES_AT = SUMS_AT + 64 * 8
COUNTS_AT = VALUES_AT + 64 * 4
#: One row's counts: 64 neurons of i64.
COUNTS_BYTES = 64 * 8
READY_AT = COUNTS_AT + COUNTS_BYTES
#: Addresses of what a layer reads or writes beside its source and target, up to `packed.MOST_JOINED`, and how far the first
#: lies from the target.
OTHERS_FOUND_AT = READY_AT + 64
SIDE_FROM_TARGET_AT = OTHERS_FOUND_AT + 64 * 8
#: Where the target itself lies.
TARGET_FOUND_AT = SIDE_FROM_TARGET_AT + 8
#: Rows of float32 that steps are taken on, of up to 64 neurons each, and as many that are added to them.
BLOCK_AT = SIDE_FROM_TARGET_AT + 64
BLOCK_MOST_ROWS, BLOCK_STEP = 32, 64 * 4
SIDE_BLOCK_AT = BLOCK_AT + BLOCK_MOST_ROWS * BLOCK_STEP
PREPARED_AT = SIDE_BLOCK_AT + BLOCK_MOST_ROWS * BLOCK_STEP
