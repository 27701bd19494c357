// Placeholders, and the order in which MLX would evaluate a graph: what memory planning needs, without computing anything.
#include "plan.h"

#include <algorithm>
#include <cstdlib>
#include <deque>
#include <stack>
#include <unordered_map>

#include "primitive.h"

namespace mdt {

namespace mx = mlx::core;

namespace {

class Placeholder : public CpuPrimitive {
 public:
  using CpuPrimitive::CpuPrimitive;

  void eval_cpu(const std::vector<array>&, std::vector<array>&) override {
    throw std::runtime_error("a placeholder has no elements");
  }

  DEFINE_NAME(Placeholder)
  DEFINE_DEFAULT_IS_EQUIVALENT()
};

class Root : public CpuPrimitive {
 public:
  using CpuPrimitive::CpuPrimitive;

  void eval_cpu(const std::vector<array>&, std::vector<array>&) override {}

  DEFINE_NAME(Root)
  DEFINE_DEFAULT_IS_EQUIVALENT()
};

// Has memory already, or stands for what has.
bool is_leaf(const array& a) {
  return a.status() != array::Status::unscheduled || !a.has_primitive() ||
      dynamic_cast<const Placeholder*>(&a.primitive()) != nullptr;
}

MdtPlanned describe(const array& a) {
  return {a.id(), a.itemsize(), static_cast<size_t>(a.ndim()), a.shape().data(), is_leaf(a)};
}

// How many times each array is an input; siblings count together.
std::unordered_map<std::uintptr_t, int> degrees(array& root) {
  std::unordered_map<std::uintptr_t, int> degrees;
  std::stack<std::pair<array, size_t>> open;
  open.emplace(root, 0);
  while (!open.empty()) {
    auto& [a, next] = open.top();
    if (is_leaf(a) || next == a.inputs().size()) {
      open.pop();
      continue;
    }
    const array in = a.inputs()[next++];
    const auto known = degrees.find(in.id());
    if (known == degrees.end()) {
      degrees.emplace(in.id(), 1);
      for (const auto& sibling : in.siblings()) {
        degrees.emplace(sibling.id(), 1);
      }
      open.emplace(in, 0);
    } else {
      ++known->second;
      for (const auto& sibling : in.siblings()) {
        ++degrees[sibling.id()];
      }
    }
  }
  return degrees;
}

// The order of `eval_impl` in MLX's transforms.cpp, last one first: breadth first, with a limit to the width.
std::deque<array> order(array& root) {
  auto waiting = degrees(root);
  const char* set = std::getenv("MLX_BFS_MAX_WIDTH");
  const size_t width = set != nullptr ? std::strtoul(set, nullptr, 10) : 20;
  std::deque<array> tape{root};
  std::stack<std::pair<array, size_t>> below;
  for (size_t i = 0; !waiting.empty() && (i < tape.size() || !below.empty());) {
    const bool on_tape = i < tape.size();
    const array a = on_tape ? tape[i] : below.top().first;
    size_t next = on_tape ? 0 : below.top().second;
    if (on_tape) {
      ++i;
    } else {
      below.pop();
    }
    for (; next < a.inputs().size(); ++next) {
      const array& in = a.inputs()[next];
      if (is_leaf(in)) {
        continue;
      }
      if (tape.size() - i >= width) {
        below.emplace(a, next);
        break;
      }
      const auto degree = waiting.find(in.id());
      if (--degree->second != 0) {
        for (const auto& sibling : in.siblings()) {
          --waiting[sibling.id()];
        }
        continue;
      }
      waiting.erase(degree);
      for (const auto& sibling : in.siblings()) {
        waiting.erase(sibling.id());
      }
      tape.push_back(in);
    }
  }
  return tape;
}

} // namespace

array placeholder(const Shape& shape, mx::Dtype dtype, Stream stream) {
  return array(shape, dtype, std::make_shared<Placeholder>(stream), {});
}

void plan(std::vector<array> tensors, Stream stream, void* context, MdtVisit visit) {
  array root({}, mx::bool_, std::make_shared<Root>(stream), std::move(tensors));
  auto tape = order(root);
  std::vector<array> planned;
  // Without the root, which comes first.
  for (; tape.size() > 1; tape.pop_back()) {
    array a = tape.back();
    std::vector<MdtPlanned> inputs, outputs;
    for (const auto& in : a.inputs()) {
      inputs.push_back(describe(in));
    }
    for (const auto& out : a.outputs()) {
      outputs.push_back(describe(out));
    }
    std::vector<int> axes;
    std::string name = a.primitive().name();
    if (name == "Transpose") {
      axes = static_cast<const mx::Transpose&>(a.primitive()).state();
    }
    std::vector<size_t> held;
    size_t scratch = 0, kernels = 1;
    const auto* own = dynamic_cast<const CpuPrimitive*>(&a.primitive());
    if (own != nullptr) {
      held = own->held_bytes(a.inputs(), a.outputs());
      scratch = own->scratch_bytes(a.inputs(), a.outputs());
      kernels = own->kernels(a.inputs(), a.outputs());
      name = own->planned_as();
    }
    visit(
        context, name.c_str(), inputs.data(), inputs.size(), outputs.data(), outputs.size(), axes.data(), axes.size(),
        held.data(), held.size(), scratch, kernels, own != nullptr);
    planned.push_back(a);
  }
  // As after an evaluation: they have no graph behind them any more.
  for (array& a : planned) {
    a.set_status(array::Status::evaluated);
    for (array& sibling : a.siblings()) {
      sibling.set_status(array::Status::evaluated);
    }
    a.detach();
  }
}

} // namespace mdt
