// Splits an attention into tasks. A task is a sequence of work items, and a work item is one token
// tile of one image and head.
//
// Heads are interleaved in memory, 96 bytes each at head dim 24. A task therefore processes all
// heads of a token tile in succession, so their common cache lines are read from memory once,
// unless that leaves too few tasks.
#pragma once

#include "cpu/runtime/ranges.h"
#include "cpu/simd/simd.h"

TRANSNEXT_BEGIN_LEVEL

constexpr index_t kTasksPerThread = 4;  // keeps uneven cores busy until the end

// The number of tasks wanted for `parts` parts, which are split further by heads. Where half of the
// heads still fill several cache lines of a token, that is two per part, so that a late thread
// delays the end less.
inline index_t wanted_tasks(index_t parts, index_t heads) {
  constexpr index_t kManyHeads = 6;
  return heads >= kManyHeads ? 2 * parts : parts;
}

// A token tile of one image and head; count 0 means none.
struct HeadWorkItem {
  index_t batch, head;
  index_t first, count;

  index_t end() const { return first + count; }
};

// The work items of a task: heads innermost, then token tiles, then images.
struct HeadWorkItems {
  index_t tokens;      // of an image
  index_t token_tile;  // tokens
  index_t first_batch, batches;
  index_t first_token_tile, token_tiles;
  index_t first_head, heads;
  index_t part, token_part;  // indices among AttentionCut's parts

  index_t size() const { return batches * token_tiles * heads; }
  index_t end_head() const { return first_head + heads; }
  // Item i, or none beyond the last.
  HeadWorkItem at(index_t i) const {
    if (i >= size()) return {};
    const index_t first = (first_token_tile + i / heads % token_tiles) * token_tile;
    return {first_batch + i / heads / token_tiles, first_head + i % heads, first,
            smaller(token_tile, tokens - first)};
  }
  // Item i, or `following` beyond the last.
  HeadWorkItem at_or(index_t i, const HeadWorkItem& following) const {
    return i < size() ? at(i) : following;
  }
  // Whether item i is the first of its image and head.
  bool begins_image(index_t i) const { return i / heads % token_tiles == 0; }
  // Whether item i is the last of its image and head in this task.
  bool ends_image(index_t i) const { return i / heads % token_tiles == token_tiles - 1; }
};

// How an attention is split. A part is a range of images and a range of token tiles; a task is a
// part with a range of heads.
struct AttentionCut {
  index_t batches, tokens, heads;
  index_t token_tile;   // tokens
  index_t token_tiles;  // per image
  index_t image_parts, token_parts, head_parts;

  // Makes at most `most_images` ranges of images, about `wanted_parts` parts, and at least
  // `wanted_tasks` tasks if there is enough work.
  AttentionCut(index_t batches, index_t tokens, index_t heads, index_t token_tile,
               index_t most_images, index_t wanted_parts, index_t wanted_tasks)
      : batches(batches),
        tokens(tokens),
        heads(heads),
        token_tile(token_tile),
        token_tiles((tokens + token_tile - 1) / token_tile),
        image_parts(larger(1, smaller(smaller(batches, most_images), wanted_parts))),
        token_parts(smaller(token_tiles, (wanted_parts + image_parts - 1) / image_parts)),
        head_parts(smaller(heads, larger(1, (wanted_tasks + parts() - 1) / parts()))) {}

  index_t parts() const { return image_parts * token_parts; }
  index_t tasks() const { return parts() * head_parts; }

  // The first item of the task that a thread will most likely run after `task`.
  HeadWorkItem likely_next(index_t task) const {
    return task + 1 < tasks() ? this->task(task + 1).at(0) : HeadWorkItem{};
  }

  HeadWorkItems task(index_t task) const {
    HeadWorkItems items{};
    items.tokens = tokens;
    items.token_tile = token_tile;
    items.part = task / head_parts;
    items.token_part = items.part % token_parts;
    range(batches, items.part / token_parts, image_parts, items.first_batch, items.batches);
    range(token_tiles, items.token_part, token_parts, items.first_token_tile, items.token_tiles);
    range(heads, task % head_parts, head_parts, items.first_head, items.heads);
    return items;
  }

 private:
  // Range number `part` of `parts` almost equal ranges.
  static void range(index_t all, index_t part, index_t parts, index_t& first, index_t& count) {
    first = range_begin(part, all, parts);
    count = range_begin(part + 1, all, parts) - first;
  }
};

TRANSNEXT_END_LEVEL
