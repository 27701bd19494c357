// Attention of bfloat16 on the matrix tiles of a processor (Intel AMX), where it has them.
#pragma once

#include "kernels.h"

namespace mdt::tiles {

// Queries, keys and values of bfloat16, whose features lie one after another. What they mean stands in `MdtAttention`.
struct Attention {
  MdtView<uint16_t> query, key, value;
  float scale;
  float soft_cap;
  bool causal;
  size_t window;
  const int32_t* segments;
};

// Features of a head, at most.
constexpr size_t WIDEST_HEAD = 256;

// Bytes of memory that both need beside the 1.5 MiB of each thread.
size_t attention_scratch_bytes(const Attention& what);
size_t attention_backward_scratch_bytes(const Attention& what);

// Writes the result, laid out as [B, T, H, D], and the log-sum-exp of each query, [B, H, T].
void attention(const Attention& what, uint16_t* out, float* lse, void* scratch);

// Writes the gradients, laid out as [B, T, heads, D] each, given what `attention` wrote. Every number is added up in an order that
// the shape alone decides.
void attention_backward(
    const Attention& what, const MdtView<uint16_t>& out, const float* lse, const MdtView<uint16_t>& cotangent,
    uint16_t* grad_query, uint16_t* grad_key, uint16_t* grad_value, void* scratch);

} // namespace mdt::tiles
