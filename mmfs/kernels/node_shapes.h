// The ONNX nodes of domain "mmfs" on a CPU: their inputs, and what the shapes of these have to be.
//
// Letters: N images of the bank, S pixels of all levels of an image, H heads, D channels of a head, L levels, P points,
// B batch, Q queries, A rows of the tables, K slots of a list of images.

#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace mmfs {

using Shape = std::vector<int64_t>;

inline std::string text_of(const Shape& numbers) {
    std::string text = "[";
    for (std::size_t i = 0; i < numbers.size(); ++i) {
        text += (i == 0 ? "" : ", ") + std::to_string(numbers[i]);
    }
    return text + "]";
}

enum class Input {
    VALUE,               // [N, S, H, D]; of MSDeformAttn [B, S, H, D]
    SAMPLING_LOCATIONS,  // [B, Q, H, L, P, 2]
    ATTENTION_WEIGHTS,   // [B, Q, H, L, P]
    REFERENCE_POINTS,    // [B, Q, 2]; of MMFSImageLists [B, Q, K, L or 1, P or 1, 2]
    SAMPLING_OFFSETS,    // [B, Q, H, P, 2]; of MMFSImageLists [B, Q, H, L or 1, P, 2]
    ATTENTION_LOGITS,    // [B, Q, H, L, P]
    VISIBLE,             // [B, Q, 2], whole numbers
    IMAGE_INDICES,       // [B, Q, K], whole numbers
    OFFSET_TABLE,        // [A, H, P, 2]; of MMFSImageLists [A, H, L or 1, P, 2], L as in SAMPLING_OFFSETS
    LOGIT_TABLE,         // [A, H, L, P]
    NULL_VALUE,          // [H, D]
    SPATIAL_SHAPES,      // [L, 2], whole numbers: an input where they vary
};

inline const char* name_of(Input input) {
    constexpr const char* NAMES[] = {
        "value",
        "sampling_locations",
        "attention_weights",
        "reference_points",
        "sampling_offsets",
        "attention_logits",
        "visible",
        "image_indices",
        "offset_table",
        "logit_table",
        "null_value",
        "spatial_shapes",
    };
    return NAMES[static_cast<std::size_t>(input)];
}

struct NodeKind {
    const char* name;
    std::vector<Input> inputs;
    Input weights;  // has batch, queries, heads, levels and points

    bool has_images() const { return weights == Input::ATTENTION_LOGITS; }  // N is not B
    bool has(Input input) const { return place(input) < inputs.size(); }
    std::size_t place(Input input) const {  // inputs.size(): there is no such input
        return static_cast<std::size_t>(std::find(inputs.begin(), inputs.end(), input) - inputs.begin());
    }
};

inline const std::vector<NodeKind>& node_kinds() {
    const auto kinds = [] {
        std::vector<Input> mmfs = {
            Input::VALUE,   Input::REFERENCE_POINTS, Input::SAMPLING_OFFSETS, Input::ATTENTION_LOGITS,
            Input::VISIBLE, Input::OFFSET_TABLE,     Input::LOGIT_TABLE,      Input::NULL_VALUE,
        };
        std::vector<Input> lists = mmfs;
        std::replace(lists.begin(), lists.end(), Input::VISIBLE, Input::IMAGE_INDICES);
        std::vector<Input> deform = {Input::VALUE, Input::SAMPLING_LOCATIONS, Input::ATTENTION_WEIGHTS};
        std::vector<NodeKind> all = {
            {"MMFS", mmfs, Input::ATTENTION_LOGITS},
            {"MMFSImageLists", lists, Input::ATTENTION_LOGITS},
            {"MSDeformAttn", deform, Input::ATTENTION_WEIGHTS},
        };
        for (std::vector<Input>* inputs : {&mmfs, &lists, &deform}) {
            inputs->push_back(Input::SPATIAL_SHAPES);
        }
        all.push_back({"DynamicMMFS", mmfs, Input::ATTENTION_LOGITS});
        all.push_back({"DynamicMMFSImageLists", lists, Input::ATTENTION_LOGITS});
        all.push_back({"DynamicMSDeformAttn", deform, Input::ATTENTION_WEIGHTS});
        return all;
    };
    static const std::vector<NodeKind> all = kinds();
    return all;
}

struct NodeSizes {
    int64_t batch;
    int64_t num_queries;
    int64_t num_images;
    int64_t pixels_per_image;
    int64_t num_heads;
    int64_t num_channels;
    int64_t num_levels;
    int64_t num_points;
    int64_t offset_ages;
    int64_t logit_ages;
    int64_t num_slots;      // K; 1 without lists
    int64_t point_levels;   // L or P where reference points or offsets differ by level or point, or 1
    int64_t point_points;
    int64_t offset_levels;
};

// shapes: of the inputs, in their order. Throws std::invalid_argument if they contradict each other.
inline NodeSizes sizes_of(const NodeKind& kind, const std::vector<Shape>& shapes) {
    const Shape& value = shapes.at(kind.place(Input::VALUE));
    const Shape& weights = shapes.at(kind.place(kind.weights));
    if (value.size() != 4 || weights.size() != 5) {
        throw std::invalid_argument(
            "value and " + std::string(name_of(kind.weights)) + " of " + kind.name + " have the shapes " +
            text_of(value) + " and " + text_of(weights) + ". Expected 4 and 5 axes."
        );
    }
    const int64_t B = weights[0], Q = weights[1], H = value[2], D = value[3], L = weights[3], P = weights[4];
    NodeSizes sizes = {B, Q, value[0], value[1], H, D, L, P, 0, 0, 1, 1, 1, 1};
    // A table has at least one row, and as many as it has.
    const auto ages = [&](Input table) {
        const std::size_t place = kind.place(table);
        return place == shapes.size() || shapes[place].empty() ? 1 : std::max<int64_t>(shapes[place][0], 1);
    };
    if (kind.has_images()) {
        sizes.offset_ages = ages(Input::OFFSET_TABLE);
        sizes.logit_ages = ages(Input::LOGIT_TABLE);
    }
    const bool lists = kind.has(Input::IMAGE_INDICES);
    if (lists) {
        const Shape& indices = shapes[kind.place(Input::IMAGE_INDICES)];
        const Shape& points = shapes[kind.place(Input::REFERENCE_POINTS)];
        const Shape& offsets = shapes[kind.place(Input::SAMPLING_OFFSETS)];
        // What is not 1 has to be the whole.
        const auto one_or = [](const Shape& shape, std::size_t axis, int64_t whole) {
            return shape.size() > axis && shape[axis] == 1 ? 1 : whole;
        };
        sizes.num_slots = indices.size() < 3 ? 1 : indices[2];
        sizes.point_levels = one_or(points, 3, L);
        sizes.point_points = one_or(points, 4, P);
        sizes.offset_levels = one_or(offsets, 3, L);
    }
    for (std::size_t i = 0; i < kind.inputs.size(); ++i) {
        Shape expected;
        switch (kind.inputs[i]) {
            case Input::VALUE:
                expected = {kind.has_images() ? sizes.num_images : B, value[1], H, D};
                break;
            case Input::SAMPLING_LOCATIONS:
                expected = {B, Q, H, L, P, 2};
                break;
            case Input::ATTENTION_WEIGHTS:
            case Input::ATTENTION_LOGITS:
                expected = {B, Q, H, L, P};
                break;
            case Input::REFERENCE_POINTS:
                expected = lists ? Shape{B, Q, sizes.num_slots, sizes.point_levels, sizes.point_points, 2}
                                 : Shape{B, Q, 2};
                break;
            case Input::VISIBLE:
                expected = {B, Q, 2};
                break;
            case Input::IMAGE_INDICES:
                expected = {B, Q, sizes.num_slots};
                break;
            case Input::SAMPLING_OFFSETS:
                expected = lists ? Shape{B, Q, H, sizes.offset_levels, P, 2} : Shape{B, Q, H, P, 2};
                break;
            case Input::OFFSET_TABLE:
                expected = lists ? Shape{sizes.offset_ages, H, sizes.offset_levels, P, 2}
                                 : Shape{sizes.offset_ages, H, P, 2};
                break;
            case Input::LOGIT_TABLE:
                expected = {sizes.logit_ages, H, L, P};
                break;
            case Input::NULL_VALUE:
                expected = {H, D};
                break;
            case Input::SPATIAL_SHAPES:
                expected = {L, 2};
                break;
        }
        if (shapes[i] != expected) {
            throw std::invalid_argument(
                std::string(name_of(kind.inputs[i])) + " of " + kind.name + " has the shape " + text_of(shapes[i]) +
                ". Expected " + text_of(expected) + "."
            );
        }
    }
    return sizes;
}

}  // namespace mmfs
