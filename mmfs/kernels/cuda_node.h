// What a runtime has to know about the mmfs nodes: inputs, sizes, types. The same as plugins_trt/node_contract.py,
// for TensorRT's C++ plugin and for onnxruntime; it depends on neither.
//
// Letters: N images of the bank, S pixels of all levels of an image, H heads, D channels of a head, L levels, P points,
// B batch, Q queries, A rows of the tables, K slots of a list of images.

#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "arguments.cuh"

namespace mmfs::cuda {

constexpr const char* NAMESPACE = "mmfs";
constexpr const char* VERSION = "1";

enum class Type { FLOAT32, FLOAT16, BFLOAT16, INT64, OTHER };

using Shape = std::vector<int64>;

// An operator: its name, and those of its inputs and attributes in order.
struct Operator {
    std::string name;
    std::vector<std::string> inputs;
    std::vector<std::string> attributes;
    std::size_t weights;  // the input [B, Q, H, L, P]

    std::size_t position(const std::string& input) const;  // inputs.size() if there is no such input
};

extern const Operator MMFS;
extern const Operator MMFS_IMAGE_LISTS;
extern const Operator MS_DEFORM_ATTN;

// One node. Here and below, std::invalid_argument is thrown if it or its inputs are wrong.
struct Node {
    Node(const Operator& of, std::vector<int64> shapes, bool uses_null, double logit);

    bool is_mmfs_attention() const { return op != &MS_DEFORM_ATTN; }

    const Operator* op;
    std::vector<int64> spatial_shapes;  // height, width, height, width, ... of the levels
    bool has_null;
    double null_logit;
};

struct Sizes {
    int64 batch;
    int64 num_queries;
    int64 num_images;
    int64 pixels_per_image;
    int64 num_heads;
    int64 num_channels;
    int64 num_levels;
    int64 num_points;
    int64 num_offset_ages;
    int64 num_logit_ages;
    int64 most_images;  // that a query can see
    // K, and L or P where reference points or offsets differ by level or point; otherwise 1.
    int64 num_slots;
    int64 point_levels;
    int64 point_points;
    int64 offset_levels;

    int64 num_rows() const { return batch * num_queries; }
};

// Whether the tensor at a position may have its type, given those before it; the output follows the inputs.
bool takes_type(const Operator& op, std::size_t position, const std::vector<Type>& types);

Sizes sizes_of(const Node& node, const std::vector<Shape>& shapes);

}  // namespace mmfs::cuda
