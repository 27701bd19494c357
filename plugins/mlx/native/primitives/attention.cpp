// Attention: the forward pass keeps the log-sum-exp of each query, the backward pass computes the scores again.
#include <algorithm>
#include <cstring>

#include "product.h"
#include "tile_attention.h"
#include "tiles.h"

namespace mdt {

namespace {

// The first inputs of both primitives: query, key, value and, if any, segments. Every axis runs forwards.
MdtAttention describe(const std::vector<array>& inputs, const AttentionOptions& options, bool has_segments) {
  return {view(inputs[0]), view(inputs[1]), view(inputs[2]), options.scale, options.soft_cap, options.causal,
          static_cast<size_t>(options.window), has_segments ? inputs[3].data<int32_t>() : nullptr};
}

// Whether these are operands for the tiles of this processor: query, key and value, and what has their type.
bool runs_on_tiles(const std::vector<array>& operands, const std::vector<Dtype>& outputs) {
  return tiles::available() && are_bf16(operands, outputs) && operands[0].shape(3) <= static_cast<int>(tiles::WIDEST_HEAD);
}

// The same for them, with features that lie one after another. Without data, as a plan has them, the sizes alone are there.
tiles::Attention describe_on_tiles(const std::vector<array>& inputs, const AttentionOptions& options, bool has_segments, bool has_data) {
  const auto on_tiles = [&](const array& a) {
    MdtView<uint16_t> sizes{};
    std::copy(a.shape().begin(), a.shape().end(), sizes.shape);
    return has_data ? view<uint16_t>(a) : sizes;
  };
  return {on_tiles(inputs[0]), on_tiles(inputs[1]), on_tiles(inputs[2]), options.scale, options.soft_cap, options.causal,
          static_cast<size_t>(options.window), has_segments && has_data ? inputs[3].data<int32_t>() : nullptr};
}

class AttentionBackward : public CpuPrimitive {
 public:
  AttentionBackward(Stream stream, AttentionOptions options, bool has_segments)
      : CpuPrimitive(stream), options_(options), has_segments_(has_segments) {}

  // query, key, value, [segments], out, lse, cotangent -> gradients of query, key and value
  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    if (outputs[0].dtype() == mlx::core::bfloat16) {
      eval_on_tiles(inputs, outputs);
      return;
    }
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

  bool takes_half(const std::vector<array>& inputs, const std::vector<Dtype>& outputs) const override {
    const size_t rest = has_segments_ ? 4 : 3;
    return runs_on_tiles({inputs[0], inputs[1], inputs[2], inputs[rest], inputs[rest + 2]}, outputs);
  }

  size_t scratch_bytes(const std::vector<array>& inputs, const std::vector<array>& outputs) const override {
    return takes_half(inputs, {outputs[0].dtype()})
        ? tiles::attention_backward_scratch_bytes(describe_on_tiles(inputs, options_, has_segments_, false))
        : 0;
  }

  DEFINE_NAME(AttentionBackward)
  bool is_equivalent(const Primitive& other) const override {
    const auto& its = static_cast<const AttentionBackward&>(other);
    return options_ == its.options_ && has_segments_ == its.has_segments_;
  }

 private:
  void eval_on_tiles(const std::vector<array>& inputs, std::vector<array>& outputs) {
    std::vector<array> in{in_rows(inputs[0]), in_rows(inputs[1]), in_rows(inputs[2])};
    in.insert(in.end(), inputs.begin() + 3, inputs.end());
    const size_t rest = has_segments_ ? 4 : 3;
    const array out = in_rows(in[rest]), cotangent = in_rows(in[rest + 2]);
    for (array& output : outputs) {
      allocate_heads_inside(output);
    }
    dispatch([what = describe_on_tiles(in, options_, has_segments_, true), out = view<uint16_t>(out),
              lse = in[rest + 1].data<float>(), cotangent = view<uint16_t>(cotangent), query = outputs[0].data<uint16_t>(),
              key = outputs[1].data<uint16_t>(), value = outputs[2].data<uint16_t>(), key_bytes = outputs[1].nbytes()]() {
      if (what.query.len == 0) {
        std::memset(key, 0, key_bytes);
        std::memset(value, 0, key_bytes);
        return;
      }
      Scratch scratch(tiles::attention_backward_scratch_bytes(what));
      tiles::attention_backward(what, out, lse, cotangent, query, key, value, scratch.data());
    });
  }

  AttentionOptions options_;
  bool has_segments_;
};

class Attention : public CpuPrimitive {
 public:
  Attention(Stream stream, AttentionOptions options, bool has_segments)
      : CpuPrimitive(stream), options_(options), has_segments_(has_segments) {}

  // query, key, value, [segments] -> out, lse
  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    if (outputs[0].dtype() == mlx::core::bfloat16) {
      eval_on_tiles(inputs, outputs);
      return;
    }
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
    // In the type of the result: it decides which of the two kernels runs, and both lay out the log-sum-exp as they please.
    const Dtype type = outputs[0].dtype();
    const array cotangent = cotangents[0].dtype() == type ? cotangents[0] : convert(cotangents[0], type, stream());
    std::vector<array> inputs = primals;
    inputs.insert(inputs.end(), {outputs[0], outputs[1], cotangent});
    const auto gradients = widened(
        {primals[0].shape(), primals[1].shape(), primals[2].shape()},
        {primals[0].dtype(), primals[1].dtype(), primals[2].dtype()},
        std::make_shared<AttentionBackward>(stream(), options_, has_segments_), inputs);
    return select(gradients, primals, argnums, stream());
  }

  bool takes_half(const std::vector<array>& inputs, const std::vector<Dtype>& outputs) const override {
    return runs_on_tiles({inputs[0], inputs[1], inputs[2]}, {outputs[0]});
  }

  size_t scratch_bytes(const std::vector<array>& inputs, const std::vector<array>& outputs) const override {
    return takes_half(inputs, {outputs[0].dtype()})
        ? tiles::attention_scratch_bytes(describe_on_tiles(inputs, options_, has_segments_, false))
        : 0;
  }

  DEFINE_NAME(Attention)
  bool is_equivalent(const Primitive& other) const override {
    const auto& its = static_cast<const Attention&>(other);
    return options_ == its.options_ && has_segments_ == its.has_segments_;
  }

 private:
  void eval_on_tiles(const std::vector<array>& inputs, std::vector<array>& outputs) {
    std::vector<array> in{in_rows(inputs[0]), in_rows(inputs[1]), in_rows(inputs[2])};
    in.insert(in.end(), inputs.begin() + 3, inputs.end());
    allocate_heads_inside(outputs[0]);
    allocate(outputs[1]);
    dispatch([what = describe_on_tiles(in, options_, has_segments_, true), out = outputs[0].data<uint16_t>(),
              lse = outputs[1].data<float>()]() {
      if (what.query.len > 0) {
        Scratch scratch(tiles::attention_scratch_bytes(what));
        tiles::attention(what, out, lse, scratch.data());
      }
    });
  }

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
