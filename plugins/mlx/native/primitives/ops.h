// The fused operations as functions on MLX arrays. Each checks nothing but what memory safety needs: src/fused.rs checks shapes
// and types first, and falls back to MLX's own operations where these do not apply. All are for a CPU stream; inputs are f32, or of
// half precision where a comment says so.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "mlx/array.h"
#include "mlx/stream.h"

namespace mdt {

using mlx::core::array;
using mlx::core::Stream;

// logits [N, V], targets [N] int32 -> losses [N].
array cross_entropy(const array& logits, const array& targets, Stream stream);

// How a head's products become losses.
struct TokenLosses {
  float scale; // of products and bias
  float soft_cap; // none where it is 0
  int rows, columns; // of the products that are there at a time
  bool rounds; // whether operands are rounded to bfloat16

  bool operator==(const TokenLosses&) const = default;
};

// hidden [N, D], weight [V, D], targets [N] int32, bias [V] -> losses [N]. All are float32, or with `rounds` any of them
// bfloat16.
array token_losses(
    const array& hidden, const array& weight, const array& targets, const std::optional<array>& bias,
    const TokenLosses& options, Stream stream);

// Same shape and type both, half precision too.
array swiglu(const array& gate, const array& up, Stream stream);

// x [.., D], weight [D], half precision too.
array rms_norm(const array& x, const array& weight, float eps, Stream stream);

// positions [R] int32, inv_freq [D/2] -> {cos, sin}, each [R, D/2].
std::pair<array, array> rope_tables(const array& positions, const array& inv_freq, float factor, Stream stream);
// x [B, H, T, D], half precision too; tables of T or B * T rows. The result lies in memory as [B, T, H, D].
array rope(const array& x, const array& cos, const array& sin, Stream stream);

// How attention scores keys, and which it sees.
struct AttentionOptions {
  float scale;
  float soft_cap; // none where it is 0
  bool causal;
  int window; // none where it is 0

  bool operator==(const AttentionOptions&) const = default;
};

// query [B, H, T, D], key and value [B, Hkv, S, D] of one type, half precision too, segments [B, S] int32. The result lies in
// memory as [B, T, H, D].
array attention(
    const array& query, const array& key, const array& value, const std::optional<array>& segments,
    const AttentionOptions& options, Stream stream);

// indices of any integer type -> int32 from 0 to length - 1; with `from_end`, -1 is the last place. Evaluation fails where one lies
// outside, and names it and `operation`. `length` is not 0.
array checked_indices(const array& indices, std::string operation, int length, bool from_end, Stream stream);

// table [V, D], ids of any shape int32 -> [.., D].
array embedding(const array& table, const array& ids, Stream stream);

// A gradient of a table that MLX adds up of several uses: look-ups in the table are added to the others in place.
array with_look_ups_added_in_place(const array& gradient, Stream stream);

// Of one shape, both float32 or both bfloat16.
array add(const array& a, const array& b, Stream stream);

// Sums in the graphs of these arrays that MLX makes of several uses of an array: those of rounded products become one product each, and
// others are added on all threads.
void join_sums(std::vector<array>& ends, Stream stream);

// x [.., in], weight [out, in] -> [.., out].
array linear(const array& x, const array& weight, Stream stream);

// a [m, k] or its transpose times b [k, n] or its transpose, of f32 or half precision, which are rounded to `operands` and added up in
// f32 -> [m, n] of `type`. Gradients have the types of a and b.
array product(
    const array& a, const array& b, bool transpose_a, bool transpose_b, mlx::core::Dtype operands, mlx::core::Dtype type,
    Stream stream);

// The same of every row of x [.., in] with a matrix [in, out], or [out, in] with `transpose` -> [.., out].
array product_of_rows(
    const array& x, const array& matrix, bool transpose, mlx::core::Dtype operands, mlx::core::Dtype type, Stream stream);

// A quantised weight: words [.., in * bits / 32] uint32, scales and biases [.., in / group_size] of one type, float32, float16 or
// bfloat16.
struct Quantized {
  array words, scales, biases;
  int group_size, bits;
};
// -> [.., in], float32.
array dequantize(const Quantized& weight, Stream stream);
// x [.., in], weight [out, in] -> [.., out]. The weight gets no gradient. With `operands`, x is of f32 or half precision, x and the
// weight are rounded to this type, and the result has the type of x.
array quantized_linear(
    const array& x, const Quantized& weight, const std::optional<mlx::core::Dtype>& operands, Stream stream);

// rows [R, in], weight [E, out, in], groups [R] int32, rising and below E -> [R, out].
array grouped_linear(const array& rows, const array& weight, const array& groups, Stream stream);

// The same as `Function` in src/fused.rs.
enum class Function : int { Exp, Sigmoid, Silu, Erf, Softplus, Sin, Cos };
// A function of each element, of float64 too; sine and cosine of float64 only.
array function(const array& x, Function which, Stream stream);

// Sum over the `axes` axes from `first` on, which are gone then. x is not empty.
array sum(const array& x, int first, int axes, Stream stream);

// float16 or bfloat16 to float32, or back.
array convert(const array& x, mlx::core::Dtype dtype, Stream stream);

// Whether the array is evaluated, row-contiguous and shares its memory with no other: then it may be written in place.
bool is_exclusive(const array& a);

} // namespace mdt
