// AMX tiles: what both kernels that use them need.
//
// A tile product takes A, 16 rows of 32 bf16, and B, 32 rows of 16 columns, pairs of rows lying interleaved in one
// dword ("VNNI"); it adds to C, 16 x 16 fp32 (Intel's Architectures Software Developer's Manual, TDPBF16PS).
#pragma once

#include "vectors.h"

#ifdef __AMX_BF16__
#include <cstdlib>

using u32 = uint32_t;
typedef u32 vu __attribute__((vector_size(64)));
constexpr i64 TILE = 256;  // dwords of a B tile

struct Scratch {  // a thread's, kept from call to call
    char *start = nullptr;
    i64 size = 0, used = 0;
    void reset(i64 most) {
        if (size < most) { std::free(start); start = (char *)std::aligned_alloc(64, most); size = most; }
        used = 0;
    }
    template <class N> N *take(i64 n) { N *p = (N *)(start + used); used += (n * i64(sizeof(N)) + 63) & ~63; return p; }
    template <class N> N *zeros(i64 n) { return (N *)std::memset((void *)take<N>(n), 0, n * sizeof(N)); }
};
static thread_local Scratch scratch;

static void configure_tiles() {
    alignas(64) struct { uint8_t palette = 1, row = 0, rest[14] = {}; uint16_t bytes[16] = {}; uint8_t rows[16] = {}; } tiles;
    for (int i = 0; i < 8; i++) { tiles.bytes[i] = 64; tiles.rows[i] = 16; }
    _tile_loadconfig(&tiles);
}

// The tile registers, and numbers too small for an exponent of their own ("denormal") as zeros: they slow down all that
// they touch, a hundredfold. The thread is torch's, so both are given back.
struct Tiles {
    unsigned before = _mm_getcsr();
    Tiles() { configure_tiles(); _mm_setcsr(before | 0x8040); }
    ~Tiles() { _mm_setcsr(before); _tile_release(); }
};

// One tile of B: 32 rows of 16 numbers, a row `stride` numbers from the next; only the first n rows are read.
static inline void paired(u32 *to, const bf16 *from, i64 stride, i64 n) {
    for (i64 r = 0; r < 32; r += 2, to += 16, from += 2 * stride) {
        vi even = r < n ? widened(raw_load<vh>(from, Full{})) : vi{};
        vi odd = r + 1 < n ? widened(raw_load<vh>(from + stride, Full{})) : vi{};
        vi both = even | odd << 16;
        std::memcpy(to, &both, 64);
    }
}
#endif
