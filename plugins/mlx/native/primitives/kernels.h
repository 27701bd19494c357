// The Rust kernels, as src/kernels/ffi.rs exports them. All buffers are dense f32 unless said otherwise.
#pragma once

#include <cstddef>
#include <cstdint>

// x[batch, head, position, feature] with a stride for each axis, in elements; `len` counts from the first to the last one.
template <class T>
struct MdtView {
  const T* data;
  size_t len;
  size_t shape[4];
  size_t strides[4];
};

extern "C" {

// Calls `body(context, i)` once for every i below `count`, on the compute threads, and waits for all.
void mdt_parallel_for(void* context, int count, void (*body)(void* context, int index));

struct MdtAttention {
  MdtView<float> query, key, value;
  float scale;
  float soft_cap; // none where it is 0
  bool causal;
  size_t window; // none where it is 0
  const int32_t* segments; // [B, keys], or null
};

void mdt_cross_entropy(
    const float* logits, const int32_t* targets, size_t rows, size_t width, float* losses, float* lse);
// `grad` may be `logits`.
void mdt_cross_entropy_backward(
    const float* logits, const int32_t* targets, const float* lse, const float* cotangent,
    size_t rows, size_t width, float* grad);

// Some columns of the logits of some rows.
struct MdtTile {
  size_t rows;
  size_t first; // column
  size_t width;
  const float* bias; // one for each column, or null
  float scale;
  float soft_cap; // none where it is 0
};

void mdt_token_losses_fold(
    const MdtTile* tile, float* products, const int32_t* targets, float* max, float* sum, float* at_target);
// Leaves the log-sum-exp in `max` and the loss in `at_target`.
void mdt_token_losses_finish(const int32_t* targets, size_t rows, float* max, float* sum, float* at_target);
// Also as bfloat16, where `narrow` is not null.
void mdt_token_losses_gradient(
    const MdtTile* tile, float* products, const int32_t* targets, const float* lse, const float* cotangents,
    size_t vocabulary, uint16_t* narrow);

void mdt_add(const float* a, const float* b, size_t len, float* out);
void mdt_add_to(float* sum, const float* more, size_t len);
void mdt_add_bf16(const uint16_t* a, const uint16_t* b, size_t len, uint16_t* out);
void mdt_add_to_bf16(uint16_t* sum, const uint16_t* more, size_t len);

void mdt_swiglu(const float* gate, const float* up, size_t len, float* out);
void mdt_swiglu_backward(
    const float* gate, const float* up, const float* cotangent, size_t len, float* grad_gate, float* grad_up);

void mdt_swiglu_bf16(const uint16_t* gate, const uint16_t* up, size_t len, uint16_t* out);
void mdt_swiglu_backward_bf16(
    const uint16_t* gate, const uint16_t* up, const uint16_t* cotangent, size_t len, uint16_t* grad_gate, uint16_t* grad_up);

void mdt_rms_norm(const float* x, const float* weight, float eps, size_t rows, size_t width, float* out);
void mdt_rms_norm_backward(
    const float* x, const float* weight, float eps, const float* cotangent, size_t rows, size_t width,
    float* grad_x, float* grad_weight);

void mdt_rms_norm_bf16(const uint16_t* x, const uint16_t* weight, float eps, size_t rows, size_t width, uint16_t* out);
void mdt_rms_norm_backward_bf16(
    const uint16_t* x, const uint16_t* weight, float eps, const uint16_t* cotangent, size_t rows, size_t width,
    uint16_t* grad_x, uint16_t* grad_weight);

void mdt_rope_tables(
    const int32_t* positions, size_t rows, const float* inv_freq, size_t half, float factor, float* cos, float* sin);
void mdt_rope(
    const MdtView<float>* x, const float* cos, const float* sin, size_t half, bool per_batch, bool inverse, float* out);

void mdt_rope_bf16(
    const MdtView<uint16_t>* x, const float* cos, const float* sin, size_t half, bool per_batch, bool inverse, uint16_t* out);

size_t mdt_attention_lse_len(size_t batch, size_t heads, size_t queries);
void mdt_attention(const MdtAttention* inputs, float* out, float* lse);
void mdt_attention_backward(
    const MdtAttention* inputs, const MdtView<float>* out, const float* lse, const MdtView<float>* cotangent,
    float* grad_query, float* grad_key, float* grad_value);

void mdt_exp(const float* x, size_t len, float* out);
void mdt_sigmoid(const float* x, size_t len, float* out);
void mdt_silu(const float* x, size_t len, float* out);
void mdt_softplus(const float* x, size_t len, float* out);
void mdt_erf(const float* x, size_t len, float* out);

// x [outer, count, inner] -> [outer, inner]; none is 0.
void mdt_sum(const float* x, size_t outer, size_t count, size_t inner, float* out);

// x [rows, width], weight [outputs, width] -> [rows, outputs]; at most MDT_FEW_ROWS rows, none of the sizes is 0.
constexpr int MDT_FEW_ROWS = 8;
void mdt_few_rows(const float* x, size_t rows, const float* weight, size_t outputs, size_t width, float* out);

// Half precision as its bits, to f32 and back.
void mdt_widen_bf16(const uint16_t* x, size_t len, float* out);
void mdt_narrow_bf16(const float* x, size_t len, uint16_t* out);
void mdt_widen_f16(const uint16_t* x, size_t len, float* out);
void mdt_narrow_f16(const float* x, size_t len, uint16_t* out);
// f32 rounded to half precision, as f32.
void mdt_round_bf16(const float* x, size_t len, float* out);
void mdt_round_f16(const float* x, size_t len, float* out);

// A quantised weight [rows, width]; `dtype` is that of scales and biases: 0 for f32, 1 for f16, 2 for bf16.
struct MdtQuantized {
  const uint32_t* words;
  const void* scales;
  const void* biases;
  int dtype;
  size_t rows, width, group_size, bits;
};
// `count` rows of it from `first` on, whole.
void mdt_dequantize(const MdtQuantized* weight, size_t first, size_t count, float* out);
// x [count, width] -> [count, rows], for few rows of x; with `rounds` the weight is rounded to bfloat16.
void mdt_quantized_multiply(const MdtQuantized* weight, const float* x, size_t count, bool rounds, float* out);

void mdt_embedding(
    const float* table, const int32_t* ids, size_t count, size_t rows, size_t width, float* out);
// To what is in `grad` if `onto`, else to zeros.
void mdt_embedding_backward(
    const int32_t* ids, size_t count, const float* cotangent, size_t rows, size_t width, float* grad, bool onto);

} // extern "C"
