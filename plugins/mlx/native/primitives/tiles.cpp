// A tile of the left operand has 16 rows of 32 numbers; one of the right operand has 16 pairs of rows of 16 columns, the two numbers of a
// pair beside each other; their product is added to 16 × 16 sums in f32. A block of 32 × 32 sums is four tiles that stay in registers over
// `STEPS_AT_ONCE` steps of k; where there are more, sums are put aside as they are, which rounds nothing.
//
// The right operand is packed into tiles first, for all threads. A task packs the rows of the left one that it needs, into memory of its
// thread, or reads tiles where they lie. While a block is multiplied, the results of the one before it are converted and written.
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
#include <memory>
#include <string_view>
#include <utility>

#include "kernels.h"

// For the functions alone that use them: what this file shares with others must run everywhere.
#define WITH_TILES __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,amx-tile,amx-bf16")))

namespace mdt::tiles {

namespace {

constexpr size_t SIDE = 16;           // rows of a tile
constexpr size_t PANEL = 2 * SIDE;    // rows or columns of a panel
constexpr size_t DEPTH = 2 * SIDE;    // numbers of k of a step
constexpr size_t TILE = SIDE * DEPTH; // numbers of a tile
constexpr size_t STEP = 2 * TILE;     // numbers of a step of a panel
constexpr size_t BLOCK = PANEL * PANEL;
// Steps of k whose products are added up in registers.
constexpr size_t STEPS_AT_ONCE = 32;
// Row panels of a task; its left operand stays in the second cache.
constexpr size_t ROWS_AT_ONCE = 8;
// Bytes of column panels that every row panel of a task meets before the next ones come: they stay in the second cache, too.
constexpr size_t BYTES_OF_COLUMNS = 768 << 10;
// Column panels at a time where sums are put aside.
constexpr size_t COLUMNS_ASIDE = 32;
// Tasks that keep several threads busy, where the result is large enough for them.
constexpr size_t LEAST_TASKS = 8;

size_t panels(size_t length) {
  return (length + PANEL - 1) / PANEL;
}

size_t steps(size_t k) {
  return (k + DEPTH - 1) / DEPTH;
}

size_t steps(const Terms& terms) {
  size_t count = 0;
  for (const Term& term : terms) {
    count += steps(term.k);
  }
  return count;
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

// A matrix as this file packs it: `outer` rows (of the left operand) or columns (of the right one), of k numbers each.
struct Packing {
  Matrix matrix;
  size_t outer, k;
  bool k_is_inner; // whether the k numbers of a row or column lie one after another
};

// A step of the panel from row or column `first` on: its two tiles. The right operand's are pairs of rows.
WITH_TILES void pack_step(const Packing& packing, size_t first, size_t place, bool is_left, uint16_t* to) {
  const auto& [matrix, outer, k, k_is_inner] = packing;
  const size_t outers = std::min(PANEL, outer - first), depth = std::min(DEPTH, k - place);
  __m512i rows[2][SIDE];
  if (k_is_inner) {
    for (size_t i = 0; i < PANEL; ++i) {
      rows[i / SIDE][i % SIDE] =
          i < outers ? row_of_32(matrix.data, matrix.is_bf16, (first + i) * k + place, depth) : _mm512_setzero_si512();
    }
  } else {
    const __m512i low = _mm512_set_epi16(
        47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
    const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(SIDE));
    for (size_t i = 0; i < SIDE; ++i) {
      const size_t there = depth > 2 * i ? depth - 2 * i : 0, offset = (place + 2 * i) * outer + first;
      const __m512i even = there > 0 ? row_of_32(matrix.data, matrix.is_bf16, offset, outers) : _mm512_setzero_si512();
      const __m512i odd =
          there > 1 ? row_of_32(matrix.data, matrix.is_bf16, offset + outer, outers) : _mm512_setzero_si512();
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

// Whether tiles of whole panels of the left operand can be read as they lie in memory.
bool lies_in_tiles(const Packing& left) {
  return left.k_is_inner && left.matrix.is_bf16 && left.k % DEPTH == 0;
}

// The layout that `ldtilecfg` reads: eight tiles of 16 rows of 64 bytes.
struct Configuration {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t bytes_of_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// Steps of k of one term, which are added up in registers.
struct Stretch {
  Packing left;
  size_t place;  // the first number of k
  size_t step;   // the same among the steps of all terms
  size_t count;  // steps
};

// A product as it is computed. Its result is transposed when it is written where that spares transposing the larger operand.
struct Product {
  std::vector<Stretch> stretches;
  const uint16_t* left;  // [row panel][step], or null where tasks pack it
  const uint16_t* right; // [column panel][step]
  size_t m, n, all_steps;
  Result result;
  bool is_transposed;
  size_t columns_at_once, row_tasks, column_tasks;
};

// Where the tiles of a row panel lie.
struct Left {
  const uint16_t* tiles;
  size_t bytes_of_row, second, step;
};

// The sums of a block that is done, whose rows are written while the next block is multiplied.
struct Done {
  float* sums = nullptr;
  size_t row = 0, column = 0, width = 0, next = 0, rows = 0;
  __mmask32 columns = 0;
};

WITH_TILES inline void write_rows(const Result& result, Done& done, size_t count) {
  const size_t end = std::min(done.rows, done.next + count);
  for (; done.next < end; ++done.next) {
    const float* sums = done.sums + done.next * PANEL;
    const size_t place = (done.row + done.next) * done.width + done.column;
    __m512 low = _mm512_load_ps(sums), high = _mm512_load_ps(sums + SIDE);
    if (result.is_bf16) {
      const __m512i rounded = (__m512i)_mm512_cvtne2ps_pbh(high, low);
      _mm512_mask_storeu_epi16(static_cast<uint16_t*>(result.data) + place, done.columns, rounded);
      continue;
    }
    float* to = static_cast<float*>(result.data) + place;
    const auto first = static_cast<__mmask16>(done.columns), second = static_cast<__mmask16>(done.columns >> SIDE);
    if (result.adds) {
      low = _mm512_add_ps(_mm512_maskz_loadu_ps(first, to), low);
      high = _mm512_add_ps(_mm512_maskz_loadu_ps(second, to + SIDE), high);
    }
    _mm512_mask_storeu_ps(to, first, low);
    _mm512_mask_storeu_ps(to + SIDE, second, high);
  }
}

// The block from this row and column on is done.
WITH_TILES Done finish(const Product& product, size_t row, size_t column, float* sums) {
  size_t rows = std::min(PANEL, product.m - row), columns = std::min(PANEL, product.n - column), width = product.n;
  if (product.is_transposed) {
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
    std::swap(rows, columns);
    std::swap(row, column);
    width = product.m;
  }
  return {sums, row, column, width, 0, rows, columns >= PANEL ? ~0u : (1u << columns) - 1};
}

// Adds `count` steps to the sums of a block, and writes rows of the one before it.
WITH_TILES void multiply_block(
    const Left& left, const uint16_t* b, size_t count, bool begins, float* sums, const Result& result, Done& before) {
  constexpr int STRIDE = PANEL * sizeof(float);
  if (begins) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  } else {
    _tile_loadd(0, sums, STRIDE);
    _tile_loadd(1, sums + SIDE, STRIDE);
    _tile_loadd(2, sums + SIDE * PANEL, STRIDE);
    _tile_loadd(3, sums + SIDE * PANEL + SIDE, STRIDE);
  }
  const size_t rows_of_step = (PANEL + count - 1) / count;
  const uint16_t* a = left.tiles;
  for (size_t step = 0; step < count; ++step, a += left.step, b += STEP) {
    _tile_loadd(4, a, left.bytes_of_row);
    _tile_loadd(6, b, DEPTH * sizeof(uint16_t));
    _tile_loadd(7, b + TILE, DEPTH * sizeof(uint16_t));
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(5, a + left.second, left.bytes_of_row);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
    write_rows(result, before, rows_of_step);
  }
  _tile_stored(0, sums, STRIDE);
  _tile_stored(1, sums + SIDE, STRIDE);
  _tile_stored(2, sums + SIDE * PANEL, STRIDE);
  _tile_stored(3, sums + SIDE * PANEL + SIDE, STRIDE);
}

// Packed rows of the left operand, and sums that are put aside: kept by each thread, about 1.5 MiB.
struct Memory {
  static constexpr size_t LEFT = ROWS_AT_ONCE * STEPS_AT_ONCE * STEP, SUMS = ROWS_AT_ONCE * COLUMNS_ASIDE * BLOCK;
  struct Free {
    void operator()(void* memory) const {
      std::free(memory);
    }
  };
  std::unique_ptr<uint16_t, Free> left{static_cast<uint16_t*>(std::aligned_alloc(64, LEFT * sizeof(uint16_t)))};
  std::unique_ptr<float, Free> sums{static_cast<float*>(std::aligned_alloc(64, SUMS * sizeof(float)))};
};

// Packs a stretch of some row panels, of which every number of k has one beside the other in memory where k is the outer axis.
WITH_TILES void pack_rows(const Stretch& stretch, size_t first, size_t last, uint16_t* to) {
  for (size_t step = 0; step < stretch.count; ++step) {
    for (size_t row = first; row < last; ++row) {
      uint16_t* place = to + ((row - first) * STEPS_AT_ONCE + step) * STEP;
      pack_step(stretch.left, row * PANEL, stretch.place + step * DEPTH, true, place);
    }
  }
}

// Some row panels times some column panels.
WITH_TILES void multiply_rows(const Product& product, size_t first, size_t last, size_t begin, size_t end, Memory& memory) {
  const bool is_whole = product.stretches.size() == 1;
  Done done;
  size_t other = 0;
  for (size_t start = begin; start < end; start += product.columns_at_once) {
    const size_t stop = std::min(start + product.columns_at_once, end);
    for (const Stretch& stretch : product.stretches) {
      const Packing& from = stretch.left;
      // Rows up to this one are read where they lie.
      const size_t whole = lies_in_tiles(from) ? std::max(first, std::min(last, product.m / PANEL)) : first;
      if (product.left == nullptr && (!is_whole || start == begin)) {
        pack_rows(stretch, whole, last, memory.left.get() + (whole - first) * STEPS_AT_ONCE * STEP);
      }
      for (size_t row = first; row < last; ++row) {
        Left left{memory.left.get() + (row - first) * STEPS_AT_ONCE * STEP, DEPTH * sizeof(uint16_t), TILE, STEP};
        if (product.left != nullptr) {
          left.tiles = product.left + (row * product.all_steps + stretch.step) * STEP;
        } else if (row < whole) {
          const auto* tiles = static_cast<const uint16_t*>(from.matrix.data) + row * PANEL * from.k + stretch.place;
          left = {tiles, from.k * sizeof(uint16_t), SIDE * from.k, DEPTH};
        }
        for (size_t column = start; column < stop; ++column) {
          const size_t place = is_whole ? other ^= 1 : (row - first) * product.columns_at_once + column - start;
          float* sums = memory.sums.get() + place * BLOCK;
          const uint16_t* right = product.right + (column * product.all_steps + stretch.step) * STEP;
          multiply_block(left, right, stretch.count, stretch.step == 0, sums, product.result, done);
          if (stretch.step + stretch.count == product.all_steps) {
            done = finish(product, row * PANEL, column * PANEL, sums);
          }
        }
      }
    }
    // The sums of the next columns may take its place.
    write_rows(product.result, done, PANEL);
  }
}

WITH_TILES void multiply_task(void* context, int task) {
  const auto& product = *static_cast<const Product*>(context);
  static thread_local Memory memory;
  const Configuration configuration;
  _tile_loadconfig(&configuration);
  const size_t row_task = task % product.row_tasks, column_task = task / product.row_tasks, columns = panels(product.n);
  const size_t first = row_task * ROWS_AT_ONCE, last = std::min(first + ROWS_AT_ONCE, panels(product.m));
  const size_t begin = columns * column_task / product.column_tasks, end = columns * (column_task + 1) / product.column_tasks;
  multiply_rows(product, first, last, begin, end, memory);
  _tile_release();
}

// An operand of a term, packed for all threads. What lies side by side in memory is packed by one task.
struct Packed {
  Packing from;
  bool is_left;
  uint16_t* to;
  size_t all_steps, units_of_task;
};

WITH_TILES void pack_some(void* context, int task) {
  const auto& [from, is_left, to, all_steps, units] = *static_cast<const Packed*>(context);
  const size_t count = panels(from.outer), of_each = steps(from.k), first = task * units;
  const auto pack = [&](size_t panel, size_t step) WITH_TILES {
    pack_step(from, panel * PANEL, step * DEPTH, is_left, to + (panel * all_steps + step) * STEP);
  };
  if (from.k_is_inner) {
    for (size_t panel = first; panel < std::min(first + units, count); ++panel) {
      for (size_t step = 0; step < of_each; ++step) {
        pack(panel, step);
      }
    }
  } else {
    for (size_t step = first; step < std::min(first + units, of_each); ++step) {
      for (size_t panel = 0; panel < count; ++panel) {
        pack(panel, step);
      }
    }
  }
}

void pack_all(const Packing& from, bool is_left, uint16_t* to, size_t all_steps) {
  const size_t units = from.k_is_inner ? panels(from.outer) : steps(from.k), tasks = 2 * LEAST_TASKS;
  Packed packed{from, is_left, to, all_steps, (units + tasks - 1) / tasks};
  mdt_parallel_for(&packed, static_cast<int>((units + packed.units_of_task - 1) / packed.units_of_task), pack_some);
}

// How a product is computed: a function of its shape.
struct Plan {
  size_t m, n;
  bool swaps, packs_left = false;
  size_t row_tasks, column_tasks = 1;

  Plan(const Terms& terms, size_t rows, size_t columns) {
    const auto both_turn = [](const Term& term) { return term.a.transposed && !term.b.transposed; };
    // Of two operands that would both have to be transposed as the left one, the smaller one is.
    swaps = columns < rows && std::all_of(terms.begin(), terms.end(), both_turn);
    m = swaps ? columns : rows;
    n = swaps ? rows : columns;
    row_tasks = (panels(m) + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE;
    if (row_tasks < LEAST_TASKS) {
      column_tasks = std::min((panels(n) + 3) / 4, (LEAST_TASKS + row_tasks - 1) / row_tasks);
    }
    // Else every task of the same rows would pack them.
    packs_left = column_tasks > 1 && !std::all_of(terms.begin(), terms.end(), [&](const Term& term) {
      return lies_in_tiles(packings(term).first);
    });
  }

  // Those of the left and the right operand.
  std::pair<Packing, Packing> packings(const Term& term) const {
    const Packing a{term.a, swaps ? n : m, term.k, !term.a.transposed}, b{term.b, swaps ? m : n, term.k, term.b.transposed};
    return swaps ? std::pair(b, a) : std::pair(a, b);
  }
};

} // namespace

bool available() {
  static const bool is = [] {
    const char* lowered = std::getenv("MLX_PLUGIN_ISA");
    const bool is_lowered = lowered != nullptr && (lowered == std::string_view("avx2") || lowered == std::string_view("baseline"));
    return !is_lowered && has_instructions() && permitted();
  }();
  return is;
}

size_t scratch_bytes(const Terms& terms, size_t m, size_t n) {
  const Plan plan(terms, m, n);
  return (panels(plan.n) + (plan.packs_left ? panels(plan.m) : 0)) * steps(terms) * STEP * sizeof(uint16_t) + 64;
}

void multiply(const Terms& terms, size_t m, size_t n, const Result& result, void* scratch) {
  const Plan plan(terms, m, n);
  const size_t all_steps = steps(terms);
  auto* right = reinterpret_cast<uint16_t*>((reinterpret_cast<uintptr_t>(scratch) + 63) / 64 * 64);
  uint16_t* left = plan.packs_left ? right + panels(plan.n) * all_steps * STEP : nullptr;
  Product product{{}, left, right, plan.m, plan.n, all_steps, result, plan.swaps, 0, plan.row_tasks, plan.column_tasks};
  size_t step = 0;
  for (const Term& term : terms) {
    const auto [of_left, of_right] = plan.packings(term);
    pack_all(of_right, false, right + step * STEP, all_steps);
    if (plan.packs_left) {
      pack_all(of_left, true, left + step * STEP, all_steps);
    }
    for (size_t done = 0; done < steps(term.k); done += STEPS_AT_ONCE) {
      const size_t count = std::min(STEPS_AT_ONCE, steps(term.k) - done);
      product.stretches.push_back({of_left, done * DEPTH, step + done, count});
    }
    step += steps(term.k);
  }
  const size_t bytes_of_panel = std::min(all_steps, STEPS_AT_ONCE) * STEP * sizeof(uint16_t);
  const size_t limit = product.stretches.size() == 1 ? panels(product.n) : COLUMNS_ASIDE;
  product.columns_at_once = std::clamp<size_t>(BYTES_OF_COLUMNS / bytes_of_panel, 1, limit);
  mdt_parallel_for(&product, static_cast<int>(product.row_tasks * product.column_tasks), multiply_task);
}

} // namespace mdt::tiles

#else

namespace mdt::tiles {

bool available() {
  return false;
}

size_t scratch_bytes(const Terms&, size_t, size_t) {
  return 0;
}

void multiply(const Terms&, size_t, size_t, const Result&, void*) {}

} // namespace mdt::tiles

#endif
