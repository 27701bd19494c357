// SwiGLU.
#include "primitive.h"

namespace mdt {

namespace {

class SwigluBackward : public CpuPrimitive {
 public:
  using CpuPrimitive::CpuPrimitive;

  // gate, up, cotangent -> gradients of gate and up
  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    allocate(outputs[0]);
    allocate(outputs[1]);
    if (inputs[0].dtype() == mlx::core::bfloat16) {
      dispatch([gate = inputs[0].data<uint16_t>(), up = inputs[1].data<uint16_t>(), cotangent = inputs[2].data<uint16_t>(),
                len = inputs[0].size(), grad_gate = outputs[0].data<uint16_t>(), grad_up = outputs[1].data<uint16_t>()]() {
        mdt_swiglu_backward_bf16(gate, up, cotangent, len, grad_gate, grad_up);
      });
      return;
    }
    dispatch([gate = inputs[0].data<float>(), up = inputs[1].data<float>(), cotangent = inputs[2].data<float>(),
              len = inputs[0].size(), grad_gate = outputs[0].data<float>(), grad_up = outputs[1].data<float>()]() {
      mdt_swiglu_backward(gate, up, cotangent, len, grad_gate, grad_up);
    });
  }

  bool takes_half(const std::vector<array>& inputs, const std::vector<Dtype>& outputs) const override {
    return are_bf16(inputs, outputs);
  }

  DEFINE_NAME(SwigluBackward)
  DEFINE_DEFAULT_IS_EQUIVALENT()
};

class Swiglu : public CpuPrimitive {
 public:
  using CpuPrimitive::CpuPrimitive;

  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    allocate(outputs[0]);
    if (inputs[0].dtype() == mlx::core::bfloat16) {
      dispatch([gate = inputs[0].data<uint16_t>(), up = inputs[1].data<uint16_t>(), len = inputs[0].size(),
                out = outputs[0].data<uint16_t>()]() { mdt_swiglu_bf16(gate, up, len, out); });
      return;
    }
    dispatch([gate = inputs[0].data<float>(), up = inputs[1].data<float>(), len = inputs[0].size(),
              out = outputs[0].data<float>()]() { mdt_swiglu(gate, up, len, out); });
  }

  std::vector<array> vjp(
      const std::vector<array>& primals, const std::vector<array>& cotangents, const std::vector<int>& argnums,
      const std::vector<array>&) override {
    const Shape& shape = primals[0].shape();
    const auto gradients = widened(
        {shape, shape}, {primals[0].dtype(), primals[1].dtype()}, std::make_shared<SwigluBackward>(stream()),
        {primals[0], primals[1], dense(cotangents[0], stream())});
    return select(gradients, primals, argnums, stream());
  }

  bool takes_half(const std::vector<array>& inputs, const std::vector<Dtype>& outputs) const override {
    return are_bf16(inputs, outputs);
  }

  DEFINE_NAME(Swiglu)
  DEFINE_DEFAULT_IS_EQUIVALENT()
};

} // namespace

array swiglu(const array& gate, const array& up, Stream stream) {
  return widened_one<Swiglu>(gate.dtype(), gate.shape(), stream, {dense(gate, stream), dense(up, stream)});
}

} // namespace mdt
