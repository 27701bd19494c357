// What both passes of attention on matrix tiles share: how the work is cut, which keys a query sees, scores and their products.
//
// Scores are transposed, one key a row and one query a lane, so that maxima, exponentials and sums are plain vector code. All seven
// products run on tiles, with sums in f32:
//
//   scores [keys, queries] = K · Qᵀ          of their gradients: V · dOᵀ         dV [keys, features] = P · dO
//   out [features, queries] = Vᵀ · P         dQᵀ [features, queries] = Kᵀ · dS   dK [keys, features] = dS · Q
//
// So probabilities and gradients of scores are operands as they come. In the pass backwards they are rounded to bfloat16. Keys and values are packed once for all
// threads, and a block of queries by the task that works on it.
#pragma once

#include <vector>

#include "tile_attention.h"
#include "tile_panels.h"

namespace mdt::tiles {

// Panels of queries of a block.
constexpr size_t QUERIES = 4;
// Panels of keys whose scores or gradients of scores are kept at a time.
constexpr size_t KEYS = 16;
// Key/value heads below which the queries of one are cut into parts where rows are long, so that several cores have work.
constexpr size_t FEW_HEADS = 4;
constexpr size_t LONG_ROW = 2048;

// Panels from the first to before the last one.
struct Range {
  size_t first, last;
};

// How the work is cut: a function of the shape.
struct Sizes {
  size_t batch, heads, kv_heads, group, queries, keys, width;
  size_t key_panels, query_panels, blocks, features; // panels of features are steps of them, too
  size_t parts;

  explicit Sizes(const Attention& what)
      : batch(what.query.shape[0]), heads(what.query.shape[1]), kv_heads(what.key.shape[1]), group(heads / kv_heads),
        queries(what.query.shape[2]), keys(what.key.shape[2]), width(what.query.shape[3]), key_panels(panels(keys)),
        query_panels(panels(queries)), blocks((query_panels + QUERIES - 1) / QUERIES), features(panels(width)) {
    const size_t sources = batch * kv_heads;
    parts = queries > LONG_ROW ? (FEW_HEADS + sources - 1) / sources : 1;
  }

  size_t sources() const {
    return batch * kv_heads;
  }

  // Numbers of a head's keys or values, packed or as sums.
  size_t of_source() const {
    return key_panels * features * STEP;
  }
};

static_assert(STEP == BLOCK);

// Which keys a query sees. Queries are aligned with the last keys: query i is at the place of key i + keys − queries.
class Sight {
 public:
  Sight(const Attention& what, const Sizes& sizes)
      : sizes_(sizes), causal_(what.causal || what.window > 0), window_(what.window), segments_(what.segments) {
    for (size_t panel = 0; panel < sizes.batch * sizes.query_panels; ++panel) {
      ranges_.push_back(range_of(panel / sizes.query_panels, panel % sizes.query_panels));
    }
  }

  // The panels of keys of which a panel of queries sees any.
  const Range& panels(size_t batch, size_t query_panel) const {
    return ranges_[batch * sizes_.query_panels + query_panel];
  }

  // Whether every query of the panel sees every key of the other one.
  bool is_whole(size_t query_panel, size_t key_panel) const {
    const size_t first_key = key_panel * PANEL, last_key = first_key + PANEL - 1;
    return segments_ == nullptr && last_key < sizes_.keys && (!causal_ || last_key <= place(query_panel, 0)) &&
        (window_ == 0 || first_key + window_ > place(query_panel, PANEL - 1));
  }

  // Places and segments of 16 queries of a panel, for `sees`.
  struct Lanes {
    __m512i place, segment;
  };

  WITH_TILES Lanes lanes(size_t batch, size_t query_panel, size_t half) const {
    alignas(64) int32_t places[SIDE], segments[SIDE] = {};
    for (size_t i = 0; i < SIDE; ++i) {
      const size_t at = place(query_panel, half * SIDE + i);
      places[i] = static_cast<int32_t>(at);
      segments[i] = segments_ == nullptr ? 0 : segments_[batch * sizes_.keys + at];
    }
    return {_mm512_load_si512(places), _mm512_load_si512(segments)};
  }

  WITH_TILES __mmask16 sees(const Lanes& lanes, size_t batch, size_t key) const {
    if (key >= sizes_.keys) {
      return 0;
    }
    __mmask16 seen = 0xffff;
    if (segments_ != nullptr) {
      seen &= _mm512_cmpeq_epi32_mask(lanes.segment, _mm512_set1_epi32(segments_[batch * sizes_.keys + key]));
    }
    if (causal_) {
      seen &= _mm512_cmpge_epi32_mask(lanes.place, _mm512_set1_epi32(static_cast<int32_t>(key)));
    }
    if (window_ > 0) {
      seen &= _mm512_cmplt_epi32_mask(lanes.place, _mm512_set1_epi32(static_cast<int32_t>(std::min<size_t>(key + window_, INT32_MAX))));
    }
    return seen;
  }

 private:
  // Lanes after the last query are padding: they see what that one sees.
  size_t place(size_t query_panel, size_t lane) const {
    return std::min(query_panel * PANEL + lane, sizes_.queries - 1) + sizes_.keys - sizes_.queries;
  }

  Range range_of(size_t batch, size_t query_panel) const {
    const size_t first_place = place(query_panel, 0), last_place = place(query_panel, PANEL - 1);
    size_t first = 0;
    if (segments_ != nullptr) {
      // Packed rows skip the documents before.
      const int32_t* segments = segments_ + batch * sizes_.keys;
      const int32_t *own = segments + first_place, *end = segments + last_place + 1;
      first = std::find_first_of(segments, end, own, end) - segments;
    }
    if (window_ > 0 && first_place + 1 > window_) {
      first = std::max(first, first_place + 1 - window_);
    }
    return {first / PANEL, mdt::tiles::panels(causal_ ? last_place + 1 : sizes_.keys)};
  }

  Sizes sizes_;
  bool causal_;
  size_t window_;
  const int32_t* segments_;
  std::vector<Range> ranges_;
};

// e^x as `exp` of src/kernels/isa.rs; below −110, where the result would be 0, it is that.
WITH_TILES inline __m512 exp(__m512 x) {
  // The second operand is what a NaN is kept from.
  x = _mm512_max_ps(_mm512_set1_ps(-110.0f), x);
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
  __m512 p = _mm512_set1_ps(1.9875691e-4f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3981999e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.333452e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665796e-2f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
  p = _mm512_add_ps(_mm512_fmadd_ps(p, _mm512_mul_ps(r, r), r), _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(p, n);
}

WITH_TILES inline __m512 tanh(__m512 x) {
  const __m512 limit = _mm512_set1_ps(20.0f), one = _mm512_set1_ps(1.0f);
  x = _mm512_max_ps(_mm512_sub_ps(_mm512_setzero_ps(), limit), _mm512_min_ps(limit, x));
  return _mm512_sub_ps(one, _mm512_div_ps(_mm512_set1_ps(2.0f), _mm512_add_ps(exp(_mm512_add_ps(x, x)), one)));
}

// A score of a product of a query and a key, and its derivative.
struct Score {
  __m512 value, slope;
};

WITH_TILES inline Score score(const Attention& what, __m512 product) {
  const __m512 scale = _mm512_set1_ps(what.scale), scaled = _mm512_mul_ps(product, scale);
  if (what.soft_cap == 0) {
    return {scaled, scale};
  }
  const __m512 cap = _mm512_set1_ps(what.soft_cap), tangent = tanh(_mm512_div_ps(scaled, cap));
  return {_mm512_mul_ps(cap, tangent), _mm512_mul_ps(scale, _mm512_fnmadd_ps(tangent, tangent, _mm512_set1_ps(1.0f)))};
}

// The block of so many steps of a panel of a left and a right operand, added to the sums unless it begins them.
WITH_TILES inline void multiply(const uint16_t* a, const uint16_t* b, size_t count, bool begins, float* sums) {
  constexpr int STRIDE = PANEL * sizeof(float), BYTES_OF_ROW = DEPTH * sizeof(uint16_t);
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
  for (; count > 0; --count, a += STEP, b += STEP) {
    _tile_loadd(4, a, BYTES_OF_ROW);
    _tile_loadd(6, b, BYTES_OF_ROW);
    _tile_loadd(7, b + TILE, BYTES_OF_ROW);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(5, a + TILE, BYTES_OF_ROW);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, sums, STRIDE);
  _tile_stored(1, sums + SIDE, STRIDE);
  _tile_stored(2, sums + SIDE * PANEL, STRIDE);
  _tile_stored(3, sums + SIDE * PANEL + SIDE, STRIDE);
}

// Two rows of 16 numbers.
struct Pair {
  __m512 even, odd;
};

// Stores two rows of 16 numbers as a row of pairs of a right operand's tile, and returns them as they are there.
WITH_TILES inline Pair store_pairs(__m512 even, __m512 odd, uint16_t* to) {
  const __m512i order = _mm512_set_epi16(
      31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  const __m512i rounded = (__m512i)_mm512_cvtne2ps_pbh(odd, even);
  _mm512_store_si512(to, _mm512_permutexvar_epi16(order, rounded));
  const __m256i low = _mm512_castsi512_si256(rounded), high = _mm512_extracti64x4_epi64(rounded, 1);
  return {(__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(low), 16), (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16)};
}

// Positions of a head of bfloat16, as an operand whose k are its features, or its positions.
inline Packing of_head(const MdtView<uint16_t>& x, size_t batch, size_t head, size_t first, size_t count, bool k_is_features) {
  const uint16_t* data = x.data + batch * x.strides[0] + head * x.strides[1] + first * x.strides[2];
  return {data, true, k_is_features ? count : x.shape[3], k_is_features ? x.shape[3] : count, k_is_features, x.strides[2]};
}

// All of it, [panel][step] with so many steps from one panel to the next.
WITH_TILES inline void pack(const Packing& from, bool is_left, size_t stride, uint16_t* to) {
  for (size_t panel = 0; panel < panels(from.outer); ++panel) {
    for (size_t step = 0; step < steps(from.k); ++step) {
      pack_step(from, panel * PANEL, step * DEPTH, is_left, to + (panel * stride + step) * STEP);
    }
  }
}

// Writes a block [feature][position] or [position][feature] of sums to rows of bfloat16.
WITH_TILES inline void write(float* sums, bool transposed, size_t rows, size_t stride, size_t features, uint16_t* to) {
  if (transposed) {
    transpose_sums(sums);
  }
  const __mmask32 mask = features >= PANEL ? ~0u : (1u << features) - 1;
  for (size_t row = 0; row < rows; ++row) {
    const __m512 low = _mm512_load_ps(sums + row * PANEL), high = _mm512_load_ps(sums + row * PANEL + SIDE);
    _mm512_mask_storeu_epi16(to + row * stride, mask, (__m512i)_mm512_cvtne2ps_pbh(high, low));
  }
}

// Takes memory of a thread or of a kernel, piece by piece; every piece is whole lines of the cache.
template <class T>
T* take(char*& memory, size_t count) {
  T* const piece = reinterpret_cast<T*>(memory);
  memory += count * sizeof(T);
  return piece;
}

inline char* aligned(void* scratch) {
  return reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(scratch) + 63) / 64 * 64);
}

} // namespace mdt::tiles
