// The nodes on onnxruntime's CPU execution provider, with the kernels of PyTorch's compiled one.
//
// The threads are those of the session. onnxruntime does not tell how many it has, so the work is cut for as many as
// the session's configuration entry mmfs.intra_op_num_threads says or, without it, for the machine's: more pieces than
// threads give the same result and cost a little more. Compile with -ffp-contract=off: see sampling.h.

#pragma once

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include "cpu_bank.h"
#include "cpu_mmfs_attention.h"
#include "cpu_ms_deform_attn.h"
#include "onnxruntime_nodes.h"

namespace mmfs {

constexpr const char* NUM_THREADS_ENTRY = "mmfs.intra_op_num_threads";
constexpr int64_t MOST_THREADS = 1024;  // that work is cut for

// ---------------------------------------------------------------------------------------------------------------------
// Elements

// A tensor's elements as T: where they are if they have this type, else converted into memory that it keeps.
template <typename T>
class Elements {
   public:
    Elements(const Tensor& tensor, ort::ElementType own) {
        if (tensor.type == own) {
            data_ = static_cast<const T*>(tensor.data);
            return;
        }
        if constexpr (std::is_integral<T>::value) {
            if (tensor.type != ort::INT32) {
                refuse(tensor, "int64 or int32");
            }
            convert<int32_t>(tensor, [](int32_t x) { return x; });
        } else {
            switch (tensor.type) {
                case ort::FLOAT:
                    convert<float>(tensor, [](float x) { return x; });
                    break;
                case ort::DOUBLE:
                    convert<double>(tensor, [](double x) { return x; });
                    break;
                case ort::HALF:
                    convert<Float16>(tensor, [](Float16 x) { return widen(x); });
                    break;
                case ort::BFLOAT:
                    convert<BFloat16>(tensor, [](BFloat16 x) { return widen(x); });
                    break;
                default:
                    refuse(tensor, "float32, float16, bfloat16 or float64");
            }
        }
    }

    const T* data() const { return data_; }

   private:
    [[noreturn]] static void refuse(const Tensor& tensor, const char* expected) {
        throw std::invalid_argument(
            std::string(tensor.name) + " has elements of ONNX type " + number_of(tensor.type) + ". Expected " +
            expected + "."
        );
    }

    template <typename From, typename Widen>
    void convert(const Tensor& tensor, const Widen& widened) {
        const int64_t count = tensor.count();
        T* to = converted_.reserve(std::max<int64_t>(count, 1));
        const From* from = static_cast<const From*>(tensor.data);
        for (int64_t i = 0; i < count; ++i) {
            to[i] = static_cast<T>(widened(from[i]));
        }
        data_ = to;
    }

    Buffer<T> converted_;
    const T* data_ = nullptr;
};

template <typename W>
constexpr ort::ElementType ELEMENT_TYPE = std::is_same<W, double>::value ? ort::DOUBLE : ort::FLOAT;

// ---------------------------------------------------------------------------------------------------------------------
// Threads

// Those of the session.
class SessionThreads final : public Workers {
   public:
    SessionThreads(ort::Api* api, const ort::KernelContext* context) : api_(api), context_(context) {}

    void run(int64_t num_threads, const std::function<void()>& work) const override {
        const auto task = [](void* data, std::size_t) { (*static_cast<const std::function<void()>*>(data))(); };
        void* data = const_cast<std::function<void()>*>(&work);
        const auto count = static_cast<std::size_t>(num_threads);
        call<ort::KernelContext_ParallelFor>(api_, context_, task, count, count, data);
    }

   private:
    ort::Api* api_;
    const ort::KernelContext* context_;
};

inline int64_t threads_of_machine() { return std::max<int64_t>(std::thread::hardware_concurrency(), 1); }

// What the session's configuration says; the machine's threads if it says nothing.
inline int64_t configured_threads(ort::Api* api, const ort::KernelInfo* info) {
    ort::KeyValuePairs* entries = nullptr;
    call<ort::KernelInfo_GetConfigEntries>(api, info, &entries);
    const char* entry = ort::GetKeyValue::call(api, entries, NUM_THREADS_ENTRY);
    const std::string text = entry == nullptr ? "" : entry;
    ort::ReleaseKeyValuePairs::call(api, entries);
    if (entry == nullptr) {
        return std::min(threads_of_machine(), MOST_THREADS);
    }
    int64_t number = 0;
    const auto parsed = std::from_chars(text.data(), text.data() + text.size(), number);
    if (parsed.ec != std::errc() || parsed.ptr != text.data() + text.size() || number < 1 || number > MOST_THREADS) {
        throw std::invalid_argument(
            std::string("The session's configuration entry ") + NUM_THREADS_ENTRY + " is '" + text.substr(0, 40) +
            "'. Expected a whole number from 1 to " + std::to_string(MOST_THREADS) + "."
        );
    }
    return number;
}

// ---------------------------------------------------------------------------------------------------------------------
// A node of a session

class CpuKernel final : public NodeKernel {
   public:
    CpuKernel(const NodeKind& kind, ort::Api* api, const ort::KernelInfo* info)
        : NodeKernel(kind, api, info), num_threads_(configured_threads(api, info)) {}

    void compute(ort::KernelContext* context) override {
        const std::vector<Tensor> tensors = inputs(context);
        const NodeSizes sizes = sizes_of(kind_, shapes_of(tensors));
        void* out = output(context, sizes.batch, sizes.num_queries, tensors[kind_.place(Input::VALUE)].shape);
        const Call of_node = {context, tensors, sizes, out};
        switch (tensors[0].type) {
            case ort::FLOAT:
                return compute<float, float>(of_node);
            case ort::DOUBLE:
                return compute<double, double>(of_node);
            case ort::HALF:
                return compute<Float16, float>(of_node);
            case ort::BFLOAT:
                return compute<BFloat16, float>(of_node);
            default:
                throw std::invalid_argument(
                    "value has elements of ONNX type " + number_of(tensors[0].type) +
                    ". Expected float32, float16, bfloat16 or float64."
                );
        }
    }

   private:
    struct Call {
        ort::KernelContext* context;
        const std::vector<Tensor>& tensors;
        const NodeSizes& sizes;
        void* out;
    };

    template <typename W>
    Elements<W> elements(const Call& of_node, Input input) const {
        return Elements<W>(of_node.tensors[kind_.place(input)], ELEMENT_TYPE<W>);
    }

    // [num_images, L, 2], the same for all images.
    void lay_out_bank(const Call& of_node, int64_t num_images, Bank& bank) const {
        const NodeSizes& sizes = of_node.sizes;
        Shape given = spatial_shapes_;
        if (kind_.has(Input::SPATIAL_SHAPES)) {
            const Elements<int64_t> sides(of_node.tensors[kind_.place(Input::SPATIAL_SHAPES)], ort::INT64);
            given.assign(sides.data(), sides.data() + 2 * sizes.num_levels);
        }
        bank.num_heads = sizes.num_heads;
        bank.num_channels = sizes.num_channels;
        // The pixels are in memory, unless there are no heads or channels: then their number may not fit.
        int64_t num_pixels;
        const bool fits = !__builtin_mul_overflow(num_images, sizes.pixels_per_image, &num_pixels);
        const bool right_count = static_cast<int64_t>(given.size()) == 2 * sizes.num_levels;
        if (!fits || !right_count || !of_image(given, sizes.pixels_per_image) ||
            !lay_out(given.data(), false, num_images, sizes.num_levels, num_pixels, bank)) {
            throw std::invalid_argument(
                "spatial_shapes of " + std::string(kind_.name) + " is " + text_of(given) +
                ". Expected a height and a width for each of " + std::to_string(sizes.num_levels) +
                " levels, all positive, that add up to the " + std::to_string(sizes.pixels_per_image) +
                " pixels of an image in value."
            );
        }
    }

    // Whether an image has these levels: asked on its own, because a bank without images has no pixels.
    static bool of_image(const Shape& sides, int64_t num_pixels) {
        for (std::size_t i = 0; i + 1 < sides.size(); i += 2) {
            if (sides[i] < 1 || sides[i + 1] < 1 || sides[i] > num_pixels / sides[i + 1]) {
                return false;
            }
            num_pixels -= sides[i] * sides[i + 1];
        }
        return num_pixels == 0;
    }

    template <typename S, typename W>
    void compute(const Call& of_node) const {
        if (kind_.has_images()) {
            compute_mmfs_attention<S, W>(of_node);
        } else {
            compute_ms_deform_attn<S, W>(of_node);
        }
    }

    template <typename S, typename W>
    void compute_mmfs_attention(const Call& of_node) const {
        const NodeSizes& sizes = of_node.sizes;
        const Elements<W> points = elements<W>(of_node, Input::REFERENCE_POINTS);
        const Elements<W> offsets = elements<W>(of_node, Input::SAMPLING_OFFSETS);
        const Elements<W> logits = elements<W>(of_node, Input::ATTENTION_LOGITS);
        const Elements<W> offset_table = elements<W>(of_node, Input::OFFSET_TABLE);
        const Elements<W> logit_table = elements<W>(of_node, Input::LOGIT_TABLE);
        const Elements<W> null_value = elements<W>(of_node, Input::NULL_VALUE);
        const bool lists = kind_.has(Input::IMAGE_INDICES);
        const Input seen = lists ? Input::IMAGE_INDICES : Input::VISIBLE;
        const Elements<int64_t> images(of_node.tensors[kind_.place(seen)], ort::INT64);
        MMFSAttention<S, W> op{};
        lay_out_bank(of_node, sizes.num_images, op.bank);
        op.batch = sizes.batch;
        op.num_queries = sizes.num_queries;
        op.num_points = sizes.num_points;
        op.num_slots = sizes.num_slots;
        op.point_levels = sizes.point_levels;
        op.point_points = sizes.point_points;
        op.offset_levels = sizes.offset_levels;
        op.offset_ages = sizes.offset_ages;
        op.logit_ages = sizes.logit_ages;
        static const int64_t NO_IMAGE = -1;  // lists without slots may be nowhere
        (lists ? op.lists : op.visible) = lists && sizes.num_slots == 0 ? &NO_IMAGE : images.data();
        op.reference_points = points.data();
        op.offsets = offsets.data();
        op.logits = logits.data();
        op.offset_table = offset_table.data();
        op.logit_table = logit_table.data();
        op.has_null = has_null_;
        op.null_logit = static_cast<W>(null_logit_);
        op.null_value = null_value.data();
        if (!sees_only_the_bank(op)) {
            const std::string num_images = std::to_string(sizes.num_images);
            throw std::invalid_argument(
                lists ? "image_indices of " + std::string(kind_.name) + " holds an image that is not among the " +
                            num_images + " images of value. Expected -1 for none, or a number below " + num_images + "."
                      : "visible of " + std::string(kind_.name) + " holds a range that reaches beyond the " +
                            num_images + " images of value. Expected 0 <= first <= last <= " + num_images +
                            ", or an empty range."
            );
        }
        run<S>(of_node, op);
    }

    template <typename S, typename W>
    void compute_ms_deform_attn(const Call& of_node) const {
        const NodeSizes& sizes = of_node.sizes;
        const Elements<W> locations = elements<W>(of_node, Input::SAMPLING_LOCATIONS);
        const Elements<W> weights = elements<W>(of_node, Input::ATTENTION_WEIGHTS);
        MSDeformAttn<S, W> op{};
        lay_out_bank(of_node, sizes.batch, op.bank);
        op.batch = sizes.batch;
        op.num_queries = sizes.num_queries;
        op.num_points = sizes.num_points;
        op.locations = locations.data();
        op.weights = weights.data();
        run<S>(of_node, op);
    }

    template <typename S, typename Op>
    void run(const Call& of_node, Op& op) const {
        const NodeSizes& sizes = of_node.sizes;
        if (sizes.batch == 0 || sizes.num_queries == 0 || sizes.num_heads == 0 || sizes.num_channels == 0) {
            return;  // nothing to write
        }
        const SessionThreads threads(api_, of_node.context);
        op.workers = &threads;
        op.num_threads = num_threads_;
        op.value = static_cast<const S*>(of_node.tensors[kind_.place(Input::VALUE)].data);
        op.out = static_cast<S*>(of_node.out);
        forward(op);
    }

    int64_t num_threads_;
};

}  // namespace mmfs
