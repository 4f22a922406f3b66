"""A whole network in one call without the GIL: walks the table of layers over blocks of rows, alone or with helpers.

Threads take tasks by counting up shared counters, and nobody waits for a thread that has not taken a task: if no helper ever
comes (none was started, the process was forked, the cores are busy), the caller does all of it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from xnorinfer.kernels import fields
from xnorinfer.kernels.vector_ir import atomic_add, atomic_load, atomic_store, caller, get, inner, pause, store_word

#: Turns of a spin loop before a waiting thread goes back to Python and gives its core away; about 100 microseconds.
PATIENCE = 4000

call_prepare = caller(5)
call_compute = caller(9)


@inner
def run_groups(layer, source, target, rows, first_group, last_group, scratch, prepared, ready):
    """Some groups of neurons of one layer, or tasks over maps, in sub-blocks of rows.

    ready: whether the rows, or a strip of their maps, are prepared by a call before.
    """
    sub = get(layer, fields.SUB_ROWS)
    in_bytes = get(layer, fields.IN_BYTES)
    out_bytes = get(layer, fields.OUT_BYTES)
    prepare = get(layer, fields.PREPARE)
    compute = get(layer, fields.COMPUTE)
    shifts = get(layer, fields.SHIFTS)
    for r in range(0, rows, sub):
        count = min(sub, rows - r)
        if not (ready and rows <= sub):
            store_word(scratch + fields.READY_AT, np.int64(-1))
            if prepare != 0:
                call_prepare(prepare, layer, source + r * in_bytes, count, scratch, prepared)
        call_compute(
            compute, layer, source + r * in_bytes, target + r * out_bytes, count,
            first_group, last_group, scratch, prepared, shifts,
        )  # fmt: skip


@inner
def source_of(job, layer, buffers, row, given):
    """Address of a layer's input rows: the run's own where they are `given` or the network's, from a row on, else a buffer."""
    at = get(layer, fields.SOURCE_AT)
    if given or at < 0:
        return get(job, fields.SOURCE) + row * get(layer, fields.IN_BYTES)
    return buffers + at


@inner
def target_of(job, layer, buffers, row, wanted):
    """Address of a layer's output rows: the run's own where they are what is `wanted` of it, else a buffer."""
    if wanted:
        return get(job, fields.TARGET) + row * get(layer, fields.OUT_BYTES)
    return buffers + get(layer, fields.TARGET_AT)


@inner
def last_group(job, layer):
    """Behind the last group of a layer that is run; the first is FIRST_GROUP."""
    last = get(job, fields.LAST_GROUP)
    return last if last > 0 else get(layer, fields.GROUPS)


@inner
def find_all(job, layer, buffers, row, given, target, scratch):
    """Where a layer finds what it reads beside its source, and what it writes, into the scratch; given, row: as `source_of`
    takes them."""
    store_word(scratch + fields.TARGET_FOUND_AT, target)
    count = get(layer, fields.OTHERS)
    if count == 0:
        return
    listed = get(layer, fields.OTHERS_AT)
    lists = get(job, fields.GIVEN_OTHERS)
    for k in range(count):
        at, size = get(listed, 2 * k), get(listed, 2 * k + 1)
        address = buffers + at
        if given and lists != 0:
            address = get(lists, k) + row * size
        elif at < 0:
            address = get(job, fields.SOURCE) + row * size
        store_word(scratch + fields.OTHERS_FOUND_AT + 8 * k, address)
        if k == 0:
            store_word(scratch + fields.SIDE_FROM_TARGET_AT, address - target)


@inner
def wait_for(job, done, tasks):
    """For the caller: 1 when so many tasks are done, 0 when patience ran out; how long that took is noted."""
    waited = 0
    while atomic_load(done) < tasks and waited <= PATIENCE:
        pause()
        waited += 1
    store_word(job + 8 * fields.WAITED, get(job, fields.WAITED) + waited)
    return 1 if waited <= PATIENCE else 0


@inner
def by_rows(job, slot):
    """Blocks of rows through all layers.

    Returns 1 when there is nothing left to take and, for the caller (slot 0), all is done; 0 when patience ran out.
    """
    table = get(job, fields.TABLE)
    first = get(job, fields.FIRST)
    last = get(job, fields.LAST)
    rows = get(job, fields.ROWS)
    block = get(job, fields.BLOCK)
    threads = get(job, fields.THREADS)
    counters = get(job, fields.COUNTERS)
    scratch_bytes = get(job, fields.SCRATCH_BYTES)
    scratch = get(job, fields.SCRATCH) + slot * scratch_bytes
    # Who works alone finds there what a call before left.
    buffers = scratch + scratch_bytes - get(job, fields.BUFFERS_BYTES) if threads > 1 else get(job, fields.SHARED)
    given = get(job, fields.GIVEN)
    wanted = get(job, fields.WANTED)
    low = get(job, fields.FIRST_GROUP)
    prepared = scratch + fields.PREPARED_AT
    blocks = (rows + block - 1) // block
    done = counters + threads * fields.COUNTER_BYTES
    for turn in range(threads):
        owner = (slot + turn) % threads
        start = owner * blocks // threads
        stop = (owner + 1) * blocks // threads
        while True:
            task = start + atomic_add(counters + owner * fields.COUNTER_BYTES, 1)
            if task >= stop:
                break
            row = task * block
            count = min(block, rows - row)
            for index in range(first, last):
                layer = table + index * fields.LAYER_FIELDS * 8
                source = source_of(job, layer, buffers, row, index == given)
                target = target_of(job, layer, buffers, row, index == wanted)
                find_all(job, layer, buffers, row, index == given, target, scratch)
                run_groups(layer, source, target, count, low, last_group(job, layer), scratch, prepared, False)
            atomic_add(done, 1)
            if slot == 0:
                store_word(job + 8 * fields.OWN, get(job, fields.OWN) + count)
    if slot == 0:
        return wait_for(job, done, blocks)
    return 1


@inner
def by_neurons(job, slot):
    """Layer after layer, its neurons shared among the threads; 1 when the whole job is done, 0 when patience ran out.

    Can be entered again: layers that are complete are passed at once.
    """
    table = get(job, fields.TABLE)
    first = get(job, fields.FIRST)
    last = get(job, fields.LAST)
    rows = get(job, fields.ROWS)
    threads = get(job, fields.THREADS)
    scratch = get(job, fields.SCRATCH) + slot * get(job, fields.SCRATCH_BYTES)
    prepared = scratch + fields.PREPARED_AT
    shared = get(job, fields.SHARED)
    given = get(job, fields.GIVEN)
    wanted = get(job, fields.WANTED)
    begin_at = get(job, fields.FIRST_GROUP)
    for index in range(first, last):
        layer = table + index * fields.LAYER_FIELDS * 8
        source = source_of(job, layer, shared, 0, index == given)
        target = target_of(job, layer, shared, 0, index == wanted)
        find_all(job, layer, shared, 0, index == given, target, scratch)
        chunk = get(layer, fields.CHUNK)
        groups = last_group(job, layer)
        chunks = (groups - begin_at + chunk - 1) // chunk
        counters = get(job, fields.COUNTERS) + (index - first) * (threads + 1) * fields.COUNTER_BYTES
        done = counters + threads * fields.COUNTER_BYTES
        ready = False
        for turn in range(threads):
            owner = (slot + turn) % threads
            start = owner * chunks // threads
            stop = (owner + 1) * chunks // threads
            while True:
                task = start + atomic_add(counters + owner * fields.COUNTER_BYTES, 1)
                if task >= stop:
                    break
                low = begin_at + task * chunk
                run_groups(layer, source, target, rows, low, min(low + chunk, groups), scratch, prepared, ready)
                ready = True
                atomic_add(done, 1)
                if slot == 0:
                    work = (min(low + chunk, groups) - low) * get(layer, fields.WORK)
                    store_word(job + 8 * fields.OWN, get(job, fields.OWN) + work)
        if slot == 0:
            if wait_for(job, done, chunks) == 0:
                return 0
        else:
            waited = 0
            while atomic_load(done) < chunks:
                pause()
                waited += 1
                if waited > PATIENCE:
                    return 0
    return 1


@inner
def begin(job, helpers, rows, source, target):
    """Fill in a job: how the rows are shared, and all counters 0, before anybody else may see it."""
    threads = get(job, fields.THREADS_MOST) if helpers else np.int64(1)
    # Blocks of equal size, the same number for every thread; small ones where there are helpers, so that the last ones to end,
    # and a helper whose core is taken away, are not waited for long.
    most = get(job, fields.BLOCK_MOST)
    if helpers:
        most = min(most, max(fields.TASK_ROWS, -(-rows // (threads * fields.TASKS_PER_THREAD))))
    blocks = threads * -(-rows // (threads * most))
    store_word(job + 8 * fields.ROWS, rows)
    store_word(job + 8 * fields.SOURCE, get(source, 0))
    store_word(job + 8 * fields.TARGET, get(target, 0))
    store_word(job + 8 * fields.BY_NEURONS, np.int64(helpers and rows <= get(job, fields.NEURON_ROWS)))
    store_word(job + 8 * fields.BLOCK, -(-rows // blocks))
    store_word(job + 8 * fields.THREADS, threads)
    everything = rows
    if helpers and rows <= get(job, fields.NEURON_ROWS):
        everything = np.int64(0)
        for index in range(get(job, fields.FIRST), get(job, fields.LAST)):
            layer = get(job, fields.TABLE) + index * fields.LAYER_FIELDS * 8
            everything += (last_group(job, layer) - get(job, fields.FIRST_GROUP)) * get(layer, fields.WORK)
    store_word(job + 8 * fields.WAITED, np.int64(0))
    store_word(job + 8 * fields.OWN, np.int64(0))
    store_word(job + 8 * fields.ALL, everything)
    levels = get(job, fields.LAST) - get(job, fields.FIRST)
    counters = get(job, fields.COUNTERS)
    for i in range(levels * (threads + 1)):
        store_word(counters + i * fields.COUNTER_BYTES, 0)


def make_drive() -> Callable[..., int]:
    """The one entry point."""

    def drive(control, job, role, rows, source, target):
        """All int64.  Callers use the roles START, GO_ON and PUBLISH, helper number h (from 1) the role h.

        START: run `rows` > 0 rows with the helpers of `control` (0 = none).  source, target: addresses of the addresses of
        the input and output rows.  Returns 1 when all is finished, 0 when the wait for helpers got long: give the core away
        for a moment, then call with GO_ON, with the same result.
        PUBLISH: only make the job known; for a caller that then wakes helpers and works with GO_ON.
        h: help with all jobs published to `control`; `job` is the last ticket seen, at first 0.  Returns the last ticket
        dealt with when `rows` turns of the spin loop bring no job, and -1 - ticket when patience ran out.
        """
        slot = max(role, 0)
        seen = job
        idle = 0
        if role == fields.START or role == fields.PUBLISH:
            begin(job, control != 0, rows, source, target)
            if control != 0:
                atomic_store(control + fields.JOB * fields.COUNTER_BYTES, job)
                atomic_store(control + fields.OPEN * fields.COUNTER_BYTES, 1)
                atomic_add(control + fields.TICKET * fields.COUNTER_BYTES, 1)
        if role == fields.PUBLISH:
            return 0
        while True:
            wanted = True
            ticket = seen
            if role > 0:
                if idle >= rows or atomic_load(control + fields.STOP * fields.COUNTER_BYTES) != 0:
                    return seen
                ticket = atomic_load(control + fields.TICKET * fields.COUNTER_BYTES)
                if ticket == seen:
                    pause()
                    idle += 1
                    continue
                # Only who finds the job open after announcing itself may touch it: the caller waits until nobody is active.
                atomic_add(control + fields.ACTIVE * fields.COUNTER_BYTES, 1)
                wanted = atomic_load(control + fields.OPEN * fields.COUNTER_BYTES) != 0
                if wanted:
                    job = atomic_load(control + fields.JOB * fields.COUNTER_BYTES)
                    wanted = slot < get(job, fields.THREADS)
            finished = 1
            if wanted:
                finished = by_neurons(job, slot) if get(job, fields.BY_NEURONS) != 0 else by_rows(job, slot)
            if role <= 0:
                break
            atomic_add(control + fields.ACTIVE * fields.COUNTER_BYTES, -1)
            if finished == 0:
                return -1 - seen
            seen = ticket
            idle = 0
        if finished == 0:
            return 0
        if control != 0:
            atomic_store(control + fields.OPEN * fields.COUNTER_BYTES, 0)
            waited = 0
            while atomic_load(control + fields.ACTIVE * fields.COUNTER_BYTES) != 0:
                pause()
                waited += 1
                if waited > PATIENCE:
                    return 0
        return 1

    return drive
