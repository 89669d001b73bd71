// Fused blocks that run one after the other, by one call from Python: while a thread records a
// program, a fused block that it calls checks its arguments as usual and is then kept in the program
// instead of running.
#pragma once

#include <memory>
#include <type_traits>
#include <variant>
#include <vector>

#include <pybind11/pybind11.h>

#include "transnext/attention_branch.h"
#include "transnext/convolutional_glu.h"
#include "transnext/patch_embed.h"
#include "transnext/token_norm.h"

namespace transnext::bindings {

// What the arguments of a call live in, which a step reads again at every run.
struct KeptArguments {
  std::vector<std::unique_ptr<int[]>> maps;
  std::vector<pybind11::object> tensors;
};

class Program {
 public:
  Program() = default;
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  using Params = std::variant<PatchEmbedParams, AttentionBranchParams, ConvolutionalGluParams,
                              TokenNormParams>;
  template <class T>
  static constexpr bool kTakes = std::is_constructible_v<Params, const T&>;

  // The program that this thread records, or nullptr.
  static Program*& recorded() {
    static thread_local Program* program = nullptr;
    return program;
  }

  // Adds a step. A patch embedding must be the first; the others must take what the one before them
  // gives. Throws std::invalid_argument.
  void add(const Params& params, KeptArguments kept);

  index_t size() const { return static_cast<index_t>(steps_.size()); }

  // From a map or tokens `x` to tokens `out`, both as recorded except for the batch and x's strides.
  // Any number of threads may run a program at once.
  void run(pybind11::handle x, pybind11::handle out, int threads) const;

 private:
  struct Step {
    Params params;
    KeptArguments kept;
  };

  std::vector<Step> steps_;
};

}  // namespace transnext::bindings
