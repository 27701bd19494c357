// What products and attention on matrix tiles share: how operands are packed into tiles. For processors that have them alone.
//
// A panel is 32 rows of a left operand, or 32 columns of a right one; a step is 32 numbers of k of a panel, in two tiles.
#pragma once

// gcc 12 warns of its own intrinsics' undefined operands.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>

#include "tiles.h"

// For the functions alone that use them: what this file shares with others must run everywhere.
#define WITH_TILES __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,prfchw,amx-tile,amx-bf16")))

namespace mdt::tiles {

constexpr size_t SIDE = 16;           // rows of a tile
constexpr size_t PANEL = 2 * SIDE;    // rows or columns of a panel
constexpr size_t DEPTH = 2 * SIDE;    // numbers of k of a step
constexpr size_t TILE = SIDE * DEPTH; // numbers of a tile
constexpr size_t STEP = 2 * TILE;     // numbers of a step of a panel
constexpr size_t BLOCK = PANEL * PANEL;

inline size_t panels(size_t length) {
  return (length + PANEL - 1) / PANEL;
}

inline size_t steps(size_t k) {
  return (k + DEPTH - 1) / DEPTH;
}

// 16 × 16 numbers of 32 bits, transposed.
WITH_TILES inline void transpose(__m512i* rows) {
  __m512i t[16], u[16];
  for (int i = 0; i < 8; ++i) {
    t[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
  }
  for (int i = 0; i < 4; ++i) {
    u[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    u[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    u[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    u[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(u[i], u[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(u[i], u[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(u[i + 8], u[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(u[i + 8], u[i + 12], 0xdd);
  }
  for (int i = 0; i < 4; ++i) {
    rows[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    rows[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    rows[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
    rows[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
  }
}

// The first `count` of 32 numbers in a row, as bfloat16; the others are 0.
WITH_TILES inline __m512i row_of_32(const void* data, bool is_bf16, size_t offset, size_t count) {
  const __mmask32 mask = count >= 32 ? ~0u : (1u << count) - 1;
  if (is_bf16) {
    return _mm512_maskz_loadu_epi16(mask, static_cast<const uint16_t*>(data) + offset);
  }
  const float* from = static_cast<const float*>(data) + offset;
  const __m512 low = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), from);
  const __m512 high = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask >> 16), from + 16);
  return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

// An operand as it is packed: `outer` rows (of the left one) or columns (of the right one), of k numbers each.
struct Packing {
  const void* data;
  bool is_bf16;
  size_t outer, k;
  bool k_is_inner; // whether the k numbers of a row or column lie one after another
  size_t stride;   // from these to the next ones, or from the numbers of one k to those of the next
};

// A step of the panel from row or column `first` on: its two tiles. The right operand's are pairs of rows.
WITH_TILES inline void pack_step(const Packing& packing, size_t first, size_t place, bool is_left, uint16_t* to) {
  const auto& [data, is_bf16, outer, k, k_is_inner, stride] = packing;
  const size_t outers = std::min(PANEL, outer - first), depth = std::min(DEPTH, k - place);
  if (k_is_inner && is_left) {
    for (size_t i = 0; i < PANEL; ++i) {
      _mm512_store_si512(
          to + i * DEPTH, i < outers ? row_of_32(data, is_bf16, (first + i) * stride + place, depth) : _mm512_setzero_si512());
    }
    return;
  }
  __m512i rows[2][SIDE];
  if (k_is_inner) {
    for (size_t i = 0; i < PANEL; ++i) {
      rows[i / SIDE][i % SIDE] =
          i < outers ? row_of_32(data, is_bf16, (first + i) * stride + place, depth) : _mm512_setzero_si512();
    }
  } else {
    const __m512i low = _mm512_set_epi16(
        47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
    const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(SIDE));
    for (size_t i = 0; i < SIDE; ++i) {
      const size_t there = depth > 2 * i ? depth - 2 * i : 0, offset = (place + 2 * i) * stride + first;
      const __m512i even = there > 0 ? row_of_32(data, is_bf16, offset, outers) : _mm512_setzero_si512();
      const __m512i odd =
          there > 1 ? row_of_32(data, is_bf16, offset + stride, outers) : _mm512_setzero_si512();
      rows[0][i] = _mm512_permutex2var_epi16(even, low, odd);
      rows[1][i] = _mm512_permutex2var_epi16(even, high, odd);
    }
  }
  if (k_is_inner != is_left) {
    transpose(rows[0]);
    transpose(rows[1]);
  }
  for (size_t i = 0; i < PANEL; ++i) {
    _mm512_store_si512(to + i * DEPTH, rows[i / SIDE][i % SIDE]);
  }
}

// 32 × 32 sums, transposed.
WITH_TILES inline void transpose_sums(float* sums) {
  __m512i quarters[4][SIDE];
  for (size_t q = 0; q < 4; ++q) {
    for (size_t i = 0; i < SIDE; ++i) {
      quarters[q][i] = _mm512_load_si512(sums + (q / 2 * SIDE + i) * PANEL + q % 2 * SIDE);
    }
    transpose(quarters[q]);
  }
  for (size_t q = 0; q < 4; ++q) {
    for (size_t i = 0; i < SIDE; ++i) {
      _mm512_store_si512(sums + (q % 2 * SIDE + i) * PANEL + q / 2 * SIDE, quarters[q][i]);
    }
  }
}

// The layout that `ldtilecfg` reads: eight tiles of 16 rows of 64 bytes.
struct Configuration {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t bytes_of_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// Memory that each thread keeps for what it works on, at the beginning of a line of the cache.
constexpr size_t THREAD_BYTES = 1536 << 10;

inline char* thread_memory() {
  struct Free {
    void operator()(char* memory) const {
      std::free(memory);
    }
  };
  static thread_local const std::unique_ptr<char, Free> memory{static_cast<char*>(std::aligned_alloc(64, THREAD_BYTES))};
  return memory.get();
}

} // namespace mdt::tiles
