// Cross-entropy: the forward pass keeps a log-sum-exp per row, the backward pass turns the logits into their gradient, in place
// when nothing else needs them.
#include "primitive.h"

namespace mdt {

namespace {

class CrossEntropyBackward : public CpuPrimitive {
 public:
  using CpuPrimitive::CpuPrimitive;

  // logits, targets, lse, cotangent -> gradient of the logits
  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    const array& logits = inputs[0];
    array& grad = outputs[0];
    if (logits.is_donatable()) {
      grad.copy_shared_buffer(logits);
    } else {
      allocate(grad);
    }
    dispatch([logits = logits.data<float>(), targets = inputs[1].data<int32_t>(), lse = inputs[2].data<float>(),
              cotangent = inputs[3].data<float>(), rows = logits.shape(0), width = logits.shape(1),
              grad = grad.data<float>()]() {
      mdt_cross_entropy_backward(logits, targets, lse, cotangent, rows, width, grad);
    });
  }

  DEFINE_NAME(CrossEntropyBackward)
  DEFINE_DEFAULT_IS_EQUIVALENT()
};

class CrossEntropy : public CpuPrimitive {
 public:
  using CpuPrimitive::CpuPrimitive;

  // logits, targets -> losses, lse
  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    allocate(outputs[0]);
    allocate(outputs[1]);
    dispatch([logits = inputs[0].data<float>(), targets = inputs[1].data<int32_t>(), rows = inputs[0].shape(0),
              width = inputs[0].shape(1), losses = outputs[0].data<float>(), lse = outputs[1].data<float>()]() {
      mdt_cross_entropy(logits, targets, rows, width, losses, lse);
    });
  }

  std::vector<array> vjp(
      const std::vector<array>& primals, const std::vector<array>& cotangents, const std::vector<int>& argnums,
      const std::vector<array>& outputs) override {
    const array grad = one<CrossEntropyBackward>(
        primals[0].shape(), stream(), {primals[0], primals[1], outputs[1], dense(cotangents[0], stream())});
    return select({grad}, primals, argnums, stream());
  }

  DEFINE_NAME(CrossEntropy)
  DEFINE_DEFAULT_IS_EQUIVALENT()
};

} // namespace

array cross_entropy(const array& logits, const array& targets, Stream stream) {
  const Shape rows{logits.shape(0)};
  return several<CrossEntropy>({rows, rows}, stream, {dense(logits, stream), dense(targets, stream)})[0];
}

} // namespace mdt
