# ruff: noqa: E501 -- lines of the kernels stand as they are there
"""The places of the device code that mutations.py breaks, one at a time.

A place is written as it stands in its file, once, with the change marked in it: ``«old→new»``.
"""

from __future__ import annotations

from mutation import breaks

MUTATIONS = [
    *breaks(
        "pool/gelu_pool.cuh",
        "gelu_pool or tokens",
        {
            "index: the column of a bin's cell": "int column = cell «%→/» width;",
            "index: where a row of a bin ends": "for (column += step; column «>=→>» width; column -= width) from += to_next_row;",
            "barrier: before the rows' sums meet": (
                "mine->values[i] = sum[i];«\n      __syncthreads();→»"
            ),
            "last tile: channels beyond the last are written": "if (threadIdx.y == 0« && count > 0→») {",
            "last tile: tokens beyond the last": "«if (here < end) →»device::store_run(to,",
            "index: bins that overlap are left out": "const index_t last_a = «bin_end(row, p.grid.height, p.pool_grid.height)→bin_begin(row, p.grid.height, p.pool_grid.height) + 1»;",
        },
    ),
    *breaks(
        "glu/conv_glu_forward.cuh",
        "conv_glu or tokens",
        {
            "halo: columns outside the image are read": (
                "      if (row_inside && column >= 0 && column «<→<=» width)\n        values"
            ),
            "halo: the row below a band": (
                "\n  for (int row = strip.top - 1; row «<=→<» strip.bottom; ++row) {"
            ),
            "halo: the padding has a bias": (
                "row < 0 || row >= height || column < 0« || column >= width→») continue;  // zeros"
            ),
            "barrier: weights are read before they are there": (
                "    weights.load(p.weight, p.x_bias, first_channel, hidden - first_channel);«\n"
                "    __syncthreads();→»"
            ),
        },
    ),
    *breaks(
        "glu/conv_glu_strip.cuh",
        "conv_glu or tokens",
        {
            "last tile: a weight beyond the last channel is read": (
                "          channel «<→<=» count\n              ? static_cast<const float*>("
            ),
            "index: gates have the bias of values": "first_channel + channel« + half * weight.shape[0]→»)",
        },
    ),
    *breaks(
        "glu/conv_glu_backward.cuh",
        "conv_glu or tokens",
        {
            "index: the gradient's convolution is not mirrored": "for (int tap = 0; tap < 9; ++tap) d_a[tap / 3][j] += weight_[tap] * d_u[j + «2 - tap % 3→tap % 3»];",
            "barrier: before the strips' sums meet": (
                "partial[threadIdx.y][9][threadIdx.x] = mine.d_bias;«\n  __syncthreads();→»"
            ),
            "halo: the padding has a bias": "if (row_inside && column >= 0« && column < width→») a[2][j] += value_bias[0];",
            "halo: rows above a band count twice in the bias' gradient": "if («row > strip.top && →»left + j < width) {\n          d_values",
            "halo: columns beyond the image count in the bias' gradient": "if (row > strip.top« && left + j < width→») {\n          d_values",
            "halo: the row below a band counts twice in the weights' gradient": "const bool own = row >= strip.top && row «<→<=» strip.bottom;",
        },
    ),
    *breaks(
        "deformable/samples.cuh",
        "deformable",
        {
            "mask: the first column left of a map": "has_first = cell >= 0 && «cell < size→cell <= size»;",
            "mask: places beyond the left border": "has_second = whole < size« && coordinate >= -1.0f→»;",
            "index: the cell below": "cells[2][slot] = sample.y.has_second && sample.x.has_first ? cell + «sample.width→1» : -1;",
            "index: samples of a level": "const int level = index «/→%» points;",
        },
    ),
    *breaks(
        "deformable/deformable_attention_forward.cuh",
        "deformable",
        {
            "index: the parts of a warp are not added": "for (int distance = warp.lanes; distance < «32→16»; distance *= 2) {",
            "barrier: samples are read before they are placed": (
                "device::Sample::place<T>(in, at, first + lane, softmax));«\n      __syncwarp();→»"
            ),
        },
    ),
    *breaks(
        "deformable/deformable_attention_backward.cuh",
        "deformable",
        {
            "index: the softmax's sum is of the last samples alone": "if (!«again→false») total = warp_sum(",
            "barrier: before the heads' gradients of references meet": (
                "if (entries == 0) continue;«\n    __syncthreads();→»"
            ),
            "index: a chunk's samples of a level": "const int begin = entry / numbers * points« - first→»;",
        },
    ),
    *breaks(
        "deformable/value_sums.cuh",
        "deformable",
        {
            "start: sums begin with what was there": "const { data_[offset] = «0.0f→data_[offset]»; }",
            "unit: larger sums than 64 bits hold": "power_(«60→66» - p.bits_of_queries)",
        },
    ),
    *breaks(
        "window/window.cuh",
        "window",
        {
            "halo: tokens outside the image are read": "if (i < all && «inside(p.grid, top + y, left + x) && →»count > 0) {",
            "mask: cells outside the image count": "        «inside(p.grid, top + y + dy - window / 2, left + x + dx - window / 2)→true») {",
            "index: a key's queries are not mirrored": "const int source_row = (y + «(kToKeys ? band_rows - 1 - row : row)→row») * tile.pitch;",
            "mask: logits outside the image": "float score = «p.outside→0.0f»;",
            "bias map: the cell's number within a band": "p.bias.data)[position.head * p.bias.stride[0] + «j→cell» * p.bias.stride[1]]",
            "barrier: keys are overwritten while they are read": (
                "«        __syncthreads();  // all have left the previous keys\n→»"
            ),
            "mask: the bias gradient counts cells beyond the right edge": "if (y < 0 || y >= p.grid.height || x < 0« || x >= p.grid.width→») continue;",
            "last tile: columns of a last narrow tile": (
                "__device__ inline index_t window_tiles_across(const WindowProductParams& p) {\n"
                "  return «(p.grid.width + p.tile.columns - 1) / p.tile.columns→p.grid.width / p.tile.columns > 0 ? p.grid.width / p.tile.columns : 1»;"
            ),
        },
    ),
    *breaks(
        "bias/position_bias_table.cuh",
        "test_position_bias",
        {
            "bias map: the column's coordinate": "device::element<C>(p.col_coords, at «% columns→/ columns % columns»);",
            "last tile: a head beyond the last": "if (h «>=→>» heads || at >= positions) continue;",
            "mask: the gradient of the ReLU": "«d_hidden = hidden > 0 ? d_hidden : C(0);→»",
            "barrier: a tile's gradients are read before they are there": (
                "        coordinates[thread] = {device::element<C>(p.row_coords, row),\n"
                "                               device::element<C>(p.col_coords, column)};\n"
                "      }«\n"
                "      __syncthreads();→»"
            ),
        },
    ),
    *breaks(
        "norm/add_layer_norm.cuh",
        "add_layer_norm",
        {
            "index: tokens of another image": "image(quotient(number, tokens)), token(number« - image * tokens→»)",
            "last tile: channels beyond the last count": "values.values[i] = i «<→<=» count ? values.values[i] - mean : 0.0f;",
            "index: warps share a row": "float* row = device::dynamic_shared<float>()« + threadIdx.y * add_layer_norm_row(channels)→»;",
            "barrier: before the warps' sums meet": "if (!has_sums) return;«\n  __syncthreads();→»",
            "index: the bias' sums are the weight's": "const int which = i < channels ? 0 : (i < 2 * channels ? «1→0» : 2);",
            "index: the branch's sums are the bias'": "const int which = i < channels ? 0 : (i < 2 * channels ? 1 : «2→1»);",
        },
    ),
    *breaks(
        "common/partial_sums.cuh",
        "window or test_position_bias or conv_glu",
        {
            "index: rows of partial sums are left out": "row += kPartialSumsRows«→ + 1»)",
        },
    ),
    *breaks(
        "common/runs.cuh",
        "gelu_pool or window or conv_glu or tokens",
        {
            "index: strided channels are read as if they were neighbours": "view.shape[kRank - 1] % n == 0« && view.stride[kRank - 1] == 1→»;",
            "last tile: channels beyond the last are written": "if (i «<→<=» count) from_float(from[i], to[i * stride]);",
        },
    ),
    *breaks(
        "attention/forward/pooled.cuh",
        "attention",
        {
            "barrier: a chunk of pooled keys is read before its copies are in": "      wait_copies<«1→2»>();\n",
        },
    ),
    *breaks(
        "attention/forward/gemm_output.cuh",
        "attention",
        {
            "index: the order of the keys of a tensor-core product": "static int key_of(int index) { return index / 2 + index % 2 * 4«→ - index / 7»; }",
            "last tile: a pooled key beyond the last": "if (8 * n + 4 * (e % 2) «>=→>» own)",
            "softmax: a sum that does not follow its offset": "      «sum[half] *= exp2_fast(fminf(change, 0.0f));→»\n",
        },
    ),
    *breaks(
        "attention/forward/gemm_output.cuh",
        "tf32",
        {
            "softmax: an offset that no later logit lowers": "kMostExponent = «1.0f→1e9f»",
        },
    ),
    *breaks(
        "attention/forward/pooled_gemm_tf32.cuh",
        "tf32",
        {
            "index: the weights of a product's lower rows and later keys": (
                "round_to_tensor_float(weights[«2→1»]),\n"
                "                           round_to_tensor_float(weights[«1→2»])"
            ),
            "index: the values of a product's later keys": "values[«4 * kRowFloats + →»8 * c]",
            "reduction: the sum of the chunks before, once for each lane": "«thread % 4 == 0 ? terms.sum : 0.0f→terms.sum»",
        },
    ),
    *breaks(
        "attention/forward/window_gemm.cuh",
        "attention",
        {
            "mask: keys above the windows of a patch's second row": "{row_inside && y < kWindow, row_inside« && y > 0→»}",
        },
    ),
    *breaks(
        "attention/window_products.cuh",
        "attention",
        {
            "index: the columns of a patch's keys": "columns.choose(4, x, products[2], products[«4→3»]);",
            "index: the tokens of a patch's second row": "return (y + «3→4») % 4;",
        },
    ),
    *breaks(
        "attention/forward/window_gemm.cuh",
        "tokens_beyond",
        {
            "dtype rounding: weights that overflow a Half": "«!(2.0f * kDim * scale < kLargeWeight) || →»!(bias < kLargeWeight);",
        },
    ),
    *breaks(
        "attention/forward/pooled_gemm.cuh",
        "attention",
        {
            "last tile: the last keys of a chunk, if they are few": "if (step.left > 0) «add_keys<1>(t, step);→{}»",
            "index: the norms of a patch's second row": "query_terms[query_of(thread, t, 1)].norm = inverse_norm(squares.«y→x»);",
        },
    ),
    *breaks(
        "attention/row_operand.cuh",
        "attention",
        {
            "index: the row whose length a product's diagonal holds": "float2{both[0][0], both[1][«2→3»]}",
        },
    ),
    *breaks(
        "attention/rows.cuh",
        "attention",
        {
            "halo: rows outside the image are read": "const bool valid = here« && corner.row_inside(corner.top + row)→»;",
            "last tile: columns of queries beyond the image": "    if («!corner.column_inside(corner.left + column)→false») return;",
            "index: from row to row of a tile": "source[i] += static_cast<index_t>(from[i].row_stride) * corner.width * «Walk::kStep→1»;",
        },
    ),
    *breaks(
        "attention/forward/bias.cuh",
        "attention",
        {
            "bias map: the columns of a table": "const int column = key «- row *→/» pool_width();",
            "bias map: a table whose maps do not grow by one": "result && entry «==→<=» *base + static_cast<int>(step);",
        },
    ),
    *breaks(
        "attention/forward/bias.cuh",
        "maps",
        {
            "bias map: a table too low for the tile": "«values.shape[1] < position().rows_inside()→false» ||",
        },
    ),
    *breaks(
        "bias/pooled_bias.cuh",
        "maps",
        {
            "bias map: a step over the table's last row": "static_cast<int>(bias_.values.shape[1]) - «→0 * »further",
            "bias map: columns outside the table": "«bounded(entry, static_cast<int>(bias_.values.shape[2]) - further)→entry - 0 * further»",
        },
    ),
    *breaks(
        "bias/pooled_bias.cuh",
        "attention",
        {
            "bias map: the weights of an interpolated bias": "[offset(bias_.col_weights, j, «→0 * »b, tap)]",
            "index: a query's column in a table that grows by steps": "return i * row_step + «→0 * »j *",
        },
    ),
    *breaks(
        "attention/forward/local_window.cuh",
        "attention",
        {
            "mask: window cells outside the image": "weight(j) = «here ? logit : kNoLogit→logit»;",
            "index: the cell of a window that the image cuts": "const int cell = (y - «top→first_row») * window + x - left;",
        },
    ),
    *breaks(
        "attention/backward/tile_queries.cuh",
        "attention",
        {
            "mask: window cells beyond the image's sides": "const bool seen = first + r < cells && image.«inside(top + down, left + right)→row_inside(top + down)»;",
            "halo: gradients of queries that a tile does not own": "if (own >= «owned→count») continue;",
        },
    ),
    *breaks(
        "attention/backward/block.cuh",
        "attention",
        {
            "index: the embedding's product with a scaled key": "(half == 0 ? dots.x : dots.y) * «up→1.0f»);",
        },
    ),
    *breaks(
        "attention/backward/pooled_keys.cuh",
        "attention",
        {
            "last tile: a pooled key beyond the last, backward": "const bool there = 8 * t + 4 * e «<→<=» count - first;",
        },
    ),
    *breaks(
        "attention/backward/strip_queries.cuh",
        "attention",
        {
            "mask: cells beyond the image's sides in the window's products": "const bool there = row_inside« && corner.column_inside(column + j)→»;",
            "halo: queries of the next strip in the tokens' gradients": "«Parts::owns_column(query % kStripColumns) && →»strip.owns_row(strip.top() + patch.top + h)",
        },
    ),
    *breaks(
        "attention/backward/strip_keys.cuh",
        "attention",
        {
            "last tile: keys beyond the image's sides": "strip.owns_row(image_row) && «corner.column_inside(image_column) && →»!(right && x < 2);",
        },
    ),
    *breaks(
        "attention/backward/strip_sums.cuh",
        "attention",
        {
            "last tile: rows below the image in the local bias' gradient": "if (cell >= 0« && strip_.owns_row(strip_.top() + cell / kCells)→») {",
        },
    ),
    *breaks(
        "attention/backward/strip_pooled.cuh",
        "attention",
        {
            "halo: queries of the next strip in the pooled keys' gradients": "down[h] = «owned→true» ? scaling",
            "halo: queries of the next strip in the pooled values' gradients": "mask[h] = «owned→true» ? ~0u : 0u;",
            "last tile: keys beyond the last in the table's gradient": "if (8 * t + 4 * e < table_keys[h]«→ + 4») atomicAdd",
            "index: the slice that a strip's sums are": "blockIdx.x / heads % «static_cast<unsigned>(strip.plan.slices)→1u»;",
            "index: channels of a pooled key's gradient": "const int c = 8 * i + «lane / 4→lane % 4»;",
        },
    ),
    *breaks(
        "attention/backward/strips.cuh",
        "attention",
        {
            "index: the rows that two steps share": "const unsigned char* from = to + «strip_.rows() * row_bytes→0»;",
        },
    ),
    *breaks(
        "attention/window_columns.cuh",
        "attention",
        {
            "index: the columns of a window in a patch's right half": "of[e / 2][first + e % 2] = «(x & 4) != 0→false» ? there[e] : here[e];",
        },
    ),
    *breaks(
        "attention/backward/tiles.cuh",
        "attention",
        {
            "halo: queries of an even window that see the tile's keys": "    state.queries = state.owned.grown(«after→before», before, tile_.height(), tile_.width());",
            "index: queries of the halo behind the owned ones": "mine ? owned_before : owned.cells() + query« - owned_before→»",
        },
    ),
    *breaks(
        "attention/row_products.cuh",
        "attention",
        {
            "index: the rows on the right of a product of floats": "right.from[(8 * t + «4 * i→i») * Rows::kRowBytes / kVector16Bytes + v];",
        },
    ),
    *breaks(
        "bias/extrapolated_bias.cuh",
        "attention",
        {
            "choice: a table whose columns are not steps apart": "steps &= bias.table_column(j, b, 0) «== first + j→>= first»;",
        },
    ),
    *breaks(
        "attention/backward/bias.cuh",
        "attention",
        {
            "last tile: pooled columns beyond the last in the table's gradient": "if (column(e / 2) >= width« || key(e % 2) >= pool_width→») continue;",
        },
    ),
    *breaks(
        "common/storage.cuh",
        "test_every_half",
        {
            "dtype rounding: towards zero": "target = «float_to_bfloat16(x)→{static_cast<unsigned short>(float_to_bits(x) >> 16)}»;",
        },
    ),
]
