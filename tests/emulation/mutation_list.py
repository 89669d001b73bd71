# ruff: noqa: E501 -- lines of the kernels stand as they are there
"""The places of the device code that mutations.py breaks, one at a time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutation:
    """One broken place."""

    file: str  # below cpp/cuda/kernels
    old: str  # stands there once
    new: str
    breaks: str
    tests: str  # which tests to run, for pytest's -k


def _each(file: str, tests: str, *places: tuple[str, str, str]) -> list[Mutation]:
    return [Mutation(file, old, new, breaks, tests) for old, new, breaks in places]


MUTATIONS = [
    *_each(
        "pool/gelu_pool.cuh",
        "gelu_pool or tokens",
        (
            "int column = cell % width;",
            "int column = cell / width;",
            "index: the column of a bin's cell",
        ),
        (
            "for (column += step; column >= width; column -= width) from += to_next_row;",
            "for (column += step; column > width; column -= width) from += to_next_row;",
            "index: where a row of a bin ends",
        ),
        (
            "mine->values[i] = sum[i];\n      __syncthreads();",
            "mine->values[i] = sum[i];",
            "barrier: before the rows' sums meet",
        ),
        (
            "if (threadIdx.y == 0 && count > 0) {",
            "if (threadIdx.y == 0) {",
            "last tile: channels beyond the last are written",
        ),
        (
            "if (here < end) device::store_run(to,",
            "device::store_run(to,",
            "last tile: tokens beyond the last",
        ),
        (
            "const index_t last_a = bin_end(row, p.grid.height, p.pool_grid.height);",
            "const index_t last_a = bin_begin(row, p.grid.height, p.pool_grid.height) + 1;",
            "index: bins that overlap are left out",
        ),
    ),
    *_each(
        "glu/conv_glu_forward.cuh",
        "conv_glu or tokens",
        (
            "      if (row_inside && column >= 0 && column < width)\n        values",
            "      if (row_inside && column >= 0 && column <= width)\n        values",
            "halo: columns outside the image are read",
        ),
        (
            "\n  for (int row = strip.top - 1; row <= strip.bottom; ++row) {",
            "\n  for (int row = strip.top - 1; row < strip.bottom; ++row) {",
            "halo: the row below a band",
        ),
        (
            "    weights.load(p.weight, first_channel, hidden - first_channel);\n    __syncthreads();",
            "    weights.load(p.weight, first_channel, hidden - first_channel);",
            "barrier: weights are read before they are there",
        ),
    ),
    *_each(
        "glu/conv_glu_strip.cuh",
        "conv_glu or tokens",
        (
            "          channel < count\n              ? static_cast<const float*>(",
            "          channel <= count\n              ? static_cast<const float*>(",
            "last tile: a weight beyond the last channel is read",
        ),
    ),
    *_each(
        "glu/conv_glu_backward.cuh",
        "conv_glu or tokens",
        (
            "for (int tap = 0; tap < 9; ++tap) d_a[tap / 3][j] += weight_[tap] * d_u[j + 2 - tap % 3];",
            "for (int tap = 0; tap < 9; ++tap) d_a[tap / 3][j] += weight_[tap] * d_u[j + tap % 3];",
            "index: the gradient's convolution is not mirrored",
        ),
        (
            "partial[threadIdx.y][9][threadIdx.x] = mine.d_bias;\n  __syncthreads();",
            "partial[threadIdx.y][9][threadIdx.x] = mine.d_bias;",
            "barrier: before the strips' sums meet",
        ),
        (
            "const bool own = row >= strip.top && row < strip.bottom;",
            "const bool own = row >= strip.top && row <= strip.bottom;",
            "halo: the row below a band counts twice in the weights' gradient",
        ),
    ),
    *_each(
        "window/window.cuh",
        "window",
        (
            "if (i < all && inside(p.grid, top + y, left + x) && count > 0) {",
            "if (i < all && count > 0) {",
            "halo: tokens outside the image are read",
        ),
        (
            "        inside(p.grid, top + y + dy - window / 2, left + x + dx - window / 2)) {",
            "        true) {",
            "mask: cells outside the image count",
        ),
        (
            "const int source_row = (y + (kToKeys ? band_rows - 1 - row : row)) * tile.pitch;",
            "const int source_row = (y + row) * tile.pitch;",
            "index: a key's queries are not mirrored",
        ),
        (
            "float score = p.outside;",
            "float score = 0.0f;",
            "mask: logits outside the image",
        ),
        (
            "p.bias.data)[position.head * p.bias.stride[0] + j * p.bias.stride[1]]",
            "p.bias.data)[position.head * p.bias.stride[0] + cell * p.bias.stride[1]]",
            "bias map: the cell's number within a band",
        ),
        (
            "        __syncthreads();  // all have left the previous keys\n",
            "",
            "barrier: keys are overwritten while they are read",
        ),
        (
            "if (y < 0 || y >= p.grid.height || x < 0 || x >= p.grid.width) continue;",
            "if (y < 0 || y >= p.grid.height || x < 0) continue;",
            "mask: the bias gradient counts cells beyond the right edge",
        ),
        (
            "__device__ inline index_t window_tiles_across(const WindowProductParams& p) {\n"
            "  return (p.grid.width + p.tile.columns - 1) / p.tile.columns;",
            "__device__ inline index_t window_tiles_across(const WindowProductParams& p) {\n"
            "  return p.grid.width / p.tile.columns > 0 ? p.grid.width / p.tile.columns : 1;",
            "last tile: columns of a last narrow tile",
        ),
    ),
    *_each(
        "bias/position_bias_table.cuh",
        "test_position_bias",
        (
            "device::element<C>(p.col_coords, at % columns);",
            "device::element<C>(p.col_coords, at / columns % columns);",
            "bias map: the column's coordinate",
        ),
        (
            "if (h >= heads || at >= positions) continue;",
            "if (h > heads || at >= positions) continue;",
            "last tile: a head beyond the last",
        ),
        (
            "d_hidden = hidden > 0 ? d_hidden : C(0);",
            "",
            "mask: the gradient of the ReLU",
        ),
        (
            "        coordinates[thread] = {device::element<C>(p.row_coords, row),\n"
            "                               device::element<C>(p.col_coords, column)};\n"
            "      }\n      __syncthreads();",
            "        coordinates[thread] = {device::element<C>(p.row_coords, row),\n"
            "                               device::element<C>(p.col_coords, column)};\n"
            "      }",
            "barrier: a tile's gradients are read before they are there",
        ),
    ),
    *_each(
        "common/partial_sums.cuh",
        "window or test_position_bias or test_conv_glu",
        (
            "row += kPartialSumsRows)",
            "row += kPartialSumsRows + 1)",
            "index: rows of partial sums are left out",
        ),
    ),
    *_each(
        "common/runs.cuh",
        "gelu_pool or window or conv_glu or tokens",
        (
            "view.shape[kRank - 1] % n == 0 && view.stride[kRank - 1] == 1;",
            "view.shape[kRank - 1] % n == 0;",
            "index: strided channels are read as if they were neighbours",
        ),
        (
            "if (i < count) from_float(from[i], to[i * stride]);",
            "if (i <= count) from_float(from[i], to[i * stride]);",
            "last tile: channels beyond the last are written",
        ),
    ),
    *_each(
        "attention/forward/pooled.cuh",
        "attention",
        (
            "      wait_copies<1>();\n",
            "      wait_copies<2>();\n",
            "barrier: a chunk of pooled keys is read before its copies are in",
        ),
    ),
    *_each(
        "attention/forward/gemm_output.cuh",
        "attention",
        (
            "static int key_of(int index) { return index / 2 + index % 2 * 4; }",
            "static int key_of(int index) { return index / 2 + index % 2 * 4 - index / 7; }",
            "index: the order of the keys of a tensor-core product",
        ),
        (
            "if (8 * n + 4 * (e % 2) >= own)",
            "if (8 * n + 4 * (e % 2) > own)",
            "last tile: a pooled key beyond the last",
        ),
        (
            "    sum *= change;\n",
            "",
            "softmax: a sum that does not follow its maximum",
        ),
    ),
    *_each(
        "attention/forward/gemm_output.cuh",
        "tf32",
        (
            "kMostExcess = 8.0f",
            "kMostExcess = 8e9f",
            "softmax: a maximum that no later logit raises",
        ),
    ),
    *_each(
        "attention/forward/pooled_gemm_tf32.cuh",
        "tf32",
        (
            "round_to_tensor_float(weights[2]),\n                           round_to_tensor_float(weights[1])",
            "round_to_tensor_float(weights[1]),\n                           round_to_tensor_float(weights[2])",
            "index: the weights of a product's lower rows and later keys",
        ),
        (
            "values[4 * kRowFloats + 8 * c]",
            "values[8 * c]",
            "index: the values of a product's later keys",
        ),
        (
            "thread % 4 == 0 ? terms.sum : 0.0f",
            "terms.sum",
            "reduction: the sum of the chunks before, once for each lane",
        ),
    ),
    *_each(
        "attention/forward/window_gemm.cuh",
        "attention",
        (
            "{in_image && y < kWindow, in_image && y > 0}",
            "{in_image && y < kWindow, in_image}",
            "mask: keys above the windows of a patch's second row",
        ),
        (
            "choose(4, (x & 4) != 0, pairs[2], pairs[4], columns);",
            "choose(4, (x & 4) != 0, pairs[2], pairs[3], columns);",
            "index: the columns of a patch's keys",
        ),
        (
            "const int before = (lane + 31) % 32;",
            "const int before = (lane + 32) % 32;",
            "index: the tokens of a patch's second row",
        ),
    ),
    *_each(
        "attention/forward/bias.cuh",
        "attention",
        (
            "const int column = key - row * pool_width();",
            "const int column = key / pool_width();",
            "bias map: the columns of a table",
        ),
        (
            "result && entry == *base + static_cast<int>(step);",
            "result && entry <= *base + static_cast<int>(step);",
            "bias map: a table whose maps do not grow by one",
        ),
    ),
    *_each(
        "attention/forward/bias.cuh",
        "maps",
        (
            "values.shape[1] < position().rows_inside() ||",
            "false ||",
            "bias map: a table too low for the tile",
        ),
    ),
    *_each(
        "bias/pooled_bias.cuh",
        "maps",
        (
            "static_cast<int>(bias_.values.shape[1]) - further",
            "static_cast<int>(bias_.values.shape[1]) - 0 * further",
            "bias map: a step over the table's last row",
        ),
        (
            "bounded(entry, static_cast<int>(bias_.values.shape[2]) - further)",
            "entry - 0 * further",
            "bias map: columns outside the table",
        ),
    ),
    *_each(
        "bias/pooled_bias.cuh",
        "attention",
        (
            "[offset(bias_.col_weights, j, b, tap)]",
            "[offset(bias_.col_weights, j, 0 * b, tap)]",
            "bias map: the weights of an interpolated bias",
        ),
        (
            "return i * row_step + j *",
            "return i * row_step + 0 * j *",
            "index: a query's column in a table that grows by steps",
        ),
    ),
    *_each(
        "attention/forward/local_window.cuh",
        "attention",
        (
            "weight(j) = here ? logit : kNoLogit;",
            "weight(j) = logit;",
            "mask: window cells outside the image",
        ),
        (
            "const int cell = (y - top) * window + x - left;",
            "const int cell = (y - first_row) * window + x - left;",
            "index: the cell of a window that the image cuts",
        ),
    ),
    *_each(
        "attention/backward/local_window.cuh",
        "attention",
        (
            "const bool seen = first + r < cells() && inside(key_y, key_x);",
            "const bool seen = first + r < cells() && key_y >= 0 && key_y < height();",
            "mask: window cells beyond the image's sides",
        ),
    ),
    *_each(
        "attention/backward/window_gemm.cuh",
        "attention",
        (
            "const bool seen = here && inside(key_y, left - 1 + x() + j);",
            "const bool seen = here;",
            "mask: cells beyond the image's sides in the window's products",
        ),
        (
            "(lane() + 31) % 32",
            "lane()",
            "index: the window row of a patch's second row of queries",
        ),
    ),
    *_each(
        "attention/backward/tile.cuh",
        "attention",
        (
            "      state.queries = state.owned.grown(after, before, height(), width());",
            "      state.queries = state.owned.grown(before, before, height(), width());",
            "halo: queries of an even window that see the tile's keys",
        ),
        (
            "mine ? owned_before : owned.cells() + i - owned_before",
            "mine ? owned_before : owned.cells() + i",
            "index: queries of the halo behind the owned ones",
        ),
    ),
    *_each(
        "attention/backward/pooled_weights.cuh",
        "attention",
        (
            "probability[e] = first + key + e % 2 < pooled() ? value : 0.0f;",
            "probability[e] = first + key + e % 2 <= pooled() ? value : 0.0f;",
            "last tile: a pooled key beyond the last, backward",
        ),
    ),
    *_each(
        "bias/extrapolated_bias.cuh",
        "attention",
        (
            "steps &= bias.table_column(j, b, 0) == first + j;",
            "steps &= bias.table_column(j, b, 0) >= first;",
            "choice: a table whose columns are not steps apart",
        ),
    ),
    *_each(
        "attention/backward/bias.cuh",
        "attention",
        (
            "if (column(e / 2) >= width || key(e % 2) >= pool_width) continue;",
            "if (column(e / 2) >= width) continue;",
            "last tile: pooled columns beyond the last in the table's gradient",
        ),
    ),
    *_each(
        "common/storage.cuh",
        "test_every_half",
        (
            "target = float_to_bfloat16(x);",
            "target = {static_cast<unsigned short>(float_to_bits(x) >> 16)};",
            "dtype rounding: towards zero",
        ),
    ),
]
