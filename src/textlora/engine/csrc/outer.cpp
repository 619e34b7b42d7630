// sums (R, C) = low^T rows: what an adapter's gradient is made of. low (T, R) is thin, rows (T, C) is read once.
//
// T tokens, C a multiple of 64, R ranks. Its twin is torch.mm.

#include "tiles.h"

#ifdef __AMX_BF16__
#include <omp.h>

// The most columns that a thread sums at once: their sums stay in its cache, while their rows are read as they lie.
constexpr i64 COLUMNS = 768;

// 32 rows of low, turned, as tiles of A [R / 16]: 16 ranks of 32 tokens each, zeros around what there is.
static void turned(bf16 *to, const bf16 *low, i64 ld, i64 T, i64 R) {
    for (i64 r = 0; r < R; r += 16)
        for (i64 i = 0; i < 16; i++)
            for (i64 j = 0; j < 32; j++, to++) *to = j < T && r + i < R ? low[j * ld + r + i] : bf16{0};
}

extern "C" void outer(float *sums, const bf16 *low, i64 low_ld, const bf16 *rows, i64 rows_ld, i64 T, i64 R, i64 C) {
    i64 ranks = (R + 15) / 16, steps = (T + 31) / 32;
    bf16 *a = (bf16 *)std::aligned_alloc(64, steps * ranks * 1024);
#pragma omp parallel
    {
#pragma omp for schedule(static)
        for (i64 s = 0; s < steps; s++) turned(a + s * ranks * 512, low + s * 32 * low_ld, low_ld, T - s * 32, R);
        configure_tiles();
        scratch.reset(ranks * 16 * COLUMNS * 4 + 4 * TILE * 4 + 4096);
        float *found = scratch.take<float>(ranks * 16 * COLUMNS);
        u32 *b = scratch.take<u32>(4 * TILE);
        i64 share = (C / 64 + omp_get_num_threads() - 1) / omp_get_num_threads() * 64;
        share = share < COLUMNS ? share : COLUMNS;
#pragma omp for schedule(static)
        for (i64 c = 0; c < C; c += share) {
            i64 width = c + share < C ? share : C - c;
            std::memset(found, 0, ranks * 16 * share * 4);
            for (i64 s = 0; s < steps; s++)
                for (i64 k = 0; k < width; k += 64) {
                    for (i64 i = 0; i < 4; i++)
                        paired(b + i * TILE, rows + s * 32 * rows_ld + c + k + i * 16, rows_ld, T - s * 32);
                    for (i64 r = 0; r < ranks; r++) {
                        float *to = found + r * 16 * share + k;
                        _tile_loadd(0, to, share * 4); _tile_loadd(1, to + 16, share * 4);
                        _tile_loadd(2, to + 32, share * 4); _tile_loadd(3, to + 48, share * 4);
                        _tile_loadd(4, a + (s * ranks + r) * 512, 64);
                        _tile_loadd(5, b, 64); _tile_dpbf16ps(0, 4, 5);
                        _tile_loadd(6, b + TILE, 64); _tile_dpbf16ps(1, 4, 6);
                        _tile_loadd(5, b + 2 * TILE, 64); _tile_dpbf16ps(2, 4, 5);
                        _tile_loadd(6, b + 3 * TILE, 64); _tile_dpbf16ps(3, 4, 6);
                        _tile_stored(0, to, share * 4); _tile_stored(1, to + 16, share * 4);
                        _tile_stored(2, to + 32, share * 4); _tile_stored(3, to + 48, share * 4);
                    }
                }
            for (i64 r = 0; r < R; r++) std::memcpy(sums + r * C + c, found + r * share, width * 4);
        }
        _tile_release();
    }
    std::free(a);
}
#endif
