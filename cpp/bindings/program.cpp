#include "bindings/program.h"

#include <stdexcept>
#include <utility>

#include "bindings/call.h"
#include "bindings/operators.h"
#include "cpu/runtime/memory.h"

namespace transnext::bindings {
namespace {

// Tokens between two steps.
class TokenRoom {
 public:
  explicit TokenRoom(const View<3>& like) : tokens_(like) {
    tokens_.stride[2] = 1;
    tokens_.stride[1] = like.shape[2];
    tokens_.stride[0] = like.shape[1] * like.shape[2];
    tokens_.data =
        cpu::allocate_scratch(like.shape[0] * tokens_.stride[0] * element_size(like.dtype));
  }
  TokenRoom(const TokenRoom&) = delete;
  TokenRoom& operator=(const TokenRoom&) = delete;
  ~TokenRoom() { cpu::free_scratch(tokens_.data); }

  const View<3>& tokens() const { return tokens_; }

 private:
  View<3> tokens_;
};

const View<3>& output_of(const Program::Params& params) {
  return std::visit([](const auto& p) -> const View<3>& { return p.out; }, params);
}

// The branch of attention adds to its tokens where they are, and a norm replaces them: both read one
// again only to do that.
bool runs_in_place(const Program::Params& params) {
  return std::holds_alternative<AttentionBranchParams>(params) ||
         std::holds_alternative<TokenNormParams>(params);
}

void run_step(const PatchEmbedParams& p, int threads) {
  cpu::patch_embed(p, threads);
}
void run_step(const AttentionBranchParams& p, int threads) {
  cpu::attention_branch(p, threads);
}
void run_step(const ConvolutionalGluParams& p, int threads) {
  cpu::convolutional_glu(p, threads);
}
void run_step(const TokenNormParams& p, int threads) {
  cpu::token_norm(p, threads);
}

}  // namespace

void Program::add(const Params& params, KeptArguments kept) {
  const auto* embed = std::get_if<PatchEmbedParams>(&params);
  if (!steps_.empty()) {
    if (embed != nullptr)
      throw std::invalid_argument("program: a patch embedding must be its first step");
    const View<3>& before = output_of(steps_.back().params);
    const View<3>& out = output_of(params);  // whose shape and type are those of x
    if (before.shape[1] != out.shape[1] || before.shape[2] != out.shape[2] ||
        before.dtype != out.dtype)
      throw std::invalid_argument("program: a step does not take what the one before it gives");
  }
  steps_.push_back({params, std::move(kept)});
}

void Program::run(py::handle x, py::handle out, int threads) const {
  Call call("program");
  if (steps_.empty()) call.fail("no step was recorded");
  const View<3>& last = output_of(steps_.back().params);
  const View<3> result = call.floating<3>(out, "out", {kAnyBatch, last.shape[1], last.shape[2]});
  Params first = steps_.front().params;
  const bool as_recorded = std::visit(
      [&](auto& p) {
        const auto recorded = p.x;
        if constexpr (std::is_same_v<std::decay_t<decltype(p)>, PatchEmbedParams>) {
          p.x = call.floating<4>(
              x, "x", {kAnyBatch, recorded.shape[1], recorded.shape[2], recorded.shape[3]});
        } else {
          p.x = call.floating<3>(x, "x", {kAnyBatch, recorded.shape[1], recorded.shape[2]});
        }
        if (p.x.shape[0] != result.shape[0]) call.fail("x and out differ in their batch");
        if (p.x.data == result.data && result.shape[0] > 0) call.fail("out must not be x");
        return p.x.dtype == recorded.dtype;
      },
      first);
  if (!as_recorded || result.dtype != last.dtype)
    call.fail("x or out has another type than when it was recorded");
  if (!call.on_cpu()) call.fail("x and out must be on the CPU");
  if (result.shape[0] == 0) return;

  py::gil_scoped_release release;
  // Steps change places between `out` and `room`, such that the last one writes to `out`.
  index_t changes = 0;
  for (std::size_t i = 1; i < steps_.size(); ++i)
    changes += runs_in_place(steps_[i].params) ? 0 : 1;
  const TokenRoom room(result);
  View<3> tokens;
  for (std::size_t i = 0; i < steps_.size(); ++i) {
    if (i > 0 && !runs_in_place(steps_[i].params)) --changes;
    const View<3>& target = changes % 2 == 0 ? result : room.tokens();
    std::visit(
        [&](auto p) {
          if constexpr (!std::is_same_v<decltype(p), PatchEmbedParams>) {
            if (i > 0) p.x = tokens;
          }
          p.out = target;
          run_step(p, threads);
        },
        i == 0 ? first : steps_[i].params);
    tokens = target;
  }
}

namespace {

// Whether dictionaries hold the same objects as before, in the same order. `expected` is each
// dictionary, followed by its keys and values.
bool hold_the_same(const py::tuple& dictionaries, const py::tuple& expected) {
  const auto count = static_cast<Py_ssize_t>(expected.size());
  Py_ssize_t at = 0;
  const auto next_is = [&](PyObject* object) {
    return at < count && PyTuple_GET_ITEM(expected.ptr(), at++) == object;
  };
  for (const py::handle dictionary : dictionaries) {
    if (!next_is(dictionary.ptr()) || PyDict_Check(dictionary.ptr()) == 0) return false;
    PyObject* key = nullptr;
    PyObject* value = nullptr;
    for (Py_ssize_t i = 0; PyDict_Next(dictionary.ptr(), &i, &key, &value) != 0;)
      if (!next_is(key) || !next_is(value)) return false;
  }
  return at == count;
}

}  // namespace

void define_program(py::module_& m) {
  py::class_<Program>(m, "Program")
      .def(py::init<>())
      .def("__len__", &Program::size)
      .def("run", &Program::run, py::arg("x"), py::arg("out"), py::arg("threads"));
  m.def(
      "record_program",
      [](Program* program) { return std::exchange(Program::recorded(), program); },
      py::arg("program").none(true), py::return_value_policy::reference);
  m.def("hold_the_same", &hold_the_same, py::arg("dictionaries"), py::arg("expected"));
}

}  // namespace transnext::bindings
