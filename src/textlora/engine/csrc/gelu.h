// gelu(x) = x P(x), P being the normal distribution's integral, and its derivative P(x) + x p(x).
#pragma once

#include "vectors.h"

struct Gelus { vf value, slope; };

// For fp32: P by Abramowitz and Stegun's 7.1.26, with an error of at most 1.5e-7.
static inline Gelus gelu(vf x, float) {
    vf size = (x < 0 ? -x : x) * 0.70710678f;
    vf s = reciprocal(1.0f + 0.3275911f * size);
    vf density = exp(-size * size);
    vf tail = s * (0.254829592f + s * (-0.284496736f + s * (1.421413741f + s * (-1.453152027f + s * 1.061405429f))));
    tail *= 0.5f * density;
    vf integral = x < 0 ? tail : 1.0f - tail;
    return {x * integral, integral + x * density * 0.39894228f};
}

#ifdef __AVX512F__
// For bf16, whose numbers have 8 bits: P - 1/2 and the derivative - 1/2 are odd functions, here 16 cubics each between
// 0 and 4.5 that meet the function and its own derivative at both ends (Hermite), with errors below 1e-4. Beyond, P is 1.
constexpr int PIECES = 16;
constexpr double WIDE = 4.5 / PIECES;
struct Cubics {
    alignas(64) float by_power[4][PIECES];
    template <class F, class G> Cubics(F function, G derivative) {
        for (int i = 0; i < PIECES; i++) {
            bool last = i == PIECES - 1;
            double x = i * WIDE, from = function(x), to = last ? 0.5 : function(x + WIDE);
            double rise = derivative(x) * WIDE, rise_to = last ? 0 : derivative(x + WIDE) * WIDE;
            by_power[0][i] = from;
            by_power[1][i] = rise;
            by_power[2][i] = 3 * (to - from) - 2 * rise - rise_to;
            by_power[3][i] = 2 * (from - to) + rise + rise_to;
        }
    }
    vf operator()(vi piece, vf t) const {
        auto at = [&](int power) { return (vf)_mm512_permutexvar_ps((__m512i)piece, _mm512_load_ps(by_power[power])); };
        return at(0) + t * (at(1) + t * (at(2) + t * at(3)));
    }
};
static double density_at(double x) { return 0.3989422804014327 * std::exp(-x * x / 2); }
static double half_integral(double x) { return std::erf(x * 0.7071067811865476) / 2; }
static const Cubics INTEGRAL(half_integral, density_at);
static const Cubics SLOPE([](double x) { return half_integral(x) + x * density_at(x); }, [](double x) { return (2 - x * x) * density_at(x); });

static inline Gelus gelu(vf x, bf16) {
    vi sign = (vi)x & INT32_MIN;
    vf place = (vf)((vi)x ^ sign) * float(1 / WIDE);
    place = place < 15.999999f ? place : x == x ? all(15.999999f) : x;
    vi piece = (vi)_mm512_cvttps_epi32((__m512)place);
    vf t = place - (vf)_mm512_cvtepi32_ps((__m512i)piece);
    vf integral = 0.5f + (vf)((vi)INTEGRAL(piece, t) ^ sign);
    return {x * integral, 0.5f + (vf)((vi)SLOPE(piece, t) ^ sign)};
}
#else
static inline Gelus gelu(vf x, bf16) { return gelu(x, 0.0f); }
#endif

// The derivative lies between -0.13 and 1.13. Beside fp32 numbers it is kept as it is, beside bf16 numbers in a byte, in
// steps of 1/200: as fine as bf16 near 1, and half of what must be written on the way and read on the way back.
template <class N> using Slope = std::conditional_t<std::is_same_v<N, bf16>, uint8_t, float>;
constexpr float LOWEST = -0.135f, FINENESS = 200.0f;

template <class C> static inline void store_slope(float *to, vf x, C n) { store(to, x, n); }
template <class C> static inline vf load_slope(const float *from, C n) { return load(from, n); }
template <class C> static inline void store_slope(uint8_t *to, vf x, C n) {
    uint8_t bytes[W];
    vf steps = (x - LOWEST) * FINENESS + 0.5f;
#ifdef __AVX512F__
    _mm_storeu_si128((__m128i *)bytes, _mm512_cvtepi32_epi8(_mm512_cvttps_epi32((__m512)steps)));
#else
    for (int i = 0; i < W; i++) bytes[i] = uint8_t(int(steps[i]));
#endif
    std::memcpy(to, bytes, n);
}
template <class C> static inline vf load_slope(const uint8_t *from, C n) {
    uint8_t bytes[W] = {};
    std::memcpy(bytes, from, n);
#ifdef __AVX512F__
    vf steps = (vf)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((__m128i *)bytes)));
#else
    vf steps;
    for (int i = 0; i < W; i++) steps[i] = bytes[i];
#endif
    return steps * (1 / FINENESS) + LOWEST;
}
