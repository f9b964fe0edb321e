// Both ops and their gradients on a CPU, behind a plain C interface: no header of Python or PyTorch, so one library
// serves every version of them. mmfs/compiled.py is the caller.
//
// Built once for each instruction set, with its compiler flags; the caller picks by mmfs_cpu_has_...(). Compile with
// -ffp-contract=off: see rounded_product() of sampling.h.

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <new>
#include <stdexcept>
#include <vector>

#include "cpu_bank.h"
#include "cpu_layer.h"
#include "cpu_ms_deform_attn.h"
#include "cpu_mmfs_attention.h"
#include "cpu_processor.h"
#include "cpu_tensors.h"

using namespace mmfs;

// Counted up with every change of the structures or functions of this file that mmfs/compiled.py calls it by.
constexpr int32_t INTERFACE_VERSION = 5;

extern "C" {

// Every array is contiguous. Storage is the type of value, out and their gradients; all other floating arrays are
// float, or double where storage is FLOAT64.
enum Storage : int64_t { FLOAT32 = 0, FLOAT64 = 1, BFLOAT16 = 2, FLOAT16 = 3 };

enum Status : int32_t { DONE = 0, BAD_SIZES = 1, BAD_VISIBLE = 2, NO_MEMORY = 3, NO_SUCH_STORAGE = 4, NOT_PLAIN = 5 };

struct CallSizes {
    int64_t storage;
    int64_t num_threads;
    int64_t batch;
    int64_t num_queries;
    int64_t num_images;
    int64_t num_pixels;  // of all images
    int64_t num_heads;
    int64_t num_channels;  // of a head
    int64_t num_levels;
    int64_t num_points;
    int64_t sizes_per_image;        // 1: spatial_shapes is [N, L, 2], 0: [L, 2]
    int64_t deterministic;          // 1: the gradients do not depend on num_threads
    const int64_t* spatial_shapes;  // (h, w)
};

// In a forward call the gradients are null. In a backward call out is null, and grad_value may be: it is not wanted.
struct MSDeformAttnCall {
    CallSizes sizes;
    const void* value;               // [B, pixels of an image, H, D]
    const void* sampling_locations;  // [B, Q, H, L, P, 2]
    const void* attention_weights;   // [B, Q, H, L, P]
    void* out;                       // [B, Q, H, D]
    const void* grad_out;
    void* grad_value;
    void* grad_sampling_locations;
    void* grad_attention_weights;
};

// The tables and null_value may be null; their gradients are then null too.
struct MMFSAttentionCall {
    CallSizes sizes;
    int64_t offset_ages;
    int64_t logit_ages;
    int64_t has_null;
    double null_logit;
    int64_t num_slots;             // K of image_indices; 1 with visible
    int64_t point_levels;          // L, or 1 where all levels have the same reference points
    int64_t point_points;          // P, or 1 where all samples have the same reference point
    int64_t offset_levels;         // L, or 1 where all levels have the same offsets
    const void* value;             // [all pixels, H, D]
    const void* reference_points;  // [B, Q, num_slots, point_levels, point_points, 2]
    const void* sampling_offsets;  // [B, Q, H, offset_levels, P, 2]
    const void* attention_logits;  // [B, Q, H, L, P]
    const int64_t* visible;        // [B, Q, 2], or null: there are image_indices
    const int64_t* image_indices;  // [B, Q, K], or null: there is visible
    const void* offset_table;      // [offset_ages, H, offset_levels, P, 2]
    const void* logit_table;       // [logit_ages, H, L, P]
    const void* null_value;        // [H, D]
    void* out;                     // [B, Q, H, D]
    const void* grad_out;
    void* grad_value;
    void* grad_reference_points;
    void* grad_sampling_offsets;
    void* grad_attention_logits;
    void* grad_offset_table;
    void* grad_logit_table;
    void* grad_null_value;
};
}

namespace {

const NewThreads NEW_THREADS;

bool lay_out(const CallSizes& sizes, Bank& bank) {
    bank.num_heads = sizes.num_heads;
    bank.num_channels = sizes.num_channels;
    return mmfs::lay_out(
        sizes.spatial_shapes, sizes.sizes_per_image != 0, sizes.num_images, sizes.num_levels, sizes.num_pixels, bank
    );
}

// With strategy null the call is computed; otherwise how it would be computed is written there, and nothing else.
template <typename Op>
Status run(const Op& op, bool is_forward, Strategy* strategy) {
    if (strategy != nullptr) {
        *strategy = strategy_of(op, is_forward);
    } else if (is_forward) {
        forward(op);
    } else {
        backward(op);
    }
    return DONE;
}

template <typename S, typename W>
Status run(const MSDeformAttnCall& call, bool is_forward, Strategy* strategy) {
    MSDeformAttn<S, W> op{};
    if (!lay_out(call.sizes, op.bank)) {
        return BAD_SIZES;
    }
    op.batch = call.sizes.batch;
    op.num_queries = call.sizes.num_queries;
    op.num_points = call.sizes.num_points;
    op.workers = &NEW_THREADS;
    op.num_threads = call.sizes.num_threads;
    op.deterministic = call.sizes.deterministic != 0;
    op.value = static_cast<const S*>(call.value);
    op.locations = static_cast<const W*>(call.sampling_locations);
    op.weights = static_cast<const W*>(call.attention_weights);
    op.out = static_cast<S*>(call.out);
    op.grad_out = static_cast<const S*>(call.grad_out);
    op.grad_value = static_cast<S*>(call.grad_value);
    op.grad_locations = static_cast<W*>(call.grad_sampling_locations);
    op.grad_weights = static_cast<W*>(call.grad_attention_weights);
    return run(op, is_forward, strategy);
}

template <typename S, typename W>
Status run(const MMFSAttentionCall& call, bool is_forward, Strategy* strategy) {
    MMFSAttention<S, W> op{};
    if (!lay_out(call.sizes, op.bank)) {
        return BAD_SIZES;
    }
    op.batch = call.sizes.batch;
    op.num_queries = call.sizes.num_queries;
    op.num_points = call.sizes.num_points;
    op.num_slots = call.num_slots;
    op.point_levels = call.point_levels;
    op.point_points = call.point_points;
    op.offset_levels = call.offset_levels;
    op.offset_ages = call.offset_ages;
    op.logit_ages = call.logit_ages;
    op.workers = &NEW_THREADS;
    op.num_threads = call.sizes.num_threads;
    op.deterministic = call.sizes.deterministic != 0;
    op.value = static_cast<const S*>(call.value);
    op.reference_points = static_cast<const W*>(call.reference_points);
    op.offsets = static_cast<const W*>(call.sampling_offsets);
    op.logits = static_cast<const W*>(call.attention_logits);
    op.visible = call.visible;
    op.lists = call.image_indices;
    op.offset_table = static_cast<const W*>(call.offset_table);
    op.logit_table = static_cast<const W*>(call.logit_table);
    op.has_null = call.has_null != 0;
    op.null_logit = static_cast<W>(call.null_logit);
    op.null_value = static_cast<const W*>(call.null_value);
    op.out = static_cast<S*>(call.out);
    op.grad_out = static_cast<const S*>(call.grad_out);
    op.grad_value = static_cast<S*>(call.grad_value);
    op.grad_reference_points = static_cast<W*>(call.grad_reference_points);
    op.grad_offsets = static_cast<W*>(call.grad_sampling_offsets);
    op.grad_logits = static_cast<W*>(call.grad_attention_logits);
    op.grad_offset_table = static_cast<W*>(call.grad_offset_table);
    op.grad_logit_table = static_cast<W*>(call.grad_logit_table);
    op.grad_null_value = static_cast<W*>(call.grad_null_value);
    if (!sees_only_the_bank(op)) {
        return BAD_VISIBLE;
    }
    return run(op, is_forward, strategy);
}

template <typename Call>
Status dispatch(const Call& call, bool is_forward, Strategy* strategy = nullptr) {
    try {
        switch (call.sizes.storage) {
            case FLOAT32:
                return run<float, float>(call, is_forward, strategy);
            case FLOAT64:
                return run<double, double>(call, is_forward, strategy);
            case BFLOAT16:
                return run<BFloat16, float>(call, is_forward, strategy);
            case FLOAT16:
                return run<Float16, float>(call, is_forward, strategy);
            default:
                return NO_SUCH_STORAGE;
        }
    } catch (const std::bad_alloc&) {
        return NO_MEMORY;
    } catch (const std::length_error&) {  // more than any vector can hold
        return NO_MEMORY;
    }
}

// The storage of value and the type of the other floating arrays; false for a type that no kernel has.
bool storage_of(ElementType value, int64_t& storage, ElementType& other) {
    other = {FLOAT_KIND, 32};
    if (value == ElementType{FLOAT_KIND, 32}) {
        storage = FLOAT32;
    } else if (value == ElementType{FLOAT_KIND, 64}) {
        storage = FLOAT64;
        other = value;
    } else if (value == ElementType{BFLOAT_KIND, 16}) {
        storage = BFLOAT16;
    } else if (value == ElementType{FLOAT_KIND, 16}) {
        storage = FLOAT16;
    } else {
        return false;
    }
    return true;
}

// Fills what a call of mmfs_attention with visible says of its tensors. False if they are no plain ones, or do not fit each other.
bool read_tensors(
    TensorReader& reader, void* value, void* reference_points, void* sampling_offsets, void* attention_logits,
    void* visible, void* offset_table, void* logit_table, void* null_value, MMFSAttentionCall& call
) {
    CallSizes& sizes = call.sizes;
    ExchangedTensor bank{}, logits{}, points{};
    ElementType wide{};
    if (reader.array(value, bank) == nullptr || bank.num_axes != 4 || !storage_of(type_of(bank), sizes.storage, wide)) {
        return false;
    }
    if (reader.array(attention_logits, logits) == nullptr || logits.num_axes != 5 || !(type_of(logits) == wide)) {
        return false;
    }
    sizes.num_images = bank.shape[0];
    sizes.num_heads = bank.shape[2];
    sizes.num_channels = bank.shape[3];
    sizes.batch = logits.shape[0];
    sizes.num_queries = logits.shape[1];
    sizes.num_points = logits.shape[4];
    if (bank.shape[1] != sizes.num_pixels || logits.shape[2] != sizes.num_heads || logits.shape[3] != sizes.num_levels) {
        return false;
    }
    sizes.num_pixels *= sizes.num_images;
    if (reader.array(reference_points, points) == nullptr || !(type_of(points) == wide) ||
        !fills_shape(points, {sizes.batch, sizes.num_queries, 2})) {
        return false;
    }
    call.num_slots = call.point_levels = call.point_points = call.offset_levels = 1;
    const int64_t heads = sizes.num_heads, num_points = sizes.num_points;
    call.value = TensorReader::first(bank);
    call.attention_logits = TensorReader::first(logits);
    call.reference_points = TensorReader::first(points);
    call.sampling_offsets =
        reader.data(sampling_offsets, wide, {sizes.batch, sizes.num_queries, heads, num_points, 2});
    call.visible = static_cast<const int64_t*>(reader.data(visible, INT64_TYPE, {sizes.batch, sizes.num_queries, 2}));
    call.offset_table = reader.table(offset_table, wide, call.offset_ages, heads, num_points, int64_t{2});
    call.logit_table = reader.table(logit_table, wide, call.logit_ages, heads, sizes.num_levels, num_points);
    call.null_value = reader.data(null_value, wide, {heads, sizes.num_channels});
    return reader.is_plain && call.sampling_offsets != nullptr && call.visible != nullptr;
}

// A whole layer whose maps are multiplied out, float32; see mmfs/compiled_layer.py. attended may be not given.
Status compute_layer(
    TensorReader& reader, MMFSAttentionCall& call, double least_square, void* hidden, void* attended, void* values,
    void* visible, void* maps, void* bias, void* reference_point, void* offset_table, void* logit_table,
    void* null_value, void* output, void* output_bias, void* out
) {
    const ElementType type = {FLOAT_KIND, 32};
    CallSizes& sizes = call.sizes;
    ExchangedTensor states{}, bank{}, table{};
    if (reader.array(hidden, states) == nullptr || states.num_axes != 3 || reader.array(values, bank) == nullptr ||
        bank.num_axes != 4 || reader.array(logit_table, table) == nullptr || table.num_axes != 4 ||
        !(type_of(states) == type) || !(type_of(bank) == type) || bank.shape[1] != sizes.num_pixels) {
        return NOT_PLAIN;
    }
    const int64_t batch = states.shape[0], num_queries = states.shape[1], width = states.shape[2];
    const int64_t heads = bank.shape[2], num_points = table.shape[3];
    sizes.storage = FLOAT32;
    sizes.batch = batch;
    sizes.num_queries = num_queries;
    sizes.num_images = bank.shape[0];
    sizes.num_pixels *= sizes.num_images;
    sizes.num_heads = heads;
    sizes.num_channels = bank.shape[3];
    sizes.num_points = num_points;
    call.num_slots = call.point_levels = call.point_points = call.offset_levels = 1;
    call.value = TensorReader::first(bank);
    call.visible = static_cast<const int64_t*>(reader.data(visible, INT64_TYPE, {batch, num_queries, 2}));
    call.offset_table = reader.table(offset_table, type, call.offset_ages, heads, num_points, int64_t{2});
    call.logit_table = reader.table(logit_table, type, call.logit_ages, heads, sizes.num_levels, num_points);
    call.null_value = reader.data(null_value, type, {heads, sizes.num_channels});
    call.has_null = call.null_value != nullptr;

    const int64_t num_tokens = batch * num_queries;
    const int64_t num_offsets = heads * num_points * 2, num_logits = heads * sizes.num_levels * num_points;
    const int64_t num_sampled = heads * sizes.num_channels;
    const auto floats = [&](void* tensor, std::initializer_list<int64_t> shape) {
        return static_cast<float*>(reader.data(tensor, type, shape));
    };
    const LinearMap before = {floats(maps, {num_offsets + num_logits, width}), floats(bias, {num_offsets + num_logits}), width};
    const LinearMap after = {floats(output, {width, num_sampled}), floats(output_bias, {width}), num_sampled};
    const float* point = floats(reference_point, {2});
    const float* added = floats(attended, {batch, num_queries, width});
    float* result = floats(out, {batch, num_queries, width});
    if (!reader.is_plain || call.visible == nullptr || before.weight == nullptr || before.bias == nullptr ||
        after.weight == nullptr || after.bias == nullptr || point == nullptr || result == nullptr) {
        return NOT_PLAIN;
    }
    const float* state = static_cast<const float*>(TensorReader::first(states));
    try {
        std::vector<float> room(
            static_cast<std::size_t>(width + num_tokens * (2 + num_offsets + num_logits + num_sampled))
        );
        float* normalised = room.data();
        float* points = normalised + width;
        float* offsets = points + num_tokens * 2;
        float* logits = offsets + num_tokens * num_offsets;
        float* sampled = logits + num_tokens * num_logits;
        for (int64_t token = 0; token < num_tokens; ++token) {
            normalise(
                state + token * width, added == nullptr ? nullptr : added + token * width, width, least_square,
                normalised
            );
            multiply(before, normalised, 0, num_offsets, nullptr, offsets + token * num_offsets);
            multiply(before, normalised, num_offsets, num_logits, nullptr, logits + token * num_logits);
            std::copy_n(point, 2, points + token * 2);
        }
        call.reference_points = points;
        call.sampling_offsets = offsets;
        call.attention_logits = logits;
        call.out = sampled;
        if (const Status status = dispatch(call, true); status != DONE) {
            return status;
        }
        for (int64_t token = 0; token < num_tokens; ++token) {
            const float* add = added == nullptr ? nullptr : added + token * width;
            multiply(after, sampled + token * num_sampled, 0, width, add, result + token * width);
        }
    } catch (const std::bad_alloc&) {
        return NO_MEMORY;
    }
    return DONE;
}

}  // namespace

#define MMFS_EXPORT extern "C" __attribute__((visibility("default")))

MMFS_EXPORT int32_t mmfs_cpu_interface_version() { return INTERFACE_VERSION; }

MMFS_EXPORT int32_t mmfs_cpu_has_avx2() {
#if defined(__x86_64__)
    return has_avx2();
#else
    return 0;
#endif
}

MMFS_EXPORT int32_t mmfs_cpu_has_avx512() {
#if defined(__x86_64__)
    return has_avx512();
#else
    return 0;
#endif
}

MMFS_EXPORT int32_t mmfs_cpu_ms_deform_attn(const MSDeformAttnCall* call) { return dispatch(*call, true); }
MMFS_EXPORT int32_t mmfs_cpu_ms_deform_attn_backward(const MSDeformAttnCall* call) { return dispatch(*call, false); }
MMFS_EXPORT int32_t mmfs_cpu_mmfs_attention(const MMFSAttentionCall* call) { return dispatch(*call, true); }
MMFS_EXPORT int32_t mmfs_cpu_mmfs_attention_backward(const MMFSAttentionCall* call) { return dispatch(*call, false); }

// How a call would be computed. Of the tensors only visible or image_indices is read.
MMFS_EXPORT int32_t mmfs_cpu_ms_deform_attn_strategy(
    const MSDeformAttnCall* call, int32_t is_forward, Strategy* strategy
) {
    return dispatch(*call, is_forward != 0, strategy);
}
MMFS_EXPORT int32_t mmfs_cpu_mmfs_attention_strategy(
    const MMFSAttentionCall* call, int32_t is_forward, Strategy* strategy
) {
    return dispatch(*call, is_forward != 0, strategy);
}

// Fills a call of mmfs_attention, all but its results, from tensors of Python; none stands for those that are not given.
// Returns 1 if it did. If not, the arguments have to be converted or refused, and Python may have an exception.
MMFS_EXPORT int32_t mmfs_cpu_read_mmfs_attention(
    DescribeTensor describe, const void* none, int64_t num_threads, const int64_t* spatial_shapes, int64_t num_levels,
    int64_t num_pixels, int64_t has_null, double null_logit, void* value, void* reference_points,
    void* sampling_offsets, void* attention_logits, void* visible, void* offset_table, void* logit_table,
    void* null_value, MMFSAttentionCall* call
) {
    TensorReader reader(describe, none);
    call->sizes.num_threads = num_threads;
    call->sizes.spatial_shapes = spatial_shapes;
    call->sizes.num_levels = num_levels;
    call->sizes.num_pixels = num_pixels;
    call->has_null = has_null;
    call->null_logit = null_logit;
    return read_tensors(
        reader, value, reference_points, sampling_offsets, attention_logits, visible, offset_table, logit_table,
        null_value, *call
    );
}

// Computes a layer of a few tokens. NOT_PLAIN, and nothing computed, if its tensors have to be converted or refused;
// Python may have an exception then. null_value is not given where there is no null; its logit is 0.
MMFS_EXPORT int32_t mmfs_cpu_folded_layer(
    DescribeTensor describe, const void* none, int64_t num_threads, const int64_t* spatial_shapes, int64_t num_levels,
    int64_t num_pixels, double least_square, void* hidden, void* attended, void* values, void* visible, void* maps,
    void* bias, void* reference_point, void* offset_table, void* logit_table, void* null_value, void* output,
    void* output_bias, void* out
) {
    TensorReader reader(describe, none);
    MMFSAttentionCall call{};
    call.sizes.num_threads = num_threads;
    call.sizes.spatial_shapes = spatial_shapes;
    call.sizes.num_levels = num_levels;
    call.sizes.num_pixels = num_pixels;
    return compute_layer(
        reader, call, least_square, hidden, attended, values, visible, maps, bias, reference_point, offset_table,
        logit_table, null_value, output, output_bias, out
    );
}
