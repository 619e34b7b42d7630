// A head's rows as the operands of products on AMX tiles, and back; what attention.cpp is made of.
//
// K features of a head, a multiple of 32; n rows. Where an operand has room for more rows, those stay as they are: zeros.
#pragma once

#include "tiles.h"

#ifdef __AMX_BF16__
// A B in the first four tile registers, 32 x 32, over `chunks` of 32. A's 32 rows lie lda apart and its chunks a_step;
// B's two tiles of a chunk lie side by side, its chunks b_step dwords apart.
static inline void multiply(const bf16 *a, i64 lda, i64 a_step, const u32 *b, i64 b_step, i64 chunks) {
    _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
    for (i64 i = 0; i < chunks; i++, a += a_step, b += b_step) {
        _tile_loadd(4, a, lda * 2);
        _tile_loadd(6, b, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, b + TILE, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, a + 16 * lda, lda * 2);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
}

// Stores what `multiply` made in c, 32 x 32.
static inline void put_product(float *c) {
    _tile_stored(0, c, 128); _tile_stored(1, c + 16, 128);
    _tile_stored(2, c + 16 * 32, 128); _tile_stored(3, c + 16 * 32 + 16, 128);
}

// The multiplier falls asleep after about 500 ns without work, and wakes up in 240 (measured; docs/log.md,
// 2026-11-23). So it gets some now and then, into a tile that nobody reads.
static inline void keep_awake() { _tile_dpbf16ps(7, 5, 6); }

// to[i][j] = from[j][i], 16 x 16 dwords: halves change places, then quarters, eighths, and neighbours.
static inline void transpose(u32 *to, const u32 *from, i64 stride) {
    keep_awake();
    vu v[16], lane;
    for (u32 i = 0; i < 16; i++) { std::memcpy(&v[i], from + i * stride, 64); lane[i] = i; }
#pragma GCC unroll 4
    for (u32 s = 8; s; s >>= 1) {
        vu low = (lane & s) ? lane - s + 16 : lane, high = (lane & s) ? lane + 16 : lane + s;
#pragma GCC unroll 16
        for (u32 i = 0; i < 16; i++)
            if (!(i & s)) {
                vu a = v[i], b = v[i + s];
                v[i] = __builtin_shuffle(a, b, low);
                v[i + s] = __builtin_shuffle(a, b, high);
            }
    }
    for (i64 i = 0; i < 16; i++) std::memcpy(to + i * 16, &v[i], 64);
}

// 32 numbers in bf16: those of `low`, then those of `high`.
static inline vu both(vf low, vf high) { return (vu)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low); }

// Each dword: a bf16 of `even` and one of `odd`.
static inline vu pair(vf even, vf odd) {
    __m512i order;
    for (short i = 0; i < 16; i++) { ((short *)&order)[2 * i] = i; ((short *)&order)[2 * i + 1] = short(16 + i); }
    return (vu)_mm512_permutexvar_epi16(order, (__m512i)both(even, odd));
}

// Fetches what the next text's heads will read, a share at each step of other work: a text's rows lie together and come
// one after the other, while a head's part of them lies scattered.
struct Ahead {
    const char *at;
    i64 lines, share;
    Ahead(const bf16 *from, i64 numbers, i64 steps) : at((const char *)from), lines(numbers / 32), share((lines + steps - 1) / steps) {}
    void step() {
        i64 n = share < lines ? share : lines;
        for (lines -= n; n > 0; n--, at += 64) __builtin_prefetch(at);
    }
};

// A's rows: n of K numbers, plus bias.
static void rows(bf16 *to, const bf16 *from, i64 stride, const float *bias, i64 n, i64 K) {
    for (i64 s = 0; s < n; s++, from += stride, to += K)
        for (i64 k = 0; k < K; k += 32) {
            if (s % 16 == 0) keep_awake();
            vu x = raw_load<vu>(from + k, Full{});
            if (bias) x = both(load(from + k, Full{}) + load(bias + k, Full{}), load(from + k + 16, Full{}) + load(bias + k + 16, Full{}));
            raw_store(to + k, x, Full{});
        }
}

// B for products with n rows: tiles [n / 32][K / 16].
static void paired_all(u32 *to, const bf16 *rows, i64 n, i64 K) {
    for (i64 s = 0; s < n; s += 32)
        for (i64 k = 0; k < K; k += 16, to += TILE) paired(to, rows + s * K + k, K, 32);
}

// B for products with the transpose of n rows: tiles [n / 32][K / 32][2]; what is beyond them stays as it is.
static void across(u32 *to, const bf16 *rows, i64 n, i64 K) {
    for (i64 s = 0; s < n; s += 32)
        for (i64 k = 0; k < K; k += 32)
            for (i64 half = 0; half < 2; half++, to += TILE)
                if (s + half * 16 < n) transpose(to, (const u32 *)(rows + (s + half * 16) * K + k), K / 2);
}

// From a product's rows, keys' pairs down and queries across (tiles [n / 32][2]), to A: each tile turned.
template <int N> static inline void turned(u32 *to, const u32 *pairs, i64 n) {
    for (i64 s = 0; s < n; s += 32, to += 2 * TILE, pairs += 2 * TILE)
        for (int i = 0; i < N; i++) transpose(to + i * TILE, pairs + i * TILE, 16);
}

constexpr auto in_order = [](i64 i) { return i; };

// What `multiply` made, 32 x 32, to the first n rows in bf16: row i times by[i], plus `bias` if there is one, goes to row place(i).
template <class F> static inline void put_rows(bf16 *to, i64 stride, const float *from, const float *by, const float *bias, i64 n, F place) {
    vf low = bias ? load(bias, Full{}) : all(0), high = bias ? load(bias + 16, Full{}) : all(0);
    for (i64 i = 0; i < 32; i++)
        if (place(i) < n)
            raw_store(to + place(i) * stride, both(load(from + i * 32, Full{}) * by[i] + low, load(from + i * 32 + 16, Full{}) * by[i] + high), Full{});
}
#endif
