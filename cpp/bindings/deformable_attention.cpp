#include "transnext/deformable_attention.h"

#include "bindings/call.h"
#include "bindings/operators.h"

namespace transnext::bindings {
namespace {

// The levels, of (rows, columns) one after the other.
Levels levels_of(const Call& call, py::handle shapes) {
  const std::vector<index_t> sides = call.sizes(shapes, "shapes");
  const std::size_t count = sides.size() / 2;
  if (count == 0 || sides.size() % 2 != 0)
    call.fail("shapes has " + std::to_string(sides.size()) +
              " numbers, needs the rows and columns of one level after the other");
  if (count > kMostLevels)
    call.fail("shapes has " + std::to_string(count) + " levels, needs at most " +
              std::to_string(kMostLevels));
  Levels levels{};
  levels.count = static_cast<int>(count);
  index_t cells = 0;
  for (std::size_t i = 0; i < count; ++i) {
    for (const index_t side : {sides[2 * i], sides[2 * i + 1]}) {
      if (side < 1 || side > kLargestSide)
        call.fail("shapes has a level of side " + std::to_string(side) + ", needs 1 to " +
                  std::to_string(kLargestSide));
    }
    levels.of[i] = {static_cast<int>(sides[2 * i]), static_cast<int>(sides[2 * i + 1]),
                    static_cast<int>(cells)};
    cells += sides[2 * i] * sides[2 * i + 1];
    if (cells >= kLargestSize) call.fail("shapes has too many cells");
  }
  return levels;
}

DeformableInputs inputs_of(Call& call, py::handle value, py::handle offsets, py::handle logits,
                           py::handle reference, py::handle shapes) {
  DeformableInputs in;
  in.value = call.activation<4>(value, "value", {kAnyBatch, kAny, kAny, kAny});
  const index_t batch = in.value.shape[0];
  const index_t heads = in.value.shape[2];
  in.logits = call.activation<4>(logits, "logits", {batch, kAnyBatch, heads, kAny});
  const index_t queries = in.logits.shape[1];
  const index_t samples = in.logits.shape[3];
  in.offsets = call.activation<5>(offsets, "offsets", {batch, queries, heads, samples, 2});
  in.levels = levels_of(call, shapes);
  if (samples % in.levels.count != 0)
    call.fail("logits has " + std::to_string(samples) + " samples, needs the same number on each " +
              "of " + std::to_string(in.levels.count) + " levels");
  const Level& last = in.levels.of[in.levels.count - 1];
  const index_t cells = last.first + index_t{last.rows} * last.columns;
  if (cells != in.value.shape[1])
    call.fail("value has " + std::to_string(in.value.shape[1]) + " cells, shapes " +
              std::to_string(cells));
  in.reference = call.parameter<4>(reference, "reference", {batch, queries, in.levels.count, kAny});
  if (in.reference.shape[3] != 2 && in.reference.shape[3] != 4)
    call.fail("reference has " + std::to_string(in.reference.shape[3]) +
              " numbers for each level, needs 2 or 4");
  return in;
}

void deformable_attention(py::handle value, py::handle offsets, py::handle logits,
                          py::handle reference, py::handle out, py::handle shapes, int threads) {
  Call call("deformable_attention");
  DeformableAttentionParams p;
  p.in = inputs_of(call, value, offsets, logits, reference, shapes);
  const index_t* of = p.in.value.shape;
  p.out = call.activation<4>(out, "out", {of[0], p.in.logits.shape[1], of[2], of[3]});
  call.run(threads, p, cpu::deformable_attention, launches);
}

void deformable_attention_backward(py::handle d_out, py::handle value, py::handle offsets,
                                   py::handle logits, py::handle reference, py::handle d_value,
                                   py::handle d_offsets, py::handle d_logits,
                                   py::handle d_reference, py::handle shapes, bool deterministic,
                                   int threads) {
  Call call("deformable_attention_backward");
  DeformableAttentionBackwardParams p;
  p.in = inputs_of(call, value, offsets, logits, reference, shapes);
  const index_t* of = p.in.value.shape;
  const index_t queries = p.in.logits.shape[1];
  const index_t samples = p.in.logits.shape[3];
  p.d_out = call.activation<4>(d_out, "d_out", {of[0], queries, of[2], of[3]});
  p.d_value = call.optional_activation<4>(d_value, "d_value", {of[0], of[1], of[2], of[3]});
  p.d_offsets =
      call.optional_activation<5>(d_offsets, "d_offsets", {of[0], queries, of[2], samples, 2});
  p.d_logits = call.optional_activation<4>(d_logits, "d_logits", {of[0], queries, of[2], samples});
  p.d_reference = call.optional_parameter<4>(
      d_reference, "d_reference", {of[0], queries, p.in.levels.count, p.in.reference.shape[3]});
  p.deterministic = deterministic;
  call.run(threads, p, cpu::deformable_attention_backward, launches);
}

}  // namespace

void define_deformable_attention(py::module_& m) {
  m.def("deformable_attention", &deformable_attention);
  m.def("deformable_attention_backward", &deformable_attention_backward);
}

}  // namespace transnext::bindings
