// The interface for Rust: mlx-c handles in and out, and every C++ exception turned into text.
#include <cstring>
#include <exception>
#include <optional>

#include "mlx/c/private/array.h"
#include "mlx/c/private/enums.h"
#include "mlx/c/private/stream.h"
#include "mlx/scheduler.h"
#include "ops.h"
#include "plan.h"
#include "primitive.h"
#include "tiles.h"

namespace {

// Same as `Failure` in src/fused/native.rs.
struct Failure {
  char text[512];
};

// Calls `build`; false and the reason if it throws.
template <class Build>
bool guarded(Failure* failure, Build&& build) noexcept {
  try {
    build();
    return true;
  } catch (const std::exception& error) {
    std::strncpy(failure->text, error.what(), sizeof(failure->text) - 1);
  } catch (...) {
    std::strncpy(failure->text, "an exception that is no std::exception", sizeof(failure->text) - 1);
  }
  failure->text[sizeof(failure->text) - 1] = '\0';
  return false;
}

const mlx::core::array& get(mlx_array handle) {
  return mlx_array_get_(handle);
}

// The array of a handle that may be empty.
std::optional<mlx::core::array> optional(mlx_array handle) {
  return handle.ctx == nullptr ? std::nullopt : std::optional(get(handle));
}

} // namespace

extern "C" {

bool mdt_op_cross_entropy(mlx_array* losses, mlx_array logits, mlx_array targets, mlx_stream stream, Failure* failure) {
  return guarded(failure, [&] {
    mlx_array_set_(*losses, mdt::cross_entropy(get(logits), get(targets), mlx_stream_get_(stream)));
  });
}

// `bias` may be an empty handle.
bool mdt_op_token_losses(
    mlx_array* losses, mlx_array hidden, mlx_array weight, mlx_array targets, mlx_array bias, float scale, float soft_cap,
    int rows, int columns, bool rounds, mlx_stream stream, Failure* failure) {
  return guarded(failure, [&] {
    mlx_array_set_(
        *losses, mdt::token_losses(
                     get(hidden), get(weight), get(targets), optional(bias), {scale, soft_cap, rows, columns, rounds},
                     mlx_stream_get_(stream)));
  });
}

bool mdt_op_swiglu(mlx_array* out, mlx_array gate, mlx_array up, mlx_stream stream, Failure* failure) {
  return guarded(failure, [&] { mlx_array_set_(*out, mdt::swiglu(get(gate), get(up), mlx_stream_get_(stream))); });
}

bool mdt_op_rms_norm(
    mlx_array* out, mlx_array x, mlx_array weight, float eps, mlx_stream stream, Failure* failure) {
  return guarded(failure, [&] {
    mlx_array_set_(*out, mdt::rms_norm(get(x), get(weight), eps, mlx_stream_get_(stream)));
  });
}

bool mdt_op_rope_tables(
    mlx_array* cos, mlx_array* sin, mlx_array positions, mlx_array inv_freq, float factor, mlx_stream stream,
    Failure* failure) {
  return guarded(failure, [&] {
    auto outputs = mdt::rope_tables(get(positions), get(inv_freq), factor, mlx_stream_get_(stream));
    mlx_array_set_(*cos, outputs.first);
    mlx_array_set_(*sin, outputs.second);
  });
}

bool mdt_op_rope(mlx_array* out, mlx_array x, mlx_array cos, mlx_array sin, mlx_stream stream, Failure* failure) {
  return guarded(failure, [&] {
    mlx_array_set_(*out, mdt::rope(get(x), get(cos), get(sin), mlx_stream_get_(stream)));
  });
}

// `segments` may be an empty handle.
bool mdt_op_attention(
    mlx_array* out, mlx_array query, mlx_array key, mlx_array value, mlx_array segments, float scale, float soft_cap,
    bool causal, int window, mlx_stream stream, Failure* failure) {
  return guarded(failure, [&] {
    mlx_array_set_(
        *out, mdt::attention(
                  get(query), get(key), get(value), optional(segments), {scale, soft_cap, causal, window},
                  mlx_stream_get_(stream)));
  });
}

bool mdt_op_checked_indices(
    mlx_array* out, mlx_array indices, const char* operation, int length, bool from_end, mlx_stream stream,
    Failure* failure) {
  return guarded(failure, [&] {
    mlx_array_set_(*out, mdt::checked_indices(get(indices), operation, length, from_end, mlx_stream_get_(stream)));
  });
}

bool mdt_op_embedding(mlx_array* out, mlx_array table, mlx_array ids, mlx_stream stream, Failure* failure) {
  return guarded(failure, [&] { mlx_array_set_(*out, mdt::embedding(get(table), get(ids), mlx_stream_get_(stream))); });
}

bool mdt_op_with_look_ups_added_in_place(mlx_array* out, mlx_array gradient, mlx_stream stream, Failure* failure) {
  return guarded(failure, [&] {
    mlx_array_set_(*out, mdt::with_look_ups_added_in_place(get(gradient), mlx_stream_get_(stream)));
  });
}

bool mdt_op_linear(mlx_array* out, mlx_array x, mlx_array weight, mlx_stream stream, Failure* failure) {
  return guarded(failure, [&] { mlx_array_set_(*out, mdt::linear(get(x), get(weight), mlx_stream_get_(stream))); });
}

bool mdt_op_add(mlx_array* out, mlx_array a, mlx_array b, mlx_stream stream, Failure* failure) {
  return guarded(failure, [&] { mlx_array_set_(*out, mdt::add(get(a), get(b), mlx_stream_get_(stream))); });
}

// Replaces the arrays of these handles.
bool mdt_join_sums(mlx_array* ends, size_t count, mlx_stream stream, Failure* failure) {
  return guarded(failure, [&] {
    std::vector<mlx::core::array> arrays;
    for (size_t i = 0; i < count; ++i) {
      arrays.push_back(get(ends[i]));
    }
    mdt::join_sums(arrays, mlx_stream_get_(stream));
    for (size_t i = 0; i < count; ++i) {
      mlx_array_set_(ends[i], arrays[i]);
    }
  });
}

bool mdt_op_dequantize(
    mlx_array* out, mlx_array words, mlx_array scales, mlx_array biases, int group_size, int bits, mlx_stream stream,
    Failure* failure) {
  return guarded(failure, [&] {
    const mdt::Quantized weight{get(words), get(scales), get(biases), group_size, bits};
    mlx_array_set_(*out, mdt::dequantize(weight, mlx_stream_get_(stream)));
  });
}

// `operands`: 0 for those that are not rounded, 1 for float16, 2 for bfloat16.
bool mdt_op_quantized_linear(
    mlx_array* out, mlx_array x, mlx_array words, mlx_array scales, mlx_array biases, int group_size, int bits,
    int operands, mlx_stream stream, Failure* failure) {
  return guarded(failure, [&] {
    const mdt::Quantized weight{get(words), get(scales), get(biases), group_size, bits};
    std::optional<mlx::core::Dtype> rounded;
    if (operands != 0) {
      rounded = operands == 1 ? mlx::core::float16 : mlx::core::bfloat16;
    }
    mlx_array_set_(*out, mdt::quantized_linear(get(x), weight, rounded, mlx_stream_get_(stream)));
  });
}

// `bf16`: operands of bfloat16, else of float16. The result has the type of x.
bool mdt_op_product(
    mlx_array* out, mlx_array x, mlx_array matrix, bool transpose, bool bf16, mlx_stream stream, Failure* failure) {
  return guarded(failure, [&] {
    const auto operands = bf16 ? mlx::core::bfloat16 : mlx::core::float16;
    mlx_array_set_(
        *out,
        mdt::product_of_rows(get(x), get(matrix), transpose, operands, get(x).dtype(), mlx_stream_get_(stream)));
  });
}

bool mdt_op_grouped_linear(
    mlx_array* out, mlx_array rows, mlx_array weight, mlx_array groups, mlx_stream stream, Failure* failure) {
  return guarded(failure, [&] {
    mlx_array_set_(*out, mdt::grouped_linear(get(rows), get(weight), get(groups), mlx_stream_get_(stream)));
  });
}

bool mdt_op_function(mlx_array* out, mlx_array x, int which, mlx_stream stream, Failure* failure) {
  return guarded(failure, [&] {
    mlx_array_set_(*out, mdt::function(get(x), static_cast<mdt::Function>(which), mlx_stream_get_(stream)));
  });
}

bool mdt_op_sum(mlx_array* out, mlx_array x, int first, int axes, mlx_stream stream, Failure* failure) {
  return guarded(failure, [&] { mlx_array_set_(*out, mdt::sum(get(x), first, axes, mlx_stream_get_(stream))); });
}

// To bfloat16, or to float16, or from one of them to float32.
bool mdt_op_convert(mlx_array* out, mlx_array x, bool to_bf16, mlx_stream stream, Failure* failure) {
  return guarded(failure, [&] {
    const auto half = to_bf16 ? mlx::core::bfloat16 : mlx::core::float16;
    const auto dtype = get(x).dtype() == mlx::core::float32 ? half : mlx::core::float32;
    mlx_array_set_(*out, mdt::convert(get(x), dtype, mlx_stream_get_(stream)));
  });
}

// After a failed evaluation: MLX would report the same error again to a later one, and where it stops in the middle of one it
// counts a task that never ends, until it waits for such tasks for ever.
bool mdt_op_placeholder(
    mlx_array* out, const int* shape, size_t rank, mlx_dtype dtype, mlx_stream stream, Failure* failure) {
  return guarded(failure, [&] {
    const mlx::core::Shape lengths(shape, shape + rank);
    mlx_array_set_(*out, mdt::placeholder(lengths, mlx_dtype_to_cpp(dtype), mlx_stream_get_(stream)));
  });
}

bool mdt_plan(
    const mlx_array* tensors, size_t count, mlx_stream stream, void* context, MdtVisit visit, Failure* failure) {
  return guarded(failure, [&] {
    std::vector<mlx::core::array> arrays;
    for (size_t i = 0; i < count; ++i) {
      arrays.push_back(get(tensors[i]));
    }
    mdt::plan(std::move(arrays), mlx_stream_get_(stream), context, visit);
  });
}

bool mdt_keep_buffers(Failure* failure) {
  return guarded(failure, [] { mdt::keep_buffers(); });
}

bool mdt_bound_buffers(Failure* failure) {
  return guarded(failure, [] { mdt::bound_buffers(); });
}

void mdt_settle(mlx_stream handle) {
  Failure ignored;
  const auto stream = mlx_stream_get_(handle);
  if (stream.device != mlx::core::Device::cpu) {
    return;
  }
  // The first call clears the error, the second one waits.
  for (int call = 0; call < 2; ++call) {
    guarded(&ignored, [&] { mlx::core::synchronize(stream); });
  }
  while (mlx::core::scheduler::n_active_tasks() > 0) {
    mlx::core::scheduler::notify_task_completion(stream);
  }
}

size_t mdt_array_id(mlx_array a) {
  return get(a).id();
}

bool mdt_array_is_exclusive(mlx_array a) {
  bool exclusive = false;
  Failure ignored;
  guarded(&ignored, [&] { exclusive = mdt::is_exclusive(get(a)); });
  return exclusive;
}

// Whether products of bfloat16 have instructions of their own here.
bool mdt_has_tiles() {
  return mdt::tiles::available();
}

bool mdt_stream_is_cpu(mlx_stream stream) {
  bool cpu = false;
  Failure ignored;
  guarded(&ignored, [&] { cpu = mlx_stream_get_(stream).device == mlx::core::Device::cpu; });
  return cpu;
}

} // extern "C"
