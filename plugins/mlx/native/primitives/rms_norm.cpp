// RMSNorm.
#include "primitive.h"

namespace mdt {

namespace {

class RmsNormBackward : public CpuPrimitive {
 public:
  RmsNormBackward(Stream stream, float eps) : CpuPrimitive(stream), eps_(eps) {}

  // x, weight, cotangent -> gradients of x and weight
  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    allocate(outputs[0]);
    allocate(outputs[1]);
    const size_t width = inputs[1].size();
    if (inputs[0].dtype() == mlx::core::bfloat16) {
      dispatch([x = inputs[0].data<uint16_t>(), weight = inputs[1].data<uint16_t>(), eps = eps_,
                cotangent = inputs[2].data<uint16_t>(), rows = inputs[0].size() / width, width,
                grad_x = outputs[0].data<uint16_t>(), grad_weight = outputs[1].data<uint16_t>()]() {
        mdt_rms_norm_backward_bf16(x, weight, eps, cotangent, rows, width, grad_x, grad_weight);
      });
      return;
    }
    dispatch([x = inputs[0].data<float>(), weight = inputs[1].data<float>(), eps = eps_,
              cotangent = inputs[2].data<float>(), rows = inputs[0].size() / width, width,
              grad_x = outputs[0].data<float>(), grad_weight = outputs[1].data<float>()]() {
      mdt_rms_norm_backward(x, weight, eps, cotangent, rows, width, grad_x, grad_weight);
    });
  }

  bool takes_half(const std::vector<array>& inputs, const std::vector<Dtype>& outputs) const override {
    return are_bf16(inputs, outputs);
  }

  DEFINE_NAME(RmsNormBackward)
  bool is_equivalent(const Primitive& other) const override {
    return eps_ == static_cast<const RmsNormBackward&>(other).eps_;
  }

 private:
  float eps_;
};

class RmsNorm : public CpuPrimitive {
 public:
  RmsNorm(Stream stream, float eps) : CpuPrimitive(stream), eps_(eps) {}

  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    allocate(outputs[0]);
    const size_t width = inputs[1].size();
    if (inputs[0].dtype() == mlx::core::bfloat16) {
      dispatch([x = inputs[0].data<uint16_t>(), weight = inputs[1].data<uint16_t>(), eps = eps_,
                rows = inputs[0].size() / width, width, out = outputs[0].data<uint16_t>()]() {
        mdt_rms_norm_bf16(x, weight, eps, rows, width, out);
      });
      return;
    }
    dispatch([x = inputs[0].data<float>(), weight = inputs[1].data<float>(), eps = eps_,
              rows = inputs[0].size() / width, width, out = outputs[0].data<float>()]() {
      mdt_rms_norm(x, weight, eps, rows, width, out);
    });
  }

  std::vector<array> vjp(
      const std::vector<array>& primals, const std::vector<array>& cotangents, const std::vector<int>& argnums,
      const std::vector<array>&) override {
    const auto gradients = widened(
        {primals[0].shape(), primals[1].shape()}, {primals[0].dtype(), primals[1].dtype()},
        std::make_shared<RmsNormBackward>(stream(), eps_), {primals[0], primals[1], dense(cotangents[0], stream())});
    return select(gradients, primals, argnums, stream());
  }

  bool takes_half(const std::vector<array>& inputs, const std::vector<Dtype>& outputs) const override {
    return are_bf16(inputs, outputs);
  }

  DEFINE_NAME(RmsNorm)
  bool is_equivalent(const Primitive& other) const override {
    return eps_ == static_cast<const RmsNorm&>(other).eps_;
  }

 private:
  float eps_;
};

} // namespace

array rms_norm(const array& x, const array& weight, float eps, Stream stream) {
  const Dtype type = mlx::core::promote_types(x.dtype(), weight.dtype());
  return widened_one<RmsNorm>(type, x.shape(), stream, {dense(x, stream), dense(weight, stream)}, eps);
}

} // namespace mdt
