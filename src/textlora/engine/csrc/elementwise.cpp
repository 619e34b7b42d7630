// What stands between the matrix products of an encoder block. Each kernel is made for bf16 and fp32 storage, sums in
// fp32, and has a twin in reference.py, in torch, which says what it computes and is what its test compares it with.
//
// T tokens (texts x width), D features, B texts, H heads, S width, K features of a head. Where an argument is named
// ld_x, rows of x lie that many numbers apart: x is part of a wider matrix.

#include "gelu.h"

// out = gelu(z + bias); its derivative there goes to `slope`, if that isn't null. z, out, slope (T, D), bias (D).
template <class N> static void gelu_forward(N *out, i64 ld_out, Slope<N> *slope, const N *z, const float *bias, i64 T, i64 D) {
#pragma omp parallel for schedule(static)
    for (i64 t = 0; t < T; t++)
        over(D, [&](i64 d, auto n) {
            Gelus found = gelu(load(z + t * D + d, n) + load(bias + d, n), N{});
            store(out + t * ld_out + d, found.value, n);
            if (slope) store_slope(slope + t * D + d, found.slope, n);
        });
}

// to *= slope, number by number; both (T, D).
template <class N> static void multiply(N *to, i64 ld_to, const Slope<N> *slope, i64 T, i64 D) {
#pragma omp parallel for schedule(static)
    for (i64 t = 0; t < T; t++)
        over(D, [&](i64 d, auto n) { store(to + t * ld_to + d, load(to + t * ld_to + d, n) * load_slope(slope + t * D + d, n), n); });
}

// h += bias + residual, in place, and y = LayerNorm(h); mean and 1 / deviation of each row (T) are for the way back.
template <class N>
static void norm_forward(N *y, i64 ld_y, N *h, const N *residual, i64 ld_residual, const float *bias, const float *gamma, const float *beta,
                         float *mean, float *rstd, float eps, i64 T, i64 D) {
#pragma omp parallel for schedule(static)
    for (i64 t = 0; t < T; t++) {
        N *row = h + t * D;
        vf sums = all(0), squares = all(0);
        over(D, [&](i64 d, auto n) {
            store(row + d, load(row + d, n) + load(bias + d, n) + load(residual + t * ld_residual + d, n), n);
            sums += load(row + d, n);
        });
        float m = sum(sums) / D;
        over(D, [&](i64 d, auto n) {
            vf x = first(load(row + d, n) - m, n, 0);
            squares += x * x;
        });
        float r = 1.0f / std::sqrt(sum(squares) / D + eps);
        over(D, [&](i64 d, auto n) {
            store(y + t * ld_y + d, (load(row + d, n) - m) * r * load(gamma + d, n) + load(beta + d, n), n);
        });
        mean[t] = m;
        rstd[t] = r;
    }
}

// dh = the gradient at LayerNorm's input h, from dy + more at its output; `more` may be null, dh may be dy.
template <class N>
static void norm_backward(N *dh, i64 ld_dh, const N *dy, i64 ld_dy, const N *more, i64 ld_more, const N *h, const float *mean, const float *rstd,
                          const float *gamma, i64 T, i64 D) {
#pragma omp parallel for schedule(static)
    for (i64 t = 0; t < T; t++) {
        float g[D], m = mean[t], r = rstd[t];
        vf sums = all(0), along = all(0);
        over(D, [&](i64 d, auto n) {
            vf x = load(dy + t * ld_dy + d, n);
            if (more) x += load(more + t * ld_more + d, n);
            x *= load(gamma + d, n);
            store(g + d, x, n);
            sums += x;
            along += x * (load(h + t * D + d, n) - m);
        });
        float a = sum(sums) / D, b = sum(along) * r * r / D;
        over(D, [&](i64 d, auto n) {
            store(dh + t * ld_dh + d, (load(g + d, n) - a - (load(h + t * D + d, n) - m) * b) * r, n);
        });
    }
}

// p = softmax(scale * p + position + mask) over each row, in place: p (B, H, S, S), mask (B, S) for a row's keys,
// position (H, S, S) or null.
template <class N>
static void softmax_forward(N *p, const float *mask, const float *position, float scale, i64 B, i64 H, i64 S) {
#pragma omp parallel for schedule(static) collapse(2)
    for (i64 bh = 0; bh < B * H; bh++)
        for (i64 q = 0; q < S; q++) {
            N *row = p + (bh * S + q) * S;
            const float *keys = mask + bh / H * S, *places = position ? position + (bh % H * S + q) * S : nullptr;
            float x[S + W];
            vf tops = all(-INFINITY), sums = all(0);
            over(S, [&](i64 s, auto n) {
                vf v = load(row + s, n) * scale + load(keys + s, n);
                if (places) v += load(places + s, n);
                v = first(v, n, -INFINITY);
                tops = v > tops ? v : tops;
                store(x + s, v, Full{});
            });
            float most = largest(tops);
            over(S, [&](i64 s, auto n) {
                vf v = first(exp(load(x + s, Full{}) - most), n, 0);
                sums += v;
                store(x + s, v, Full{});
            });
            float by = 1.0f / sum(sums);
            over(S, [&](i64 s, auto n) { store(row + s, load(x + s, Full{}) * by, n); });
        }
}

// dp = scale * p * (dp - sum(dp * p)) over each row, in place: the gradient at softmax's input, before its scale.
template <class N> static void softmax_backward(N *dp, const N *p, float scale, i64 rows, i64 S) {
#pragma omp parallel for schedule(static)
    for (i64 row = 0; row < rows; row++) {
        const N *shares = p + row * S;
        N *to = dp + row * S;
        vf sums = all(0);
        over(S, [&](i64 s, auto n) { sums += load(to + s, n) * load(shares + s, n); });
        float along = sum(sums);
        over(S, [&](i64 s, auto n) { store(to + s, load(shares + s, n) * scale * (load(to + s, n) - along), n); });
    }
}

// heads (n, B, H, S, K) = rows (B * S, n * H * K) + bias (n * H * K, or null); n = 3 for query, key, value together.
template <class N>
static void split_heads(N *heads, const N *rows, i64 ld, const float *bias, i64 n, i64 B, i64 H, i64 S, i64 K) {
#pragma omp parallel for schedule(static)
    for (i64 b = 0; b < B; b++)
        for (i64 i = 0; i < n; i++)
            for (i64 h = 0; h < H; h++) {
                N *to = heads + ((i * B + b) * H + h) * S * K;
                const N *from = rows + b * S * ld + (i * H + h) * K;
                const float *add = bias ? bias + (i * H + h) * K : nullptr;
                for (i64 s = 0; s < S; s++, to += K, from += ld)
                    over(K, [&](i64 k, auto m) {
                        vf x = load(from + k, m);
                        store(to + k, add ? x + load(add + k, m) : x, m);
                    });
            }
}

// rows (B * S, n * H * K) = heads (n, B, H, S, K).
template <class N> static void join_heads(N *rows, i64 ld, const N *heads, i64 n, i64 B, i64 H, i64 S, i64 K) {
#pragma omp parallel for schedule(static)
    for (i64 b = 0; b < B; b++)
        for (i64 i = 0; i < n; i++)
            for (i64 h = 0; h < H; h++) {
                N *to = rows + b * S * ld + (i * H + h) * K;
                const N *from = heads + ((i * B + b) * H + h) * S * K;
                for (i64 s = 0; s < S; s++, from += K, to += ld) std::memcpy(to, from, K * sizeof(N));
            }
}

// to = (add ? to : 0) + from where chance lets it through, times `by`; elsewhere from counts as 0. All (T, D).
// A number's chance is a hash of its place and the seed (MurmurHash3's finalizer), so the way back draws the same.
template <class N>
static void dropout(N *to, i64 ld_to, const N *from, i64 ld_from, uint32_t seed, uint32_t below, float by, i64 add, i64 T, i64 D) {
#pragma omp parallel for schedule(static)
    for (i64 t = 0; t < T; t++)
        over(D, [&](i64 d, auto n) {
            typedef uint32_t vu __attribute__((vector_size(4 * W)));
            vu hash;
            for (int i = 0; i < W; i++) hash[i] = uint32_t(i);
            hash = (hash + uint32_t(t * D + d)) * 0x9e3779b9u + seed;
            hash = (hash ^ (hash >> 16)) * 0x85ebca6bu;
            hash = (hash ^ (hash >> 13)) * 0xc2b2ae35u;
            hash ^= hash >> 16;
            vf x = hash < below ? all(0) : load(from + t * ld_from + d, n) * by;
            store(to + t * ld_to + d, add ? load(to + t * ld_to + d, n) + x : x, n);
        });
}

// ------------------------------------------------------------------------------------------- names that ctypes finds

#define EXPORT(NAME, ...) extern "C" void NAME##_bf16 __VA_ARGS__(bf16) extern "C" void NAME##_fp32 __VA_ARGS__(float)
#define GELU_FORWARD(N) (N *o, i64 lo, Slope<N> *s, const N *z, const float *b, i64 T, i64 D) { gelu_forward(o, lo, s, z, b, T, D); }
#define MULTIPLY(N) (N *to, i64 lt, const Slope<N> *by, i64 T, i64 D) { multiply(to, lt, by, T, D); }
#define NORM_FORWARD(N) (N *y, i64 ly, N *h, const N *x, i64 lx, const float *b, const float *g, const float *e, float *m, float *r, float eps, i64 T, i64 D) { norm_forward(y, ly, h, x, lx, b, g, e, m, r, eps, T, D); }
#define NORM_BACKWARD(N) (N *o, i64 lo, const N *y, i64 ly, const N *more, i64 lm, const N *h, const float *m, const float *r, const float *g, i64 T, i64 D) { norm_backward(o, lo, y, ly, more, lm, h, m, r, g, T, D); }
#define SOFTMAX_FORWARD(N) (N *p, const float *m, const float *places, float by, i64 B, i64 H, i64 S) { softmax_forward(p, m, places, by, B, H, S); }
#define SOFTMAX_BACKWARD(N) (N *d, const N *p, float by, i64 rows, i64 S) { softmax_backward(d, p, by, rows, S); }
#define SPLIT_HEADS(N) (N *to, const N *rows, i64 ld, const float *b, i64 n, i64 B, i64 H, i64 S, i64 K) { split_heads(to, rows, ld, b, n, B, H, S, K); }
#define JOIN_HEADS(N) (N *rows, i64 ld, const N *from, i64 n, i64 B, i64 H, i64 S, i64 K) { join_heads(rows, ld, from, n, B, H, S, K); }
#define DROPOUT(N) (N *to, i64 lt, const N *from, i64 lf, uint32_t seed, uint32_t below, float by, i64 add, i64 T, i64 D) { dropout(to, lt, from, lf, seed, below, by, add, T, D); }

EXPORT(gelu_forward, GELU_FORWARD)
EXPORT(multiply, MULTIPLY)
EXPORT(norm_forward, NORM_FORWARD)
EXPORT(norm_backward, NORM_BACKWARD)
EXPORT(softmax_forward, SOFTMAX_FORWARD)
EXPORT(softmax_backward, SOFTMAX_BACKWARD)
EXPORT(split_heads, SPLIT_HEADS)
EXPORT(join_heads, JOIN_HEADS)
EXPORT(dropout, DROPOUT)
