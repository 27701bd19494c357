// Rotary positions: tables of angles, and the rotation by them, whose gradient is the rotation back.
#include "primitive.h"

namespace mdt {

namespace {

class RopeTables : public CpuPrimitive {
 public:
  RopeTables(Stream stream, float factor) : CpuPrimitive(stream), factor_(factor) {}

  // positions, inv_freq -> cos, sin
  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    allocate(outputs[0]);
    allocate(outputs[1]);
    dispatch([positions = inputs[0].data<int32_t>(), rows = inputs[0].size(), inv_freq = inputs[1].data<float>(),
              half = inputs[1].size(), factor = factor_, cos = outputs[0].data<float>(),
              sin = outputs[1].data<float>()]() { mdt_rope_tables(positions, rows, inv_freq, half, factor, cos, sin); });
  }

  DEFINE_NAME(RopeTables)
  bool is_equivalent(const Primitive& other) const override {
    return factor_ == static_cast<const RopeTables&>(other).factor_;
  }

 private:
  float factor_;
};

class Rope : public CpuPrimitive {
 public:
  Rope(Stream stream, bool inverse) : CpuPrimitive(stream), inverse_(inverse) {}

  // x, cos, sin -> rotated x
  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    allocate_heads_inside(outputs[0]);
    if (inputs[0].dtype() == mlx::core::bfloat16) {
      dispatch([x = view<uint16_t>(inputs[0]), cos = inputs[1].data<float>(), sin = inputs[2].data<float>(),
                half = inputs[1].shape(1), per_batch = inputs[1].shape(0) != inputs[0].shape(2), inverse = inverse_,
                out = outputs[0].data<uint16_t>()]() { mdt_rope_bf16(&x, cos, sin, half, per_batch, inverse, out); });
      return;
    }
    const array x = forwards(inputs[0]);
    dispatch([x = view(x), cos = inputs[1].data<float>(), sin = inputs[2].data<float>(), half = inputs[1].shape(1),
              per_batch = inputs[1].shape(0) != x.shape(2), inverse = inverse_, out = outputs[0].data<float>()]() {
      mdt_rope(&x, cos, sin, half, per_batch, inverse, out);
    });
  }

  std::vector<array> vjp(
      const std::vector<array>& primals, const std::vector<array>& cotangents, const std::vector<int>& argnums,
      const std::vector<array>&) override {
    const array& cotangent = cotangents[0];
    const array grad = widened_one<Rope>(
        cotangent.dtype(), primals[0].shape(), stream(), {cotangent, primals[1], primals[2]}, !inverse_);
    return select({grad}, primals, argnums, stream());
  }

  bool takes_half(const std::vector<array>& inputs, const std::vector<Dtype>& outputs) const override {
    return are_bf16({inputs[0]}, outputs);
  }

  DEFINE_NAME(Rope)
  bool is_equivalent(const Primitive& other) const override {
    return inverse_ == static_cast<const Rope&>(other).inverse_;
  }

 private:
  bool inverse_;
};

} // namespace

std::pair<array, array> rope_tables(const array& positions, const array& inv_freq, float factor, Stream stream) {
  const Shape shape{static_cast<int>(positions.size()), inv_freq.shape(0)};
  const auto outputs = several<RopeTables>(
      {shape, shape}, stream, {dense(positions, stream), dense(inv_freq, stream)}, factor);
  return {outputs[0], outputs[1]};
}

array rope(const array& x, const array& cos, const array& sin, Stream stream) {
  return widened_one<Rope>(x.dtype(), x.shape(), stream, {x, dense(cos, stream), dense(sin, stream)}, false);
}

} // namespace mdt
