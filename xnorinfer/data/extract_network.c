/*
 * The functions of the headers that `xnorinfer extract` writes, for a network called net; a header holds those that its network
 * calls.  Two functions are separated by an empty line, each begins with a comment, and none calls one further down.
 */

/* All bits of a row become 0. */
static inline void net_clear(uint64_t *bits, size_t count)
{
    for (size_t w = 0; w < (count + 63) / 64; w++)
        bits[w] = 0;
}

/* Bit n of a row that was cleared. */
static inline void net_put(uint64_t *bits, size_t n, int one)
{
    bits[n / 64] |= (uint64_t)(one != 0) << (n % 64);
}

/* Number of bits that are 1. */
static inline int32_t net_popcount(uint64_t x)
{
#if defined(__GNUC__)
    return (int32_t)__builtin_popcountll(x);
#else
    x -= (x >> 1) & 0x5555555555555555;
    x = (x & 0x3333333333333333) + ((x >> 2) & 0x3333333333333333);
    x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0f;
    return (int32_t)((x * 0x0101010101010101) >> 56);
#endif
}

/* Every input becomes 1 where it lies in a range of its own, bounds included. */
static inline void net_input_ranges(const net_input *in, size_t inputs, const net_input *low, const net_input *high,
        uint64_t *out)
{
    net_clear(out, inputs);
    for (size_t k = 0; k < inputs; k++)
        net_put(out, k, low[k] <= in[k] && in[k] <= high[k]);
}

/* Every input becomes 1 from a threshold on. */
static inline void net_input_threshold(const net_input *in, size_t inputs, net_input threshold, uint64_t *out)
{
    net_clear(out, inputs);
    for (size_t k = 0; k < inputs; k++)
        net_put(out, k, in[k] >= threshold);
}

/* Number of inputs that differ from the weights: dot = inputs - 2 * mismatches. */
static inline int32_t net_mismatches(const uint64_t *in, const uint64_t *weights, size_t words)
{
    int32_t count = 0;
    for (size_t w = 0; w < words; w++)
        count += net_popcount(in[w] ^ weights[w]);
    return count;
}

/* A layer that reads bits and gives bits: 1 where mismatches <= limit. */
static inline void net_bits_to_bits(const uint64_t *in, size_t inputs, const uint64_t *weights, const int32_t *limits,
        size_t neurons, uint64_t *out)
{
    const size_t words = (inputs + 63) / 64;
    net_clear(out, neurons);
    for (size_t n = 0; n < neurons; n++)
        net_put(out, n, net_mismatches(in, weights + n * words, words) <= limits[n]);
}

/* A layer that reads bits and gives dots as float32. */
static inline void net_bits_to_reals(const uint64_t *in, size_t inputs, const uint64_t *weights, size_t neurons, float *out)
{
    const size_t words = (inputs + 63) / 64;
    for (size_t n = 0; n < neurons; n++)
        out[n] = (float)((int32_t)inputs - 2 * net_mismatches(in, weights + n * words, words));
}

/* Pixels as 8 planes of bits, plane b of bit b of every pixel; returns the sum of the pixels. */
static inline int32_t net_planes(const uint8_t *in, size_t inputs, uint64_t *planes)
{
    const size_t words = (inputs + 63) / 64;
    int32_t total = 0;
    for (size_t b = 0; b < 8; b++)
        net_clear(planes + b * words, inputs);
    for (size_t k = 0; k < inputs; k++) {
        total += in[k];
        for (size_t b = 0; b < 8; b++)
            net_put(planes + b * words, k, (in[k] >> b) & 1);
    }
    return total;
}

/* Sum of pixels with weight +1 minus sum of those with weight -1. */
static inline int32_t net_pixel_sum(const uint64_t *planes, int32_t total, const uint64_t *weights, size_t words)
{
    int32_t plus = 0;
    for (size_t b = 0; b < 8; b++) {
        int32_t count = 0;
        for (size_t w = 0; w < words; w++)
            count += net_popcount(planes[b * words + w] & weights[w]);
        plus += count * ((int32_t)1 << b);
    }
    return plus - (total - plus);
}

/* A layer that reads pixels and gives bits: 1 where the sum of weight * pixel <= limit. */
static inline void net_pixels_to_bits(const uint64_t *planes, int32_t total, size_t inputs, const uint64_t *weights,
        const int32_t *limits, size_t neurons, uint64_t *out)
{
    const size_t words = (inputs + 63) / 64;
    net_clear(out, neurons);
    for (size_t n = 0; n < neurons; n++)
        net_put(out, n, net_pixel_sum(planes, total, weights + n * words, words) <= limits[n]);
}

/* A layer that reads pixels p, mapped to (slope * p + intercept) / divisor, and gives sums as float32.
   shifts: intercept * sum of the weights, of every neuron. */
static inline void net_pixels_to_reals(const uint64_t *planes, int32_t total, size_t inputs, const uint64_t *weights,
        double slope, const double *shifts, double divisor, size_t neurons, float *out)
{
    const size_t words = (inputs + 63) / 64;
    for (size_t n = 0; n < neurons; n++) {
        const volatile double scaled = slope * net_pixel_sum(planes, total, weights + n * words, words);
        out[n] = (float)((scaled + shifts[n]) / divisor);
    }
}

/* Sum of weight * input in input order, rounded to float32 once. */
static inline float net_real_sum(const float *in, size_t inputs, const uint64_t *weights)
{
    double sum = 0;
    for (size_t k = 0; k < inputs; k++)
        sum += (weights[k / 64] >> (k % 64)) & 1 ? (double)in[k] : -(double)in[k];
    return (float)sum;
}

/* A layer that reads real values and gives bits: 1 where the sum of weight * input <= limit. */
static inline void net_reals_to_bits(const float *in, size_t inputs, const uint64_t *weights, const float *limits,
        size_t neurons, uint64_t *out)
{
    const size_t words = (inputs + 63) / 64;
    net_clear(out, neurons);
    for (size_t n = 0; n < neurons; n++)
        net_put(out, n, net_real_sum(in, inputs, weights + n * words) <= limits[n]);
}

/* A layer that reads real values and gives sums as float32. */
static inline void net_reals_to_reals(const float *in, size_t inputs, const uint64_t *weights, size_t neurons, float *out)
{
    const size_t words = (inputs + 63) / 64;
    for (size_t n = 0; n < neurons; n++)
        out[n] = net_real_sum(in, inputs, weights + n * words);
}

/* A layer with float32 weights: products summed in float64 in input order, rounded to float32 once. */
static inline void net_float_layer(const float *in, size_t inputs, const float *weights, size_t neurons, float *out)
{
    for (size_t n = 0; n < neurons; n++) {
        double sum = 0;
        for (size_t k = 0; k < inputs; k++)
            sum += (double)in[k] * (double)weights[n * inputs + k];
        out[n] = (float)sum;
    }
}

/* A float32 result, rounded: it passes through memory, so that no compiler fuses it with the next operation. */
static inline float net_rounded(float x)
{
    volatile float stored = x;
    return stored;
}

/* x * y + z rounded once.  The product is exact in float64; the sum is rounded to odd there, so that the rounding to float32
   sees on which side the exact value lies (Boldo and Melquiond, 2008).  Many C libraries have an fmaf that rounds twice. */
static inline float net_fused(float x, float y, float z)
{
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

/* +1 from a on, -1 up to b, 0 between */
static inline void net_step(float *v, const float *a, const float *b, size_t count)
{
    for (size_t n = 0; n < count; n++)
        v[n] = v[n] >= a[n] ? 1.0f : v[n] <= b[n] ? -1.0f : 0.0f;
}
