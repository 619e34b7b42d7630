// Attention of short texts in one pass, on AMX tiles: softmax(scale q k^T + position + mask) v, and its gradient.
//
// Scores are made transposed, keys down and queries across, so that softmax's sums over keys are sums of vectors, and
// nothing of size S x S leaves the cache: the way back makes the scores again, from each query's largest score and the
// reciprocal of its sum. Scores are in units of log 2, so that e^score is 2^score.
//
// Biases of keys and values cost nothing in between: the first adds the same to all scores of a query, the second to its
// output (its shares' sum is 1) and to all of dp. So keys and values are read as their product with the weights left them.
//
// B texts, H heads, S width, K features of a head (a multiple of 32), Q <= S the first queries of each text that are
// wanted, P and R: S and Q rounded up to 32. Its twin is attention.ByProducts.

#include "heads.h"

#ifdef __AMX_BF16__
#include <sys/syscall.h>
#include <unistd.h>

constexpr float LOG2E = 1.44269504f;

static inline vf larger(vf x, vf y) { return (vf)_mm512_max_ps((__m512)x, (__m512)y); }

// by * 2^x to 1 part in 13,000, by a cubic fitted to it on [0, 1); `by` has been multiplied into the cubic.
struct Powers {
    vf c0, c1, c2, c3;
    Powers(vf by) : c0(by * 0.99992522f), c1(by * 0.69583354f), c2(by * 0.22606716f), c3(by * 0.07802452f) {}
    vf operator()(vf x) const {
        vf r = (vf)_mm512_reduce_ps((__m512)x, 9);  // x less the integer below it
        return (vf)_mm512_scalef_ps((__m512)(c0 + r * (c1 + r * (c2 + r * c3))), (__m512)x);
    }
};

// A key's mask in units of log 2, finite so that a text without keys has equal shares.
static void masks(float *to, const float *mask, i64 S) {
    over(S, [&](i64 s, auto n) {
        vf x = load(mask + s, n) * LOG2E;
        store(to + s, x < -3e38f ? all(-3e38f) : x, n);
    });
}

// 32 queries, of which n exist, in two tiles of 16. The functions below are made for one tile and for two (N).
struct Queries {
    const float *masked, *position;  // of the keys; at the first query, keys `stride` apart, or null
    float scale;
    i64 stride, n;
    // Tile i's scores for key s, from their product.
    vf score(const float *product, i64 s, int i) const {
        vf x = load(product + i * 16, Full{}) * scale + masked[s];
        if (position) x += load(position + s * stride + i * 16, count(i)) * LOG2E;
        return x;
    }
    int count(int i) const { i64 left = n - i * 16; return left < 0 ? 0 : left < 16 ? left : 16; }
};

// From scores x [S][32] to their powers 2^(x - most), pairs of keys down and queries across: tiles [S / 32][2].
template <int N> static void softmax(u32 *__restrict pairs, float *tops, float *bys, float *__restrict x, Queries of, i64 S, Ahead &next) {
    vf total[2] = {all(0), all(0)}, most[2] = {all(-INFINITY), all(-INFINITY)};
    for (i64 s = 0; s < S; s++) {
        next.step();
        for (int i = 0; i < N; i++) {
            vf score = of.score(x + s * 32, s, i);
            store(x + s * 32 + i * 16, score, Full{});
            most[i] = larger(score, most[i]);
        }
    }
    if (S % 2)
        for (int i = 0; i < N; i++) store(x + S * 32 + i * 16, all(-INFINITY), Full{});
    Powers power(all(1));
    for (i64 s = 0; s < S; s += 2) {
        next.step();
        for (int i = 0; i < N; i++) {
            const float *at = x + s * 32 + i * 16;
            vf even = power(load(at, Full{}) - most[i]), odd = power(load(at + 32, Full{}) - most[i]);
            total[i] += even + odd;
            raw_store(pairs + (s / 32 * 2 + i) * TILE + s % 32 * 8, pair(even, odd), Full{});
        }
    }
    for (int i = 0; i < N; i++) {
        store(tops + i * 16, most[i], Full{});
        store(bys + i * 16, 1.0f / total[i], Full{});
    }
}

// out (B * Q, H * K; a row out_ld from the next), tops and bys (B, H, Q) from qkv (B * S, 3 * H * K) + bias, mask (B, S) for keys
// and position (H, keys S, queries S), which may be null.
extern "C" void attention_forward(bf16 *out, i64 out_ld, float *tops, float *bys, const bf16 *qkv, const float *bias, const float *mask,
                    const float *position, float scale, i64 B, i64 H, i64 S, i64 K, i64 Q) {
    i64 P = (S + 31) / 32 * 32, R = (Q + 31) / 32 * 32, D = H * K;
#pragma omp parallel
    {
        Tiles tiles;
        scratch.reset((P * K * 3 + R * K * 2) * 2 + P * 32 * 4 + P * 4 + P * 32 * 4 + 32 * 32 * 4 + 8192);
        bf16 *keys = scratch.zeros<bf16>(P * K), *plain = scratch.zeros<bf16>((P > R ? P : R) * K);
        u32 *queries = scratch.zeros<u32>(R * K / 2), *values = scratch.take<u32>(P * K / 2);
        float *scores = scratch.take<float>(P * 32), *masked = scratch.take<float>(P), *found = scratch.take<float>(32 * 32);
        u32 *pairs = scratch.zeros<u32>(P * 16), *shares = scratch.zeros<u32>(P * 16);
#pragma omp for schedule(static)
        for (i64 bh = 0; bh < B * H; bh++) {
            i64 b = bh / H, h = bh % H;
            const bf16 *at = qkv + b * S * 3 * D + h * K;
            const float *add = bias + h * K;
            Ahead next(qkv + (b + 1) * S * 3 * D + h * S * 3 * K, S * 3 * K, S * R / 32 * 3 / 2);
            rows(plain, at, 3 * D, add, Q, K);
            rows(keys, at + D, 3 * D, nullptr, S, K);
            across(queries, plain, Q, K);
            rows(plain, at + 2 * D, 3 * D, nullptr, S, K);
            paired_all(values, plain, S, K);
            masks(masked, mask + b * S, S);
            for (i64 q = 0; q < Q; q += 32) {
                for (i64 s = 0; s < S; s += 32) {
                    multiply(keys + s * K, K, 32, queries + q * K / 2, 2 * TILE, K / 32);
                    put_product(scores + s * 32);
                }
                Queries of{masked, position ? position + h * S * S + q : nullptr, scale * LOG2E, S, Q - q};
                float most[32], by[32] = {};
                (Q - q > 16 ? softmax<2> : softmax<1>)(pairs, most, by, scores, of, S, next);
                (Q - q > 16 ? turned<2> : turned<1>)(shares, pairs, P);
                for (i64 k = 0; k < K; k += 32) {
                    multiply((bf16 *)shares, 32, 4 * TILE, values + k / 16 * TILE, K / 16 * TILE, P / 32);
                    put_product(found);
                    put_rows(out + (b * Q + q) * out_ld + h * K + k, out_ld, found, by, add + 2 * D + k, Q - q, in_order);
                }
                i64 n = Q - q < 32 ? Q - q : 32;
                std::memcpy(tops + bh * Q + q, most, n * 4);
                std::memcpy(bys + bh * Q + q, by, n * 4);
            }
        }
    }
}

// p [S][32] in bf16 and along = sum over keys of p * dp, for 32 keys from s on, from their products with queries and dp [S][32].
template <int N> static void shares_again(bf16 *__restrict p, vf *along, const float *products, const float *dp, const vf *most, const Powers *share,
                                          Queries of, i64 s, i64 S, Ahead &next) {
    vf sums[2] = {along[0], along[1]};
    for (i64 end = S < s + 32 ? S : s + 32; s < end; s++, products += 32) {
        next.step();
        vf x[2] = {};
        for (int i = 0; i < N; i++) {
            x[i] = share[i](of.score(products, s, i) - most[i]);
            sums[i] += x[i] * load(dp + s * 32 + i * 16, Full{});
        }
        raw_store(p + s * 32, both(x[0], x[1]), Full{});
    }
    for (int i = 0; i < 2; i++) along[i] = sums[i];
}

// The query of column i of 32 in `pairs` below: unpacking leaves 0 to 3, 8 to 11 and so on in the first tile.
constexpr auto unpacked = [](i64 i) { return i % 16 / 4 * 8 + i % 4 + i / 16 * 4; };

// ds [S][32] = p * (dp - along) in bf16; the same in `pairs`, two keys to a dword: tiles [S / 32][2].
template <int N> static void score_gradients(bf16 *__restrict ds, u32 *__restrict pairs, const bf16 *p, const float *dp, const vf *along, i64 S,
                                             Ahead &next, Ahead &more) {
    for (i64 s = 0; s < S; s += 2) {
        next.step();
        more.step();
        vu row[2];
        for (i64 j = 0; j < 2; j++) {
            vf x[2] = {};
            for (int i = 0; i < N; i++) {
                i64 at = (s + j) * 32 + i * 16;
                x[i] = load(p + at, Full{}) * (load(dp + at, Full{}) - along[i]);
            }
            row[j] = both(x[0], x[1]);
            raw_store(ds + (s + j) * 32, row[j], Full{});
        }
        u32 *to = pairs + s / 32 * 2 * TILE + s % 32 * 8;
        raw_store(to, _mm512_unpacklo_epi16((__m512i)row[0], (__m512i)row[1]), Full{});
        raw_store(to + TILE, _mm512_unpackhi_epi16((__m512i)row[0], (__m512i)row[1]), Full{});
    }
}

// dqkv (B * S, 3 * H * K) from dout (B * Q, H * K) and what attention_forward read and wrote.
extern "C" void attention_backward(bf16 *dqkv, i64 dqkv_ld, const bf16 *dout, const float *tops, const float *bys, const bf16 *qkv,
                     const float *bias, const float *mask, const float *position, float scale, i64 B, i64 H, i64 S, i64 K, i64 Q) {
    i64 P = (S + 31) / 32 * 32, R = (Q + 31) / 32 * 32, D = H * K;
#pragma omp parallel
    {
        Tiles tiles;
        scratch.reset((P * K * 3 + R * K * 5 + P * R * 2) * 2 + P * 32 * 4 + P * 4 + P * 32 * 4 + 32 * 32 * 4 * 2 + 8192);
        bf16 *keys = scratch.zeros<bf16>(P * K), *values = scratch.zeros<bf16>(P * K), *plain = scratch.zeros<bf16>(R * K);
        u32 *q_across = scratch.zeros<u32>(R * K / 2), *d_across = scratch.zeros<u32>(R * K / 2);
        u32 *q_paired = scratch.take<u32>(R * K / 2), *d_paired = scratch.take<u32>(R * K / 2), *k_paired = scratch.take<u32>(P * K / 2);
        float *block = scratch.take<float>(32 * 32), *dp = scratch.take<float>(P * 32), *masked = scratch.take<float>(P);
        float *found = scratch.take<float>(32 * 32), ones[32], scales[32];
        for (int i = 0; i < 32; i++) { ones[i] = 1; scales[i] = scale; }
        u32 *pairs = scratch.zeros<u32>(P * 16), *turned_ds = scratch.take<u32>(P * 16);
        bf16 *p = scratch.zeros<bf16>(P * R), *ds = scratch.take<bf16>(P * R);  // [R / 32][P][32]
#pragma omp for schedule(static)
        for (i64 bh = 0; bh < B * H; bh++) {
            i64 b = bh / H, h = bh % H;
            const bf16 *at = qkv + b * S * 3 * D + h * K;
            bf16 *to = dqkv + b * S * dqkv_ld + h * K;
            Ahead next(qkv + (b + 1) * S * 3 * D + h * S * 3 * K, S * 3 * K, S * R / 32 * 3 / 2);
            Ahead next_d(dout + (b + 1) * Q * D + h * Q * K, Q * K, (S + 1) / 2 * R / 32);
            rows(keys, at + D, 3 * D, nullptr, S, K);
            rows(values, at + 2 * D, 3 * D, nullptr, S, K);
            paired_all(k_paired, keys, S, K);
            rows(plain, at, 3 * D, bias + h * K, Q, K);
            across(q_across, plain, Q, K);
            paired_all(q_paired, plain, Q, K);
            rows(plain, dout + b * Q * D + h * K, D, nullptr, Q, K);
            across(d_across, plain, Q, K);
            paired_all(d_paired, plain, Q, K);
            masks(masked, mask + b * S, S);
            for (i64 q = 0; q < Q; q += 32) {
                Queries of{masked, position ? position + h * S * S + q : nullptr, scale * LOG2E, S, Q - q};
                vf most[2], along[2] = {all(0), all(0)};
                for (int i = 0; i < 2; i++) most[i] = raw_load<vf>(tops + bh * Q + q + i * 16, of.count(i));
                Powers share[2] = {raw_load<vf>(bys + bh * Q + q, of.count(0)), raw_load<vf>(bys + bh * Q + q + 16, of.count(1))};
                for (i64 s = 0; s < S; s += 32) {
                    multiply(keys + s * K, K, 32, q_across + q * K / 2, 2 * TILE, K / 32);
                    put_product(block);
                    multiply(values + s * K, K, 32, d_across + q * K / 2, 2 * TILE, K / 32);
                    put_product(dp + s * 32);
                    (Q - q > 16 ? shares_again<2> : shares_again<1>)(p + q * P, along, block, dp, most, share, of, s, S, next);
                }
                (Q - q > 16 ? score_gradients<2> : score_gradients<1>)(ds + q * P, pairs, p + q * P, dp, along, S, next, next_d);
                turned<2>(turned_ds, pairs, P);
                for (i64 k = 0; k < K; k += 32) {
                    multiply((bf16 *)turned_ds, 32, 4 * TILE, k_paired + k / 16 * TILE, K / 16 * TILE, P / 32);
                    put_product(found);
                    put_rows(to + q * dqkv_ld + k, dqkv_ld, found, scales, nullptr, Q - q, unpacked);
                }
            }
            for (i64 s = Q; s < S; s++) std::memset((void *)(to + s * dqkv_ld), 0, K * 2);
            for (i64 s = 0; s < S; s += 32)
                for (i64 k = 0; k < K; k += 32) {
                    bf16 *row = to + s * dqkv_ld + k;
                    multiply(ds + s * 32, 32, P * 32, q_paired + k / 16 * TILE, K / 16 * TILE, R / 32);
                    put_product(block);
                    put_rows(row + D, dqkv_ld, block, scales, nullptr, S - s, in_order);
                    multiply(p + s * 32, 32, P * 32, d_paired + k / 16 * TILE, K / 16 * TILE, R / 32);
                    put_product(found);
                    put_rows(row + 2 * D, dqkv_ld, found, ones, nullptr, S - s, in_order);
                }
        }
    }
}

// Linux lends a process the tile registers when asked (arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA). 0: it doesn't.
extern "C" int tiles_allowed() { return syscall(SYS_arch_prctl, 0x1023, 18) == 0; }
#else
extern "C" int tiles_allowed() { return 0; }
#endif
