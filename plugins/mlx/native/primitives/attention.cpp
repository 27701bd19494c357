// Attention: the forward pass keeps the log-sum-exp of each query, the backward pass computes the scores again.
#include "primitive.h"

namespace mdt {

namespace {

// The first inputs of both primitives: query, key, value and, if any, segments. Every axis runs forwards.
MdtAttention describe(const std::vector<array>& inputs, const AttentionOptions& options, bool has_segments) {
  return {view(inputs[0]), view(inputs[1]), view(inputs[2]), options.scale, options.soft_cap, options.causal,
          static_cast<size_t>(options.window), has_segments ? inputs[3].data<int32_t>() : nullptr};
}

class AttentionBackward : public CpuPrimitive {
 public:
  AttentionBackward(Stream stream, AttentionOptions options, bool has_segments)
      : CpuPrimitive(stream), options_(options), has_segments_(has_segments) {}

  // query, key, value, [segments], out, lse, cotangent -> gradients of query, key and value
  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    std::vector<array> in{forwards(inputs[0]), forwards(inputs[1]), forwards(inputs[2])};
    in.insert(in.end(), inputs.begin() + 3, inputs.end());
    const size_t rest = has_segments_ ? 4 : 3;
    const array cotangent = forwards(in[rest + 2]);
    for (array& output : outputs) {
      allocate_heads_inside(output);
    }
    dispatch([what = describe(in, options_, has_segments_), out = view(in[rest]), lse = in[rest + 1].data<float>(),
              cotangent = view(cotangent), query = outputs[0].data<float>(), key = outputs[1].data<float>(),
              value = outputs[2].data<float>()]() {
      mdt_attention_backward(&what, &out, lse, &cotangent, query, key, value);
    });
  }

  DEFINE_NAME(AttentionBackward)
  bool is_equivalent(const Primitive& other) const override {
    const auto& its = static_cast<const AttentionBackward&>(other);
    return options_ == its.options_ && has_segments_ == its.has_segments_;
  }

 private:
  AttentionOptions options_;
  bool has_segments_;
};

class Attention : public CpuPrimitive {
 public:
  Attention(Stream stream, AttentionOptions options, bool has_segments)
      : CpuPrimitive(stream), options_(options), has_segments_(has_segments) {}

  // query, key, value, [segments] -> out, lse
  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    std::vector<array> in{forwards(inputs[0]), forwards(inputs[1]), forwards(inputs[2])};
    in.insert(in.end(), inputs.begin() + 3, inputs.end());
    allocate_heads_inside(outputs[0]);
    allocate(outputs[1]);
    dispatch([what = describe(in, options_, has_segments_), out = outputs[0].data<float>(), lse = outputs[1].data<float>()]() {
      mdt_attention(&what, out, lse);
    });
  }

  std::vector<array> vjp(
      const std::vector<array>& primals, const std::vector<array>& cotangents, const std::vector<int>& argnums,
      const std::vector<array>& outputs) override {
    std::vector<array> inputs = primals;
    inputs.insert(inputs.end(), {outputs[0], outputs[1], cotangents[0]});
    const auto gradients = widened(
        {primals[0].shape(), primals[1].shape(), primals[2].shape()},
        {primals[0].dtype(), primals[1].dtype(), primals[2].dtype()},
        std::make_shared<AttentionBackward>(stream(), options_, has_segments_), inputs);
    return select(gradients, primals, argnums, stream());
  }

  DEFINE_NAME(Attention)
  bool is_equivalent(const Primitive& other) const override {
    const auto& its = static_cast<const Attention&>(other);
    return options_ == its.options_ && has_segments_ == its.has_segments_;
  }

 private:
  AttentionOptions options_;
  bool has_segments_;
};

} // namespace

array attention(
    const array& query, const array& key, const array& value, const std::optional<array>& segments,
    const AttentionOptions& options, Stream stream) {
  std::vector<array> inputs{query, key, value};
  if (segments) {
    inputs.push_back(dense(*segments, stream));
  }
  const int lse = static_cast<int>(mdt_attention_lse_len(query.shape(0), query.shape(1), query.shape(2)));
  return widened(
      {query.shape(), Shape{lse}}, {query.dtype(), float32},
      std::make_shared<Attention>(stream, options, segments.has_value()), inputs)[0];
}

} // namespace mdt
