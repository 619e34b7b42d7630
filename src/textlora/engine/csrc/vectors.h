// A vector of W floats and what the kernels do with it, for AVX-512 and AVX2; bf16 and fp32 in memory, fp32 in between.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#ifdef __AVX512F__
#include <immintrin.h>
constexpr int W = 16;
#else
constexpr int W = 8;
#endif

using i64 = int64_t;
typedef float vf __attribute__((vector_size(4 * W)));
typedef int32_t vi __attribute__((vector_size(4 * W)));
typedef uint16_t vh __attribute__((vector_size(2 * W)));
struct bf16 { uint16_t bits; };

static inline vf all(float x) { return x - vf{}; }

// ------------------------------------------------------------------------------------------------- load and store
// Each takes a whole vector (Full) or the n < W numbers that end a row; what isn't loaded is 0.

using Full = std::integral_constant<int, W>;

template <class V> static inline V raw_load(const void *p, Full) { V v; std::memcpy(&v, p, sizeof v); return v; }
template <class V> static inline void raw_store(void *p, V v, Full) { std::memcpy(p, &v, sizeof v); }

#ifdef __AVX512F__
template <class V> static inline V raw_load(const void *p, int n) {
    __mmask16 some = __mmask16((1 << n) - 1);
    if constexpr (sizeof(V) == 64) return (V)_mm512_maskz_loadu_ps(some, p);
    else return (V)_mm256_maskz_loadu_epi16(some, p);
}
template <class V> static inline void raw_store(void *p, V v, int n) {
    __mmask16 some = __mmask16((1 << n) - 1);
    if constexpr (sizeof(V) == 64) _mm512_mask_storeu_ps(p, some, (__m512)v);
    else _mm256_mask_storeu_epi16(p, some, (__m256i)v);
}
static inline vi widened(vh x) { return (vi)_mm512_cvtepu16_epi32((__m256i)x); }  // convertvector takes four times as long
#else
template <class V> static inline V raw_load(const void *p, int n) { V v{}; std::memcpy(&v, p, n * (sizeof v / W)); return v; }
template <class V> static inline void raw_store(void *p, V v, int n) { std::memcpy(p, &v, n * (sizeof v / W)); }
static inline vi widened(vh x) { return __builtin_convertvector(x, vi); }
#endif

template <class C> static inline vf load(const float *p, C n) { return raw_load<vf>(p, n); }
template <class C> static inline vf load(const bf16 *p, C n) { return (vf)(widened(raw_load<vh>(p, n)) << 16); }

template <class C> static inline void store(float *p, vf x, C n) { raw_store(p, x, n); }
template <class C> static inline void store(bf16 *p, vf x, C n) {  // rounded to nearest even; a NaN stays one
#ifdef __AVX512BF16__
    raw_store(p, (vh)_mm512_cvtneps_pbh((__m512)x), n);
#else
    vi bits = (vi)x, rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    raw_store(p, __builtin_convertvector(x == x ? rounded : vi{} + 0x7fc0, vh), n);
#endif
}

// body(i, n) for each vector of a row of `length` numbers.
template <class F> static inline __attribute__((always_inline)) void over(i64 length, F body) {
    i64 i = 0;
    for (; i + W <= length; i += W) body(i, Full{});
    if (i < length) body(i, int(length - i));
}

// The first n numbers of x, then `rest`.
static inline vf first(vf x, Full, float) { return x; }
static inline vf first(vf x, int n, float rest) {
    vi place;
    for (int i = 0; i < W; i++) place[i] = i;
    return place < n ? x : all(rest);
}

// ----------------------------------------------------------------------------------------------------- functions

static inline float sum(vf x) {
#ifdef __AVX512F__
    return _mm512_reduce_add_ps((__m512)x);
#else
    return ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]));
#endif
}

static inline float largest(vf x) {
#ifdef __AVX512F__
    return _mm512_reduce_max_ps((__m512)x);
#else
    float most = x[0];
    for (int i = 1; i < W; i++) most = x[i] > most ? x[i] : most;
    return most;
#endif
}

static inline vf reciprocal(vf x) {
#ifdef __AVX512F__
    vf guess = (vf)_mm512_rcp14_ps((__m512)x);
    return guess * (2.0f - x * guess);  // one step of Newton's: 28 bits
#else
    return 1.0f / x;
#endif
}

// e^x to 2 units in the last place, for x <= 88: 2^n e^r, e^r by its Taylor polynomial on |r| <= ln(2) / 2. Below e^-87
// it is 0: numbers too small for an exponent of their own ("denormal") slow down all that they touch, a hundredfold.
static inline vf exp(vf x) {
    vf shifted = x * 1.44269504f + 12582912.0f;  // adding 1.5 * 2^23 leaves the nearest integer in the low bits
    vf n = shifted - 12582912.0f;
    vf r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    vf e = 1.0f + r * (1.0f + r * (0.5f + r * (1.6666667e-1f + r * (4.1666667e-2f + r * (8.3333333e-3f + r * 1.3888889e-3f)))));
    vf scaled = (vf)((vi)e + ((vi)shifted << 23));
    return x < -87.0f ? all(0) : x == x ? scaled : x;
}
