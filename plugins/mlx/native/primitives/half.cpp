// Primitives of f32 on half precision: widened before, rounded after, in memory that lasts as long as the primitive runs.
#include <algorithm>

#include "mlx/allocator.h"
#include "primitive.h"

namespace mdt {

namespace mx = mlx::core;

namespace {

// How many elements lie between the first and the last one of an array, both counted; nothing runs backwards.
size_t span(const array& a) {
  size_t length = a.size() == 0 ? 0 : 1;
  for (int axis = 0; axis < static_cast<int>(a.ndim()) && length > 0; ++axis) {
    length += (static_cast<size_t>(a.shape(axis)) - 1) * static_cast<size_t>(a.strides(axis));
  }
  return length;
}

bool runs_backwards(const array& a) {
  return std::any_of(a.strides().begin(), a.strides().end(), [](int64_t stride) { return stride < 0; });
}

class InHalf : public CpuPrimitive {
 public:
  InHalf(Stream stream, std::shared_ptr<CpuPrimitive> inner) : CpuPrimitive(stream), inner_(std::move(inner)) {}

  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    std::vector<array> wide_inputs, wide_outputs;
    for (const array& input : inputs) {
      wide_inputs.push_back(is_half(input.dtype()) ? widened(input) : input);
    }
    for (const array& output : outputs) {
      wide_outputs.push_back(is_half(output.dtype()) ? array(output.shape(), float32, nullptr, {}) : output);
    }
    inner_->eval_cpu(wide_inputs, wide_outputs);
    for (size_t i = 0; i < outputs.size(); ++i) {
      if (is_half(outputs[i].dtype())) {
        round(wide_outputs[i], outputs[i]);
      }
    }
  }

  // Gradients have the types of their inputs.
  std::vector<array> vjp(
      const std::vector<array>& primals, const std::vector<array>& cotangents, const std::vector<int>& argnums,
      const std::vector<array>& outputs) override {
    std::vector<array> gradients = inner_->vjp(primals, cotangents, argnums, outputs);
    for (size_t i = 0; i < gradients.size(); ++i) {
      const Dtype type = primals[argnums[i]].dtype();
      if (gradients[i].dtype() != type) {
        gradients[i] = convert(gradients[i], type, stream());
      }
    }
    return gradients;
  }

  std::vector<size_t> held_bytes(const std::vector<array>& inputs, const std::vector<array>& outputs) const override {
    std::vector<size_t> bytes = inner_->held_bytes(inputs, outputs);
    for (const auto* arrays : {&inputs, &outputs}) {
      for (const array& a : *arrays) {
        if (is_half(a.dtype())) {
          bytes.push_back(a.size() * sizeof(float));
        }
      }
    }
    return bytes;
  }

  size_t scratch_bytes(const std::vector<array>& inputs, const std::vector<array>& outputs) const override {
    return inner_->scratch_bytes(inputs, outputs);
  }

  size_t kernels(const std::vector<array>& inputs, const std::vector<array>& outputs) const override {
    size_t count = inner_->kernels(inputs, outputs);
    for (const auto* arrays : {&inputs, &outputs}) {
      count += std::count_if(arrays->begin(), arrays->end(), [](const array& a) { return is_half(a.dtype()); });
    }
    return count;
  }

  const char* planned_as() const override {
    return inner_->planned_as();
  }

  DEFINE_NAME(InHalf)
  bool is_equivalent(const Primitive& other) const override {
    return inner_ == static_cast<const InHalf&>(other).inner_;
  }

 private:
  // The elements in f32, in the same order in memory.
  array widened(const array& a) {
    if (runs_backwards(a)) {
      throw std::runtime_error("an axis of half precision runs backwards through the memory");
    }
    const size_t length = span(a);
    array wide(a.shape(), float32, nullptr, {});
    wide.set_data(mx::allocator::malloc(length * sizeof(float)), length, a.strides(), a.flags());
    dispatch([type = a.dtype(), from = a.data<void>(), length, to = wide.data<float>()]() {
      widen(type, from, length, to);
    });
    keep(wide);
    return wide;
  }

  void round(const array& wide, array& out) {
    out.set_data(
        mx::allocator::malloc(wide.data_size() * out.itemsize()), wide.data_size(), wide.strides(), wide.flags());
    dispatch([type = out.dtype(), from = wide.data<float>(), length = wide.data_size(), to = out.data<void>()]() {
      narrow(type, from, length, to);
    });
    keep(wide);
  }

  std::shared_ptr<CpuPrimitive> inner_;
};

} // namespace

bool is_half(Dtype type) {
  return type == mx::float16 || type == mx::bfloat16;
}

bool are_bf16(const std::vector<array>& inputs, const std::vector<Dtype>& outputs) {
  return std::all_of(inputs.begin(), inputs.end(), [](const array& a) { return a.dtype() == mx::bfloat16; }) &&
      std::all_of(outputs.begin(), outputs.end(), [](Dtype type) { return type == mx::bfloat16; });
}

void widen(Dtype type, const void* from, size_t count, float* to) {
  (type == mx::bfloat16 ? mdt_widen_bf16 : mdt_widen_f16)(static_cast<const uint16_t*>(from), count, to);
}

void narrow(Dtype type, const float* from, size_t count, void* to) {
  (type == mx::bfloat16 ? mdt_narrow_bf16 : mdt_narrow_f16)(from, count, static_cast<uint16_t*>(to));
}

std::vector<array> widened(
    std::vector<Shape> shapes, std::vector<Dtype> types, std::shared_ptr<CpuPrimitive> primitive,
    const std::vector<array>& inputs) {
  const auto has_half = [](const array& a) { return is_half(a.dtype()); };
  const bool are_half = std::any_of(inputs.begin(), inputs.end(), has_half) || std::any_of(types.begin(), types.end(), is_half);
  if (are_half && !primitive->takes_half(inputs, types)) {
    const Stream stream = primitive->stream();
    primitive = std::make_shared<InHalf>(stream, std::move(primitive));
  }
  return array::make_arrays(std::move(shapes), types, primitive, inputs);
}

} // namespace mdt
