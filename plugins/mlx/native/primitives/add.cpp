// Sums of two arrays, and the sums of gradients that MLX makes of several uses of an array.
#include <algorithm>
#include <cstring>
#include <stack>
#include <unordered_map>

#include "mlx/ops.h"
#include "product.h"

namespace mdt {

namespace mx = mlx::core;

namespace {

class Add : public CpuPrimitive {
 public:
  using CpuPrimitive::CpuPrimitive;

  // a, b of one shape -> a + b, in the memory of one of them where nothing else needs it
  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    array& sum = outputs[0];
    const auto donor = std::find_if(inputs.begin(), inputs.end(), [](const array& a) { return a.is_donatable(); });
    const void *a = inputs[0].data<void>(), *b = inputs[1].data<void>();
    if (donor == inputs.end()) {
      allocate(sum);
    } else {
      sum.copy_shared_buffer(*donor);
    }
    dispatch([a, b, type = sum.dtype(), size = sum.size(), to = sum.data<void>()]() {
      if (type == mx::bfloat16) {
        add<uint16_t>(mdt_add_bf16, mdt_add_to_bf16, a, b, size, to);
      } else {
        add<float>(mdt_add, mdt_add_to, a, b, size, to);
      }
    });
  }

  std::vector<array> vjp(
      const std::vector<array>&, const std::vector<array>& cotangents, const std::vector<int>& argnums,
      const std::vector<array>&) override {
    return std::vector<array>(argnums.size(), cotangents[0]);
  }

  DEFINE_NAME(Add)
  DEFINE_DEFAULT_IS_EQUIVALENT()

 private:
  template <class T>
  static void add(
      void (*anew)(const T*, const T*, size_t, T*), void (*in_place)(T*, const T*, size_t), const void* a, const void* b,
      size_t size, void* to) {
    if (to != a && to != b) {
      anew(static_cast<const T*>(a), static_cast<const T*>(b), size, static_cast<T*>(to));
    } else {
      in_place(static_cast<T*>(to), static_cast<const T*>(to == a ? b : a), size);
    }
  }
};

bool is_named(const array& a, const char* name) {
  return a.has_primitive() && std::strcmp(a.primitive().name(), name) == 0;
}

// A graph that is not evaluated yet, from its ends on.
class Graph {
 public:
  explicit Graph(const std::vector<array>& ends) {
    std::stack<std::pair<array, size_t>> open;
    const auto visit = [&](const array& a) {
      const bool is_new = uses_[a.id()]++ == 0;
      if (is_new && a.status() == array::Status::unscheduled && a.has_primitive()) {
        open.emplace(a, 0);
      }
    };
    for (const array& end : ends) {
      visit(end);
      while (!open.empty()) {
        auto& [a, next] = open.top();
        if (next < a.inputs().size()) {
          visit(array(a.inputs()[next++]));
        } else {
          nodes_.push_back(a);
          open.pop();
        }
      }
    }
  }

  // Each after its inputs.
  std::vector<array>& nodes() {
    return nodes_;
  }

  // How many others, and ends, it is an input of.
  int uses(const array& a) const {
    const auto found = uses_.find(a.id());
    return found == uses_.end() ? 0 : found->second;
  }

 private:
  std::vector<array> nodes_;
  std::unordered_map<std::uintptr_t, int> uses_;
};

// A sum as one product where it is one of two products that nothing else needs, else as an `Add`, else as it is.
class Joined {
 public:
  Joined(Graph& graph, Stream stream) : graph_(graph), stream_(stream) {}

  void replace(std::vector<array>& arrays) const {
    for (array& a : arrays) {
      const auto found = replaced_.find(a.id());
      if (found != replaced_.end()) {
        a = found->second;
      }
    }
  }

  void join(const array& sum) {
    if (!is_named(sum, "Add") || dynamic_cast<const Add*>(&sum.primitive()) != nullptr) {
      return;
    }
    const array &left = sum.inputs()[0], &right = sum.inputs()[1];
    const bool is_alike = left.shape() == right.shape() && left.dtype() == right.dtype();
    if (!is_alike || sum.ndim() > 3 || (sum.dtype() != float32 && sum.dtype() != mx::bfloat16)) {
      return;
    }
    const std::optional<array> first = product_behind(left), second = product_behind(right);
    const std::optional<array> product = first && second ? sum_of_products(*first, *second, stream_) : std::nullopt;
    const array joined = product ? mx::reshape(*product, sum.shape(), stream_) : add(left, right, stream_);
    made_.emplace(joined.id(), graph_.uses(sum));
    replaced_.insert_or_assign(sum.id(), joined);
  }

 private:
  bool is_used_once(const array& a) const {
    const auto made = made_.find(a.id());
    return (made == made_.end() ? graph_.uses(a) : made->second) == 1;
  }

  // What may be a product, behind another shape of it.
  std::optional<array> product_behind(const array& a) const {
    if (!is_used_once(a)) {
      return std::nullopt;
    }
    if (!is_named(a, "Reshape")) {
      return a;
    }
    const array& behind = a.inputs()[0];
    return made_.contains(a.id()) || is_used_once(behind) ? std::optional(behind) : std::nullopt;
  }

  Graph& graph_;
  Stream stream_;
  std::unordered_map<std::uintptr_t, array> replaced_;
  // How often what was made here is used.
  std::unordered_map<std::uintptr_t, int> made_;
};

} // namespace

array add(const array& a, const array& b, Stream stream) {
  return array(a.shape(), a.dtype(), std::make_shared<Add>(stream), {dense(a, stream), dense(b, stream)});
}

void join_sums(std::vector<array>& ends, Stream stream) {
  Graph graph(ends);
  Joined joined(graph, stream);
  for (array& node : graph.nodes()) {
    joined.replace(node.inputs());
    for (array& sibling : node.siblings()) {
      joined.replace(sibling.inputs());
    }
    joined.join(node);
  }
  joined.replace(ends);
}

} // namespace mdt
