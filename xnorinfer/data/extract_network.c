/*
 * The functions of the headers that `xnorinfer extract` writes, for a network called net; a header holds those that its network
 * calls.  Two functions are separated by an empty line, each begins with a comment, and none calls one further down.
 */

/* Number of neurons of the next tile, where so many are left. */
static inline size_t net_tile(size_t left)
{
    return left < NET_TILE ? left : NET_TILE;
}

/* A word of bits: 1 where a value <= limit. */
static inline void net_put(const int32_t *values, const int32_t *limits, size_t count, uint64_t *out)
{
    uint64_t bits = 0;
    for (size_t n = 0; n < count; n++)
        bits |= (uint64_t)(values[n] <= limits[n]) << n;
    *out = bits;
}

/* Codes of levels: in how many limits, `all` from one to the next, a value lies. */
static inline void net_grade(const int32_t *values, const int32_t *limits, size_t all, size_t top, size_t count, uint8_t *out)
{
    for (size_t n = 0; n < count; n++) {
        uint8_t code = 0;
        for (size_t k = 0; k < top; k++)
            code = (uint8_t)(code + (values[n] <= limits[k * all + n]));
        out[n] = code;
    }
}

/* The same of sums, each rounded to float32 once. */
static inline void net_grade_reals(const double *sums, const float *limits, size_t all, size_t top, size_t count, uint8_t *out)
{
    for (size_t n = 0; n < count; n++) {
        const float value = (float)sums[n];
        uint8_t code = 0;
        for (size_t k = 0; k < top; k++)
            code = (uint8_t)(code + (value <= limits[k * all + n]));
        out[n] = code;
    }
}

/* Every input becomes the number of ranges that it lies in, bounds included, of `top` of its own. */
static inline void net_input_codes(const net_input *in, size_t inputs, size_t top, const net_input *low, const net_input *high,
        uint8_t *out)
{
    for (size_t k = 0; k < inputs; k++) {
        out[k] = 0;
        for (size_t i = k; i < top * inputs; i += inputs)
            out[k] = (uint8_t)(out[k] + (low[i] <= in[k] && in[k] <= high[i]));
    }
}

/* Numbers of ones, one for every byte or, where the machine counts them, in all. */
static inline uint64_t net_ones(uint64_t x)
{
#if NET_POPCOUNT
    return (uint64_t)__builtin_popcountll(x);
#else
    x -= (x >> 1) & 0x5555555555555555;
    x = (x & 0x3333333333333333) + ((x >> 2) & 0x3333333333333333);
    return (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0f;
#endif
}

/* The sum of three of them, for less than one by one. */
static inline uint64_t net_ones_of_three(uint64_t x, uint64_t y, uint64_t z)
{
#if NET_POPCOUNT
    return net_ones(x) + net_ones(y) + net_ones(z);
#else
    x = x - ((x >> 1) & 0x5555555555555555) + (z & 0x5555555555555555);
    y = y - ((y >> 1) & 0x5555555555555555) + ((z >> 1) & 0x5555555555555555);
    x = (x & 0x3333333333333333) + ((x >> 2) & 0x3333333333333333);
    x += (y & 0x3333333333333333) + ((y >> 2) & 0x3333333333333333);
    return (x & 0x0f0f0f0f0f0f0f0f) + ((x >> 4) & 0x0f0f0f0f0f0f0f0f);
#endif
}

/* The number of ones in all, of 30 words at most. */
static inline int32_t net_ones_in_all(uint64_t ones)
{
#if !NET_POPCOUNT
    ones = (ones & 0x00ff00ff00ff00ff) + ((ones >> 8) & 0x00ff00ff00ff00ff);
    ones += ones >> 32;
    ones = (ones + (ones >> 16)) & 0xffff;
#endif
    return (int32_t)ones;
}

/* Every input becomes 1 where it lies in a range of its own, bounds included. */
static inline void net_input_ranges(const net_input *in, size_t inputs, const net_input *low, const net_input *high,
        uint64_t *out)
{
    for (size_t k = 0; k < inputs; k++)
        out[k / 64] = (k % 64 ? out[k / 64] : 0) | (uint64_t)(low[k] <= in[k] && in[k] <= high[k]) << (k % 64);
}

/* Every input becomes 1 from a threshold on. */
static inline void net_input_threshold(const net_input *in, size_t inputs, net_input threshold, uint64_t *out)
{
    for (size_t k = 0; k < inputs; k++)
        out[k / 64] = (k % 64 ? out[k / 64] : 0) | (uint64_t)(in[k] >= threshold) << (k % 64);
}

/* Numbers of inputs that differ from the weights, of up to NET_TILE neurons of all: dot = inputs - 2 * mismatches. */
static inline void net_mismatches(const uint64_t *in, size_t words, const uint64_t *weights, size_t all, size_t neurons,
        int32_t *counts)
{
    NET_SCRATCH uint64_t ones[NET_TILE];
    for (size_t n = 0; n < neurons; n++)
        counts[n] = 0;
    for (size_t w = 0; w < words;) {
        const size_t end = words - w < 30 ? words : w + 30; /* as many as a byte can count the ones of */
        for (size_t n = 0; n < neurons; n++)
            ones[n] = 0;
        for (; w + 3 <= end; w += 3, weights += 3 * all)
            for (size_t n = 0; n < neurons; n++)
                ones[n] += net_ones_of_three(in[w] ^ weights[n], in[w + 1] ^ weights[all + n], in[w + 2] ^ weights[2 * all + n]);
        for (; w < end; w++, weights += all)
            for (size_t n = 0; n < neurons; n++)
                ones[n] += net_ones(in[w] ^ weights[n]);
        for (size_t n = 0; n < neurons; n++)
            counts[n] += net_ones_in_all(ones[n]);
    }
}

/* A layer that reads bits and gives bits: 1 where mismatches <= limit. */
static inline void net_bits_to_bits(const uint64_t *in, size_t inputs, const uint64_t *weights, const int32_t *limits,
        size_t neurons, uint64_t *out)
{
    for (size_t n = 0; n < neurons; n += NET_TILE) {
        const size_t count = net_tile(neurons - n);
        NET_SCRATCH int32_t counts[NET_TILE];
        net_mismatches(in, (inputs + 63) / 64, weights + n, neurons, count, counts);
        net_put(counts, limits + n, count, out++);
    }
}

/* A layer that reads bits and gives dots as float32. */
static inline void net_bits_to_reals(const uint64_t *in, size_t inputs, const uint64_t *weights, size_t neurons, float *out)
{
    for (size_t n = 0; n < neurons; n += NET_TILE) {
        const size_t count = net_tile(neurons - n);
        NET_SCRATCH int32_t counts[NET_TILE];
        net_mismatches(in, (inputs + 63) / 64, weights + n, neurons, count, counts);
        for (size_t i = 0; i < count; i++)
            out[n + i] = (float)((int32_t)inputs - 2 * counts[i]);
    }
}

/* A layer that reads bits and gives codes of levels; limits: as net_grade takes them. */
static inline void net_bits_to_levels(const uint64_t *in, size_t inputs, const uint64_t *weights, const int32_t *limits,
        size_t all, size_t top, size_t neurons, uint8_t *out)
{
    for (size_t n = 0; n < neurons; n += NET_TILE) {
        const size_t count = net_tile(neurons - n);
        NET_SCRATCH int32_t counts[NET_TILE];
        net_mismatches(in, (inputs + 63) / 64, weights + n, neurons, count, counts);
        net_grade(counts, limits + n, all, top, count, out + n);
    }
}

/* 64 pixels as 8 words of bits, word b of bit b of every pixel; pixels from `inputs` on are 0.  Returns their sum. */
static inline int32_t net_planes(const uint8_t *in, size_t inputs, uint64_t *planes)
{
    int32_t total = 0;
    for (size_t b = 0; b < 8; b++)
        planes[b] = 0;
    for (size_t k = 0; k < 64 && k < inputs; k += 8) {
        uint64_t eight = 0;
        for (size_t i = 0; i < 8 && k + i < inputs; i++) {
            eight |= (uint64_t)in[k + i] << (8 * i);
            total += in[k + i];
        }
        for (size_t b = 0; b < 8; b++) /* the product moves the lowest bit of every byte into the highest byte */
            planes[b] |= ((((eight >> b) & 0x0101010101010101) * 0x0102040810204080) >> 56) << k;
    }
    return total;
}

/* 64 pixels as tables: what all weights of NET_TABLE_BITS neighbours make of them; pixels from `inputs` on are 0. */
static inline void net_tables(const uint8_t *in, size_t inputs, int16_t *table)
{
    for (size_t k = 0; k < 64; table += 1 << NET_TABLE_BITS) {
        table[0] = 0;
        for (size_t size = 1; size < 1 << NET_TABLE_BITS; size *= 2, k++) {
            const int16_t pixel = k < inputs ? in[k] : 0;
            for (size_t i = 0; i < size; i++) {
                table[size + i] = (int16_t)(table[i] + pixel);
                table[i] = (int16_t)(table[i] - pixel);
            }
        }
    }
}

/* Sums of pixels with weight +1 minus sums of those with weight -1. */
static inline void net_pixel_sums(const uint8_t *in, size_t inputs, const uint64_t *weights, size_t all, size_t neurons,
        int32_t *sums)
{
    for (size_t n = 0; n < neurons; n++)
        sums[n] = 0;
    for (size_t k = 0; k < inputs; k += 64, weights += all) {
#if NET_POPCOUNT
        uint64_t planes[8];
        const int32_t total = net_planes(in + k, inputs - k, planes);
        for (size_t n = 0; n < neurons; n++) {
            uint64_t plus = 0;
            for (size_t b = 8; b-- > 0;)
                plus = 2 * plus + net_ones(planes[b] & weights[n]);
            sums[n] += 2 * (int32_t)plus - total;
        }
#else
        NET_SCRATCH int16_t tables[64 / NET_TABLE_BITS][1 << NET_TABLE_BITS];
        net_tables(in + k, inputs - k, tables[0]);
        for (size_t n = 0; n < neurons; n++) {
            uint64_t row = weights[n];
            int32_t sum = sums[n];
            for (size_t t = 0; t < 64 / NET_TABLE_BITS; t += 4, row >>= 4 * NET_TABLE_BITS) {
                const uint32_t bits = (uint32_t)row, one = (1 << NET_TABLE_BITS) - 1;
                sum += tables[t][bits & one] + tables[t + 1][(bits >> NET_TABLE_BITS) & one];
                sum += tables[t + 2][(bits >> (2 * NET_TABLE_BITS)) & one];
                sum += tables[t + 3][(bits >> (3 * NET_TABLE_BITS)) & one];
            }
            sums[n] = sum;
        }
#endif
    }
}

/* A layer that reads pixels and gives bits: 1 where the sum <= limit. */
static inline void net_pixels_to_bits(const uint8_t *in, size_t inputs, const uint64_t *weights, const int32_t *limits,
        size_t neurons, uint64_t *out)
{
    NET_SCRATCH int32_t sums[NET_PIXEL_TILE];
    for (size_t n = 0; n < neurons; n += NET_PIXEL_TILE) {
        const size_t count = neurons - n < NET_PIXEL_TILE ? neurons - n : NET_PIXEL_TILE;
        net_pixel_sums(in, inputs, weights + n, neurons, count, sums);
        for (size_t i = 0; i < count; i += NET_TILE)
            net_put(sums + i, limits + n + i, net_tile(count - i), out++);
    }
}

/* A layer that reads pixels, or codes, and gives codes of levels. */
static inline void net_pixels_to_levels(const uint8_t *in, size_t inputs, const uint64_t *weights, const int32_t *limits,
        size_t all, size_t top, size_t neurons, uint8_t *out)
{
    NET_SCRATCH int32_t sums[NET_PIXEL_TILE];
    for (size_t n = 0; n < neurons; n += NET_PIXEL_TILE) {
        const size_t count = neurons - n < NET_PIXEL_TILE ? neurons - n : NET_PIXEL_TILE;
        net_pixel_sums(in, inputs, weights + n, neurons, count, sums);
        net_grade(sums, limits + n, all, top, count, out + n);
    }
}

/* A layer that reads pixels p, each mapped to (slope * p + intercept) / divisor, and gives sums as float32.
   shifts: intercept * sum of the weights, of every neuron. */
static inline void net_pixels_to_reals(const uint8_t *in, size_t inputs, const uint64_t *weights, double slope,
        const double *shifts, double divisor, size_t neurons, float *out)
{
    NET_SCRATCH int32_t sums[NET_PIXEL_TILE];
    for (size_t n = 0; n < neurons; n += NET_PIXEL_TILE) {
        const size_t count = neurons - n < NET_PIXEL_TILE ? neurons - n : NET_PIXEL_TILE;
        net_pixel_sums(in, inputs, weights + n, neurons, count, sums);
        for (size_t i = 0; i < count; i++) {
            const volatile double scaled = slope * sums[i];
            out[n + i] = (float)((scaled + shifts[n + i]) / divisor);
        }
    }
}

/* Sums of weight * input in input order, in float64, of up to NET_TILE neurons of all. */
static inline void net_real_sums(const float *in, size_t inputs, const uint64_t *weights, size_t all, size_t neurons,
        double *sums)
{
    for (size_t n = 0; n < neurons; n++)
        sums[n] = 0;
    for (size_t k = 0; k < inputs; k++) {
        const double plus = (double)in[k], minus = -plus;
        const uint64_t *row = weights + k / 64 * all;
        for (size_t n = 0; n < neurons; n++)
            sums[n] += (row[n] >> (k % 64)) & 1 ? plus : minus;
    }
}

/* A layer that reads real values and gives bits: 1 where the sum of weight * input, rounded to float32 once, <= limit. */
static inline void net_reals_to_bits(const float *in, size_t inputs, const uint64_t *weights, const float *limits,
        size_t neurons, uint64_t *out)
{
    for (size_t n = 0; n < neurons; n += NET_TILE) {
        const size_t count = net_tile(neurons - n);
        NET_SCRATCH double sums[NET_TILE];
        net_real_sums(in, inputs, weights + n, neurons, count, sums);
        uint64_t bits = 0;
        for (size_t i = 0; i < count; i++)
            bits |= (uint64_t)((float)sums[i] <= limits[n + i]) << i;
        *out++ = bits;
    }
}

/* A layer that reads real values and gives codes of levels. */
static inline void net_reals_to_levels(const float *in, size_t inputs, const uint64_t *weights, const float *limits,
        size_t all, size_t top, size_t neurons, uint8_t *out)
{
    for (size_t n = 0; n < neurons; n += NET_TILE) {
        const size_t count = net_tile(neurons - n);
        NET_SCRATCH double sums[NET_TILE];
        net_real_sums(in, inputs, weights + n, neurons, count, sums);
        net_grade_reals(sums, limits + n, all, top, count, out + n);
    }
}

/* A layer that reads real values and gives sums, each rounded to float32 once. */
static inline void net_reals_to_reals(const float *in, size_t inputs, const uint64_t *weights, size_t neurons, float *out)
{
    for (size_t n = 0; n < neurons; n += NET_TILE) {
        const size_t count = net_tile(neurons - n);
        NET_SCRATCH double sums[NET_TILE];
        net_real_sums(in, inputs, weights + n, neurons, count, sums);
        for (size_t i = 0; i < count; i++)
            out[n + i] = (float)sums[i];
    }
}

/* A float32 result, rounded: it passes through memory, so that no compiler fuses it with the next operation. */
static inline float net_rounded(float x)
{
    volatile float stored = x;
    return stored;
}

/* x * y + z rounded once: by the instruction, or where there is none, because many C libraries have an fmaf that rounds twice, by
   an exact product in float64 and a sum that is rounded to odd there, so that the rounding to float32 sees on which side the
   exact value lies (Boldo and Melquiond, 2008). */
static inline float net_fused(float x, float y, float z)
{
#if NET_FMA
    return __builtin_fmaf(x, y, z);
#else
    const double product = (double)x * (double)y;
    const double total = product + (double)z;
    const double back = total - product;
    const double error = (product - (total - back)) + ((double)z - back);
    double result = total;
    uint64_t bits;
    memcpy(&bits, &result, sizeof bits);
    if (error != 0 && error == error && result - result == 0 && !(bits & 1)) {
        bits = (error > 0) == (result > 0) ? bits + 1 : bits - 1;
        memcpy(&result, &bits, sizeof bits);
    }
    return (float)result;
#endif
}

/* Sums of weight * input of up to NET_TILE neurons of all: from 0 on, every product is added in input order and rounded once.
   Weights of all neurons lie side by side. */
static inline void net_float_sums(const float *in, size_t inputs, const float *weights, size_t all, size_t neurons, float *out)
{
    NET_SCRATCH float sums[NET_TILE];
    for (size_t n = 0; n < neurons; n++)
        sums[n] = 0;
    for (size_t k = 0; k < inputs; k++, weights += all)
        for (size_t n = 0; n < neurons; n++)
            sums[n] = net_fused(in[k], weights[n], sums[n]);
    for (size_t n = 0; n < neurons; n++)
        out[n] = sums[n];
}

/* A layer with float32 weights. */
static inline void net_float_layer(const float *in, size_t inputs, const float *weights, size_t neurons, float *out)
{
    for (size_t n = 0; n < neurons; n += NET_TILE)
        net_float_sums(in, inputs, weights + n, neurons, net_tile(neurons - n), out + n);
}

/* The same, and bits of it: 1 where the sum <= limit. */
static inline void net_floats_to_bits(const float *in, size_t inputs, const float *weights, const float *limits,
        size_t neurons, uint64_t *out)
{
    for (size_t n = 0; n < neurons; n += NET_TILE) {
        const size_t count = net_tile(neurons - n);
        NET_SCRATCH float found[NET_TILE];
        net_float_sums(in, inputs, weights + n, neurons, count, found);
        uint64_t bits = 0;
        for (size_t i = 0; i < count; i++)
            bits |= (uint64_t)(found[i] <= limits[n + i]) << i;
        *out++ = bits;
    }
}

/* v * a */
static inline void net_mul(float *v, const float *a, size_t count)
{
    for (size_t n = 0; n < count; n++)
        v[n] = net_rounded(v[n] * a[n]);
}

/* v + a */
static inline void net_add(float *v, const float *a, size_t count)
{
    for (size_t n = 0; n < count; n++)
        v[n] = net_rounded(v[n] + a[n]);
}

/* v * a + b, rounded once */
static inline void net_fma(float *v, const float *a, const float *b, size_t count)
{
    for (size_t n = 0; n < count; n++)
        v[n] = net_fused(v[n], a[n], b[n]);
}

/* v, at least a and at most b */
static inline void net_clip(float *v, const float *a, const float *b, size_t count)
{
    for (size_t n = 0; n < count; n++)
        v[n] = v[n] < a[n] ? a[n] : v[n] > b[n] ? b[n] : v[n];
}

/* v / a */
static inline void net_div(float *v, const float *a, size_t count)
{
    for (size_t n = 0; n < count; n++)
        v[n] = net_rounded(v[n] / a[n]);
}

/* v, where it is not above 0 times a */
static inline void net_prelu(float *v, const float *a, size_t count)
{
    for (size_t n = 0; n < count; n++)
        v[n] = v[n] > 0 ? v[n] : net_rounded(v[n] * a[n]);
}

/* A float64 result, rounded, as net_rounded has it. */
static inline double net_kept(double x)
{
    volatile double stored = x;
    return stored;
}

/* exp of numbers up to 0, by operations that every machine rounds alike */
static inline double net_exp(double x)
{
    const double series[14] = {1 / 6227020800.0, 1 / 479001600.0, 1 / 39916800.0, 1 / 3628800.0, 1 / 362880.0, 1 / 40320.0,
                               1 / 5040.0, 1 / 720.0, 1 / 120.0, 1 / 24.0, 1 / 6.0, 1 / 2.0, 1.0, 1.0};
    double result = series[0], power = 1.0;
    int halvings;
    x = x < -110.0 ? -110.0 : x;
    halvings = (int)(0.5 - net_kept(x * 1.4426950408889634));
    x = net_kept(x + net_kept(halvings * 0.693147180369123816490)) + net_kept(halvings * 1.90821492927058770002e-10);
    for (int n = 1; n < 14; n++)
        result = net_kept(net_kept(result * x) + series[n]);
    for (int n = 0; n < halvings; n++)
        power *= 0.5;
    return result * power;
}

/* tanh, next to the real number */
static inline void net_tanh(float *v, size_t count)
{
    for (size_t n = 0; n < count; n++) {
        const double x = v[n] < 0 ? -(double)v[n] : (double)v[n];
        const double square = net_kept(x * x), fallen = net_exp(-2 * x);
        const double inner = net_kept(2.0 / 15 - net_kept(square * (17.0 / 315)));
        const double small = x + net_kept(net_kept(x * square) * net_kept(net_kept(square * inner) - 1.0 / 3));
        const double found = x >= 0.015625 ? (1 - fallen) / (1 + fallen) : small;
        if (v[n] < 0 || v[n] > 0)
            v[n] = (float)(v[n] < 0 ? -found : found);
    }
}

/* 1 / (1 + exp(-v)) */
static inline void net_sigmoid(float *v, size_t count)
{
    for (size_t n = 0; n < count; n++) {
        const double fallen = net_exp(v[n] < 0 ? (double)v[n] : -(double)v[n]);
        if (v[n] == v[n])
            v[n] = (float)((v[n] >= 0 ? 1.0 : fallen) / (1 + fallen));
    }
}

/* Numbers to another place. */
static inline void net_copy(const float *in, size_t count, float *out)
{
    for (size_t n = 0; n < count; n++)
        out[n] = in[n];
}

static inline void net_copy_codes(const uint8_t *in, size_t count, uint8_t *out)
{
    for (size_t n = 0; n < count; n++)
        out[n] = in[n];
}

/* +1 from a on, -1 up to b, and of NaN, 0 between */
static inline void net_step(float *v, const float *a, const float *b, size_t count)
{
    for (size_t n = 0; n < count; n++)
        v[n] = v[n] >= a[n] ? 1.0f : v[n] > b[n] ? 0.0f : -1.0f;
}

/* Bits of `in` from bit `from` on to `out` from bit `at` on, where it is 0. */
static inline void net_move_bits(const uint64_t *in, size_t from, size_t count, uint64_t *out, size_t at)
{
    while (count) {
        const size_t left = 64 - from % 64, room = 64 - at % 64;
        size_t some = left < room ? left : room;
        some = some < count ? some : count;
        const uint64_t bits = in[from / 64] >> (from % 64);
        out[at / 64] |= (some < 64 ? bits & (((uint64_t)1 << some) - 1) : bits) << (at % 64);
        from += some;
        at += some;
        count -= some;
    }
}

/* The number of a pixel of the map, line by line, that is tap (i, j) of output (y, x); SIZE_MAX outside. */
static inline size_t net_tap(const net_window *w, size_t y, size_t x, size_t i, size_t j)
{
    const size_t line = y * w->stride_y + i * w->step_y - w->top; /* before the first one very large */
    const size_t column = x * w->stride_x + j * w->step_x - w->left;
    return line < w->height && column < w->width ? line * w->width + column : SIZE_MAX;
}

/* The bits of a window, tap by tap, of each some channels; those outside are 1 where `outside` is. */
static inline void net_bits_of_window(const uint64_t *map, const net_window *w, size_t y, size_t x, size_t first, size_t count,
        int outside, uint64_t *row)
{
    const size_t words = (w->channels + 63) / 64;
    const uint64_t ones = outside ? ~(uint64_t)0 : 0;
    size_t at = 0;
    for (size_t k = 0; k < (w->down * w->across * count + 63) / 64; k++)
        row[k] = 0;
    for (size_t i = 0; i < w->down; i++)
        for (size_t j = 0; j < w->across; j++, at += count) {
            const size_t pixel = net_tap(w, y, x, i, j);
            if (pixel != SIZE_MAX)
                net_move_bits(map + pixel * words, first, count, row, at);
            else
                for (size_t c = 0; c < count; c += 64)
                    net_move_bits(&ones, 0, count - c < 64 ? count - c : 64, row, at + c);
        }
}

/* The pixels, or codes, of a window, tap by tap, of each some channels; those outside are `outside`. */
static inline void net_pixels_of_window(const uint8_t *map, const net_window *w, size_t y, size_t x, size_t first, size_t count,
        uint8_t outside, uint8_t *row)
{
    for (size_t i = 0; i < w->down; i++)
        for (size_t j = 0; j < w->across; j++) {
            const size_t pixel = net_tap(w, y, x, i, j);
            for (size_t c = 0; c < count; c++)
                *row++ = pixel != SIZE_MAX ? map[pixel * w->channels + first + c] : outside;
        }
}

/* The real numbers of a window, as its pixels. */
static inline void net_reals_of_window(const float *map, const net_window *w, size_t y, size_t x, size_t first, size_t count,
        float *row)
{
    for (size_t i = 0; i < w->down; i++)
        for (size_t j = 0; j < w->across; j++) {
            const size_t pixel = net_tap(w, y, x, i, j);
            for (size_t c = 0; c < count; c++)
                *row++ = pixel != SIZE_MAX ? map[pixel * w->channels + first + c] : 0;
        }
}

/* Dots of bits as float32, where some taps lie outside: base - 2 * mismatches. */
static inline void net_bits_to_dots(const uint64_t *in, size_t inputs, const uint64_t *weights, const int32_t *base,
        size_t neurons, float *out)
{
    for (size_t n = 0; n < neurons; n += NET_TILE) {
        const size_t count = net_tile(neurons - n);
        NET_SCRATCH int32_t counts[NET_TILE];
        net_mismatches(in, (inputs + 63) / 64, weights + n, neurons, count, counts);
        for (size_t i = 0; i < count; i++)
            out[n + i] = (float)(base[n + i] - 2 * counts[i]);
    }
}

/* OR of the bits of a window, AND of those that `falling` has. */
static inline void net_pool_bits(const uint64_t *map, const net_window *w, size_t y, size_t x, const uint64_t *falling,
        uint64_t *out)
{
    const size_t words = (w->channels + 63) / 64;
    for (size_t k = 0; k < words; k++) {
        uint64_t found = 0;
        for (size_t i = 0; i < w->down; i++)
            for (size_t j = 0; j < w->across; j++) {
                const size_t pixel = net_tap(w, y, x, i, j);
                if (pixel != SIZE_MAX)
                    found |= map[pixel * words + k] ^ falling[k];
            }
        out[k] = found ^ falling[k];
    }
}

/* The largest number of a window, the smallest of channels that `falling` has; NaN where there is one. */
static inline void net_pool_largest(const float *map, const net_window *w, size_t y, size_t x, const uint8_t *falling,
        float *out)
{
    for (size_t c = 0; c < w->channels; c++) {
        int found = 0;
        for (size_t i = 0; i < w->down; i++)
            for (size_t j = 0; j < w->across; j++) {
                const size_t pixel = net_tap(w, y, x, i, j);
                if (pixel == SIZE_MAX)
                    continue;
                const float value = map[pixel * w->channels + c];
                if (!found || (out[c] == out[c] && !(falling[c] ? value >= out[c] : value <= out[c])))
                    out[c] = value;
                found = 1;
            }
    }
}

/* The largest code of a window, the smallest of channels that `falling` has. */
static inline void net_pool_codes(const uint8_t *map, const net_window *w, size_t y, size_t x, const uint8_t *falling, uint8_t *out)
{
    for (size_t c = 0; c < w->channels; c++) {
        out[c] = falling[c] ? 255 : 0;
        for (size_t i = 0; i < w->down; i++)
            for (size_t j = 0; j < w->across; j++) {
                const size_t pixel = net_tap(w, y, x, i, j);
                if (pixel == SIZE_MAX)
                    continue;
                const uint8_t code = map[pixel * w->channels + c];
                if (falling[c] ? code < out[c] : code > out[c])
                    out[c] = code;
            }
    }
}

/* The mean of a window: summed in float64 line by line, divided and rounded to float32 once.  padded: those outside count. */
static inline void net_pool_average(const float *map, const net_window *w, size_t y, size_t x, int padded, float *out)
{
    for (size_t c = 0; c < w->channels; c++) {
        double sum = 0;
        size_t count = 0;
        for (size_t i = 0; i < w->down; i++)
            for (size_t j = 0; j < w->across; j++) {
                const size_t pixel = net_tap(w, y, x, i, j);
                count += padded || pixel != SIZE_MAX;
                if (pixel != SIZE_MAX)
                    sum += (double)map[pixel * w->channels + c];
            }
        out[c] = (float)(sum / (double)count);
    }
}

/* Some channels of the pixel that is output (y, x), in that order; what is none, and all outside the map, is `outside`. */
static inline void net_move_reals(const float *map, const net_window *w, size_t y, size_t x, const int32_t *channels,
        size_t count, float outside, float *out)
{
    const size_t pixel = net_tap(w, y, x, 0, 0);
    for (size_t c = 0; c < count; c++)
        out[c] = pixel != SIZE_MAX && channels[c] >= 0 ? map[pixel * w->channels + (size_t)channels[c]] : outside;
}

/* The same of codes of levels. */
static inline void net_move_codes(const uint8_t *map, const net_window *w, size_t y, size_t x, const int32_t *channels,
        size_t count, uint8_t outside, uint8_t *out)
{
    const size_t pixel = net_tap(w, y, x, 0, 0);
    for (size_t c = 0; c < count; c++)
        out[c] = pixel != SIZE_MAX && channels[c] >= 0 ? map[pixel * w->channels + (size_t)channels[c]] : outside;
}

/* The same of bits. */
static inline void net_move_signs(const uint64_t *map, const net_window *w, size_t y, size_t x, const int32_t *channels,
        size_t count, uint64_t outside, uint64_t *out)
{
    const size_t pixel = net_tap(w, y, x, 0, 0);
    for (size_t c = 0; c < count; c++) {
        uint64_t bit = outside;
        if (pixel != SIZE_MAX && channels[c] >= 0)
            bit = map[pixel * ((w->channels + 63) / 64) + (size_t)channels[c] / 64] >> (channels[c] % 64) & 1;
        out[c / 64] = (c % 64 ? out[c / 64] : 0) | bit << (c % 64);
    }
}

/* Pixels as the real numbers that a table has for each, of every channel. */
static inline void net_mapped(const uint8_t *in, size_t inputs, const float *table, size_t channels, float *out)
{
    for (size_t k = 0; k < inputs; k++)
        out[k] = table[in[k] * channels + k % channels];
}

/* Every real number becomes 1 where it lies in a range of its own, bounds included. */
static inline void net_real_ranges(const float *in, size_t inputs, const float *low, const float *high, uint64_t *out)
{
    for (size_t k = 0; k < inputs; k++)
        out[k / 64] = (k % 64 ? out[k / 64] : 0) | (uint64_t)(low[k] <= in[k] && in[k] <= high[k]) << (k % 64);
}

/* Every real number becomes the number of ranges that it lies in, bounds included, of `top` of its own. */
static inline void net_real_codes(const float *in, size_t inputs, size_t top, const float *low, const float *high, uint8_t *out)
{
    for (size_t k = 0; k < inputs; k++) {
        out[k] = 0;
        for (size_t i = k; i < top * inputs; i += inputs)
            out[k] = (uint8_t)(out[k] + (low[i] <= in[k] && in[k] <= high[i]));
    }
}
