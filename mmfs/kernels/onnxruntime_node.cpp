// The ONNX nodes of domain "mmfs" as custom operators of onnxruntime on its CPU execution provider, with the kernels of
// PyTorch's compiled one: MMFS, MMFSImageLists and MSDeformAttn, and their forms Dynamic..., whose bodies
// plugins_trt/onnx_function.py spells out. mmfs/onnxruntime.py says where the library lies.
//
// The threads are those of the session. onnxruntime does not tell how many it has, so the work is cut for as many as
// the session's configuration entry mmfs.intra_op_num_threads says or, without it, for the machine's: more pieces than
// threads give the same result and cost a little more. Compile with -ffp-contract=off: see sampling.h.

#include <algorithm>
#include <atomic>
#include <charconv>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "cpu_bank.h"
#include "cpu_mmfs_attention.h"
#include "cpu_ms_deform_attn.h"
#include "node_shapes.h"
#include "onnxruntime_api.h"

namespace mmfs {
namespace {

constexpr const char* DOMAIN = "mmfs";
constexpr const char* NUM_THREADS_ENTRY = "mmfs.intra_op_num_threads";
constexpr int64_t MOST_THREADS = 1024;  // that work is cut for

// ---------------------------------------------------------------------------------------------------------------------
// Errors: exceptions on our side, a status on that of onnxruntime

struct Refused : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// Throws what a call of onnxruntime complains of.
void check(ort::Api* api, ort::Status* status) {
    if (status != nullptr) {
        const std::string message = ort::GetErrorMessage::call(api, status);
        ort::ReleaseStatus::call(api, status);
        throw Refused(message);
    }
}

template <typename Function, typename... Arguments>
void call(ort::Api* api, Arguments... arguments) {
    check(api, Function::call(api, arguments...));
}

// Null, or the status that says what went wrong.
template <typename Work>
ort::Status* guarded(ort::Api* api, const Work& work) noexcept {
    try {
        work();
        return nullptr;
    } catch (const std::invalid_argument& error) {
        return ort::CreateStatus::call(api, ort::INVALID_ARGUMENT, error.what());
    } catch (const std::bad_alloc&) {
        return ort::CreateStatus::call(api, ort::RUNTIME_EXCEPTION, "mmfs could not get the memory that it works in.");
    } catch (const std::length_error&) {  // more than any vector can hold
        return ort::CreateStatus::call(api, ort::RUNTIME_EXCEPTION, "mmfs could not get the memory that it works in.");
    } catch (const std::exception& error) {
        return ort::CreateStatus::call(api, ort::FAIL, error.what());
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Tensors

struct Tensor {
    const char* name;
    ort::ElementType type;
    Shape shape;
    const void* data;

    int64_t count() const {
        int64_t product = 1;
        for (const int64_t size : shape) {
            product *= size;  // the elements are in memory, so this fits
        }
        return product;
    }
};

Shape shape_of(ort::Api* api, const ort::TypeAndShape* info) {
    std::size_t num_axes = 0;
    call<ort::GetDimensionsCount>(api, info, &num_axes);
    Shape shape(num_axes);
    call<ort::GetDimensions>(api, info, shape.data(), num_axes);
    return shape;
}

Tensor input(ort::Api* api, const ort::KernelContext* context, std::size_t place, const char* name) {
    const ort::Value* value = nullptr;
    call<ort::KernelContext_GetInput>(api, context, place, &value);
    if (value == nullptr) {
        throw std::invalid_argument(std::string(name) + " is missing. The node needs all of its inputs.");
    }
    ort::TypeAndShape* info = nullptr;
    call<ort::GetTensorTypeAndShape>(api, value, &info);
    const auto release = [api](ort::TypeAndShape* one) { ort::ReleaseTensorTypeAndShapeInfo::call(api, one); };
    const std::unique_ptr<ort::TypeAndShape, decltype(release)> owned(info, release);
    Tensor tensor = {name, ort::UNDEFINED, shape_of(api, info), nullptr};
    call<ort::GetTensorElementType>(api, info, &tensor.type);
    void* data = nullptr;
    call<ort::GetTensorMutableData>(api, const_cast<ort::Value*>(value), &data);
    tensor.data = data;
    return tensor;
}

std::string number_of(ort::ElementType type) { return std::to_string(static_cast<int>(type)); }

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

int64_t threads_of_machine() { return std::max<int64_t>(std::thread::hardware_concurrency(), 1); }

// What the session's configuration says; the machine's threads if it says nothing.
int64_t configured_threads(ort::Api* api, const ort::KernelInfo* info) {
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

class Kernel {
   public:
    Kernel(const NodeKind& kind, ort::Api* api, const ort::KernelInfo* info)
        : api_(api), kind_(kind), num_threads_(configured_threads(api, info)) {
        if (!kind.has(Input::SPATIAL_SHAPES)) {
            std::size_t count = 0;
            call<ort::KernelInfoGetAttributeArray_int64>(api, info, "spatial_shapes", nullptr, &count);
            spatial_shapes_.resize(count);
            call<ort::KernelInfoGetAttributeArray_int64>(api, info, "spatial_shapes", spatial_shapes_.data(), &count);
        }
        if (kind.has_images()) {
            // As in the body of the function: both may be left out.
            int64_t use_null = 1;
            float null_logit = 0.0f;
            optional<ort::KernelInfoGetAttribute_int64>(info, "use_null", &use_null);
            optional<ort::KernelInfoGetAttribute_float>(info, "null_logit", &null_logit);
            has_null_ = use_null != 0;
            null_logit_ = has_null_ ? null_logit : 0.0f;
        }
    }

    void compute(ort::KernelContext* context) const {
        std::vector<Tensor> tensors;
        std::vector<Shape> shapes;
        for (std::size_t i = 0; i < kind_.inputs.size(); ++i) {
            tensors.push_back(input(api_, context, i, name_of(kind_.inputs[i])));
            shapes.push_back(tensors.back().shape);
        }
        const NodeSizes sizes = sizes_of(kind_, shapes);
        int64_t channels;
        if (__builtin_mul_overflow(sizes.num_heads, sizes.num_channels, &channels)) {
            throw std::invalid_argument("value has too many heads and channels: " + text_of(shapes[0]) + ".");
        }
        const Shape out_shape = {sizes.batch, sizes.num_queries, channels};
        ort::Value* output = nullptr;
        call<ort::KernelContext_GetOutput>(api_, context, std::size_t{0}, out_shape.data(), out_shape.size(), &output);
        void* out = nullptr;
        call<ort::GetTensorMutableData>(api_, output, &out);
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

    ort::Api* api() const { return api_; }

   private:
    struct Call {
        ort::KernelContext* context;
        const std::vector<Tensor>& tensors;
        const NodeSizes& sizes;
        void* out;
    };

    // An attribute that stays as it is where the node does not have it.
    template <typename Function, typename T>
    void optional(const ort::KernelInfo* info, const char* name, T* value) {
        T found;
        ort::Status* status = Function::call(api_, info, name, &found);
        if (status == nullptr) {
            *value = found;
        } else {
            ort::ReleaseStatus::call(api_, status);
        }
    }

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

    ort::Api* api_;
    const NodeKind& kind_;
    int64_t num_threads_;
    Shape spatial_shapes_;
    bool has_null_ = false;
    float null_logit_ = 0.0f;
};

// ---------------------------------------------------------------------------------------------------------------------
// What onnxruntime asks about the nodes

struct Operator : ort::CustomOp {
    const NodeKind* kind;
    ort::Api* api;
};

const NodeKind& kind_of(const ort::CustomOp* op) { return *static_cast<const Operator*>(op)->kind; }

// [B, Q, H*D], with the type of value and the names that the graph gives to B and Q.
void infer_output(ort::Api* api, const NodeKind& kind, const ort::ShapeInferContext* context) {
    ort::TypeAndShape *value = nullptr, *weights = nullptr;
    call<ort::ShapeInferContext_GetInputTypeShape>(api, context, kind.place(Input::VALUE), &value);
    call<ort::ShapeInferContext_GetInputTypeShape>(api, context, kind.place(kind.weights), &weights);
    const Shape of_value = shape_of(api, value), of_weights = shape_of(api, weights);
    Shape out = {-1, -1, -1};
    const char* names[3] = {"", "", ""};
    if (of_weights.size() == 5) {
        const char* of_axes[5];
        call<ort::GetSymbolicDimensions>(api, weights, static_cast<const char**>(of_axes), std::size_t{5});
        std::copy_n(of_weights.begin(), 2, out.begin());
        std::copy_n(of_axes, 2, names);
    }
    int64_t channels;
    if (of_value.size() == 4 && of_value[2] >= 0 && of_value[3] >= 0 &&
        !__builtin_mul_overflow(of_value[2], of_value[3], &channels)) {
        out[2] = channels;
    }
    // An axis without a length needs a name, and one that no other axis has: equal names are equal lengths.
    static std::atomic<int64_t> num_unknown{0};
    std::string own_names[3];
    for (int axis = 0; axis < 3; ++axis) {
        if (out[static_cast<std::size_t>(axis)] < 0 && names[axis][0] == '\0') {
            own_names[axis] = "mmfs_axis_" + std::to_string(num_unknown++);
            names[axis] = own_names[axis].c_str();
        }
    }
    ort::ElementType type = ort::UNDEFINED;
    call<ort::GetTensorElementType>(api, value, &type);
    ort::TypeAndShape* info = nullptr;
    call<ort::CreateTensorTypeAndShapeInfo>(api, &info);
    const auto release = [api](ort::TypeAndShape* one) { ort::ReleaseTensorTypeAndShapeInfo::call(api, one); };
    const std::unique_ptr<ort::TypeAndShape, decltype(release)> owned(info, release);
    call<ort::SetTensorElementType>(api, info, type);
    call<ort::SetDimensions>(api, info, out.data(), out.size());
    call<ort::SetSymbolicDimensions>(api, info, static_cast<const char**>(names), out.size());
    call<ort::ShapeInferContext_SetOutputTypeShape>(api, context, std::size_t{0}, info);
}

Operator operator_of(const NodeKind& kind, ort::Api* api) {
    Operator op{};
    op.kind = &kind;
    op.api = api;
    op.version = ort::API_VERSION;
    op.get_name = [](const ort::CustomOp* self) { return kind_of(self).name; };
    op.get_execution_provider_type = [](const ort::CustomOp*) { return "CPUExecutionProvider"; };
    // Undefined: of any type. Which ones they may have is checked when the node is computed, with a sentence.
    op.get_input_type = [](const ort::CustomOp*, std::size_t) { return ort::UNDEFINED; };
    op.get_input_type_count = [](const ort::CustomOp* self) { return kind_of(self).inputs.size(); };
    op.get_output_type = [](const ort::CustomOp*, std::size_t) { return ort::UNDEFINED; };
    op.get_output_type_count = [](const ort::CustomOp*) { return std::size_t{1}; };
    op.kernel_destroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
    op.get_input_characteristic = [](const ort::CustomOp*, std::size_t) { return 0; };  // required
    op.get_output_characteristic = [](const ort::CustomOp*, std::size_t) { return 0; };
    op.get_input_memory_type = [](const ort::CustomOp*, std::size_t) { return 0; };  // of the execution provider
    op.get_variadic_input_min_arity = [](const ort::CustomOp*) { return 0; };
    op.get_variadic_input_homogeneity = [](const ort::CustomOp*) { return 0; };
    op.get_variadic_output_min_arity = [](const ort::CustomOp*) { return 0; };
    op.get_variadic_output_homogeneity = [](const ort::CustomOp*) { return 0; };
    op.create_kernel_v2 = [](const ort::CustomOp* self, ort::Api* given, const ort::KernelInfo* info, void** kernel) {
        return guarded(given, [&] { *kernel = new Kernel(kind_of(self), given, info); });
    };
    op.kernel_compute_v2 = [](void* kernel, ort::KernelContext* context) {
        const Kernel& own = *static_cast<const Kernel*>(kernel);
        return guarded(own.api(), [&] { own.compute(context); });
    };
    op.infer_output_shape = [](const ort::CustomOp* self, ort::ShapeInferContext* context) {
        ort::Api* own = static_cast<const Operator*>(self)->api;
        return guarded(own, [&] { infer_output(own, kind_of(self), context); });
    };
    op.get_start_version = [](const ort::CustomOp*) { return 1; };
    op.get_end_version = [](const ort::CustomOp*) { return std::numeric_limits<int>::max(); };
    return op;
}

// The nodes as one onnxruntime knows them. They stay as long as the process, since sessions point at them.
struct Domain {
    explicit Domain(ort::Api* api) {
        for (const NodeKind& kind : node_kinds()) {
            operators.push_back(operator_of(kind, api));
        }
        call<ort::CreateCustomOpDomain>(api, DOMAIN, &domain);
        for (const Operator& op : operators) {
            call<ort::CustomOpDomain_Add>(api, domain, static_cast<const ort::CustomOp*>(&op));
        }
    }

    std::vector<Operator> operators;
    ort::CustomOpDomain* domain = nullptr;
};

ort::CustomOpDomain* domain_of(ort::Api* api) {
    static std::mutex mutex;
    static auto* domains = new std::vector<std::pair<ort::Api*, std::unique_ptr<Domain>>>();
    const std::lock_guard<std::mutex> lock(mutex);
    for (const auto& [known, domain] : *domains) {
        if (known == api) {
            return domain->domain;
        }
    }
    domains->emplace_back(api, std::make_unique<Domain>(api));
    return domains->back().second->domain;
}

const char* why_not_this_processor() {
#if defined(__AVX2__) && defined(__FMA__)
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) {
        return "This processor has no AVX2, for which this library of mmfs was built. Register the portable one, which "
               "mmfs.onnxruntime.library_path() names here.";
    }
#endif
    return nullptr;
}

}  // namespace
}  // namespace mmfs

// onnxruntime finds it by this name: SessionOptions.register_custom_ops_library.
extern "C" __attribute__((visibility("default"))) mmfs::ort::Status* RegisterCustomOps(
    mmfs::ort::SessionOptions* options, const mmfs::ort::ApiBase* base
) {
    using namespace mmfs;
    ort::Api* api = base->get_api(ort::API_VERSION);
    if (api == nullptr) {
        const std::string sentence =
            std::string("The custom operators of mmfs need onnxruntime 1.24 or newer; this is ") +
            base->get_version_string() + ". Upgrade it, or load the model without them: its nodes have bodies.";
        return ort::CreateStatus::call(base->get_api(1), ort::NOT_IMPLEMENTED, sentence.c_str());
    }
    if (const char* reason = why_not_this_processor()) {
        return ort::CreateStatus::call(api, ort::NOT_IMPLEMENTED, reason);
    }
    return guarded(api, [&] { call<ort::AddCustomOpDomain>(api, options, domain_of(api)); });
}
