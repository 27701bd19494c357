// Half precision to float32 and back, on all threads.
#include "primitive.h"

namespace mdt {

namespace mx = mlx::core;

namespace {

class Convert : public CpuPrimitive {
 public:
  using CpuPrimitive::CpuPrimitive;

  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    allocate(outputs[0]);
    const bool widens = outputs[0].dtype() == mx::float32;
    const bool is_bf16 = (widens ? inputs[0] : outputs[0]).dtype() == mx::bfloat16;
    const size_t size = inputs[0].size();
    if (widens) {
      const auto kernel = is_bf16 ? mdt_widen_bf16 : mdt_widen_f16;
      dispatch([kernel, x = inputs[0].data<uint16_t>(), size, out = outputs[0].data<float>()]() { kernel(x, size, out); });
    } else {
      const auto kernel = is_bf16 ? mdt_narrow_bf16 : mdt_narrow_f16;
      dispatch([kernel, x = inputs[0].data<float>(), size, out = outputs[0].data<uint16_t>()]() { kernel(x, size, out); });
    }
  }

  std::vector<array> vjp(
      const std::vector<array>& primals, const std::vector<array>& cotangents, const std::vector<int>&,
      const std::vector<array>&) override {
    return {convert(cotangents[0], primals[0].dtype(), stream())};
  }

  DEFINE_NAME(Convert)
  DEFINE_DEFAULT_IS_EQUIVALENT()
};

} // namespace

array convert(const array& x, mx::Dtype dtype, Stream stream) {
  return array(x.shape(), dtype, std::make_shared<Convert>(stream), {dense(x, stream)});
}

} // namespace mdt
