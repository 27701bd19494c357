// std::format for compilers without <format> (gcc before 13). mlx-c uses it with plain `{}` only, so that is all
// there is here. Included ahead of every mlx-c source.
#pragma once

#include <version>

#ifdef __cpp_lib_format
#include <format>
#else
#include <sstream>
#include <string>
#include <string_view>

namespace std {

template <typename... Args>
string format(string_view pattern, const Args&... args) {
  ostringstream out;
  auto put = [&](const auto& value) {
    const auto hole = pattern.find("{}");
    if (hole == string_view::npos) {
      return;
    }
    out << pattern.substr(0, hole) << value;
    pattern.remove_prefix(hole + 2);
  };
  (put(args), ...);
  out << pattern;
  return out.str();
}

} // namespace std
#endif
