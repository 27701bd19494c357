// A tile of the left operand has 16 rows of 32 numbers; one of the right operand has 16 pairs of rows of 16 columns, the two numbers of a
// pair beside each other; their product is added to 16 × 16 sums in f32. A block of 32 × 32 sums is four tiles that stay in registers over
// `STEPS_AT_ONCE` steps of k; where there are more, sums are put aside as they are, which rounds nothing.
//
// The right operand is packed into tiles first, for all threads. A task packs the rows of the left one that it needs, into memory of its
// thread: arrays do not begin at lines of the cache, and a tile whose rows lie in two lines each is read half as fast. While a block is
// multiplied, the results of the one before it are converted and written, and the memory of its own is fetched.
#include "tiles.h"

#if defined(__x86_64__)
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string_view>
#include <utility>

#include "kernels.h"
#include "tile_panels.h"

namespace mdt::tiles {

namespace {

// Steps of k whose products are added up in registers.
constexpr size_t STEPS_AT_ONCE = 64;
// Row panels of a task, at most, and steps of all of them: its left operand stays in the second cache.
constexpr size_t ROWS_AT_ONCE = 8;
constexpr size_t STEPS_OF_ROWS = 256;
// Bytes of column panels that every row panel of a task meets before the next ones come: they stay in the second cache, too.
constexpr size_t BYTES_OF_COLUMNS = 768 << 10;
// Column panels at a time where sums are put aside.
constexpr size_t COLUMNS_ASIDE = 32;
// Tasks that keep several threads busy, where the result is large enough for them.
constexpr size_t LEAST_TASKS = 8;

static_assert(STEPS_OF_ROWS * STEP * sizeof(uint16_t) + ROWS_AT_ONCE * COLUMNS_ASIDE * BLOCK * sizeof(float) <= THREAD_BYTES);

size_t steps_of(const Terms& terms) {
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
  size_t rows_at_once, columns_at_once, row_tasks, column_tasks;
};

// A block of the result. Its rows are fetched while it is multiplied, and written while the next block is.
struct Block {
  float* sums = nullptr;
  size_t row = 0, column = 0, width = 0, rows = 0;
  __mmask32 columns = 0;
  size_t fetched = 0, written = 0;

  Block() = default;

  Block(const Product& product, size_t first_row, size_t first_column, float* memory)
      : sums(memory), row(first_row), column(first_column), width(product.n), rows(std::min(PANEL, product.m - row)) {
    size_t count = std::min(PANEL, product.n - column);
    if (product.is_transposed) {
      std::swap(row, column);
      std::swap(rows, count);
      width = product.m;
    }
    columns = count >= PANEL ? ~0u : (1u << count) - 1;
  }
};

// Every line of so many rows, which the stores would wait for.
WITH_TILES inline void fetch_rows(const Result& result, Block& block, size_t count) {
  const size_t size = result.is_bf16 ? sizeof(uint16_t) : sizeof(float), end = std::min(block.rows, block.fetched + count);
  for (; block.fetched < end; ++block.fetched) {
    const char* row = static_cast<const char*>(result.data) + ((block.row + block.fetched) * block.width + block.column) * size;
    for (size_t line = 0; line < PANEL * size; line += 64) {
      __builtin_prefetch(row + line, 1);
    }
    __builtin_prefetch(row + PANEL * size - 1, 1);
  }
}

WITH_TILES inline void write_rows(const Result& result, Block& block, size_t count) {
  const size_t end = std::min(block.rows, block.written + count);
  for (; block.written < end; ++block.written) {
    const float* sums = block.sums + block.written * PANEL;
    const size_t place = (block.row + block.written) * block.width + block.column;
    __m512 low = _mm512_load_ps(sums), high = _mm512_load_ps(sums + SIDE);
    if (result.is_bf16) {
      const __m512i rounded = (__m512i)_mm512_cvtne2ps_pbh(high, low);
      _mm512_mask_storeu_epi16(static_cast<uint16_t*>(result.data) + place, block.columns, rounded);
      continue;
    }
    float* to = static_cast<float*>(result.data) + place;
    const auto first = static_cast<__mmask16>(block.columns), second = static_cast<__mmask16>(block.columns >> SIDE);
    if (result.adds) {
      low = _mm512_add_ps(_mm512_maskz_loadu_ps(first, to), low);
      high = _mm512_add_ps(_mm512_maskz_loadu_ps(second, to + SIDE), high);
    }
    _mm512_mask_storeu_ps(to, first, low);
    _mm512_mask_storeu_ps(to + SIDE, second, high);
  }
}

// Adds `count` steps to the sums of a block, fetches its rows, and writes those of the one before it.
WITH_TILES void multiply_block(
    const uint16_t* a, const uint16_t* b, size_t count, bool begins, const Result& result, Block& block, Block& before) {
  constexpr int STRIDE = PANEL * sizeof(float), BYTES_OF_ROW = DEPTH * sizeof(uint16_t);
  float* const sums = block.sums;
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
  for (size_t step = 0; step < count; ++step, a += STEP, b += STEP) {
    _tile_loadd(4, a, BYTES_OF_ROW);
    _tile_loadd(6, b, BYTES_OF_ROW);
    _tile_loadd(7, b + TILE, BYTES_OF_ROW);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(5, a + TILE, BYTES_OF_ROW);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
    fetch_rows(result, block, rows_of_step);
    write_rows(result, before, rows_of_step);
  }
  _tile_stored(0, sums, STRIDE);
  _tile_stored(1, sums + SIDE, STRIDE);
  _tile_stored(2, sums + SIDE * PANEL, STRIDE);
  _tile_stored(3, sums + SIDE * PANEL + SIDE, STRIDE);
}

// Packs a stretch of some row panels, in the order of the memory that it is read from.
WITH_TILES void pack_rows(const Stretch& stretch, size_t first, size_t last, uint16_t* to) {
  const size_t rows = last - first, count = rows * stretch.count;
  for (size_t i = 0; i < count; ++i) {
    const size_t row = stretch.left.k_is_inner ? i / stretch.count : i % rows;
    const size_t step = stretch.left.k_is_inner ? i % stretch.count : i / rows;
    uint16_t* place = to + (row * stretch.count + step) * STEP;
    pack_step(stretch.left, (first + row) * PANEL, stretch.place + step * DEPTH, true, place);
  }
}

// Some row panels times some column panels.
WITH_TILES void multiply_rows(const Product& product, size_t first, size_t last, size_t begin, size_t end) {
  auto* const memory = reinterpret_cast<uint16_t*>(thread_memory());
  auto* const sums = reinterpret_cast<float*>(memory + STEPS_OF_ROWS * STEP);
  const bool is_whole = product.stretches.size() == 1;
  Block before;
  size_t other = 0;
  for (size_t start = begin; start < end; start += product.columns_at_once) {
    const size_t stop = std::min(start + product.columns_at_once, end);
    for (const Stretch& stretch : product.stretches) {
      if (product.left == nullptr && (!is_whole || start == begin)) {
        pack_rows(stretch, first, last, memory);
      }
      const bool is_last = stretch.step + stretch.count == product.all_steps;
      for (size_t row = first; row < last; ++row) {
        const uint16_t* left = product.left == nullptr ? memory + (row - first) * stretch.count * STEP
                                                       : product.left + (row * product.all_steps + stretch.step) * STEP;
        for (size_t column = start; column < stop; ++column) {
          const size_t place = is_whole ? other ^= 1 : (row - first) * product.columns_at_once + column - start;
          Block block(product, row * PANEL, column * PANEL, sums + place * BLOCK);
          block.fetched = is_last ? 0 : block.rows;
          const uint16_t* right = product.right + (column * product.all_steps + stretch.step) * STEP;
          multiply_block(left, right, stretch.count, stretch.step == 0, product.result, block, before);
          if (is_last && product.is_transposed) {
            transpose_sums(block.sums);
          }
          if (is_last) {
            before = block;
          }
        }
      }
    }
    // The sums of the next columns may take its place.
    write_rows(product.result, before, PANEL);
  }
}

WITH_TILES void multiply_task(void* context, int task) {
  const auto& product = *static_cast<const Product*>(context);
  const Configuration configuration;
  _tile_loadconfig(&configuration);
  const size_t row_task = task % product.row_tasks, column_task = task / product.row_tasks, columns = panels(product.n);
  const size_t first = row_task * product.rows_at_once, last = std::min(first + product.rows_at_once, panels(product.m));
  const size_t begin = columns * column_task / product.column_tasks, end = columns * (column_task + 1) / product.column_tasks;
  multiply_rows(product, first, last, begin, end);
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
  size_t rows_at_once, row_tasks, column_tasks = 1;

  Plan(const Terms& terms, size_t rows, size_t columns) {
    const auto both_turn = [](const Term& term) { return term.a.transposed && !term.b.transposed; };
    // Of two operands that would both have to be transposed as the left one, the smaller one is.
    swaps = columns < rows && std::all_of(terms.begin(), terms.end(), both_turn);
    m = swaps ? columns : rows;
    n = swaps ? rows : columns;
    size_t most = 1;
    for (const Term& term : terms) {
      most = std::max(most, std::min(steps(term.k), STEPS_AT_ONCE));
    }
    rows_at_once = std::min(ROWS_AT_ONCE, STEPS_OF_ROWS / most);
    row_tasks = (panels(m) + rows_at_once - 1) / rows_at_once;
    if (row_tasks < LEAST_TASKS) {
      column_tasks = std::min((panels(n) + 3) / 4, (LEAST_TASKS + row_tasks - 1) / row_tasks);
    }
    // Else every task of the same rows would pack them.
    packs_left = column_tasks > 1;
  }

  // Those of the left and the right operand.
  std::pair<Packing, Packing> packings(const Term& term) const {
    const auto packing = [&](const Matrix& matrix, size_t outer, bool k_is_inner) {
      return Packing{matrix.data, matrix.is_bf16, outer, term.k, k_is_inner, k_is_inner ? term.k : outer};
    };
    const Packing a = packing(term.a, swaps ? n : m, !term.a.transposed), b = packing(term.b, swaps ? m : n, term.b.transposed);
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
  return (panels(plan.n) + (plan.packs_left ? panels(plan.m) : 0)) * steps_of(terms) * STEP * sizeof(uint16_t) + 64;
}

void multiply(const Terms& terms, size_t m, size_t n, const Result& result, void* scratch) {
  const Plan plan(terms, m, n);
  const size_t all_steps = steps_of(terms);
  auto* right = reinterpret_cast<uint16_t*>((reinterpret_cast<uintptr_t>(scratch) + 63) / 64 * 64);
  uint16_t* left = plan.packs_left ? right + panels(plan.n) * all_steps * STEP : nullptr;
  Product product{{}, left, right, plan.m, plan.n, all_steps, result, plan.swaps, plan.rows_at_once, 0, plan.row_tasks, plan.column_tasks};
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
