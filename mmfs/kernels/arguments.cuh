// What every kernel is given: one structure, passed by value.
//
// Letters: B batch, Q queries, N images of the bank, S pixels of all levels of an image, R pixels of all
// images, H heads, D channels of a head, L levels, P points, A rows of an age table, K slots of a list of images. Every
// tensor is contiguous.
//
// Each member has 8 bytes, so that a host in any language can pack it. arguments.py packs the same members in this order.

#pragma once

namespace mmfs {

using int64 = long long;

constexpr int MAX_LEVELS = 16;

// A tensor whose dtype is known at run time. Only value's dtype is a template argument: the others are read little.
struct Array {
    void* data;  // null: the tensor is not given
    int64 kind;  // enum Kind
};

struct Arguments {
    int64 num_rows;          // B*Q: a row is a query
    int64 num_queries;       // Q
    int64 num_images;        // N
    int64 num_pixels;        // R
    int64 pixels_per_image;  // S; not read with image_planes
    int64 num_heads;         // H
    int64 num_channels;      // D
    int64 num_levels;        // L
    int64 num_points;        // P
    int64 num_slots;         // K with image_indices; 1 with visible, whose images share the reference point
    int64 point_levels;      // L if reference points differ by level, or 1
    int64 point_points;      // P if reference points differ by sampled point, or 1
    int64 offset_levels;     // L if offsets differ by level, or 1
    int64 num_offset_ages;   // A of offset_table
    int64 num_logit_ages;    // A of logit_table
    int64 num_splits;        // into how many splits the samples of a row and head are divided
    int64 num_tiles;         // copies of the gradients of tables and null_value, for a caller to sum; 1: atomic sums
    int64 tile_pixels;       // pixels of a block that owns a part of the gradient of value
    int64 has_lse;           // 0: mmfs_attention_backward computes lse first
    int64 has_null;
    double null_logit;
    int64 heights[MAX_LEVELS];  // not read with image_planes
    int64 widths[MAX_LEVELS];
    const int64* image_planes;  // [N, L, 3]: height, width and first pixel in the bank; null: the same sizes for all
    const int64* visible;       // [B*Q, 2]: a range of images; or
    const int64* image_indices;  // [B*Q, K]: a list of images, -1 for none; the other is null

    const void* value;  // [R, H, D]
    // Of ms_deform_attn alone, and not given in a call of mmfs_attention:
    Array locations;  // [B*Q, H, L, P, 2]
    Array weights;    // [B*Q, H, L, P]
    // Of mmfs_attention alone, and not given in a call of ms_deform_attn:
    Array points;        // [B*Q, num_slots, point_levels, point_points, 2], reference points
    Array offsets;       // [B*Q, H, offset_levels, P, 2]
    Array logits;        // [B*Q, H, L, P]
    Array offset_table;  // [A, H, offset_levels, P, 2]
    Array logit_table;   // [A, H, L, P]
    Array null_value;    // [H, D]

    // Types of accumulation, below called "wide": float, or double for double values.
    void* out;               // [B*Q, H, D], dtype of value
    void* lse;               // wide [B*Q, H]
    void* split_sums;        // wide [splits, B*Q, H, D]
    void* split_softmaxes;   // wide [splits, B*Q, H, 2]: peak, total

    const void* grad_out;  // [B*Q, H, D], dtype of value
    // [R, H, D]: wide and zero at first, to add to; in the dtype of value where blocks own it; null if not wanted.
    void* grad_value;
    Array grad_locations;     // like locations
    Array grad_weights;       // like weights
    void* grad_points;        // wide [B*Q, H, num_slots, point_levels, point_points, 2], zero at first
    Array grad_offsets;       // like offsets
    Array grad_logits;        // like logits
    void* grad_offset_table;  // wide [tiles, A, H, offset_levels, P, 2], zero at first
    void* grad_logit_table;   // wide [tiles, A, H, L, P], zero at first
    void* grad_null_value;    // wide [tiles, H, D], zero at first
};

}  // namespace mmfs
