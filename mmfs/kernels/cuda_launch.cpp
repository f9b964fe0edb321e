#include "cuda_launch.h"

#include <algorithm>
#include <limits>
#include <stdexcept>

namespace mmfs::cuda {

namespace {

constexpr int64 THREADS = 128;  // of a block
constexpr int64 WARP = 32;
constexpr int64 VECTOR_BYTES = 16;
constexpr int64 FEWEST_LANES = 8;
constexpr int64 WIDE_BYTES = 4;  // of the float in which the kernels add up
constexpr int64 MOST_SPLITS = 32;
constexpr int64 FEWEST_MS_DEFORM_ATTN_BATCHES = 4;  // of a split
constexpr int64 MOST_HEADS = 65535;                 // of gridDim.y
constexpr int64 MOST_BLOCKS = (int64{1} << 31) - 1;  // of gridDim.x
constexpr int64 MOST_SMS = 256;                     // that the workspace suffices for
constexpr int64 BATCH_BYTES = 16 + 4 * WIDE_BYTES;  // of shared memory, for each thread of a kernel that samples

int64 divide_up(int64 number, int64 by) { return number / by + (number % by != 0); }

// How the lanes of a row share its channels: chunks x lanes x vector >= D.
struct Channels {
    Channels(int64 num_channels, Type of) : type(of) {
        while (vector > 1 && num_channels % vector) vector /= 2;
        const int64 vectors = divide_up(num_channels, vector);
        while (lanes < std::min(vectors, WARP)) lanes *= 2;
        chunks = divide_up(vectors, lanes);
    }

    std::string instance(const std::string& kernel) const {
        const char* name = type == Type::FLOAT32 ? "float32" : type == Type::FLOAT16 ? "float16" : "bfloat16";
        return "mmfs_" + kernel + "_" + name + "_" + std::to_string(vector) + "_" + std::to_string(lanes) + "_" +
               std::to_string(chunks);
    }

    int64 rows_per_block() const { return THREADS / lanes; }

    Type type;
    int64 vector = VECTOR_BYTES / (type == Type::FLOAT32 ? 4 : 2);
    int64 lanes = FEWEST_LANES;
    int64 chunks = 0;
};

std::uintptr_t bytes_of(Type type) { return type == Type::INT64 ? 8 : type == Type::FLOAT32 ? 4 : 2; }

// One for each row, head and split: a row is split only while there are fewer than two blocks for each multiprocessor.
int64 most_sums(const Channels& channels) { return 2 * MOST_SMS * channels.rows_per_block(); }

// Of a row and head in a split: its channels, and of MMFS the peak and total of its softmax.
int64 bytes_of_sum(int64 num_channels) { return (num_channels + 2) * WIDE_BYTES; }

void check_address(const Node& node, const std::string& name, Address address, std::uintptr_t multiple) {
    if (address.pointer % multiple) {
        throw std::invalid_argument(name + " of " + node.op->name + " is at address " +
                                    std::to_string(address.pointer) + ". Expected a multiple of " +
                                    std::to_string(multiple) + ".");
    }
}

// Of enum Kind in memory.cuh.
int64 kind_of(Type type) { return type == Type::FLOAT32 ? 0 : type == Type::FLOAT16 ? 2 : 3; }

const char* main_kernel(const Node& node) {
    return node.is_mmfs_attention() ? "mmfs_attention_forward" : "ms_deform_attn_forward";
}

// Adds up the splits where the samples of a row are split.
const char* second_kernel(const Node& node) { return node.is_mmfs_attention() ? "merge_splits" : "add_splits"; }

Launch plan_rows(const char* kernel, const Channels& channels, const Sizes& sizes, int64 shared_bytes) {
    if (sizes.num_heads > MOST_HEADS) {
        throw std::invalid_argument("value has " + std::to_string(sizes.num_heads) +
                                    " heads. The CUDA kernels take at most " + std::to_string(MOST_HEADS) + ".");
    }
    const int64 tiles = divide_up(sizes.num_rows(), channels.rows_per_block());
    if (tiles > MOST_BLOCKS) {
        throw std::invalid_argument("a call has " + std::to_string(sizes.num_rows()) +
                                    " queries in all. The CUDA kernels take at most " +
                                    std::to_string(MOST_BLOCKS * channels.rows_per_block()) +
                                    " of them with heads of so many channels.");
    }
    return {channels.instance(kernel),
            {static_cast<unsigned>(tiles), static_cast<unsigned>(sizes.num_heads), 1},
            static_cast<unsigned>(THREADS),
            static_cast<unsigned>(shared_bytes),
            {}};
}

// Two blocks for each multiprocessor, if there are as many samples.
int64 plan_splits(const Node& node, const Launch& launch, const Channels& channels, const Sizes& sizes,
                  int64 num_sms) {
    const int64 batches = divide_up(sizes.num_levels * sizes.num_points, channels.lanes);
    const int64 most_splits = node.is_mmfs_attention() ? sizes.most_images * batches : batches / FEWEST_MS_DEFORM_ATTN_BATCHES;
    const int64 blocks = std::max<int64>(1, static_cast<int64>(launch.grid[0]) * launch.grid[1]);
    return std::max<int64>(1, std::min({MOST_SPLITS, most_splits, 2 * num_sms / blocks}));
}

Arguments arguments_of(const Node& node, const Sizes& sizes, const std::vector<Address>& inputs, Address output) {
    const auto pointer = [&](const char* name) -> void* {
        const std::size_t position = node.op->position(name);
        return position < inputs.size() ? reinterpret_cast<void*>(inputs[position].pointer) : nullptr;
    };
    const auto array = [&](const char* name) -> Array {
        const std::size_t position = node.op->position(name);
        return position < inputs.size() ? Array{pointer(name), kind_of(inputs[position].type)} : Array{};
    };
    Arguments arguments = {};
    arguments.num_rows = sizes.num_rows();
    arguments.num_queries = sizes.num_queries;
    arguments.num_images = sizes.num_images;
    arguments.num_pixels = sizes.num_images * sizes.pixels_per_image;
    arguments.pixels_per_image = sizes.pixels_per_image;
    arguments.num_heads = sizes.num_heads;
    arguments.num_channels = sizes.num_channels;
    arguments.num_levels = sizes.num_levels;
    arguments.num_points = sizes.num_points;
    arguments.num_slots = sizes.num_slots;
    arguments.point_levels = sizes.point_levels;
    arguments.point_points = sizes.point_points;
    arguments.offset_levels = sizes.offset_levels;
    arguments.num_offset_ages = sizes.num_offset_ages;
    arguments.num_logit_ages = sizes.num_logit_ages;
    arguments.num_splits = 1;
    arguments.num_tiles = 1;
    arguments.has_null = node.has_null;
    arguments.null_logit = node.null_logit;
    for (int64 level = 0; level < sizes.num_levels; ++level) {
        arguments.heights[level] = node.spatial_shapes[2 * level];
        arguments.widths[level] = node.spatial_shapes[2 * level + 1];
    }
    arguments.visible = static_cast<const int64*>(pointer("visible"));
    arguments.image_indices = static_cast<const int64*>(pointer("image_indices"));
    arguments.value = pointer("value");
    // A node has some of these inputs; array() returns an empty array for the others.
    arguments.locations = array("sampling_locations");
    arguments.weights = array("attention_weights");
    arguments.points = array("reference_points");
    arguments.offsets = array("sampling_offsets");
    arguments.logits = array("attention_logits");
    arguments.offset_table = array("offset_table");
    arguments.logit_table = array("logit_table");
    arguments.null_value = array("null_value");
    arguments.out = reinterpret_cast<void*>(output.pointer);
    return arguments;
}

}  // namespace

std::vector<std::string> kernels_of(const Node& node, int64 num_channels, Type type) {
    const Channels channels(num_channels, type);
    return {channels.instance(main_kernel(node)), channels.instance(second_kernel(node))};
}

int64 workspace_bytes(const Node& node, const std::vector<Shape>& shapes, Type type) {
    const Sizes sizes = sizes_of(node, shapes);
    const Channels channels(sizes.num_channels, type);
    const Launch launch = plan_rows(main_kernel(node), channels, sizes, THREADS * BATCH_BYTES);
    const int64 most_splits = plan_splits(node, launch, channels, sizes, std::numeric_limits<int64>::max() / 2);
    if (most_splits == 1) return 0;
    const int64 num_sums = std::min(most_sums(channels), most_splits * sizes.num_rows() * sizes.num_heads);
    return num_sums * bytes_of_sum(sizes.num_channels);
}

int64 most_workspace_bytes(int64 num_channels, Type type) {
    return most_sums(Channels(num_channels, type)) * bytes_of_sum(num_channels);
}

std::vector<Launch> launches(const Node& node, const std::vector<Shape>& shapes, const std::vector<Address>& inputs,
                             Address output, std::uintptr_t workspace, int64 num_sms) {
    const Sizes sizes = sizes_of(node, shapes);
    for (std::size_t i = 0; i < inputs.size(); ++i) {
        check_address(node, node.op->inputs[i], inputs[i], i == 0 ? VECTOR_BYTES : bytes_of(inputs[i].type));
    }
    check_address(node, "output", output, VECTOR_BYTES);
    if (sizes.num_rows() == 0 || sizes.num_heads == 0 || sizes.num_channels == 0) return {};
    const Channels channels(sizes.num_channels, output.type);
    Launch launch = plan_rows(main_kernel(node), channels, sizes, THREADS * BATCH_BYTES);
    launch.arguments = arguments_of(node, sizes, inputs, output);
    const int64 splits = plan_splits(node, launch, channels, sizes, std::min(num_sms, MOST_SMS));
    launch.grid[2] = static_cast<unsigned>(splits);
    launch.arguments.num_splits = splits;
    if (splits == 1) return {launch};
    const int64 num_sums = splits * sizes.num_rows() * sizes.num_heads;
    launch.arguments.split_sums = reinterpret_cast<void*>(workspace);
    if (node.is_mmfs_attention()) {
        launch.arguments.split_softmaxes =
            reinterpret_cast<void*>(workspace + num_sums * sizes.num_channels * WIDE_BYTES);
    }
    Launch merge = plan_rows(second_kernel(node), channels, sizes, 0);
    merge.arguments = launch.arguments;
    return {launch, merge};
}

}  // namespace mmfs::cuda
