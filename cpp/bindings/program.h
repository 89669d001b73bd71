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
#include "transnext/pooled_linear.h"
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
                              TokenNormParams, PooledLinearParams>;
  template <class T>
  static constexpr bool kTakes = std::is_constructible_v<Params, const T&>;

  // The program that this thread records, or nullptr.
  static Program*& recorded() {
    static thread_local Program* program = nullptr;
    return program;
  }

  // Adds a step. Each must take what the one before it gives, a patch embedding the tokens as a map.
  // Throws std::invalid_argument.
  void add(const Params& params, KeptArguments kept);

  index_t size() const { return static_cast<index_t>(steps_.size()); }

  // Tokens before each step that makes others of them, a patch embedding or pooling, and at the end:
  // [N, C] of each.
  pybind11::list result_shapes() const;

  // From a map or tokens `x` to tokens `outs`, all as recorded except for the batch and x's strides:
  // a tensor or None for each of the first results, after which it ends. Any number of threads may
  // run a program at once.
  void run(pybind11::handle x, const pybind11::sequence& outs, int threads) const;

 private:
  struct Step {
    Params params;
    KeptArguments kept;
  };
  // Steps of one result, from `first` to before `last`.
  struct Section {
    std::size_t first;
    std::size_t last;
  };

  const View<3>& result_of(const Section& section) const;
  void run_sections(Params first, std::vector<View<3>>& results, int threads) const;
  void run_section(const Section& section, Params first, const View<3>& result, int threads) const;

  std::vector<Step> steps_;
  std::vector<Section> sections_;
};

}  // namespace transnext::bindings
