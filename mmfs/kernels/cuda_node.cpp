#include "cuda_node.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <sstream>
#include <stdexcept>

namespace mmfs::cuda {

const Operator MMFS = {
    "MMFS",
    {"value", "reference_points", "sampling_offsets", "attention_logits", "visible", "offset_table", "logit_table",
     "null_value"},
    {"spatial_shapes", "null_logit", "use_null"},
    3,
};

const Operator MMFS_IMAGE_LISTS = {
    "MMFSImageLists",
    {"value", "reference_points", "sampling_offsets", "attention_logits", "image_indices", "offset_table",
     "logit_table", "null_value"},
    {"spatial_shapes", "null_logit", "use_null"},
    3,
};

const Operator MS_DEFORM_ATTN = {
    "MSDeformAttn",
    {"value", "sampling_locations", "attention_weights"},
    {"spatial_shapes"},
    2,
};

namespace {

std::string text_of(const std::vector<int64>& numbers) {
    std::string text = "[";
    for (std::size_t i = 0; i < numbers.size(); ++i) text += (i ? ", " : "") + std::to_string(numbers[i]);
    return text + "]";
}

constexpr int64 MOST_PIXELS = std::numeric_limits<int32_t>::max();  // of an image: the kernels number them in 32 bits
constexpr int64 MOST_COUNTED = (int64{1} << 31) - 64;  // as in mmfs/kernels/arguments.py

// Of a node that was checked: the sum fits.
int64 num_pixels(const Node& node) {
    int64 sum = 0;
    for (std::size_t level = 0; level < node.spatial_shapes.size(); level += 2) {
        sum += node.spatial_shapes[level] * node.spatial_shapes[level + 1];
    }
    return sum;
}

// Whether the levels, whose sides are positive, have at most MOST_PIXELS pixels together.
bool pixels_can_be_numbered(const std::vector<int64>& shapes) {
    int64 left = MOST_PIXELS;
    for (std::size_t level = 0; level < shapes.size(); level += 2) {
        if (shapes[level] > left / shapes[level + 1]) return false;
        left -= shapes[level] * shapes[level + 1];
    }
    return true;
}

// Of numbers that are not negative; the largest number where it would not fit.
int64 product(int64 one, int64 other) {
    int64 result;
    return __builtin_mul_overflow(one, other, &result) ? std::numeric_limits<int64>::max() : result;
}

void check_counts(const Sizes& sizes) {
    if (sizes.num_images > MOST_COUNTED) {
        throw std::invalid_argument("the bank has " + std::to_string(sizes.num_images) +
                                    " images. The CUDA kernels take at most " + std::to_string(MOST_COUNTED) + ".");
    }
    const int64 samples = product(sizes.num_levels, sizes.num_points);
    if (product(std::max<int64>(sizes.most_images, 1), std::max<int64>(samples, 1)) > MOST_COUNTED) {
        throw std::invalid_argument("levels times points is " + std::to_string(samples) + " and a query can see " +
                                    std::to_string(sizes.most_images) + " images. The CUDA kernels take at most " +
                                    std::to_string(MOST_COUNTED) + " samples, images times levels times points.");
    }
    if (sizes.num_channels > MOST_COUNTED) {
        throw std::invalid_argument("value has " + std::to_string(sizes.num_channels) +
                                    " channels a head. The CUDA kernels take at most " + std::to_string(MOST_COUNTED) +
                                    ".");
    }
    int64 num_rows;
    if (__builtin_mul_overflow(sizes.batch, sizes.num_queries, &num_rows)) {
        throw std::invalid_argument("a call has " + std::to_string(sizes.batch) + " times " +
                                    std::to_string(sizes.num_queries) + " queries. The CUDA kernels take at most " +
                                    std::to_string(std::numeric_limits<int64>::max()) + ".");
    }
}

}  // namespace

std::size_t Operator::position(const std::string& input) const {
    return std::find(inputs.begin(), inputs.end(), input) - inputs.begin();
}

Node::Node(const Operator& of, std::vector<int64> shapes, bool uses_null, double logit)
    : op(&of), spatial_shapes(std::move(shapes)), has_null(uses_null), null_logit(uses_null ? logit : 0.0) {
    const std::size_t count = spatial_shapes.size();
    if (count == 0 || count % 2 || *std::min_element(spatial_shapes.begin(), spatial_shapes.end()) < 1) {
        throw std::invalid_argument("spatial_shapes is " + text_of(spatial_shapes) +
                                    ". Expected heights and widths in turn, all positive.");
    }
    if (count / 2 > MAX_LEVELS) {
        throw std::invalid_argument("spatial_shapes has " + std::to_string(count / 2) +
                                    " levels. The CUDA kernels take " + std::to_string(MAX_LEVELS) + ".");
    }
    if (!pixels_can_be_numbered(spatial_shapes)) {
        throw std::invalid_argument("spatial_shapes is " + text_of(spatial_shapes) +
                                    ". The CUDA kernels take at most " + std::to_string(MOST_PIXELS) +
                                    " pixels an image.");
    }
    if (!(std::abs(null_logit) <= std::numeric_limits<float>::max())) {  // the comparison is false for NaN
        std::ostringstream text;
        text << "null_logit is " << null_logit << ". Expected a finite float32, or use_null=0 for none.";
        throw std::invalid_argument(text.str());
    }
}

bool takes_type(const Operator& op, std::size_t position, const std::vector<Type>& types) {
    const Type type = types.at(position);
    if (position == op.inputs.size()) return type == types[0];
    if (op.inputs.at(position) == "visible" || op.inputs.at(position) == "image_indices") return type == Type::INT64;
    return type == Type::FLOAT32 || type == Type::FLOAT16 || type == Type::BFLOAT16;
}

Sizes sizes_of(const Node& node, const std::vector<Shape>& shapes) {
    const Operator& op = *node.op;
    if (shapes.size() != op.inputs.size()) {
        throw std::invalid_argument(op.name + " has " + std::to_string(shapes.size()) + " inputs. Expected " +
                                    std::to_string(op.inputs.size()) + ".");
    }
    for (std::size_t i = 0; i < shapes.size(); ++i) {
        if (std::any_of(shapes[i].begin(), shapes[i].end(), [](int64 size) { return size < 0; })) {
            throw std::invalid_argument(op.inputs[i] + " of " + op.name + " has the shape " + text_of(shapes[i]) +
                                        ". Expected sizes of at least 0.");
        }
    }
    const Shape &value = shapes[0], &weights = shapes[op.weights];
    if (value.size() != 4 || weights.size() != 5) {
        throw std::invalid_argument("value and " + op.inputs[op.weights] + " of " + op.name + " have the shapes " +
                                    text_of(value) + " and " + text_of(weights) + ". Expected 4 and 5 axes.");
    }
    Sizes sizes = {weights[0], weights[1], value[0], value[1], value[2], value[3], weights[3], weights[4], 0, 0,
                   value[0], 1, 1, 1, 1};
    const int64 B = sizes.batch, Q = sizes.num_queries, H = sizes.num_heads, D = sizes.num_channels;
    const int64 L = sizes.num_levels, P = sizes.num_points;
    std::map<std::string, Shape> expected = {
        {op.inputs[op.weights], {B, Q, H, static_cast<int64>(node.spatial_shapes.size() / 2), P}},
        {"value", {node.is_mmfs_attention() ? sizes.num_images : B, num_pixels(node), H, D}},
        {"sampling_locations", {B, Q, H, L, P, 2}},
        {"reference_points", {B, Q, 2}},
        {"sampling_offsets", {B, Q, H, P, 2}},
        {"visible", {B, Q, 2}},
        {"null_value", {H, D}},
    };
    const bool lists = &op == &MMFS_IMAGE_LISTS;
    if (lists) {
        const auto size = [&](const char* input, std::size_t axis) -> int64 {
            const Shape& shape = shapes[op.position(input)];
            return axis < shape.size() ? shape[axis] : -1;
        };
        sizes.num_slots = sizes.most_images = std::max<int64>(1, size("image_indices", 2));
        // What is not 1 has to be the whole.
        sizes.point_levels = size("reference_points", 3) == 1 ? 1 : L;
        sizes.point_points = size("reference_points", 4) == 1 ? 1 : P;
        sizes.offset_levels = size("sampling_offsets", 3) == 1 ? 1 : L;
        expected["reference_points"] = {B, Q, sizes.num_slots, sizes.point_levels, sizes.point_points, 2};
        expected["sampling_offsets"] = {B, Q, H, sizes.offset_levels, P, 2};
        expected["image_indices"] = {B, Q, sizes.num_slots};
    }
    if (node.is_mmfs_attention()) {
        const auto ages = [&](const char* table) {
            const Shape& shape = shapes[op.position(table)];
            return shape.empty() ? 1 : std::max<int64>(1, shape[0]);
        };
        sizes.num_offset_ages = ages("offset_table");
        sizes.num_logit_ages = ages("logit_table");
        expected["offset_table"] = lists ? Shape{sizes.num_offset_ages, H, sizes.offset_levels, P, 2}
                                         : Shape{sizes.num_offset_ages, H, P, 2};
        expected["logit_table"] = {sizes.num_logit_ages, H, L, P};
    }
    for (std::size_t i = 0; i < shapes.size(); ++i) {
        const Shape& wanted = expected.at(op.inputs[i]);
        if (shapes[i] != wanted) {
            throw std::invalid_argument(op.inputs[i] + " of " + op.name + " has the shape " + text_of(shapes[i]) +
                                        ". Expected " + text_of(wanted) + ".");
        }
    }
    check_counts(sizes);
    return sizes;
}

}  // namespace mmfs::cuda
