// Attention of short texts in one pass, on AMX tiles: softmax(scale q k^T + position + mask) v, and its gradient.
//
// Scores are made transposed, keys down and queries across, so that softmax's sums over keys are sums of vectors, and
// nothing of size S x S leaves the cache: the way back makes the scores again, from each query's largest score and the
// reciprocal of its sum. Queries, keys and values are read where their product with the weights left them.
//
// B texts, H heads, S width, K features of a head (a multiple of 32), P = S rounded up to 32. Its twin is
// attention.ByProducts.

#include "tiles.h"

#ifdef __AMX_BF16__
#include <sys/syscall.h>
#include <unistd.h>

// Two products at once, so that one's latency hides behind the other's: each c (16 x 16, rows ldc floats apart) = or += A B
// over `chunks` of 32; tiles of A and B lie a_step and b_step apart.
template <bool add>
static inline void products(float *c0, float *c1, i64 ldc, const bf16 *a0, const bf16 *a1, i64 lda, i64 a_step,
                            const u32 *b0, const u32 *b1, i64 b_step, i64 chunks) {
    if (add) { _tile_loadd(0, c0, ldc * 4); _tile_loadd(1, c1, ldc * 4); } else { _tile_zero(0); _tile_zero(1); }
    for (i64 i = 0; i < chunks; i++) {
        _tile_loadd(2, a0 + i * a_step, lda * 2);
        _tile_loadd(4, b0 + i * b_step, 64);
        _tile_dpbf16ps(0, 2, 4);
        _tile_loadd(3, a1 + i * a_step, lda * 2);
        _tile_loadd(5, b1 + i * b_step, 64);
        _tile_dpbf16ps(1, 3, 5);
    }
    _tile_stored(0, c0, ldc * 4);
    _tile_stored(1, c1, ldc * 4);
}

// to[i][j] = from[j][i], 16 x 16 dwords: halves change places, then quarters, eighths, and neighbours.
static inline void transpose(u32 *to, const u32 *from, i64 stride) {
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

// Each dword: a bf16 of `even` and one of `odd`.
static inline vu pair(vf even, vf odd) {
    __m512i order;
    for (short i = 0; i < 16; i++) { ((short *)&order)[2 * i] = i; ((short *)&order)[2 * i + 1] = short(16 + i); }
    return (vu)_mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh((__m512)odd, (__m512)even));
}

// A's rows: S of K numbers, plus bias, then zeros up to P.
static void rows(bf16 *to, const bf16 *from, i64 stride, const float *bias, i64 S, i64 P, i64 K) {
    for (i64 s = 0; s < S; s++)
        for (i64 k = 0; k < K; k += W) {
            if (k % 32 == 0) __builtin_prefetch(from + s * stride + k + K);
            vf x = load(from + s * stride + k, Full{});
            store(to + s * K + k, bias ? x + load(bias + k, Full{}) : x, Full{});
        }
    std::memset((void *)(to + S * K), 0, (P - S) * K * sizeof(bf16));
}

// B for products with these rows: tiles [P / 32][K / 16].
static void paired_all(u32 *to, const bf16 *rows, i64 P, i64 K) {
    for (i64 p = 0; p < P; p += 32)
        for (i64 k = 0; k < K; k += 16, to += TILE) paired(to, rows + p * K + k, K, 32);
}

// B for products with the transpose of these rows: tiles [P / 16][K / 32].
static void across(u32 *to, const bf16 *rows, i64 P, i64 K) {
    for (i64 p = 0; p < P; p += 16)
        for (i64 k = 0; k < K; k += 32, to += TILE) transpose(to, (const u32 *)(rows + p * K + k), K / 2);
}

// Rows of K floats to bf16, each times `by` of its row if given.
static void put_rows(bf16 *to, i64 stride, const float *from, i64 ld, const float *by, i64 n, i64 K) {
    for (i64 s = 0; s < n; s++)
        for (i64 k = 0; k < K; k += W) {
            vf x = load(from + s * ld + k, Full{});
            store(to + s * stride + k, by ? x * by[s] : x, Full{});
        }
}

// out (B * S, H * K; a row out_ld from the next), tops and bys (B, H, S) from qkv (B * S, 3 * H * K) + bias, mask (B, S) for keys and position
// (H, keys S, queries S), which may be null.
static void forward(bf16 *out, i64 out_ld, float *tops, float *bys, const bf16 *qkv, const float *bias, const float *mask,
                    const float *position, float scale, i64 B, i64 H, i64 S, i64 K) {
    i64 P = (S + 31) / 32 * 32, D = H * K;
#pragma omp parallel
    {
        configure_tiles();
        scratch.reset(P * K * 2 * 5 + P * 16 * 4 * 2 + 16 * K * 4 + 4096);
        bf16 *keys = scratch.take<bf16>(P * K), *plain = scratch.take<bf16>(P * K);
        u32 *queries = scratch.take<u32>(P * K / 2), *values = scratch.take<u32>(P * K / 2);
        float *scores = scratch.take<float>(P * 16), *found = scratch.take<float>(16 * K);
        u32 *pairs = scratch.take<u32>(P / 2 * 16), *shares = scratch.take<u32>(P / 2 * 16);
#pragma omp for schedule(static)
        for (i64 bh = 0; bh < B * H; bh++) {
            i64 b = bh / H, h = bh % H;
            const bf16 *at = qkv + b * S * 3 * D + h * K;
            const float *add = bias + h * K, *masked = mask + b * S;
            rows(keys, at + D, 3 * D, add + D, S, P, K);
            rows(plain, at, 3 * D, add, S, P, K);
            across(queries, plain, P, K);
            rows(plain, at + 2 * D, 3 * D, add + 2 * D, S, P, K);
            paired_all(values, plain, P, K);
            for (i64 q = 0; q < S; q += 16) {
                const u32 *query = queries + q / 16 * (K / 32) * TILE;
                for (i64 s = 0; s < P; s += 32)
                    products<false>(scores + s * 16, scores + s * 16 + 256, 16, keys + s * K, keys + (s + 16) * K, K, 32, query, query, TILE, K / 32);
                int n = S - q < 16 ? S - q : 16;
                vf most = all(-INFINITY), total = all(0);
                for (i64 s = 0; s < S; s++) {
                    vf x = load(scores + s * 16, Full{}) * scale + masked[s];
                    if (position) x += load(position + (h * S + s) * S + q, n);
                    store(scores + s * 16, x, Full{});
                    most = x > most ? x : most;
                }
                for (i64 s = 0; s < P; s += 2) {
                    vf even = s < S ? exp_roughly(load(scores + s * 16, Full{}) - most) : all(0);
                    vf odd = s + 1 < S ? exp_roughly(load(scores + s * 16 + 16, Full{}) - most) : all(0);
                    total += even + odd;
                    vu both = pair(even, odd);
                    std::memcpy(pairs + s * 8, &both, 64);
                }
                for (i64 s = 0; s < P; s += 32) transpose(shares + s * 8, pairs + s * 8, 16);
                alignas(64) float by[16];
                store(by, 1.0f / total, Full{});
                raw_store(tops + bh * S + q, most, n);
                raw_store(bys + bh * S + q, 1.0f / total, n);
                for (i64 k = 0; k < K; k += 32)
                    products<false>(found + k, found + k + 16, K, (bf16 *)shares, (bf16 *)shares, 32, 512, values + k / 16 * TILE, values + (k / 16 + 1) * TILE, K / 16 * TILE, P / 32);
                put_rows(out + (b * S + q) * out_ld + h * K, out_ld, found, K, by, n, K);
            }
        }
        _tile_release();
    }
}

// dqkv (B * S, 3 * H * K) from dout (B * S, H * K) and what `forward` read and wrote.
static void backward(bf16 *dqkv, i64 dqkv_ld, const bf16 *dout, const float *tops, const float *bys, const bf16 *qkv,
                     const float *bias, const float *mask, const float *position, float scale, i64 B, i64 H, i64 S, i64 K) {
    i64 P = (S + 31) / 32 * 32, D = H * K;
#pragma omp parallel
    {
        configure_tiles();
        scratch.reset(P * K * 2 * 9 + P * K * 4 * 2 + P * 16 * 4 * 2 + P * 16 * 4 + P * 32 * 2 * 2 + 16 * K * 4 + 8192);
        bf16 *keys = scratch.take<bf16>(P * K), *values = scratch.take<bf16>(P * K);
        bf16 *plain_q = scratch.take<bf16>(P * K), *plain_d = scratch.take<bf16>(P * K);
        u32 *q_across = scratch.take<u32>(P * K / 2), *d_across = scratch.take<u32>(P * K / 2);
        u32 *q_paired = scratch.take<u32>(P * K / 2), *d_paired = scratch.take<u32>(P * K / 2), *k_paired = scratch.take<u32>(P * K / 2);
        float *dk = scratch.take<float>(P * K), *dv = scratch.take<float>(P * K), *found = scratch.take<float>(16 * K);
        float *p = scratch.take<float>(P * 16), *dp = scratch.take<float>(P * 16);
        u32 *pairs = scratch.take<u32>(P / 2 * 16), *shares = scratch.take<u32>(P / 2 * 16);
        bf16 *pt = scratch.take<bf16>(P * 32), *dst = scratch.take<bf16>(P * 32);
#pragma omp for schedule(static)
        for (i64 bh = 0; bh < B * H; bh++) {
            i64 b = bh / H, h = bh % H;
            const bf16 *at = qkv + b * S * 3 * D + h * K;
            bf16 *to = dqkv + b * S * dqkv_ld + h * K;
            const float *add = bias + h * K, *masked = mask + b * S;
            rows(plain_q, at, 3 * D, add, S, P, K);
            rows(keys, at + D, 3 * D, add + D, S, P, K);
            rows(values, at + 2 * D, 3 * D, add + 2 * D, S, P, K);
            rows(plain_d, dout + b * S * D + h * K, D, nullptr, S, P, K);
            across(q_across, plain_q, P, K);
            across(d_across, plain_d, P, K);
            paired_all(q_paired, plain_q, P, K);
            paired_all(d_paired, plain_d, P, K);
            paired_all(k_paired, keys, P, K);
            std::memset(dk, 0, P * K * 4);
            std::memset(dv, 0, P * K * 4);
            std::memset((void *)(pt + S * 32), 0, (P - S) * 64);
            std::memset((void *)(dst + S * 32), 0, (P - S) * 64);
            for (i64 q = 0; q < P; q += 16) {
                int n = S - q < 16 ? (S - q > 0 ? S - q : 0) : 16;
                for (i64 s = 0; s < S; s += 16)
                    products<false>(p + s * 16, dp + s * 16, 16, keys + s * K, values + s * K, K, 32, q_across + q / 16 * (K / 32) * TILE, d_across + q / 16 * (K / 32) * TILE, TILE, K / 32);
                vf most = raw_load<vf>(tops + bh * S + q, n), by = raw_load<vf>(bys + bh * S + q, n), along = all(0);
                for (i64 s = 0; s < S; s++) {
                    vf x = load(p + s * 16, Full{}) * scale + masked[s] - most;
                    if (position && n) x += load(position + (h * S + s) * S + q, n);
                    x = exp_roughly(x) * by;
                    store(p + s * 16, x, Full{});
                    along += x * load(dp + s * 16, Full{});
                }
                for (i64 s = 0; s < P; s += 2) {
                    vf ds[2] = {all(0), all(0)};
                    for (i64 i = 0; i < 2 && s + i < S; i++) {
                        vf x = load(p + (s + i) * 16, Full{});
                        ds[i] = x * scale * (load(dp + (s + i) * 16, Full{}) - along);
                        store(pt + (s + i) * 32 + q % 32, x, Full{});
                        store(dst + (s + i) * 32 + q % 32, ds[i], Full{});
                    }
                    vu both = pair(ds[0], ds[1]);
                    std::memcpy(pairs + s * 8, &both, 64);
                }
                for (i64 s = 0; s < P; s += 32) transpose(shares + s * 8, pairs + s * 8, 16);
                for (i64 k = 0; k < K; k += 32)
                    products<false>(found + k, found + k + 16, K, (bf16 *)shares, (bf16 *)shares, 32, 512, k_paired + k / 16 * TILE, k_paired + (k / 16 + 1) * TILE, K / 16 * TILE, P / 32);
                if (n) put_rows(to + q * dqkv_ld, dqkv_ld, found, K, nullptr, n, K);
                if (q % 32)
                    for (i64 s = 0; s < S; s += 16)
                        for (i64 k = 0; k < K; k += 16) {
                            i64 tile = (q / 32 * (K / 16) + k / 16) * TILE;
                            products<true>(dv + s * K + k, dk + s * K + k, K, pt + s * 32, dst + s * 32, 32, 0, d_paired + tile, q_paired + tile, 0, 1);
                        }
            }
            put_rows(to + D, dqkv_ld, dk, K, nullptr, S, K);
            put_rows(to + 2 * D, dqkv_ld, dv, K, nullptr, S, K);
        }
        _tile_release();
    }
}

// Linux lends a process the tile registers when asked (arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA). 0: it doesn't.
extern "C" int tiles_allowed() { return syscall(SYS_arch_prctl, 0x1023, 18) == 0; }

extern "C" void attention_forward(bf16 *out, i64 out_ld, float *tops, float *bys, const bf16 *qkv, const float *bias, const float *mask,
                                  const float *position, float scale, i64 B, i64 H, i64 S, i64 K) {
    forward(out, out_ld, tops, bys, qkv, bias, mask, position, scale, B, H, S, K);
}
extern "C" void attention_backward(bf16 *dqkv, i64 dqkv_ld, const bf16 *dout, const float *tops, const float *bys, const bf16 *qkv,
                                   const float *bias, const float *mask, const float *position, float scale, i64 B,
                                   i64 H, i64 S, i64 K) {
    backward(dqkv, dqkv_ld, dout, tops, bys, qkv, bias, mask, position, scale, B, H, S, K);
}
#else
extern "C" int tiles_allowed() { return 0; }
#endif
