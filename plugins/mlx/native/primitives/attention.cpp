// Attention: the forward pass keeps the log-sum-exp of each query, the backward pass computes the scores again.
#include "primitive.h"

namespace mdt {

namespace {

struct Options {
  float scale;
  bool causal;
  bool segments;

  bool operator==(const Options&) const = default;
};

// The first inputs of both primitives: query, key, value and, if any, segments. Every axis runs forwards.
MdtAttention describe(const std::vector<array>& inputs, const Options& options) {
  return {view(inputs[0]), view(inputs[1]), view(inputs[2]), options.scale, options.causal,
          options.segments ? inputs[3].data<int32_t>() : nullptr};
}

class AttentionBackward : public CpuPrimitive {
 public:
  AttentionBackward(Stream stream, Options options) : CpuPrimitive(stream), options_(options) {}

  // query, key, value, [segments], out, lse, cotangent -> gradients of query, key and value
  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    std::vector<array> in{forwards(inputs[0]), forwards(inputs[1]), forwards(inputs[2])};
    in.insert(in.end(), inputs.begin() + 3, inputs.end());
    const size_t rest = options_.segments ? 4 : 3;
    const array cotangent = forwards(in[rest + 2]);
    for (array& output : outputs) {
      allocate_heads_inside(output);
    }
    dispatch([what = describe(in, options_), out = view(in[rest]), lse = in[rest + 1].data<float>(),
              cotangent = view(cotangent), query = outputs[0].data<float>(), key = outputs[1].data<float>(),
              value = outputs[2].data<float>()]() {
      mdt_attention_backward(&what, &out, lse, &cotangent, query, key, value);
    });
  }

  DEFINE_NAME(AttentionBackward)
  bool is_equivalent(const Primitive& other) const override {
    return options_ == static_cast<const AttentionBackward&>(other).options_;
  }

 private:
  Options options_;
};

class Attention : public CpuPrimitive {
 public:
  Attention(Stream stream, Options options) : CpuPrimitive(stream), options_(options) {}

  // query, key, value, [segments] -> out, lse
  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    std::vector<array> in{forwards(inputs[0]), forwards(inputs[1]), forwards(inputs[2])};
    in.insert(in.end(), inputs.begin() + 3, inputs.end());
    allocate_heads_inside(outputs[0]);
    allocate(outputs[1]);
    dispatch([what = describe(in, options_), out = outputs[0].data<float>(), lse = outputs[1].data<float>()]() {
      mdt_attention(&what, out, lse);
    });
  }

  std::vector<array> vjp(
      const std::vector<array>& primals, const std::vector<array>& cotangents, const std::vector<int>& argnums,
      const std::vector<array>& outputs) override {
    std::vector<array> inputs = primals;
    inputs.insert(inputs.end(), {outputs[0], outputs[1], cotangents[0]});
    const auto gradients = several<AttentionBackward>(
        {primals[0].shape(), primals[1].shape(), primals[2].shape()}, stream(), inputs, options_);
    return select(gradients, primals, argnums, stream());
  }

  DEFINE_NAME(Attention)
  bool is_equivalent(const Primitive& other) const override {
    return options_ == static_cast<const Attention&>(other).options_;
  }

 private:
  Options options_;
};

} // namespace

array attention(
    const array& query, const array& key, const array& value, const std::optional<array>& segments, float scale,
    bool causal, Stream stream) {
  std::vector<array> inputs{query, key, value};
  if (segments) {
    inputs.push_back(dense(*segments, stream));
  }
  const int lse = static_cast<int>(mdt_attention_lse_len(query.shape(0), query.shape(1), query.shape(2)));
  const Options options{scale, causal, segments.has_value()};
  return several<Attention>({query.shape(), Shape{lse}}, stream, inputs, options)[0];
}

} // namespace mdt
