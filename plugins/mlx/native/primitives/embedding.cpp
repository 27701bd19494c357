// Look-ups in a table. The gradient of a table that is also used otherwise (as the head of a model with tied embeddings) is added to
// what there is, in place.
#include <cstring>

#include "mlx/ops.h"
#include "primitive.h"

namespace mdt {

namespace mx = mlx::core;

namespace {

class EmbeddingBackward : public CpuPrimitive {
 public:
  using CpuPrimitive::CpuPrimitive;

  // ids [N], cotangent [N, D] -> gradient of the table [V, D]
  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    allocate(outputs[0]);
    dispatch([ids = inputs[0].data<int32_t>(), count = inputs[0].size(), cotangent = inputs[1].data<float>(),
              rows = outputs[0].shape(0), width = outputs[0].shape(1), grad = outputs[0].data<float>()]() {
      mdt_embedding_backward(ids, count, cotangent, rows, width, grad, false);
    });
  }

  DEFINE_NAME(EmbeddingBackward)
  DEFINE_DEFAULT_IS_EQUIVALENT()
};

class EmbeddingBackwardOnto : public CpuPrimitive {
 public:
  using CpuPrimitive::CpuPrimitive;

  // ids [N], cotangent [N, D], base [V, D] -> base + gradient of the table, in base's memory where nothing else needs it
  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    const array& base = inputs[2];
    array& sum = outputs[0];
    const float* from = base.data<float>();
    if (base.is_donatable()) {
      sum.copy_shared_buffer(base);
    } else {
      allocate(sum);
    }
    dispatch([ids = inputs[0].data<int32_t>(), count = inputs[0].size(), cotangent = inputs[1].data<float>(), from,
              rows = sum.shape(0), width = sum.shape(1), bytes = sum.nbytes(), sum = sum.data<float>()]() {
      if (from != sum) {
        std::memcpy(sum, from, bytes);
      }
      mdt_embedding_backward(ids, count, cotangent, rows, width, sum, true);
    });
  }

  DEFINE_NAME(EmbeddingBackwardOnto)
  DEFINE_DEFAULT_IS_EQUIVALENT()
};

class Embedding : public CpuPrimitive {
 public:
  using CpuPrimitive::CpuPrimitive;

  // table [V, D], ids [N] -> [N, D]
  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    allocate(outputs[0]);
    dispatch([table = inputs[0].data<float>(), ids = inputs[1].data<int32_t>(), count = inputs[1].size(),
              rows = inputs[0].shape(0), width = inputs[0].shape(1), out = outputs[0].data<float>()]() {
      mdt_embedding(table, ids, count, rows, width, out);
    });
  }

  std::vector<array> vjp(
      const std::vector<array>& primals, const std::vector<array>& cotangents, const std::vector<int>& argnums,
      const std::vector<array>&) override {
    const array grad = one<EmbeddingBackward>(
        primals[0].shape(), stream(), {primals[1], dense(cotangents[0], stream())});
    return select({grad}, primals, argnums, stream());
  }

  DEFINE_NAME(Embedding)
  DEFINE_DEFAULT_IS_EQUIVALENT()
};

} // namespace

array embedding(const array& table, const array& ids, Stream stream) {
  const array flat = dense(mx::flatten(ids, stream), stream);
  const array found = one<Embedding>(
      Shape{flat.shape(0), table.shape(1)}, stream, {dense(table, stream), flat});
  Shape shape = ids.shape();
  shape.push_back(table.shape(1));
  return mx::reshape(found, shape, stream);
}

array with_look_ups_added_in_place(const array& gradient, Stream stream) {
  // MLX adds what several uses give.
  if (!gradient.has_primitive() || std::strcmp(gradient.primitive().name(), "Add") != 0) {
    return gradient;
  }
  for (size_t side = 0; side < 2; ++side) {
    const array &added = gradient.inputs()[side], &rest = gradient.inputs()[1 - side];
    const bool is_of_look_up =
        added.has_primitive() && dynamic_cast<const EmbeddingBackward*>(&added.primitive()) != nullptr;
    if (is_of_look_up && rest.shape() == added.shape() && rest.dtype() == float32) {
      const array base = dense(with_look_ups_added_in_place(rest, stream), stream);
      return one<EmbeddingBackwardOnto>(added.shape(), stream, {added.inputs()[0], added.inputs()[1], base});
    }
  }
  return gradient;
}

} // namespace mdt
