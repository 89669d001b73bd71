#include "transnext/deformable_attention.h"

#include "bindings/call.h"
#include "bindings/operators.h"

namespace transnext::bindings {
namespace {

// The cells of all levels; fails if a level has none.
index_t cells_of(const Call& call, const View<2>& shapes) {
  const int* shape = static_cast<const int*>(shapes.data);
  index_t cells = 0;
  for (index_t level = 0; level < shapes.shape[0]; ++level, shape += shapes.stride[0]) {
    const index_t rows = shape[0];
    const index_t columns = shape[shapes.stride[1]];
    if (rows < 1 || columns < 1) call.fail("shapes has a level without cells");
    cells += call.product({rows, columns});
    if (cells >= kLargestSize) call.fail("shapes has too many cells");
  }
  return cells;
}

void deformable_attention(py::handle value, py::handle offsets, py::handle logits,
                          py::handle reference, py::handle shapes, py::handle out, int threads) {
  Call call("deformable_attention");
  DeformableAttentionParams p;
  p.value = call.activation<4>(value, "value", {kAnyBatch, kAny, kAny, kAny});
  const index_t batch = p.value.shape[0];
  const index_t heads = p.value.shape[2];
  p.logits = call.activation<4>(logits, "logits", {batch, kAnyBatch, heads, kAny});
  const index_t queries = p.logits.shape[1];
  const index_t samples = p.logits.shape[3];
  p.offsets = call.activation<5>(offsets, "offsets", {batch, queries, heads, samples, 2});
  if (!call.on_cpu()) call.fail("it has no CUDA kernel, needs to run on the CPU");
  p.shapes = call.map<2>(shapes, "shapes", {kAny, 2}, kLargestSize);
  const index_t levels = p.shapes.shape[0];
  if (samples % levels != 0)
    call.fail("logits has " + std::to_string(samples) + " samples, needs the same number on each " +
              "of " + std::to_string(levels) + " levels");
  const index_t cells = cells_of(call, p.shapes);
  if (cells != p.value.shape[1])
    call.fail("value has " + std::to_string(p.value.shape[1]) + " cells, shapes " +
              std::to_string(cells));
  p.reference = call.parameter<4>(reference, "reference", {batch, queries, levels, kAny});
  if (p.reference.shape[3] != 2 && p.reference.shape[3] != 4)
    call.fail("reference has " + std::to_string(p.reference.shape[3]) +
              " numbers for each level, needs 2 or 4");
  p.out = call.activation<4>(out, "out", {batch, queries, heads, p.value.shape[3]});
  call.run(threads, p, cpu::deformable_attention);
}

}  // namespace

void define_deformable_attention(py::module_& m) {
  m.def("deformable_attention", &deformable_attention);
}

}  // namespace transnext::bindings
