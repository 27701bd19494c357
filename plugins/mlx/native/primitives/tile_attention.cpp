// Attention on matrix tiles without storing the probabilities, as src/kernels/attention.rs has it.
#include "tile_attention.h"

#if defined(__x86_64__)
#include <cmath>

#include "tile_scores.h"

namespace mdt::tiles {

namespace {

// bfloat16 has 8 bits of a number, float32 24: probabilities are the sum of so many operands, so that nothing of them is lost.
constexpr size_t PARTS = 3;
constexpr size_t PART = KEYS * STEP;

struct Forward {
  const Attention& what;
  Sizes sizes;
  Sight sight;
  uint16_t* keys;   // of each source [key panel][step of features]
  uint16_t* values; // of each source [panel of features][step of keys]
  uint16_t* out;
  float* lse;
};

WITH_TILES void pack_source(void* context, int source) {
  const auto& all = *static_cast<const Forward*>(context);
  const Sizes& sizes = all.sizes;
  const size_t batch = source / sizes.kv_heads, head = source % sizes.kv_heads, place = source * sizes.of_source();
  pack(of_head(all.what.key, batch, head, 0, sizes.keys, true), true, sizes.features, all.keys + place);
  pack(of_head(all.what.value, batch, head, 0, sizes.keys, false), true, sizes.key_panels, all.values + place);
}

// What is known of a panel of queries after some of their keys.
struct Sums {
  __m512 max[2], sum[2];
};

// Scores of some panels of keys, from their products; what is hidden is −∞. Returns the new maxima.
WITH_TILES void scale_and_hide(
    const Forward& all, size_t batch, size_t query_panel, const Range& keys, float* scores, __m512* max) {
  const Sight::Lanes lanes[2] = {all.sight.lanes(batch, query_panel, 0), all.sight.lanes(batch, query_panel, 1)};
  for (size_t panel = keys.first; panel < keys.last; ++panel) {
    const bool is_whole = all.sight.is_whole(query_panel, panel);
    for (size_t row = 0; row < PANEL; ++row, scores += PANEL) {
      for (size_t half = 0; half < 2; ++half) {
        __m512 value = score(all.what, _mm512_load_ps(scores + half * SIDE)).value;
        if (!is_whole) {
          value = _mm512_mask_mov_ps(_mm512_set1_ps(-INFINITY), all.sight.sees(lanes[half], batch, panel * PANEL + row), value);
        }
        _mm512_store_ps(scores + half * SIDE, value);
        // A NaN is left out here; its exponential is NaN.
        max[half] = _mm512_max_ps(value, max[half]);
      }
    }
  }
}

// Stores two rows of numbers as pairs of each part.
WITH_TILES inline void store_parts(__m512 even, __m512 odd, uint16_t* to) {
  for (size_t part = 0; part < PARTS; ++part) {
    const auto [even_rounded, odd_rounded] = store_pairs(even, odd, to + part * PART);
    even = _mm512_sub_ps(even, even_rounded);
    odd = _mm512_sub_ps(odd, odd_rounded);
  }
}

// Replaces scores by probabilities up to a factor, as the parts of the right operand. Multiplies the products of earlier keys by what the new maxima
// make of them.
WITH_TILES void softmax(
    const Sizes& sizes, const float* scores, size_t count, const __m512* max, Sums& sums, uint16_t* probabilities, float* products) {
  __m512 from[2];
  for (size_t half = 0; half < 2; ++half) {
    // Of hidden keys alone, the maximum is −∞, and −∞ − −∞ would be NaN.
    const __mmask16 is_hidden = _mm512_cmp_ps_mask(max[half], _mm512_set1_ps(-INFINITY), _CMP_EQ_OQ);
    from[half] = _mm512_mask_mov_ps(max[half], is_hidden, _mm512_setzero_ps());
    const __m512 factor = exp(_mm512_sub_ps(sums.max[half], from[half]));
    sums.max[half] = max[half];
    sums.sum[half] = _mm512_mul_ps(sums.sum[half], factor);
    for (size_t row = 0; products != nullptr && row < sizes.features * PANEL; ++row) {
      float* const place = products + row * PANEL + half * SIDE;
      _mm512_store_ps(place, _mm512_mul_ps(_mm512_load_ps(place), factor));
    }
  }
  for (size_t pair = 0; pair < count * SIDE; ++pair) {
    for (size_t half = 0; half < 2; ++half) {
      const float* const row = scores + pair * 2 * PANEL + half * SIDE;
      const __m512 even = exp(_mm512_sub_ps(_mm512_load_ps(row), from[half]));
      const __m512 odd = exp(_mm512_sub_ps(_mm512_load_ps(row + PANEL), from[half]));
      sums.sum[half] = _mm512_add_ps(sums.sum[half], _mm512_add_ps(even, odd));
      store_parts(even, odd, probabilities + pair / SIDE * STEP + half * TILE + pair % SIDE * DEPTH);
    }
  }
}

// A block of queries of one head.
WITH_TILES void forward_task(void* context, int task) {
  const auto& all = *static_cast<const Forward*>(context);
  const Sizes& sizes = all.sizes;
  const Configuration configuration;
  _tile_loadconfig(&configuration);
  // Late blocks see more keys: the long tasks first.
  const size_t of_all = sizes.batch * sizes.heads, block = sizes.blocks - 1 - task / of_all;
  const size_t batch = task % of_all / sizes.heads, head = task % of_all % sizes.heads;
  const size_t place = (batch * sizes.kv_heads + head / sizes.group) * sizes.of_source(), features = sizes.features;
  char* memory = thread_memory();
  auto* const query = take<uint16_t>(memory, QUERIES * features * STEP);
  auto* const scores = take<float>(memory, KEYS * BLOCK);
  auto* const probabilities = take<uint16_t>(memory, PARTS * PART);
  auto* const products = take<float>(memory, features * BLOCK);
  const size_t first = block * QUERIES * PANEL, count = std::min(QUERIES * PANEL, sizes.queries - first);
  pack(of_head(all.what.query, batch, head, first, count, true), false, features, query);
  for (size_t own = 0; own < panels(count); ++own) {
    const size_t query_panel = block * QUERIES + own, first_query = query_panel * PANEL;
    const size_t rows = std::min(PANEL, sizes.queries - first_query);
    const Range in_sight = all.sight.panels(batch, query_panel);
    const __m512 none = _mm512_set1_ps(-INFINITY), zero = _mm512_setzero_ps();
    Sums sums{{none, none}, {zero, zero}};
    for (size_t start = in_sight.first; start < in_sight.last; start += KEYS) {
      const Range keys{start, std::min(start + KEYS, in_sight.last)};
      const bool begins = start == in_sight.first;
      for (size_t panel = keys.first; panel < keys.last; ++panel) {
        const uint16_t* const left = all.keys + place + panel * features * STEP;
        multiply(left, query + own * features * STEP, features, true, scores + (panel - start) * BLOCK);
      }
      __m512 max[2] = {sums.max[0], sums.max[1]};
      scale_and_hide(all, batch, query_panel, keys, scores, max);
      softmax(sizes, scores, keys.last - start, max, sums, probabilities, begins ? nullptr : products);
      for (size_t panel = 0; panel < features; ++panel) {
        const uint16_t* const left = all.values + place + (panel * sizes.key_panels + start) * STEP;
        for (size_t part = 0; part < PARTS; ++part) {
          multiply(left, probabilities + part * PART, keys.last - start, begins && part == 0, products + panel * BLOCK);
        }
      }
    }
    alignas(64) float sum[PANEL], max[PANEL];
    for (size_t half = 0; half < 2; ++half) {
      const __m512 factor = _mm512_div_ps(_mm512_set1_ps(1.0f), sums.sum[half]);
      for (size_t row = 0; row < features * PANEL; ++row) {
        float* const place = products + row * PANEL + half * SIDE;
        _mm512_store_ps(place, _mm512_mul_ps(_mm512_load_ps(place), factor));
      }
      _mm512_store_ps(sum + half * SIDE, sums.sum[half]);
      _mm512_store_ps(max + half * SIDE, sums.max[half]);
    }
    uint16_t* const to = all.out + ((batch * sizes.queries + first_query) * sizes.heads + head) * sizes.width;
    for (size_t panel = 0; panel < features; ++panel) {
      write(products + panel * BLOCK, true, rows, sizes.heads * sizes.width, sizes.width - panel * PANEL, to + panel * PANEL);
    }
    for (size_t i = 0; i < rows; ++i) {
      all.lse[(batch * sizes.heads + head) * sizes.queries + first_query + i] = max[i] + std::log(sum[i]);
    }
  }
  _tile_release();
}

} // namespace

size_t attention_scratch_bytes(const Attention& what) {
  const Sizes sizes(what);
  return 2 * sizes.sources() * sizes.of_source() * sizeof(uint16_t) + 64;
}

void attention(const Attention& what, uint16_t* out, float* lse, void* scratch) {
  const Sizes sizes(what);
  char* memory = aligned(scratch);
  auto* const keys = take<uint16_t>(memory, sizes.sources() * sizes.of_source());
  auto* const values = take<uint16_t>(memory, sizes.sources() * sizes.of_source());
  Forward all{what, sizes, Sight(what, sizes), keys, values, out, lse};
  mdt_parallel_for(&all, static_cast<int>(sizes.sources()), pack_source);
  mdt_parallel_for(&all, static_cast<int>(sizes.batch * sizes.heads * sizes.blocks), forward_task);
}

} // namespace mdt::tiles

#else

namespace mdt::tiles {

size_t attention_scratch_bytes(const Attention&) {
  return 0;
}

void attention(const Attention&, uint16_t*, float*, void*) {}

} // namespace mdt::tiles

#endif
