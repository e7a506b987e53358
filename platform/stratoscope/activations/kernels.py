"""Triton kernels of the fused probe; `fused` launches them and is the only module that imports this one.

`observe_kernel` reads a tile of tokens and columns of every tap once and keeps everything in registers until the end.
`finish_kernel` combines the partial results of its programs. Floating-point sums run in a fixed order, and only
integers are added atomically, so two runs on one kind of GPU agree to the bit.
"""

import triton
import triton.language as tl

KEY_SHIFT: tl.constexpr = tl.constexpr(20)
MOST_FINE: tl.constexpr = tl.constexpr(640)
"""Counters in shared memory for one tap; there are at most as many fine bins."""
STEP: tl.constexpr = tl.constexpr(128)
"""Counters that are cleared or flushed at a time."""


@triton.jit
def _add3(a0, a1, a2, b0, b1, b2):
    return a0 + b0, a1 + b1, a2 + b2


@triton.jit
def _shared_counters(TAPS: tl.constexpr):
    """Return the address of TAPS times MOST_FINE counters in the shared memory of a program.

    Triton has no function for atomic addition in shared memory. The instruction used here adds one for each lane of a
    warp and combines lanes with the same address. It takes a few cycles; the alternatives cost several times as much.
    """
    if TAPS == 1:
        address = tl.inline_asm_elementwise(
            "{ .shared .align 16 .b8 counters[2560]; mov.u32 $0, counters; }",
            "=r", [], dtype=tl.int32, is_pure=False, pack=1)  # fmt: skip
    elif TAPS == 2:
        address = tl.inline_asm_elementwise(
            "{ .shared .align 16 .b8 counters[5120]; mov.u32 $0, counters; }",
            "=r", [], dtype=tl.int32, is_pure=False, pack=1)  # fmt: skip
    else:
        address = tl.inline_asm_elementwise(
            "{ .shared .align 16 .b8 counters[10240]; mov.u32 $0, counters; }",
            "=r", [], dtype=tl.int32, is_pure=False, pack=1)  # fmt: skip
    return address


@triton.jit
def _shared_store(address, value):
    tl.inline_asm_elementwise(
        "st.shared.u32 [$1], $2; mov.u32 $0, 0;", "=r,r,r", [address, value], dtype=tl.int32, is_pure=False, pack=1
    )


@triton.jit
def _shared_load(address):
    return tl.inline_asm_elementwise(
        "ld.shared.u32 $0, [$1];", "=r,r", [address], dtype=tl.int32, is_pure=False, pack=1
    )


@triton.jit
def _shared_increment(address):
    tl.inline_asm_elementwise(
        "red.shared.add.u32 [$1], 1; mov.u32 $0, 0;", "=r,r", [address], dtype=tl.int32, is_pure=False, pack=1
    )


@triton.jit
def _flush(counters, fine, NUM_FINE: tl.constexpr):
    """Add the counters in shared memory to those in global memory, except zeros, which follow from the other counts."""
    for i in tl.static_range(0, NUM_FINE, STEP):
        index = i + tl.arange(0, STEP)
        counts = _shared_load(counters + index * 4)
        tl.atomic_add(fine + index, counts, mask=(counts > 0) & (index > 0) & (index < NUM_FINE), sem="relaxed")


@triton.jit
def _count(
    x,
    counters,
    fine,
    EDGES: tl.constexpr,
    NUM_EDGES: tl.constexpr,
    LOWEST: tl.constexpr,
    HIGHEST: tl.constexpr,
    SHARED: tl.constexpr,
):
    """Count the magnitudes of a tile by fine bin, as `Bins.count` does, in shared or directly in global memory."""
    bits = tl.abs(x).to(tl.int32, bitcast=True)
    bin_index = tl.minimum(tl.maximum(bits >> KEY_SHIFT, LOWEST), HIGHEST) - LOWEST
    for i in tl.static_range(NUM_EDGES):
        # The difference is negative exactly where bits >= EDGES[i]; the shift turns it into -1 there and 0 elsewhere.
        bin_index -= (EDGES[i] - 1 - bits) >> 31
    bin_index += tl.minimum(bits, 1)
    if SHARED:
        _shared_increment(counters + bin_index * 4)
    else:
        tl.atomic_add(fine + bin_index, 1, mask=bits > 0, sem="relaxed")


@triton.jit
def _merge(x, row_mask, taken, before, mean, m2, ROWS: tl.constexpr):
    """Merge a tile into each column's mean and squared deviations, by Chan's rule."""
    tile_mean = tl.sum(x, axis=0) / taken
    delta = tile_mean - mean
    share = taken / (before + taken)
    mean += delta * share
    m2 += delta * delta * (before * share)
    if ROWS > 1:
        deviation = tl.where(row_mask, x - tile_mean[None, :], 0.0)
        m2 += tl.sum(deviation * deviation, axis=0)
    return mean, m2


@triton.jit
def _keep(mean, m2, num_tokens, columns, column_mask, vectors, moments, width):
    """Store what a program has computed for one tap and chunk."""
    tl.store(vectors + columns, mean, mask=column_mask)
    # Padding columns have mean 0 and deviation 0.
    own_mean = tl.sum(mean) / width
    between = tl.where(column_mask, mean - own_mean, 0.0)
    tl.store(moments, own_mean)
    tl.store(moments + 1, tl.sum(m2 + between * between * num_tokens))


@triton.jit
def _load(pointer, offset, mask):
    return tl.load(pointer + offset, mask=mask, other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=["layer", "slot", "parts", "tokens", "scale", "segments"])
def observe_kernel(
    after_pointer,
    before_pointer,
    attention_pointer,
    mlp_pointer,
    starts,
    lengths,
    firsts,
    fine_pointer,
    vectors_pointer,
    moments_pointer,
    products_pointer,
    layers_pointer,
    layer,
    slot,
    parts,
    tokens,
    scale,
    D,
    segments,
    BLOCK: tl.constexpr,
    UPDATE: tl.constexpr,
    ATTENTION: tl.constexpr,
    MLP: tl.constexpr,
    SUM: tl.constexpr,
    SCALED: tl.constexpr,
    COSINE: tl.constexpr,
    TAPS: tl.constexpr,
    NUM_FINE: tl.constexpr,
    EDGES: tl.constexpr,
    NUM_EDGES: tl.constexpr,
    LOWEST: tl.constexpr,
    HIGHEST: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    TOKENS: tl.constexpr,
    CHUNKS: tl.constexpr,
    STAGES: tl.constexpr,
    SHARED: tl.constexpr,
):
    """Reduce TOKENS tokens of one segment in CHUNKS times COLUMNS columns.

    BLOCK, UPDATE, ATTENTION and MLP are the taps' places among the probe's taps, or -1. With SUM, the update is the sum
    of the outputs of attention and the feed-forward part; without SUM, it is output minus input. Without COSINE, there
    is only one tensor, read as BLOCK. Axes of the buffers: fine (layers, taps, segments, NUM_FINE); vectors (slots, own
    taps, segments, parts, D); moments (slots, own taps, segments, parts, chunks, 2); products (slots, T, chunks, 3).
    """
    num_chunks = tl.cdiv(D, COLUMNS)
    num_groups = tl.cdiv(num_chunks, CHUNKS)
    program = tl.program_id(0)
    first_chunk = (program % num_groups) * CHUNKS
    part = (program // num_groups) % parts
    segment = program // (num_groups * parts)
    if program == 0:
        tl.store(layers_pointer + slot, layer)
    low = part * TOKENS
    length = tl.load(lengths + segment)
    if low >= length:
        return
    high = tl.minimum(low + TOKENS, length)
    start = tl.load(starts + segment)
    first = tl.load(firsts + segment)
    num_tokens = (high - low).to(tl.float32)

    own_taps: tl.constexpr = (BLOCK >= 0) + (UPDATE >= 0) + (ATTENTION >= 0) + (MLP >= 0)
    place = (slot * own_taps * segments + segment).to(tl.int64) * parts + part
    step = segments.to(tl.int64) * parts
    counters = 0
    if SHARED and own_taps > 0:
        counters = _shared_counters(own_taps)
        for i in tl.static_range(0, own_taps * MOST_FINE, STEP):
            _shared_store(counters + (i + tl.arange(0, STEP)) * 4, tl.zeros([STEP], tl.int32))
        tl.debug_barrier()
    block_counters = counters
    block_place = place
    block_fine = fine_pointer + ((layer * TAPS + BLOCK).to(tl.int64) * segments + segment) * NUM_FINE
    update_counters = block_counters + 4 * MOST_FINE * (BLOCK >= 0)
    update_place = block_place + step * (BLOCK >= 0)
    update_fine = fine_pointer + ((layer * TAPS + UPDATE).to(tl.int64) * segments + segment) * NUM_FINE
    attention_counters = update_counters + 4 * MOST_FINE * (UPDATE >= 0)
    attention_place = update_place + step * (UPDATE >= 0)
    attention_fine = fine_pointer + ((layer * TAPS + ATTENTION).to(tl.int64) * segments + segment) * NUM_FINE
    mlp_counters = attention_counters + 4 * MOST_FINE * (ATTENTION >= 0)
    mlp_place = attention_place + step * (ATTENTION >= 0)
    mlp_fine = fine_pointer + ((layer * TAPS + MLP).to(tl.int64) * segments + segment) * NUM_FINE

    for chunk in range(first_chunk, tl.minimum(first_chunk + CHUNKS, num_chunks)):
        columns = chunk * COLUMNS + tl.arange(0, COLUMNS)
        column_mask = columns < D
        if BLOCK >= 0:
            block_mean = tl.zeros([COLUMNS], tl.float32)
            block_m2 = tl.zeros([COLUMNS], tl.float32)
        if UPDATE >= 0:
            update_mean = tl.zeros([COLUMNS], tl.float32)
            update_m2 = tl.zeros([COLUMNS], tl.float32)
        if ATTENTION >= 0:
            attention_mean = tl.zeros([COLUMNS], tl.float32)
            attention_m2 = tl.zeros([COLUMNS], tl.float32)
        if MLP >= 0:
            mlp_mean = tl.zeros([COLUMNS], tl.float32)
            mlp_m2 = tl.zeros([COLUMNS], tl.float32)
        for low_row in tl.range(low, high, ROWS, num_stages=STAGES):
            rows = low_row + tl.arange(0, ROWS)
            offset = (start + rows).to(tl.int64)[:, None] * D + columns[None, :]
            row_mask = (rows < high)[:, None]
            mask = row_mask & column_mask[None, :]
            taken = tl.minimum(ROWS, high - low_row).to(tl.float32)
            earlier = (low_row - low).to(tl.float32)
            if (BLOCK >= 0) or COSINE:
                after = _load(after_pointer, offset, mask)
            if COSINE:
                before = _load(before_pointer, offset, mask)
            if SUM or (ATTENTION >= 0):
                attention = _load(attention_pointer, offset, mask)
            if SUM or (MLP >= 0):
                mlp = _load(mlp_pointer, offset, mask)
            if COSINE:
                product = products_pointer + ((slot * tokens + first + rows) * num_chunks + chunk) * 3
                across, square_before, square_after = tl.reduce(
                    (before * after, before * before, after * after), axis=1, combine_fn=_add3
                )
                tl.store(product, across, mask=rows < high)
                tl.store(product + 1, square_before, mask=rows < high)
                tl.store(product + 2, square_after, mask=rows < high)
            if UPDATE >= 0:
                if SUM:
                    update = attention + mlp
                    if SCALED:
                        update *= scale
                else:
                    update = after - before
            if SCALED and (ATTENTION >= 0):
                attention *= scale
            if SCALED and (MLP >= 0):
                mlp *= scale
            if BLOCK >= 0:
                _count(after, block_counters, block_fine, EDGES, NUM_EDGES, LOWEST, HIGHEST, SHARED)
                block_mean, block_m2 = _merge(after, row_mask, taken, earlier, block_mean, block_m2, ROWS)
            if UPDATE >= 0:
                _count(update, update_counters, update_fine, EDGES, NUM_EDGES, LOWEST, HIGHEST, SHARED)
                update_mean, update_m2 = _merge(update, row_mask, taken, earlier, update_mean, update_m2, ROWS)
            if ATTENTION >= 0:
                _count(attention, attention_counters, attention_fine, EDGES, NUM_EDGES, LOWEST, HIGHEST, SHARED)
                attention_mean, attention_m2 = _merge(
                    attention, row_mask, taken, earlier, attention_mean, attention_m2, ROWS
                )
            if MLP >= 0:
                _count(mlp, mlp_counters, mlp_fine, EDGES, NUM_EDGES, LOWEST, HIGHEST, SHARED)
                mlp_mean, mlp_m2 = _merge(mlp, row_mask, taken, earlier, mlp_mean, mlp_m2, ROWS)
        width = tl.minimum(COLUMNS, D - chunk * COLUMNS)
        if BLOCK >= 0:
            vectors = vectors_pointer + block_place * D
            moments = moments_pointer + (block_place * num_chunks + chunk) * 2
            _keep(block_mean, block_m2, num_tokens, columns, column_mask, vectors, moments, width)
        if UPDATE >= 0:
            vectors = vectors_pointer + update_place * D
            moments = moments_pointer + (update_place * num_chunks + chunk) * 2
            _keep(update_mean, update_m2, num_tokens, columns, column_mask, vectors, moments, width)
        if ATTENTION >= 0:
            vectors = vectors_pointer + attention_place * D
            moments = moments_pointer + (attention_place * num_chunks + chunk) * 2
            _keep(attention_mean, attention_m2, num_tokens, columns, column_mask, vectors, moments, width)
        if MLP >= 0:
            vectors = vectors_pointer + mlp_place * D
            moments = moments_pointer + (mlp_place * num_chunks + chunk) * 2
            _keep(mlp_mean, mlp_m2, num_tokens, columns, column_mask, vectors, moments, width)

    if SHARED and own_taps > 0:
        tl.debug_barrier()
        if BLOCK >= 0:
            _flush(block_counters, block_fine, NUM_FINE)
        if UPDATE >= 0:
            _flush(update_counters, update_fine, NUM_FINE)
        if ATTENTION >= 0:
            _flush(attention_counters, attention_fine, NUM_FINE)
        if MLP >= 0:
            _flush(mlp_counters, mlp_fine, NUM_FINE)


@triton.jit
def _finish_moments(moments, length, D, num_chunks, num_parts, COLUMNS: tl.constexpr, TOKENS: tl.constexpr):
    """Merge the moments of a segment's programs; returns mean and squared deviations, in float64."""
    BATCH: tl.constexpr = 256
    number = num_chunks * num_parts
    total = tl.zeros([BATCH], tl.float64)
    for i in range(0, number, BATCH):
        index = i + tl.arange(0, BATCH)
        count = _program_count(index, length, D, num_chunks, COLUMNS, TOKENS)
        total += tl.load(moments + index * 2, mask=index < number, other=0.0).to(tl.float64) * count
    mean = tl.sum(total) / (length.to(tl.float64) * D)
    total = tl.zeros([BATCH], tl.float64)
    for i in range(0, number, BATCH):
        index = i + tl.arange(0, BATCH)
        known = index < number
        count = _program_count(index, length, D, num_chunks, COLUMNS, TOKENS)
        between = tl.load(moments + index * 2, mask=known, other=0.0).to(tl.float64) - mean
        within = tl.load(moments + index * 2 + 1, mask=known, other=0.0).to(tl.float64)
        total += tl.where(known, within + between * between * count, 0.0)
    return mean, tl.sum(total)


@triton.jit
def _program_count(index, length, D, num_chunks, COLUMNS: tl.constexpr, TOKENS: tl.constexpr):
    """Return how many activations a program has read, given its place among the programs of its segment."""
    num_tokens = tl.minimum(length - (index // num_chunks) * TOKENS, TOKENS)
    return (num_tokens * tl.minimum(D - (index % num_chunks) * COLUMNS, COLUMNS)).to(tl.float64)


@triton.jit
def _token_mean(vectors, columns, mask, length, D, num_parts, TOKENS: tl.constexpr, BATCH: tl.constexpr):
    """Return the mean over a segment's tokens of some columns, in float64."""
    total = tl.zeros([BATCH], tl.float64)
    for part in range(num_parts):
        num_tokens = tl.minimum(length - part * TOKENS, TOKENS)
        total += tl.load(vectors + part * D + columns, mask=mask, other=0.0).to(tl.float64) * num_tokens
    return total / length


@triton.jit
def _finish_pooled(vectors, length, D, num_parts, TOKENS: tl.constexpr):
    """Return the variance over the width of a segment's token-mean vector."""
    BATCH: tl.constexpr = 1024
    before = 0
    mean = tl.zeros([], tl.float64)
    m2 = tl.zeros([], tl.float64)
    for i in range(0, D, BATCH):
        columns = i + tl.arange(0, BATCH)
        mask = columns < D
        values = _token_mean(vectors, columns, mask, length, D, num_parts, TOKENS, BATCH)
        taken = tl.minimum(BATCH, D - i)
        own_mean = tl.sum(values) / taken
        deviation = tl.where(mask, values - own_mean, 0.0)
        delta = own_mean - mean
        share = taken.to(tl.float64) / (before + taken)
        mean += delta * share
        m2 += tl.sum(deviation * deviation) + delta * delta * before * share
        before += taken
    return m2 / (D - 1)


@triton.jit
def _finish_zeros(fine, number, NUM_FINE: tl.constexpr):
    """Count as zeros all activations that no other bin holds."""
    BATCH: tl.constexpr = 128
    total = tl.zeros([BATCH], tl.int32)
    for i in range(1, NUM_FINE, BATCH):
        index = i + tl.arange(0, BATCH)
        total += tl.load(fine + index, mask=index < NUM_FINE, other=0)
    tl.store(fine, number - tl.sum(total))


@triton.jit
def _finish_cosine(products, length, num_chunks):
    """Return the mean cosine of a segment's tokens, leaving out tokens whose cosine is not finite."""
    BATCH: tl.constexpr = 128
    total = tl.zeros([BATCH], tl.float64)
    number = tl.zeros([BATCH], tl.float64)
    for i in range(0, length, BATCH):
        rows = i + tl.arange(0, BATCH)
        mask = rows < length
        product = tl.zeros([BATCH], tl.float32)
        square_before = tl.zeros([BATCH], tl.float32)
        square_after = tl.zeros([BATCH], tl.float32)
        for chunk in range(num_chunks):
            place = products + (rows * num_chunks + chunk) * 3
            product += tl.load(place, mask=mask, other=0.0)
            square_before += tl.load(place + 1, mask=mask, other=0.0)
            square_after += tl.load(place + 2, mask=mask, other=0.0)
        norms = tl.sqrt(square_before) * tl.sqrt(square_after)
        cosine = product / tl.maximum(norms, 1.1754943508222875e-38)
        # The comparison is false for NaN and infinite values.
        known = mask & (tl.abs(cosine) < 3.4e38)
        total += tl.where(known, cosine, 0.0)
        number += known.to(tl.float64)
    return tl.sum(total) / tl.sum(number)


@triton.jit(do_not_specialize=["parts", "tokens", "segments"])
def finish_kernel(
    vectors_pointer,
    moments_pointer,
    products_pointer,
    layers_pointer,
    lengths,
    firsts,
    places,
    fine_pointer,
    rows_pointer,
    cosine_pointer,
    parts,
    tokens,
    D,
    segments,
    TAPS: tl.constexpr,
    OWN_TAPS: tl.constexpr,
    COSINE: tl.constexpr,
    NUM_FINE: tl.constexpr,
    COLUMNS: tl.constexpr,
    TOKENS: tl.constexpr,
):
    """Combine the results of a segment's programs for one tap; the index after the last tap stands for the cosine.

    The arguments are those of `observe_kernel`; `places` holds the place of each own tap among the probe's taps. Axes
    of the output: rows (layers, taps, segments, 3) and cosine (layers, segments), both float64.
    """
    segment = tl.program_id(0)
    slot = tl.program_id(1)
    tap = tl.program_id(2)
    layer = tl.load(layers_pointer + slot)
    length = tl.load(lengths + segment)
    num_chunks = tl.cdiv(D, COLUMNS)
    if tap < OWN_TAPS:
        num_parts = tl.cdiv(length, TOKENS)
        place = ((slot * OWN_TAPS + tap) * segments + segment).to(tl.int64) * parts
        mean, m2 = _finish_moments(
            moments_pointer + place * num_chunks * 2, length, D, num_chunks, num_parts, COLUMNS, TOKENS
        )
        row = (layer * TAPS + tl.load(places + tap)) * segments + segment
        _finish_zeros(fine_pointer + row.to(tl.int64) * NUM_FINE, length * D, NUM_FINE)
        tl.store(rows_pointer + row * 3, mean)
        tl.store(rows_pointer + row * 3 + 1, m2)
        tl.store(rows_pointer + row * 3 + 2, _finish_pooled(vectors_pointer + place * D, length, D, num_parts, TOKENS))
    if COSINE:  # noqa: SIM102 - the outer condition is decided at compile time
        if tap == OWN_TAPS:
            products = products_pointer + (slot * tokens + tl.load(firsts + segment)).to(tl.int64) * num_chunks * 3
            tl.store(cosine_pointer + layer * segments + segment, _finish_cosine(products, length, num_chunks))
