#include "bindings/program.h"

#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include "bindings/call.h"
#include "bindings/operators.h"
#include "cpu/runtime/memory.h"
#include "cpu/runtime/thread_pool.h"

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

// Whether a step with this x can read these tokens, whatever the batch.
bool takes(const View<3>& x, const View<3>& tokens) {
  return x.shape[1] == tokens.shape[1] && x.shape[2] == tokens.shape[2] && x.dtype == tokens.dtype;
}
bool takes(const View<4>& x, const View<3>& tokens) {
  return x.shape[2] * x.shape[3] == tokens.shape[1] && x.shape[1] == tokens.shape[2] &&
         x.dtype == tokens.dtype;
}

// Tokens as a map with the sizes of `like`.
View<4> as_map(const View<3>& tokens, const View<4>& like) {
  View<4> map = like;
  map.data = tokens.data;
  map.shape[0] = tokens.shape[0];
  map.stride[0] = tokens.stride[0];
  map.stride[1] = tokens.stride[2];
  map.stride[2] = like.shape[3] * tokens.stride[1];
  map.stride[3] = tokens.stride[1];
  return map;
}

// Lets a step read tokens that it was recorded with, but for the batch.
void read_from(const View<3>& tokens, PatchEmbedParams& p) {
  p.x = as_map(tokens, p.x);
}
template <class Params>
void read_from(const View<3>& tokens, Params& p) {
  p.x = tokens;
}

// Whether a step makes other tokens of those that it reads.
bool begins_section(const Program::Params& params) {
  return std::holds_alternative<PatchEmbedParams>(params) ||
         std::holds_alternative<PooledLinearParams>(params);
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
void run_step(const PooledLinearParams& p, int threads) {
  cpu::pooled_linear(p, threads);
}
void run_step(const TokenNormParams& p, int threads) {
  cpu::token_norm(p, threads);
}

}  // namespace

void Program::add(const Params& params, KeptArguments kept) {
  if (!steps_.empty()) {
    const View<3>& before = output_of(steps_.back().params);
    if (!std::visit([&](const auto& p) { return takes(p.x, before); }, params))
      throw std::invalid_argument("program: a step does not take what the one before it gives");
  }
  if (steps_.empty() || begins_section(params)) sections_.push_back({steps_.size(), steps_.size()});
  steps_.push_back({params, std::move(kept)});
  sections_.back().last = steps_.size();
}

const View<3>& Program::result_of(const Section& section) const {
  return output_of(steps_[section.last - 1].params);
}

py::list Program::result_shapes() const {
  py::list shapes;
  for (const Section& section : sections_) {
    const View<3>& result = result_of(section);
    shapes.append(py::make_tuple(result.shape[1], result.shape[2]));
  }
  return shapes;
}

void Program::run(py::handle x, const py::sequence& outs, int threads) const {
  Call call("program");
  if (steps_.empty()) call.fail("no step was recorded");
  Params first = steps_.front().params;
  index_t batch = 0;
  const void* data = nullptr;
  std::visit(
      [&](auto& p) {
        const auto recorded = p.x;
        if constexpr (std::is_same_v<std::decay_t<decltype(p)>, PatchEmbedParams>) {
          p.x = call.floating<4>(
              x, "x", {kAnyBatch, recorded.shape[1], recorded.shape[2], recorded.shape[3]});
        } else {
          p.x = call.floating<3>(x, "x", {kAnyBatch, recorded.shape[1], recorded.shape[2]});
        }
        if (p.x.dtype != recorded.dtype) call.fail("x has another type than when it was recorded");
        batch = p.x.shape[0];
        data = p.x.data;
      },
      first);

  if (outs.empty() || outs.size() > sections_.size())
    call.fail("outs has " + std::to_string(outs.size()) + " entries, needs 1 to " +
              std::to_string(sections_.size()));
  std::vector<View<3>> results;
  for (std::size_t i = 0; i < outs.size(); ++i) {
    View<3> result = result_of(sections_[i]);
    const py::object out = outs[i];
    if (out.is_none()) {
      result.data = nullptr;
      result.shape[0] = batch;
    } else {
      const DType recorded = result.dtype;
      result = call.floating<3>(out, "outs", {kAnyBatch, result.shape[1], result.shape[2]});
      if (result.dtype != recorded) call.fail("outs has another type than when it was recorded");
      if (result.shape[0] != batch) call.fail("x and outs differ in their batch");
      if (result.data == data && batch > 0) call.fail("outs must not be x");
    }
    results.push_back(result);
  }
  if (!call.on_cpu()) call.fail("x and outs must be on the CPU");
  if (batch == 0) return;

  py::gil_scoped_release release;
  cpu::loops_together(threads, [&] { run_sections(first, results, threads); });
}

// Runs as many sections as there are results, of which some have no memory.
void Program::run_sections(Params first, std::vector<View<3>>& results, int threads) const {
  std::unique_ptr<TokenRoom> before;  // what the next section's first step reads
  for (std::size_t i = 0; i < results.size(); ++i) {
    std::unique_ptr<TokenRoom> room;
    if (!results[i].present()) {
      room = std::make_unique<TokenRoom>(results[i]);
      results[i] = room->tokens();
    }
    if (i > 0) {
      first = steps_[sections_[i].first].params;
      std::visit([&](auto& p) { read_from(results[i - 1], p); }, first);
    }
    run_section(sections_[i], first, results[i], threads);
    before = std::move(room);
  }
}

// Steps change places between `result` and a room, such that the last one writes to `result`.
void Program::run_section(const Section& section, Params first, const View<3>& result,
                          int threads) const {
  index_t changes = 0;
  for (std::size_t i = section.first + 1; i < section.last; ++i)
    changes += runs_in_place(steps_[i].params) ? 0 : 1;
  const TokenRoom room(result);
  View<3> tokens;
  for (std::size_t i = section.first; i < section.last; ++i) {
    const bool is_first = i == section.first;
    if (!is_first && !runs_in_place(steps_[i].params)) --changes;
    const View<3>& target = changes % 2 == 0 ? result : room.tokens();
    std::visit(
        [&](auto p) {
          if (!is_first) read_from(tokens, p);
          p.out = target;
          run_step(p, threads);
        },
        is_first ? first : steps_[i].params);
    tokens = target;
  }
}

namespace {

// Lets the entries of a dictionary come into cache, whose head is there.
void prefetch_entries(PyObject* dictionary) {
#if !defined(PYPY_VERSION)
  if (PyDict_Check(dictionary) == 0) return;
  constexpr Py_ssize_t kLine = 64;
  const auto prefetch = [](const void* memory, Py_ssize_t bytes) {
    for (Py_ssize_t at = 0; at < bytes; at += kLine)
      __builtin_prefetch(static_cast<const char*>(memory) + at);
  };
  const auto* known = reinterpret_cast<PyDictObject*>(dictionary);
  const Py_ssize_t size = known->ma_used;
  if (size == 0) return;
  prefetch(known->ma_keys, kLine + size * static_cast<Py_ssize_t>(3 * sizeof(void*)));
  if (known->ma_values != nullptr)
    prefetch(known->ma_values, size * static_cast<Py_ssize_t>(sizeof(void*)));
#else
  static_cast<void>(dictionary);
#endif
}

// Whether dictionaries hold the same objects as before, in the same order. `expected` is each
// dictionary, followed by its keys and values.
bool hold_the_same(const py::tuple& dictionaries, const py::tuple& expected) {
  const auto count = static_cast<Py_ssize_t>(expected.size());
  Py_ssize_t at = 0;
  const auto next_is = [&](PyObject* object) {
    return at < count && PyTuple_GET_ITEM(expected.ptr(), at++) == object;
  };
  // A model's kernels leave nothing of this in cache: without prefetches each dictionary would wait
  // for its head, and then for its entries.
  constexpr Py_ssize_t kEntriesAhead = 8;
  constexpr Py_ssize_t kHeadsAhead = 2 * kEntriesAhead;
  const auto number_of = static_cast<Py_ssize_t>(dictionaries.size());
  const auto numbered = [&](Py_ssize_t i) { return PyTuple_GET_ITEM(dictionaries.ptr(), i); };
  for (Py_ssize_t number = 0; number < number_of; ++number) {
    if (number + kHeadsAhead < number_of) __builtin_prefetch(numbered(number + kHeadsAhead));
    if (number + kEntriesAhead < number_of) prefetch_entries(numbered(number + kEntriesAhead));
    PyObject* const dictionary = numbered(number);
    if (!next_is(dictionary) || PyDict_Check(dictionary) == 0) return false;
    PyObject* key = nullptr;
    PyObject* value = nullptr;
    for (Py_ssize_t i = 0; PyDict_Next(dictionary, &i, &key, &value) != 0;)
      if (!next_is(key) || !next_is(value)) return false;
  }
  return at == count;
}

}  // namespace

void define_program(py::module_& m) {
  py::class_<Program>(m, "Program")
      .def(py::init<>())
      .def("__len__", &Program::size)
      .def("run", &Program::run, py::arg("x"), py::arg("outs"), py::arg("threads"))
      .def("result_shapes", &Program::result_shapes);
  m.def(
      "record_program",
      [](Program* program) { return std::exchange(Program::recorded(), program); },
      py::arg("program").none(true), py::return_value_policy::reference);
  m.def("hold_the_same", &hold_the_same, py::arg("dictionaries"), py::arg("expected"));
}

}  // namespace transnext::bindings
