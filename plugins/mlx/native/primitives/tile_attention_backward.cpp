// The gradients of attention on matrix tiles: scores are computed again, and probabilities from the log-sum-exp.
#include "tile_attention.h"

#if defined(__x86_64__)
#include <cmath>
#include <cstring>

#include "tile_scores.h"

namespace mdt::tiles {

namespace {

struct Backward {
  const Attention& what;
  const MdtView<uint16_t>& out;
  const float* lse;
  const MdtView<uint16_t>& cotangent;
  Sizes sizes;
  Sight sight;
  uint16_t* keys;        // of each source [key panel][step of features]
  uint16_t* values;      // the same
  uint16_t* keys_across; // of each source [panel of features][step of keys]
  float* sums;           // of each source and part, of keys and of values [key panel][panel of features]
  uint16_t *grad_query, *grad_key, *grad_value;
};

WITH_TILES void pack_source_backward(void* context, int source) {
  const auto& all = *static_cast<const Backward*>(context);
  const Sizes& sizes = all.sizes;
  const size_t batch = source / sizes.kv_heads, head = source % sizes.kv_heads, place = source * sizes.of_source();
  pack(of_head(all.what.key, batch, head, 0, sizes.keys, true), true, sizes.features, all.keys + place);
  pack(of_head(all.what.value, batch, head, 0, sizes.keys, true), true, sizes.features, all.values + place);
  pack(of_head(all.what.key, batch, head, 0, sizes.keys, false), true, sizes.key_panels, all.keys_across + place);
}

// A block of queries of one head and their cotangents, as right operands: of scores, and of the gradients of keys and values.
struct Queries {
  uint16_t *query, *cotangent;               // [panel][step of features]
  uint16_t *query_across, *cotangent_across; // [panel of features][step of queries]
  float *lse, *delta;
  Range in_sight[QUERIES];
  size_t first, count;

  explicit Queries(char*& memory, size_t features) {
    for (uint16_t** operand : {&query, &cotangent, &query_across, &cotangent_across}) {
      *operand = take<uint16_t>(memory, QUERIES * features * STEP);
    }
    lse = take<float>(memory, QUERIES * PANEL);
    delta = take<float>(memory, QUERIES * PANEL);
  }

  WITH_TILES void load(const Backward& all, size_t batch, size_t head, size_t block) {
    const Sizes& sizes = all.sizes;
    first = block * QUERIES * PANEL;
    count = std::min(QUERIES * PANEL, sizes.queries - first);
    pack(of_head(all.what.query, batch, head, first, count, true), false, sizes.features, query);
    pack(of_head(all.cotangent, batch, head, first, count, true), false, sizes.features, cotangent);
    pack(of_head(all.what.query, batch, head, first, count, false), false, QUERIES, query_across);
    pack(of_head(all.cotangent, batch, head, first, count, false), false, QUERIES, cotangent_across);
    for (size_t i = 0; i < QUERIES * PANEL; ++i) {
      // e^(score − ∞) is 0: padding adds nothing.
      lse[i] = i < count ? all.lse[(batch * sizes.heads + head) * sizes.queries + first + i] : INFINITY;
      delta[i] = i < count ? product_of_rows(all, batch, head, first + i) : 0.0f;
    }
    for (size_t panel = 0; panel < panels(count); ++panel) {
      in_sight[panel] = all.sight.panels(batch, block * QUERIES + panel);
    }
  }

  // Σ out · cotangent over the features of a query.
  WITH_TILES static float product_of_rows(const Backward& all, size_t batch, size_t head, size_t position) {
    const Packing out = of_head(all.out, batch, head, position, 1, true), cotangent = of_head(all.cotangent, batch, head, position, 1, true);
    __m512 sum = _mm512_setzero_ps();
    for (size_t feature = 0; feature < out.k; feature += DEPTH) {
      const __m512i a = row_of_32(out.data, true, feature, out.k - feature), b = row_of_32(cotangent.data, true, feature, out.k - feature);
      const __m512i upper = _mm512_set1_epi32(0xffff0000);
      sum = _mm512_fmadd_ps((__m512)_mm512_slli_epi32(a, 16), (__m512)_mm512_slli_epi32(b, 16), sum);
      sum = _mm512_fmadd_ps((__m512)_mm512_and_si512(a, upper), (__m512)_mm512_and_si512(b, upper), sum);
    }
    return _mm512_reduce_add_ps(sum);
  }

  // The panels of queries from the first to the last one that sees any of these keys.
  Range seeing(size_t key_panel) const {
    Range range{panels(count), 0};
    for (size_t panel = 0; panel < panels(count); ++panel) {
      if (in_sight[panel].first <= key_panel && key_panel < in_sight[panel].last) {
        range = {std::min(range.first, panel), panel + 1};
      }
    }
    return range;
  }
};

// Probabilities and gradients of scores of a panel of keys and one of queries, as left operands; the gradients as a right one, too.
struct Gradients {
  uint16_t *probabilities, *scores, *scores_across;
};

WITH_TILES void differentiate(
    const Backward& all, const Queries& block, size_t batch, size_t own, size_t key_panel, const float* products,
    const float* grads, const Gradients& to) {
  const size_t query_panel = block.first / PANEL + own;
  const bool is_whole = all.sight.is_whole(query_panel, key_panel);
  const Sight::Lanes lanes[2] = {all.sight.lanes(batch, query_panel, 0), all.sight.lanes(batch, query_panel, 1)};
  for (size_t pair = 0; pair < SIDE; ++pair) {
    __m512 probabilities[2][2], scores[2][2];
    for (size_t odd = 0; odd < 2; ++odd) {
      for (size_t half = 0; half < 2; ++half) {
        const size_t row = 2 * pair + odd, place = row * PANEL + half * SIDE, lane = own * PANEL + half * SIDE;
        const auto [value, slope] = score(all.what, _mm512_load_ps(products + place));
        __m512 probability = exp(_mm512_sub_ps(value, _mm512_load_ps(block.lse + lane)));
        if (!is_whole) {
          probability = _mm512_maskz_mov_ps(all.sight.sees(lanes[half], batch, key_panel * PANEL + row), probability);
        }
        const __m512 grad = _mm512_sub_ps(_mm512_load_ps(grads + place), _mm512_load_ps(block.delta + lane));
        probabilities[odd][half] = probability;
        scores[odd][half] = _mm512_mul_ps(_mm512_mul_ps(probability, grad), slope);
      }
      const size_t row = (2 * pair + odd) * DEPTH;
      _mm512_store_si512(to.probabilities + row, (__m512i)_mm512_cvtne2ps_pbh(probabilities[odd][1], probabilities[odd][0]));
      _mm512_store_si512(to.scores + row, (__m512i)_mm512_cvtne2ps_pbh(scores[odd][1], scores[odd][0]));
    }
    for (size_t half = 0; half < 2; ++half) {
      store_pairs(scores[0][half], scores[1][half], to.scores_across + half * TILE + pair * DEPTH);
    }
  }
}

// Some of the queries of all heads that read one key/value head.
WITH_TILES void backward_task(void* context, int task) {
  const auto& all = *static_cast<const Backward*>(context);
  const Sizes& sizes = all.sizes;
  const Configuration configuration;
  _tile_loadconfig(&configuration);
  const size_t source = task / sizes.parts, batch = source / sizes.kv_heads, features = sizes.features;
  const size_t place = source * sizes.of_source();
  float* const key_sums = all.sums + task * 2 * sizes.of_source();
  float* const value_sums = key_sums + sizes.of_source();
  std::memset(key_sums, 0, 2 * sizes.of_source() * sizeof(float));
  char* memory = thread_memory();
  Queries block(memory, features);
  auto* const products = take<float>(memory, BLOCK);
  auto* const grads = take<float>(memory, BLOCK);
  auto* const probabilities = take<uint16_t>(memory, QUERIES * STEP);
  auto* const scores = take<uint16_t>(memory, QUERIES * STEP);
  auto* const scores_across = take<uint16_t>(memory, QUERIES * KEYS * STEP);
  auto* const query_sums = take<float>(memory, QUERIES * features * BLOCK);
  for (size_t number = task % sizes.parts; number < sizes.blocks; number += sizes.parts) {
    for (size_t head = source % sizes.kv_heads * sizes.group, end = head + sizes.group; head < end; ++head) {
      block.load(all, batch, head, number);
      Range in_sight = block.in_sight[0];
      for (size_t own = 1; own < panels(block.count); ++own) {
        in_sight.first = std::min(in_sight.first, block.in_sight[own].first);
        in_sight.last = std::max(in_sight.last, block.in_sight[own].last);
      }
      for (size_t start = in_sight.first; start < in_sight.last; start += KEYS) {
        const size_t stop = std::min(start + KEYS, in_sight.last);
        for (size_t panel = start; panel < stop; ++panel) {
          const Range seeing = block.seeing(panel);
          const size_t of_panel = place + panel * features * STEP;
          for (size_t own = seeing.first; own < seeing.last; ++own) {
            multiply(all.keys + of_panel, block.query + own * features * STEP, features, true, products);
            multiply(all.values + of_panel, block.cotangent + own * features * STEP, features, true, grads);
            differentiate(
                all, block, batch, own, panel, products, grads,
                {probabilities + own * STEP, scores + own * STEP, scores_across + (own * KEYS + panel - start) * STEP});
          }
          for (size_t feature = 0; seeing.first < seeing.last && feature < features; ++feature) {
            const size_t from = seeing.first * STEP, across = feature * QUERIES * STEP + from, count = seeing.last - seeing.first;
            const size_t sums = (panel * features + feature) * BLOCK;
            multiply(scores + from, block.query_across + across, count, false, key_sums + sums);
            multiply(probabilities + from, block.cotangent_across + across, count, false, value_sums + sums);
          }
        }
        for (size_t own = 0; own < panels(block.count); ++own) {
          const auto [first, last] = block.in_sight[own];
          const size_t begin = std::max(first, start), end = std::min(last, stop);
          for (size_t feature = 0; begin < end && feature < features; ++feature) {
            multiply(
                all.keys_across + place + (feature * sizes.key_panels + begin) * STEP,
                scores_across + (own * KEYS + begin - start) * STEP, end - begin, begin == first,
                query_sums + (own * features + feature) * BLOCK);
          }
        }
      }
      for (size_t own = 0; own < panels(block.count); ++own) {
        const size_t first = block.first + own * PANEL, rows = std::min(PANEL, sizes.queries - first);
        uint16_t* const to = all.grad_query + ((batch * sizes.queries + first) * sizes.heads + head) * sizes.width;
        for (size_t feature = 0; feature < features; ++feature) {
          float* const sums = query_sums + (own * features + feature) * BLOCK;
          write(sums, true, rows, sizes.heads * sizes.width, sizes.width - feature * PANEL, to + feature * PANEL);
        }
      }
    }
  }
  _tile_release();
}

// Adds up the parts of a key/value head, in their order.
WITH_TILES void write_source(void* context, int source) {
  const auto& all = *static_cast<const Backward*>(context);
  const Sizes& sizes = all.sizes;
  const size_t batch = source / sizes.kv_heads, head = source % sizes.kv_heads, of_part = 2 * sizes.of_source();
  float* const sums = all.sums + source * sizes.parts * of_part;
  for (size_t part = 1; part < sizes.parts; ++part) {
    for (size_t i = 0; i < of_part; i += SIDE) {
      _mm512_store_ps(sums + i, _mm512_add_ps(_mm512_load_ps(sums + i), _mm512_load_ps(sums + part * of_part + i)));
    }
  }
  for (size_t panel = 0; panel < sizes.key_panels; ++panel) {
    const size_t rows = std::min(PANEL, sizes.keys - panel * PANEL), stride = sizes.kv_heads * sizes.width;
    const size_t place = ((batch * sizes.keys + panel * PANEL) * sizes.kv_heads + head) * sizes.width;
    for (size_t feature = 0; feature < sizes.features; ++feature) {
      float* const of_keys = sums + (panel * sizes.features + feature) * BLOCK;
      const size_t to = place + feature * PANEL, left = sizes.width - feature * PANEL;
      write(of_keys, false, rows, stride, left, all.grad_key + to);
      write(of_keys + sizes.of_source(), false, rows, stride, left, all.grad_value + to);
    }
  }
}

// The pass before this one takes less.
static_assert(
    (4 * QUERIES * WIDEST_HEAD / PANEL * STEP + 2 * QUERIES * STEP + QUERIES * KEYS * STEP) * sizeof(uint16_t) +
        (2 * BLOCK + 2 * QUERIES * PANEL + QUERIES * WIDEST_HEAD / PANEL * BLOCK) * sizeof(float) <=
    THREAD_BYTES);

} // namespace

size_t attention_backward_scratch_bytes(const Attention& what) {
  const Sizes sizes(what);
  return sizes.sources() * sizes.of_source() * (3 * sizeof(uint16_t) + 2 * sizes.parts * sizeof(float)) + 64;
}

void attention_backward(
    const Attention& what, const MdtView<uint16_t>& out, const float* lse, const MdtView<uint16_t>& cotangent,
    uint16_t* grad_query, uint16_t* grad_key, uint16_t* grad_value, void* scratch) {
  const Sizes sizes(what);
  const size_t count = sizes.sources() * sizes.of_source();
  char* memory = aligned(scratch);
  auto* const keys = take<uint16_t>(memory, count);
  auto* const values = take<uint16_t>(memory, count);
  auto* const keys_across = take<uint16_t>(memory, count);
  auto* const sums = take<float>(memory, 2 * sizes.parts * count);
  Backward all{what, out, lse, cotangent, sizes, Sight(what, sizes), keys, values, keys_across, sums,
               grad_query, grad_key, grad_value};
  mdt_parallel_for(&all, static_cast<int>(sizes.sources()), pack_source_backward);
  mdt_parallel_for(&all, static_cast<int>(sizes.sources() * sizes.parts), backward_task);
  mdt_parallel_for(&all, static_cast<int>(sizes.sources()), write_source);
}

} // namespace mdt::tiles

#else

namespace mdt::tiles {

size_t attention_backward_scratch_bytes(const Attention&) {
  return 0;
}

void attention_backward(
    const Attention&, const MdtView<uint16_t>&, const float*, const MdtView<uint16_t>&, uint16_t*, uint16_t*, uint16_t*, void*) {}

} // namespace mdt::tiles

#endif
