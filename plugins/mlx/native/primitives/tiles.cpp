// A tile of the left operand has 16 rows of 32 numbers; one of the right operand has 16 pairs of rows of 16 columns, the two numbers of a
// pair beside each other; their product is added to 16 × 16 sums in f32. Both operands are packed into tiles first, in panels of 32 rows or
// columns and the whole k, rounded on the way. Then every block of 32 × 32 sums is four tiles that stay in registers over the whole k.
#include "tiles.h"

#if defined(__x86_64__)
// gcc 12 warns of its own intrinsics' undefined operands.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "kernels.h"

// For the functions alone that use them: what this file shares with others must run everywhere.
#define WITH_TILES __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,amx-tile,amx-bf16")))

namespace mdt::tiles {

namespace {

constexpr size_t SIDE = 16;           // rows of a tile
constexpr size_t PANEL = 2 * SIDE;    // rows or columns of a panel
constexpr size_t DEPTH = 2 * SIDE;    // steps of k of a tile
constexpr size_t TILE = SIDE * DEPTH; // numbers of a tile
// Row panels of a task.
constexpr size_t ROWS_AT_ONCE = 8;
// Bytes of column panels that every row panel of a task meets before the next ones come: they stay in the second cache.
constexpr size_t BYTES_OF_COLUMNS = 512 << 10;

size_t panels(size_t length) {
  return (length + PANEL - 1) / PANEL;
}

size_t steps(size_t k) {
  return (k + DEPTH - 1) / DEPTH;
}

bool permitted() {
  constexpr long ARCH_REQ_XCOMP_PERM = 0x1023, TILE_DATA = 18;
  return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0;
}

bool has_instructions() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  __asm__("cpuid" : "=a"(eax), "=b"(ebx), "=c"(ecx), "=d"(edx) : "a"(7), "c"(0));
  constexpr unsigned AMX_BF16 = 1u << 22, AMX_TILE = 1u << 24;
  const bool has_tiles = (edx & AMX_BF16) != 0 && (edx & AMX_TILE) != 0;
  return has_tiles && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bf16");
}

// 16 × 16 numbers of 32 bits, transposed.
WITH_TILES void transpose(__m512i* rows) {
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
WITH_TILES __m512i row_of_32(const void* data, bool is_bf16, size_t offset, size_t count) {
  const __mmask32 mask = count >= 32 ? ~0u : (1u << count) - 1;
  if (is_bf16) {
    return _mm512_maskz_loadu_epi16(mask, static_cast<const uint16_t*>(data) + offset);
  }
  const float* from = static_cast<const float*>(data) + offset;
  const __m512 low = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), from);
  const __m512 high = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask >> 16), from + 16);
  return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

// The first `count` of 16 numbers of two rows, as bfloat16, those of one column beside each other; the others are 0.
WITH_TILES __m512i pair_of_rows(
    const void* data, bool is_bf16, size_t offset, size_t stride, size_t rows, size_t count) {
  const __mmask16 all = count >= 16 ? 0xffff : static_cast<__mmask16>((1u << count) - 1);
  const __mmask16 first = rows > 0 ? all : 0, second = rows > 1 ? all : 0;
  __m512i both;
  if (is_bf16) {
    const uint16_t* from = static_cast<const uint16_t*>(data) + offset;
    const __m256i upper = _mm256_maskz_loadu_epi16(first, from);
    const __m256i lower = _mm256_maskz_loadu_epi16(second, from + stride);
    both = _mm512_inserti64x4(_mm512_castsi256_si512(upper), lower, 1);
  } else {
    const float* from = static_cast<const float*>(data) + offset;
    const __m512 upper = _mm512_maskz_loadu_ps(first, from);
    const __m512 lower = _mm512_maskz_loadu_ps(second, from + stride);
    both = (__m512i)_mm512_cvtne2ps_pbh(lower, upper);
  }
  const __m512i interleaved = _mm512_set_epi16(
      31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(interleaved, both);
}

// A matrix as this file packs it: `outer` rows (of the left operand) or columns (of the right one), of k numbers each.
struct Packing {
  const Matrix* matrix;
  size_t outer, k;
  bool is_left;
  uint16_t* to;

  // Whether the k numbers of a row or column lie one after another.
  bool k_is_inner() const {
    return matrix->transposed != is_left;
  }
};

// The tile of 16 rows or columns from `first` on and the steps of k from `step` on.
WITH_TILES void pack_tile(const Packing& packing, size_t first, size_t step, uint16_t* to) {
  const auto& [matrix, outer, k, is_left, all] = packing;
  (void)all;
  const size_t outers = first < outer ? std::min(SIDE, outer - first) : 0;
  const size_t depth = std::min(DEPTH, k - step);
  __m512i rows[SIDE];
  if (packing.k_is_inner()) {
    for (size_t i = 0; i < SIDE; ++i) {
      rows[i] = i < outers ? row_of_32(matrix->data, matrix->is_bf16, (first + i) * k + step, depth) : _mm512_setzero_si512();
    }
    if (!is_left) {
      transpose(rows);
    }
  } else {
    for (size_t i = 0; i < SIDE; ++i) {
      const size_t there = depth > 2 * i ? depth - 2 * i : 0;
      const size_t offset = there > 0 && outers > 0 ? (step + 2 * i) * outer + first : 0;
      rows[i] = pair_of_rows(matrix->data, matrix->is_bf16, offset, outer, there, outers);
    }
    if (is_left) {
      transpose(rows);
    }
  }
  for (size_t i = 0; i < SIDE; ++i) {
    _mm512_store_si512(to + i * DEPTH, rows[i]);
  }
}

// One panel: for each step of k its two tiles.
void pack_panel(void* context, int panel) {
  const auto& packing = *static_cast<const Packing*>(context);
  uint16_t* to = packing.to + size_t(panel) * steps(packing.k) * 2 * TILE;
  for (size_t step = 0; step < packing.k; step += DEPTH, to += 2 * TILE) {
    pack_tile(packing, panel * PANEL, step, to);
    pack_tile(packing, panel * PANEL + SIDE, step, to + TILE);
  }
}

// The layout that `ldtilecfg` reads: eight tiles of 16 rows of 64 bytes.
struct alignas(64) Configuration {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t bytes_of_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

struct Product {
  const uint16_t *left, *right;
  size_t m, n, k;
  void* c;
  bool c_is_bf16;
};

// The sums of a block, and where they go.
WITH_TILES void multiply_block(const Product& product, size_t row_panel, size_t column_panel) {
  const size_t count = steps(product.k);
  const uint16_t* a = product.left + row_panel * count * 2 * TILE;
  const uint16_t* b = product.right + column_panel * count * 2 * TILE;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (size_t step = 0; step < count; ++step, a += 2 * TILE, b += 2 * TILE) {
    _tile_loadd(4, a, 64);
    _tile_loadd(5, a + TILE, 64);
    _tile_loadd(6, b, 64);
    _tile_loadd(7, b + TILE, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  alignas(64) float sums[PANEL][PANEL];
  constexpr int STRIDE = PANEL * sizeof(float);
  _tile_stored(0, &sums[0][0], STRIDE);
  _tile_stored(1, &sums[0][SIDE], STRIDE);
  _tile_stored(2, &sums[SIDE][0], STRIDE);
  _tile_stored(3, &sums[SIDE][SIDE], STRIDE);
  const size_t row = row_panel * PANEL, column = column_panel * PANEL;
  const size_t rows = std::min(PANEL, product.m - row), columns = std::min(PANEL, product.n - column);
  for (size_t i = 0; i < rows; ++i) {
    const size_t place = (row + i) * product.n + column;
    for (size_t j = 0; j < columns; j += SIDE) {
      const __mmask16 mask = columns - j >= SIDE ? 0xffff : static_cast<__mmask16>((1u << (columns - j)) - 1);
      const __m512 some = _mm512_load_ps(&sums[i][j]);
      if (product.c_is_bf16) {
        const __m256i rounded = (__m256i)_mm512_cvtneps_pbh(some);
        _mm256_mask_storeu_epi16(static_cast<uint16_t*>(product.c) + place + j, mask, rounded);
      } else {
        _mm512_mask_storeu_ps(static_cast<float*>(product.c) + place + j, mask, some);
      }
    }
  }
}

WITH_TILES void multiply_rows(void* context, int task) {
  const auto& product = *static_cast<const Product*>(context);
  const Configuration configuration;
  _tile_loadconfig(&configuration);
  const size_t first = size_t(task) * ROWS_AT_ONCE, last = std::min(first + ROWS_AT_ONCE, panels(product.m));
  const size_t of_panel = steps(product.k) * 2 * TILE * sizeof(uint16_t);
  const size_t columns = panels(product.n), at_once = std::max<size_t>(BYTES_OF_COLUMNS / of_panel, 1);
  for (size_t start = 0; start < columns; start += at_once) {
    for (size_t row_panel = first; row_panel < last; ++row_panel) {
      for (size_t column_panel = start; column_panel < std::min(start + at_once, columns); ++column_panel) {
        multiply_block(product, row_panel, column_panel);
      }
    }
  }
  _tile_release();
}

void pack(const Matrix& matrix, size_t outer, size_t k, bool is_left, uint16_t* to) {
  Packing packing{&matrix, outer, k, is_left, to};
  mdt_parallel_for(&packing, static_cast<int>(panels(outer)), pack_panel);
}

} // namespace

bool available() {
  static const bool is = [] {
    const char* lowered = std::getenv("MLX_PLUGIN_ISA");
    const bool is_lowered = lowered != nullptr && (lowered == std::string_view("avx2") || lowered == std::string_view("baseline"));
    return !is_lowered && has_instructions() && permitted();
  }();
  return is;
}

size_t scratch_bytes(size_t m, size_t n, size_t k) {
  return (panels(m) + panels(n)) * steps(k) * 2 * TILE * sizeof(uint16_t) + 64;
}

void multiply(const Matrix& a, const Matrix& b, size_t m, size_t n, size_t k, void* c, bool c_is_bf16, void* scratch) {
  auto* left = reinterpret_cast<uint16_t*>((reinterpret_cast<uintptr_t>(scratch) + 63) / 64 * 64);
  uint16_t* right = left + panels(m) * steps(k) * 2 * TILE;
  pack(a, m, k, true, left);
  pack(b, n, k, false, right);
  Product product{left, right, m, n, k, c, c_is_bf16};
  const size_t tasks = (panels(m) + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE;
  mdt_parallel_for(&product, static_cast<int>(tasks), multiply_rows);
}

} // namespace mdt::tiles

#else

namespace mdt::tiles {

bool available() {
  return false;
}

size_t scratch_bytes(size_t, size_t, size_t) {
  return 0;
}

void multiply(const Matrix&, const Matrix&, size_t, size_t, size_t, void*, bool, void*) {}

} // namespace mdt::tiles

#endif
